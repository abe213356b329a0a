"""Training clips that come again and again, and rows that are stored for them."""

import itertools
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import DataError, open_split
from data_pipelines.batches.stored import FILE_BYTES, StoredRows, StoredTargets, _opened
from tests.data.clip_files import class_folders, data_config

VIEWS, SHAPE, KIND = 2, (3, 2), StoredRows.dtype


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """10 videos in train, of which number 3 is broken."""
    folder = tmp_path_factory.mktemp("videos")
    class_folders(folder / "train", {"a": 6, "b": 4})
    class_folders(folder / "val", {"a": 1, "b": 1})
    (folder / "train/a/3.mp4").write_bytes(b"")
    return str(folder)


def config_of(root, **changes):
    return data_config(root=root, max_broken_share=0.2, batch_size=5, fixed_views=VIEWS, **changes)


def take(split, count, **arguments):
    with split.batches(**arguments) as batches:
        return list(itertools.islice(batches, count))


def test_a_video_has_so_many_clips_in_turn(root):
    config = config_of(root)
    split = open_split(config, "train")
    batches = take(split, 8)  # four passes
    passes = [{int(i): video for batch in batches[k:k + 2] for i, video in zip(batch["id"], batch["video"])}
              for k in range(0, 8, 2)]
    for e, seen in enumerate(passes):
        assert 3 not in seen, "a broken video's place is taken by another one"
        for index, video in seen.items():
            np.testing.assert_array_equal(video, split.fixed_clip(index, e % VIEWS))
    differ = [not np.array_equal(passes[0][i], passes[1][i]) for i in passes[0].keys() & passes[1].keys()]
    assert len(differ) > 7 and all(differ), "the two clips of a video are not the same"
    config.num_workers = 2
    for ours, theirs in zip(take(open_split(config, "train"), 2, start_step=3), batches[3:5], strict=True):
        np.testing.assert_array_equal(ours["video"], theirs["video"])
    config.update(num_workers=0, batch_size=4)  # another batch size goes on with the next clip
    videos, ids = (np.concatenate([batch[k] for batch in batches]) for k in ("video", "id"))
    other, = take(open_split(config, "train"), 1, start_step=3)
    np.testing.assert_array_equal(other["id"], ids[12:16])
    np.testing.assert_array_equal(other["video"], videos[12:16])
    config.fixed_views = 0
    drawn = take(open_split(config, "train"), 1)[0]["video"]
    assert not np.array_equal(drawn, videos[:4])


def row(view, index):
    return np.full(SHAPE, 100 * view + index, KIND) + np.arange(6, dtype=KIND).reshape(SHAPE) / 8


@pytest.fixture
def stored(root, tmp_path, monkeypatch):
    """Rows of four videos a file; video 5 could not be read when those of view 1 were written."""
    monkeypatch.setattr("data_pipelines.batches.stored.FILE_ROWS", 4)
    rows = StoredRows(str(tmp_path), 10, SHAPE)
    for view, videos, path in rows.files(VIEWS):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        found = np.stack([row(view, i) for i in videos])
        found[[view == 1 and i == 5 for i in videos]] = np.nan
        Path(path).write_bytes(rows.content(found))
    return open_split(config_of(root), "train"), rows


def test_rows_come_with_their_clips(stored):
    split, rows = stored
    with_rows = split.with_targets(pickle.loads(pickle.dumps(StoredTargets(split.targets, "told", rows))))
    assert with_rows.targets.train_fields == {"label": ((), np.int32), "told": (SHAPE, KIND)}
    for step, (batch, plain) in enumerate(zip(take(with_rows, 8), take(split, 8), strict=True)):
        assert batch["told"].dtype == KIND
        for index, told in zip(batch["id"], batch["told"], strict=True):
            np.testing.assert_array_equal(told, row(step // 2 % VIEWS, index))
            assert (step // 2 % VIEWS, index) != (1, 5), "without a row a video counts as broken"
        same = batch["id"] == plain["id"]
        np.testing.assert_array_equal(batch["video"][same], plain["video"][same])
        np.testing.assert_array_equal(batch["label"][same], plain["label"][same])
    with with_rows.batches(training=False) as batches:
        assert "told" not in next(batches), "in evaluation there are none"


def test_missing_and_damaged_rows_are_named(stored):
    split, rows = stored
    split = split.with_targets(StoredTargets(split.targets, "told", rows))
    for damage in ("missing", "cut", "of other rows", "empty"):
        path = rows.path(0, 4)
        keep = path + ".keep"
        shutil.move(path, keep)
        if damage == "cut":
            with open(path, "wb") as file, open(keep, "rb") as whole:
                file.write(whole.read()[:20])
        elif damage != "missing":
            Path(path).write_bytes(rows.content(np.zeros((3 if damage == "of other rows" else 0, *SHAPE))))
        _opened.cache_clear()
        with pytest.raises(DataError, match=r"view-000.rows-00000004.f16 cannot be read .*: remove it"):
            take(split, 2)
        shutil.move(keep, path)
        _opened.cache_clear()
    take(split, 2)


def test_files_are_not_too_large():
    assert StoredRows("x", 1000, (400,)).per_file == 256
    large = StoredRows("x", 1000, (8, 16, 16, 1024))
    assert large.per_file * large.row_bytes == FILE_BYTES and large.row_bytes == 2**22
    assert StoredRows("x", 10, (2**14, 2**14)).per_file == 1
    assert [(v, len(videos)) for v, videos, _ in large.files(1)][-1] == (0, 1000 % 64)


def test_what_decides_the_clips(root):
    def of(**changes):
        config = data_config(root=root, **({"fixed_views": 1} | changes))
        return open_split(config, "train").clips_identity()

    assert of() == of(num_threads=1)
    assert of() == of(fixed_views=7), "more forms leave the first as they are"
    for changes in (dict(seed=1), dict(crop=30), dict(flip=False), dict(train_crop="center"),
                    dict(quality=8)):
        assert of(**changes) != of(), changes
