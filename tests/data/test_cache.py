import itertools

import pytest

from data_pipelines import cache_for, make_pipeline
from data_pipelines.batches.cache import FRAMES
from tests.data.clip_files import data_config
from tests.data.reading import assert_equal, count_opened, take


@pytest.fixture(autouse=True)
def empty():
    FRAMES.clear()
    yield
    FRAMES.clear()


def test_cached_clips_are_decoded_once(class_clips):
    config = data_config(root=class_clips, cache="memory", num_threads=0, test_short_side=40)
    pipeline = make_pipeline(config, "train")
    opened = count_opened(pipeline)
    expected = list(itertools.islice(pipeline, 12))
    assert sorted(opened) == list(range(23))
    print(f"cache of 23 clips: {FRAMES.num_bytes} bytes")
    assert FRAMES.num_bytes == sum((12 + seed % 5) * 36 * 48 * 3 for seed in range(23))
    again = make_pipeline(config, "train")  # another pipeline of the process reads nothing
    opened = count_opened(again)
    assert_equal(list(itertools.islice(again, 12)), expected)
    assert opened == []
    validation = make_pipeline(config, "val")
    opened = count_opened(validation)
    list(validation)
    assert opened == list(range(7))


def test_sizes_that_later_runs_read_are_decoded_together(class_clips):
    """A teacher's clips, then those of a network that sees fewer pixels: bit for bit those of files."""
    large = data_config(root=class_clips, num_threads=0, test_short_side=40)
    small = data_config(root=class_clips, num_threads=0, short_side=18, test_short_side=20, crop=16,
                        test_crop_size=16)
    plain = take(12, small), list(make_pipeline(small, "val"))
    with large.unlocked(), small.unlocked():
        large.cache = small.cache = "memory"
    with cache_for([large, small]):
        for name, last in (("train", 12), ("val", None)):
            list(itertools.islice(make_pipeline(large, name), last))
        assert {key[-1] for key in FRAMES._videos} == {36, 18, 40, 20}
        both = FRAMES.num_bytes
    with cache_for([small]):
        print(f"frames in both sizes: {both} bytes, in those of the second run: {FRAMES.num_bytes}")
        assert {key[-1] for key in FRAMES._videos} == {18, 20} and both > 4 * FRAMES.num_bytes > 0
        for name, expected in zip(("train", "val"), plain, strict=True):
            pipeline = make_pipeline(small, name)
            opened = count_opened(pipeline)
            assert_equal(list(itertools.islice(pipeline, len(expected))), expected)
            assert opened == []
    FRAMES.clear()
    with large.unlocked():
        large.cache_gib = 200_000 / 2**30  # not for all videos in both sizes: those of now have it
    with cache_for([large, small]):
        take(9, large)
        assert {key[-1] for key in FRAMES._videos} == {36} and FRAMES.num_bytes > 100_000


def test_a_full_cache_stops_growing(class_clips):
    limit = 200_000
    config = data_config(root=class_clips, cache="memory", cache_gib=limit / 2**30)
    take(9, config)
    assert limit / 2 < FRAMES.num_bytes <= limit
