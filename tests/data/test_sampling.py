import json
import pathlib

import numpy as np
import pytest

from data_pipelines.batches import sampling
from tests.data.clip_files import data_config
from tests.parity import pipelines

CASES = pathlib.Path(__file__).parents[1] / "parity" / "cases"


def test_reference_rows():
    case = json.loads((CASES / "pipe_sample_frames.json").read_text())
    error, message = pipelines.check_sample_frames(case)
    rows = len(case["test"]) + len(case["train"]) + len(case["dense_test"])
    print(f"{rows} rows, largest difference {error}")
    assert rows > 300 and error == 0 and message == ""


def test_check_notices_a_wrong_index():
    case = {"test": [[10, 1, 1, 2, 0, "loop", 0, [2, 8]]]}
    error, message = pipelines.check_sample_frames(case)
    assert error == 1 and "test [10, 1, 1, 2" in message


@pytest.mark.parametrize("num_frames, expected", [
    (10, [1, 2, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8, 9, 9, 10, 10]),
    (24, list(range(1, 17))),  # the quirk of the reference: one frame per segment of length 1
])
def test_train_with_too_few_frames_is_deterministic(num_frames, expected):
    options = data_config(num_frames=16)
    for seed in range(3):
        ours = sampling.sample_train(options, num_frames, np.random.default_rng(seed))
        assert (ours + 1).tolist() == expected


def test_train_segments_stay_inside_and_cover_their_segment():
    rng = np.random.default_rng(0)
    options = data_config(num_frames=4)
    drawn = np.stack([sampling.sample_train(options, 43, rng) for _ in range(500)])
    assert drawn.min(0).tolist() == [0, 10, 20, 30]
    assert drawn.max(0).tolist() == [9, 19, 29, 39]


def test_dense_train_is_one_clip_with_its_interval():
    options = data_config(sampling="dense", num_frames=8, frame_interval=4)
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(200):
        indices = sampling.sample_train(options, 40, rng)
        assert (np.diff(indices) == 4).all()
        starts.add(int(indices[0]))
    assert starts == set(range(9))
    assert sampling.sample_train(options, 20, rng).tolist() == [0, 4, 8, 12, 16, 0, 4, 8]


def test_test_views():
    twice = data_config(num_frames=8, twice_sample=True)
    assert sampling.sample_test(twice, 60).tolist() == [[3, 11, 18, 26, 33, 41, 48, 56],
                                                        [0, 7, 15, 22, 30, 37, 45, 52]]
    dense = data_config(sampling="dense", num_frames=8, frame_interval=8, test_clips=10)
    assert sampling.sample_test(dense, 300)[:, 0].tolist() == [
        11, 35, 59, 82, 106, 130, 154, 177, 201, 225]
    assert sampling.sample_test(dense, 50).tolist() == [[0, 8, 16, 24, 32, 40, 48, 6]] * 10


def test_short_videos_give_as_many_views_as_long_ones():
    dense = data_config(sampling="dense", num_frames=8, test_clips=3, twice_sample=True)
    for num_frames in (1, 5, 8, 100):
        views = sampling.sample_test(dense, num_frames)
        assert views.shape == (6, 8) and views.max() < num_frames
