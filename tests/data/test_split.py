"""The door to the data: a split by number and in batches, other targets, any video, closing."""

import dataclasses
import os
import pickle
import threading

import cv2
import numpy as np
import pytest

import data_pipelines
from configs.recipes.base import defaults
from data_pipelines import ClassLabels, ClipReader, DataError, Targets, VideoError, make_pipeline, open_split
from data_pipelines.batches.cache import FRAMES
from data_pipelines.options import Options, plain_options
from tests.data.clip_files import class_folders, data_config, numbered_frames, read_numbers


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """23 videos in train (three classes) and 5 in val, of which number 1 is broken."""
    folder = tmp_path_factory.mktemp("videos")
    class_folders(folder / "train", {"a": 9, "b": 8, "c": 6})
    class_folders(folder / "val", {"a": 3, "b": 1, "c": 1})
    (folder / "val/a/1.mp4").write_bytes(b"")
    return str(folder)


@pytest.mark.parametrize("changes", [{}, dict(cache="memory"), dict(
    sampling="dense", num_frames=3, frame_interval=2, test_clips=2, test_crop="three", test_short_side=32)])
def test_videos_by_number_are_the_rows_of_batches(root, changes):
    split = open_split(data_config(root=root, max_broken_share=0.2, **changes), "val")
    assert (split.name, len(split), split.class_names) == ("val", 5, ["a", "b", "c"])
    assert "check_videos" in split.check_command and root in split.description
    with split.batches() as batches:
        batch, = batches
    assert batch["video"].shape[1:4] == split.clip_shape and split.clip_shape[0] == split.num_views
    assert batch["mask"].tolist() == [1, 0, 1, 1, 1, 0, 0, 0] and len(batches.broken) == 1
    for i in (0, 2, 3, 4):
        np.testing.assert_array_equal(split.views(i), batch["video"][i])
        assert split.entry(i).labels == (batch["label"][i],)
        if split.num_views == 1:
            np.testing.assert_array_equal(split.frames(i, (3, 1)), batch["video"][i, 0][[3, 1]])
        else:
            with pytest.raises(DataError, match="6 test views"):
                split.frames(i, (0,))
    with pytest.raises(VideoError, match=r"val/a/1\.mp4: empty file") as caught:
        split.views(1)
    assert len(split.broken) == 0, "the caller says what it could not read"
    split.broken.add([(1, caught.value.name, caught.value.reason)])
    with pytest.raises(DataError, match=r"2 of the 5 clips .* are broken .*max_broken_share=0.2 \(1 clips\)"):
        split.broken.add([(4, "another", "gone")])
    FRAMES.clear()


def test_frames_to_time_and_to_look_at(root):
    split = open_split(data_config(root=root), "train")
    assert split.steps_per_epoch == 2
    stored = split.test_frames(0)
    assert stored.shape == (4, 48, 64, 3) and read_numbers(stored) == [1, 4, 7, 10]  # of 12
    small = split.overview(0, 5, 24)
    assert small.shape == (5, 24, 32, 3)
    assert read_numbers(split.overview(0, 3, 48)) == [0, 5, 11], "frames that are small enough stay"


class Shouted(Targets):
    """A target that classes know nothing of: the letters of a video's name; a random one in training."""

    train_fields = {"letter": ((), np.int64)}
    evaluate_fields = {"letters": ((3, 1), np.float16)}

    def train(self, entry, rng):
        return {"letter": rng.integers(1, 100)}

    def evaluate(self, entry):
        return {"letters": np.frombuffer(entry.name[-3:].encode(), np.uint8)[:, None]}

    def check(self, split):
        if not split.entry(0).name.endswith("mp4"):
            raise DataError("only mp4")


def test_other_targets(root):
    config = data_config(root=root, max_broken_share=0.2)
    plain = open_split(config, "train")
    split = plain.with_targets(Shouted())
    assert split.class_names == plain.class_names and split.targets is not plain.targets
    with split.batches(start_step=1) as ours, plain.batches(start_step=1) as theirs:
        ours, theirs = next(ours), next(theirs)
    assert ours.keys() == {"video", "letter", "mask", "id"} and ours["letter"].dtype == np.int64
    np.testing.assert_array_equal(ours["video"], theirs["video"])
    assert len(set(ours["letter"].tolist())) > 3
    config.num_workers = 1
    with open_split(config, "train", Shouted()).batches(start_step=1) as batches:
        np.testing.assert_array_equal(next(batches)["letter"], ours["letter"])
    config.num_workers = 0
    with open_split(config, "val", Shouted()).batches() as batches:
        batch, = batches
    assert batch["letters"].shape == (8, 3, 1) and batch["letters"].dtype == np.float16
    wanted = [list(b"mp4") if real else [0] * 3 for real in (1, 0, 1, 1, 1, 0, 0, 0)]
    assert batch["letters"][..., 0].tolist() == wanted, "padding and broken videos have none"


def test_targets_are_checked_before_anything_is_read(root):
    with pytest.raises(DataError, match="the network has 4 classes, split 'val' of config.data has 3: give"):
        open_split(data_config(root=root), "val", ClassLabels(4))
    labels = pickle.loads(pickle.dumps(ClassLabels(3, multi_label=True)))
    entry = data_pipelines.Entry("x", (2, 0, 2))
    assert labels.distinct(entry) == [0, 2]
    found = labels.evaluate(entry)
    assert found["label"].dtype == np.int32 and found["labels"].tolist() == [1, 0, 1]
    assert labels.evaluate_fields["labels"] == ((3,), np.uint8)


# --------------------------------------------------------------------------------------- opening, closing
def test_batches_close_whatever_happens(root):
    config = data_config(root=root)
    with pytest.raises(KeyError), open_split(config, "train").batches() as batches:
        next(batches)
        raise KeyError("of the caller")
    with pytest.raises(RuntimeError, match="closed: set_state continues"):
        next(batches)
    batches.close()  # twice is fine
    batches.set_state(batches.get_state())
    again = next(batches)
    batches.close()
    with make_pipeline(config, "train", start_step=1) as expected:
        np.testing.assert_array_equal(again["id"], next(expected)["id"])


def test_an_error_closes(root):
    batches = make_pipeline(data_config(root=root, max_broken_share=0, eval_batch_size=2), "val")
    with pytest.raises(DataError, match="1 of the 5 clips"):
        next(batches)
    with pytest.raises(RuntimeError, match="closed"):
        next(batches)


def test_a_batch_that_was_never_asked_for_starts_nothing(root):
    before = set(threading.enumerate())  # of earlier tests, which may end meanwhile
    with make_pipeline(data_config(root=root), "train"):
        assert not set(threading.enumerate()) - before


def test_processes_that_cannot_share_a_batch(root):
    config = data_config(root=root, batch_size=9)
    with pytest.raises(DataError, match="data.batch_size=9 .* 2 processes"):
        open_split(config, "train", process_count=2)
    with pytest.raises(DataError, match="data.batch_size=9 .* 2 processes"):
        open_split(config, "train").batches(process_count=2)


def test_unknown_names():
    with pytest.raises(AttributeError, match="'data_pipelines' has no attribute 'open_splits'"):
        data_pipelines.open_splits  # noqa: B018
    assert all(hasattr(data_pipelines, name) for name in data_pipelines.__all__)


# ---------------------------------------------------------------------------------------------- any video
def test_any_video_is_read_as_evaluation_reads_it(root, tmp_path):
    config = data_config(root=root)
    split, reader = open_split(config, "val"), ClipReader(config)
    path = os.path.join(root, "val/b/0.mp4")
    expected = split.views(3)
    np.testing.assert_array_equal(reader.views(path), expected)
    with open(path, "rb") as file:
        np.testing.assert_array_equal(reader.views(file.read()), expected)
    with reader.open(path) as video:
        np.testing.assert_array_equal(video.views(), expected)
        np.testing.assert_array_equal(video.frames([2, 0]), expected[0][[2, 0]])
    frames = numbered_frames(4)
    for i, frame in enumerate(frames, 1):
        cv2.imwrite(str(tmp_path / f"img_{i:05}.png"), frame[..., ::-1])
    np.testing.assert_array_equal(reader.views(str(tmp_path)), reader.views(frames))
    with pytest.raises(VideoError, match=r"frames: float32 \(4, 8, 8, 3\); expected uint8"):
        reader.open(np.zeros((4, 8, 8, 3), np.float32))
    with pytest.raises(DataError, match="data.num_frames=0 must be at least 1"):
        ClipReader(data_config(num_frames=0))


def test_finding_videos(tmp_path):
    reader = ClipReader(data_config())
    for folder in ("videos/frames", "videos/.hidden", "empty"):
        (tmp_path / folder).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "videos/frames/img_00001.png"), numbered_frames(1)[0])
    for name in ("b.mp4", "a.MOV", ".c.mp4", ".hidden/d.mp4", "frames/e.mp4", "notes.txt"):
        (tmp_path / "videos" / name).write_bytes(b"")
    found = [os.path.relpath(path, tmp_path) for path in reader.find(str(tmp_path / "videos"))]
    assert found == ["videos/a.MOV", "videos/b.mp4", "videos/frames"]
    frames = str(tmp_path / "videos/frames")
    assert reader.find(frames) == [frames]
    with pytest.raises(FileNotFoundError, match="--video=/nowhere.mp4 does not exist"):
        reader.find("/nowhere.mp4")
    with pytest.raises(VideoError, match=r"no videos in this folder .*\.mp4"):
        reader.find(str(tmp_path / "empty"))


# ----------------------------------------------------------------------------------------------- options
def test_what_an_old_configuration_lacks_is_filled_in_one_place(root):
    config = data_config(root=root)
    del config.calib_share
    assert plain_options(config).calib_share == 0.0
    assert set(defaults().data) == {field.name for field in dataclasses.fields(Options)}
    with_list = pickle.loads(pickle.dumps(plain_options({**config, "extra_list": "extra.txt"})))
    assert with_list.extra_list == "extra.txt", "a further split"
    del config.crop
    with pytest.raises(DataError, match="config.data lacks the fields crop: .*configs/recipes/base.py"):
        open_split(config, "train")
