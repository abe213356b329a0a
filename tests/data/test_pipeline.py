import itertools
import os
import pickle
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from data_pipelines import ClassLabels, DataError, make_pipeline, open_split
from data_pipelines.batches import workers
from data_pipelines.batches.assembly import EvalAssembly, Parts, TrainAssembly, open_report
from data_pipelines.batches.clips import eval_clip, train_clip
from data_pipelines.batches.row_threads import RowThreads
from data_pipelines.options import plain_options
from data_pipelines.video.records import Record, ShardWriter
from tests.data.clip_files import class_folders, data_config, numbered_frames, write_video
from tests.data.reading import assert_equal, count_opened, take


@pytest.fixture
def damaged(tmp_path):
    """12 clips of which 3 are broken in different ways; 5 in val of which 2 are broken."""
    class_folders(tmp_path / "train", {"a": 6, "b": 6})
    class_folders(tmp_path / "val", {"a": 3, "b": 2})
    (tmp_path / "train/a/0.mp4").write_bytes(b"")
    (tmp_path / "train/b/3.mp4").write_text("not a video")
    (tmp_path / "train/b/5.mp4").write_bytes((tmp_path / "train/b/4.mp4").read_bytes()[:3000])
    (tmp_path / "val/a/1.mp4").write_bytes(b"")
    (tmp_path / "val/b/0.mp4").write_bytes(b"")
    return str(tmp_path)


# ----------------------------------------------------------------------------------------- training
def test_train_batches(class_clips):
    pipeline = make_pipeline(data_config(root=class_clips), "train")
    assert pipeline.num_examples == 23 and pipeline.steps_per_epoch == 2
    assert pipeline.source.class_names == ["a", "b", "c"]
    ids = []
    for batch in itertools.islice(pipeline, 23):  # 8 epochs
        assert batch.keys() == {"video", "label", "mask", "id"}
        assert batch["video"].shape == (8, 4, 32, 32, 3) and batch["video"].dtype == np.uint8
        assert batch["label"].dtype == np.int32 and batch["mask"].dtype == np.float32
        assert batch["id"].dtype == np.int64 and (batch["mask"] == 1).all()
        for index, label in zip(batch["id"], batch["label"], strict=True):
            assert pipeline.source.entry(index).labels == (label,)
        ids.append(batch["id"])
    epochs = np.concatenate(ids).reshape(8, 23)
    assert (np.sort(epochs) == np.arange(23)).all()  # every clip once per epoch, across batches
    assert len({tuple(epoch) for epoch in epochs}) == 8  # in another order
    pipeline.close()


def test_batches_depend_on_the_seed_only(class_clips):
    config = data_config(root=class_clips)
    expected = take(4, config)
    assert_equal(take(4, config), expected)
    other = take(4, data_config(root=class_clips, seed=1))
    assert not np.array_equal(other[0]["id"], expected[0]["id"])
    # The same clip is augmented differently in the next epoch.
    first = {i: v for b in expected[:2] for i, v in zip(b["id"], b["video"], strict=True)}
    again = [np.array_equal(first[i], v) for i, v in zip(expected[3]["id"], expected[3]["video"])
             if i in first]
    assert len(again) > 2 and not any(again)


@pytest.mark.parametrize("changes", [dict(num_threads=0), dict(num_threads=1, prefetch=1),
                                     dict(num_threads=16, prefetch=8), dict(cache="memory"),
                                     dict(cache="memory", cache_gib=1e-4)])
def test_threads_and_cache_do_not_change_a_batch(class_clips, changes):
    for split, crop in (("train", "random_resized"), ("val", "center")):
        config = data_config(root=class_clips, train_crop=crop)
        expected = take(7, config, split)
        config.update(changes)
        assert_equal(take(7, config, split), expected)


def test_workers_do_not_change_a_batch(damaged):
    """With broken files, whose reports have to come back from the worker processes."""
    config = data_config(root=damaged, max_broken_share=0.5)
    expected = make_pipeline(config, "train")
    batches = list(itertools.islice(expected, 5))
    expected.close()
    config.num_workers = 2
    ours = make_pipeline(config, "train", start_step=1)
    assert_equal(list(itertools.islice(ours, 4)), batches[1:])
    ours.close()
    assert len(ours.broken) > 1 and set(ours.broken.names) <= set(expected.broken.names)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_rows_of_a_batch_in_order(class_clips, processes):
    for split in ("train", "val"):
        config = data_config(root=class_clips)
        expected = take(3, config, split)
        shards = [take(3, config, split, process_index=i, process_count=processes)
                  for i in range(processes)]
        for step, batch in enumerate(expected):
            for key in batch:
                joined = np.concatenate([shard[step][key] for shard in shards])
                np.testing.assert_array_equal(joined, batch[key])


def test_restart_at_any_step(class_clips):
    config = data_config(root=class_clips, num_threads=0)
    expected = take(7, config)
    pipeline = make_pipeline(config, "train", start_step=5)
    opened = count_opened(pipeline)
    assert_equal([next(pipeline), next(pipeline)], expected[5:])
    assert opened == np.concatenate([b["id"] for b in expected[5:]]).tolist()  # nothing before it

    pipeline = make_pipeline(config, "train")
    next(pipeline), next(pipeline)
    state = pipeline.get_state()
    assert state == {"step": 2}
    assert_equal([next(pipeline)], expected[2:3])
    pipeline.set_state(state)
    assert_equal([next(pipeline), next(pipeline)], expected[2:4])
    config.num_threads = 3  # another number of threads continues the same run
    other = make_pipeline(config, "train")
    other.set_state(pipeline.get_state())
    assert_equal([next(other)], expected[4:5])
    other.close()


@pytest.mark.parametrize("size, processes", [(16, 1), (4, 1), (6, 1), (7, 1), (12, 2)])
def test_another_batch_size_goes_on_with_the_next_clip(class_clips, size, processes):
    """The stream of clips is that of one size, each with the pixels that it has there."""
    config = data_config(root=class_clips)  # 8 clips a batch
    wanted = take(9, config)
    config.batch_size, batches = size, wanted[:3]
    shards = [open_split(config, "train").batches(3, i, processes, skip=3 * 8 - 3 * size)
              for i in range(processes)]
    for _ in range(48 // size):
        parts = [next(shard) for shard in shards]
        batches.append({key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
    if processes == 1:  # at any step of the new size
        state = shards[0].get_state()
        assert state == {"step": 3 + 48 // size}
        shards[0].set_state({"step": 4})
        assert_equal([next(shards[0])], batches[4:5])
    for shard in shards:
        shard.close()
    ours, whole = ({key: np.concatenate([batch[key] for batch in some]) for key in wanted[0]}
                   for some in (batches, wanted))
    count = len(ours["id"])
    assert count == 24 + 48 // size * size
    assert_equal([ours], [{key: value[:count] for key, value in whole.items()}])
    epochs = ours["id"][:count // 23 * 23].reshape(-1, 23)
    assert (np.sort(epochs) == np.arange(23)).all(), "every clip once in every epoch, across the switch"


def test_multi_label_training_draws_one_label(tmp_path):
    write_video(tmp_path / "a.mp4", numbered_frames(6))
    (tmp_path / "list.txt").write_text("a.mp4 2 0 2 2\n" * 4)
    config = data_config(source="list", root=str(tmp_path), train_list="list.txt",
                         val_list="list.txt", num_classes=4, multi_label=True)
    labels = np.concatenate([b["label"] for b in take(12, config)])
    share = (labels == 2).mean()
    assert set(labels.tolist()) == {0, 2} and 0.3 < share < 0.7  # 2 is listed three times
    batch, = take(1, config, "val")
    assert batch["labels"].dtype == np.uint8
    assert batch["labels"].tolist() == [[1, 0, 1, 0]] * 4 + [[0] * 4] * 4  # 4 clips, 4 of padding


def test_records_give_the_batches_of_the_files(class_clips, tmp_path):
    """Shards of the original bytes, listed in the same order, are the same data set."""
    config = data_config(root=class_clips)
    files = make_pipeline(config, "train").source
    with ShardWriter(tmp_path / "train-0.array_record", files.class_names) as writer:
        for i in range(len(files)):
            entry = files.entry(i)
            with open(files.path(i), "rb") as file:
                writer.write(Record(entry.name, entry.labels, 25.0, 0, video=file.read()))
    shards = data_config(source="array_record", root=str(tmp_path), train_list="train-*")
    assert_equal(take(3, shards), take(3, config))


# --------------------------------------------------------------------------------------- evaluation
def test_every_example_is_evaluated_once(class_clips):
    pipeline = make_pipeline(data_config(root=class_clips, eval_batch_size=4), "val")
    assert pipeline.num_steps == 2
    first, last = list(pipeline)
    assert first["id"].tolist() == [0, 1, 2, 3] and last["id"].tolist() == [4, 5, 6, -1]
    assert first["mask"].tolist() == [1, 1, 1, 1] and last["mask"].tolist() == [1, 1, 1, 0]
    assert last["label"].tolist() == [1, 2, 2, 0] and not last["video"][3].any()
    assert first["video"].shape == (4, 1, 4, 32, 32, 3)
    assert list(pipeline) == []  # once
    assert_equal(take(9, data_config(root=class_clips, eval_batch_size=4), "val", start_step=1), [last])
    # More processes than rows are left: whole shares of padding.
    assert take(2, data_config(root=class_clips, eval_batch_size=4), "val", process_index=3,
                process_count=4)[1]["mask"].tolist() == [0]


def test_views_are_crop_major(class_clips):
    config = data_config(root=class_clips, sampling="dense", num_frames=3, frame_interval=2, test_clips=2,
                         twice_sample=True, test_crop="three", test_short_side=32)
    batch, = take(1, config, "val")
    views = batch["video"][0]
    assert views.shape == (12, 3, 32, 32, 3)
    one_crop, = take(1, _changed(config, test_crop="center"), "val")
    np.testing.assert_array_equal(views[8:], one_crop["video"][0])  # the third is the middle one
    one_clip = _changed(config, test_clips=1, twice_sample=False)
    assert take(1, one_clip, "val")[0]["video"].shape == (8, 3, 3, 32, 32, 3)


def _changed(config, **changes):
    copy = config.copy_and_resolve_references()
    copy.update(changes)
    return copy


# --------------------------------------------------------------------------------- reading ahead
@pytest.mark.parametrize("threads, prefetch", [(4, 8), (6, 1)])
def test_the_first_batch_is_built_by_all_threads_and_by_nobody_else(class_clips, threads, prefetch,
                                                                    monkeypatch):
    """So it takes what decoding it alone with all threads takes; then batches follow one by one."""
    monkeypatch.setattr("data_pipelines.tools.num_cores", lambda: threads)
    config = data_config(root=class_clips, batch_size=8, num_threads=threads, prefetch=prefetch)
    expected = take(3, _changed(config, num_threads=0))
    lock, begun, at_once, most = threading.Lock(), [], set(), 0

    def slowly(index):
        nonlocal most
        with lock:
            begun.append(index)
            at_once.add(threading.get_ident())
            most = max(most, len(at_once))
        time.sleep(0.1)  # longer than a busy machine needs to start the threads
        with lock:
            at_once.remove(threading.get_ident())
            if len(begun) == 8:
                alone.append(most)
        return read(index)

    pipeline, alone = make_pipeline(config, "train"), []
    read, pipeline.source.open = pipeline.source.open, slowly
    with pipeline:
        ours = [next(pipeline) for _ in range(3)]
    assert_equal(ours, expected)
    assert sorted(begun[:8]) == sorted(ours[0]["id"]), "others were begun before the first batch was complete"
    assert alone[0] == min(threads, 8), "a thread had nothing to do, or others had rows"
    last = max(begun.index(index) for index in ours[1]["id"])
    assert last < 16 + threads, "the second batch waited for later ones"


def test_no_more_threads_decode_than_there_are_cores(class_clips, monkeypatch):
    """They would wait for Python's lock; where there are worker processes they share the cores."""
    for cores, wanted, processes, found in ((2, 16, 0, 2), (2, 1, 0, 1), (64, 16, 0, 16), (8, 16, 3, 3),
                                          (1, 16, 4, 1), (4, 0, 0, 0)):
        monkeypatch.setattr("data_pipelines.tools.num_cores", lambda cores=cores: cores)
        config = data_config(root=class_clips, num_threads=wanted, num_workers=processes)
        with make_pipeline(config, "train") as made:
            assert made._num_threads == found, (cores, wanted, processes)


@pytest.mark.parametrize("split", ["train", "val"])
def test_parts_of_a_batch_are_the_batch(damaged, split):
    """Whatever number of workers builds it, with the broken files of each part in order."""
    options, targets = plain_options(data_config(root=damaged, max_broken_share=0.5)), ClassLabels(2)
    source = make_pipeline(data_config(root=damaged), split).source
    assembly = (TrainAssembly if split == "train" else EvalAssembly)(source, options, targets, 8, 0, 1)
    indices = np.arange(24).reshape(3, 8) % len(source) if split == "train" else None
    whole = Parts(assembly, 3, 1, indices)
    for count in (2, 3, 8, 9):
        parts = Parts(assembly, 3, count, indices)
        assert len(parts) == 3 * count
        for step in range(2):
            expected, some = whole[step], [parts[count * step + part] for part in range(count)]
            reports = open_report(expected), [video for part in some for video in open_report(part)]
            assert reports[0] == reports[1]
            assert_equal([workers.joined(some)], [expected])
    assert len(Parts(assembly, sys.maxsize, 3, indices)) == sys.maxsize // 3 * 3


def test_rows_of_an_earlier_batch_go_first():
    threads, built, free = RowThreads(2), [], threading.Event()
    waiting = [threading.Thread(target=threads.each, args=(batch, rows, build)) for batch, rows, build in (
        (9, 2, lambda i: free.wait(30)),  # both threads are busy, meanwhile others queue up
        (3, 3, lambda i: built.append((3, i))), (2, 3, lambda i: built.append((2, i))))]
    for number, thread in enumerate(waiting):
        thread.start()
        while len(threads._waiting) < (0, 3, 6)[number] or (number == 0 and threads._pool is None):
            time.sleep(0.001)
        while number == 0 and threads._waiting:
            time.sleep(0.001)
    free.set()
    for thread in waiting:
        thread.join()
    assert [batch for batch, _ in built[:2]] == [2, 2] and {batch for batch, _ in built[4:]} == {3}
    assert sorted(built) == [(batch, i) for batch in (2, 3) for i in range(3)]
    with pytest.raises(ZeroDivisionError):
        threads.each(4, 3, lambda i: 1 // i)
    copy = pickle.loads(pickle.dumps(threads))
    threads.close(), threads.close()
    with pytest.raises(RuntimeError, match="closed"):
        threads.each(5, 1, built.append)
    copy.each(5, 2, built.append)
    copy.close()
    assert sorted(built[6:]) == [0, 1]


@pytest.mark.parametrize("threads", [1, 2])
def test_closing_drops_the_rows_that_nobody_waits_for(class_clips, threads):
    config = data_config(root=class_clips, batch_size=8, num_threads=threads, prefetch=8)
    pipeline = make_pipeline(config, "train")
    opened, read = [], pipeline.source.open
    pipeline.source.open = lambda index: time.sleep(0.02) or opened.append(index) or read(index)
    first = next(pipeline)
    pipeline.close()
    at_once = len(opened)
    time.sleep(0.3)
    assert len(opened) <= at_once + 2, "only what a thread had begun is finished"
    pipeline.set_state({"step": 0})  # opens the threads again
    assert_equal([next(pipeline)], [first])
    pipeline.close()


# ------------------------------------------------------------------------------------- broken clips
def test_broken_clips_are_replaced_in_training(damaged):
    config = data_config(root=damaged, max_broken_share=0.25)
    pipeline = make_pipeline(config, "train")
    batches = list(itertools.islice(pipeline, 6))
    pipeline.close()
    names = sorted(os.path.relpath(name, damaged) for name in pipeline.broken.names)
    assert names == ["train/a/0.mp4", "train/b/3.mp4", "train/b/5.mp4"]
    assert pipeline.broken.count == len(pipeline.broken) == 3 == pipeline.broken.allowed
    assert any("empty file" in reason for reason in pipeline.broken.reasons)
    for batch in batches:
        assert (batch["mask"] == 1).all() and batch["video"].any(axis=(1, 2, 3, 4)).all()
        assert not set(batch["id"].tolist()) & {0, 9, 11}
        assert (batch["label"] == (batch["id"] >= 6)).all()  # label and id of the replacement
    assert_equal(take(6, config), batches)
    assert_equal(take(2, config, start_step=4), batches[4:])


def test_broken_clips_do_not_count_in_evaluation(damaged):
    config = data_config(root=damaged, max_broken_share=0.4, eval_batch_size=3)
    pipeline = make_pipeline(config, "val")
    masks, ids = zip(*[(b["mask"], b["id"]) for b in pipeline])
    assert np.concatenate(masks).tolist() == [1, 0, 1, 0, 1, 0]
    assert np.concatenate(ids).tolist() == [0, 1, 2, 3, 4, -1]
    assert pipeline.broken.names == [damaged + "/val/a/1.mp4", damaged + "/val/b/0.mp4"]


@pytest.mark.parametrize("split, share, allowed",
                         [("train", 0.1, 2), ("val", 0.01, 1), ("val", 0, 0)])
def test_too_many_broken_clips_end_the_run_by_name(damaged, split, share, allowed):
    pipeline = make_pipeline(data_config(root=damaged, max_broken_share=share), split)
    with pytest.raises(DataError) as caught:
        for _ in itertools.islice(pipeline, 20):
            pass
    pipeline.close()
    message = str(caught.value)
    print(message)
    total = 12 if split == "train" else 5
    assert f"{allowed + 1} of the {total} clips" in message or f"{allowed + 2} of the" in message
    for expected in (".mp4: empty file (0 bytes)", f"data.max_broken_share={share}",
                     f"({allowed} clips)", "python -m data_pipelines.check_videos"):
        assert expected in message
    assert "\n" not in message


def test_a_split_without_a_single_good_clip_ends(tmp_path):
    for i in range(20):
        path = tmp_path / f"train/{'ab'[i % 2]}/{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    config = data_config(root=str(tmp_path), max_broken_share=1.0, val_share=0.1)
    os.makedirs(tmp_path / "val")
    with pytest.raises(DataError, match="20 of the 20 clips .*100.0%.*The first ones: .*/train/"):
        next(make_pipeline(config, "train"))


# ------------------------------------------------------------------------------------ configuration
@pytest.mark.parametrize("changes, message", [
    (dict(sampling="segment"), "unknown data.sampling='segment': did you mean 'segments'"),
    (dict(train_crop="multiscale"), "data.train_crop='multiscale': did you mean 'multi_scale'"),
    (dict(test_crop="four"), "unknown data.test_crop='four'.*Known: center, three"),
    (dict(list_format="rawframes"), "data.list_format='rawframes': did you mean 'frames'"),
    (dict(cache="ram"), "unknown data.cache='ram'.*none, memory"),
    (dict(source="array-record"), "data.source='array-record': did you mean 'array_record'"),
    (dict(num_frames=0), "data.num_frames=0 must be at least 1"),
    (dict(crop=64), "data.crop=64 is larger than data.short_side=36"),
    (dict(test_crop_size=64), "data.test_crop_size=64 is larger than data.test_short_side=36"),
    (dict(test_crop="three"), "test_crop_size=32 must equal data.test_short_side=36"),
    (dict(test_clips=3), "data.test_clips=3 has no meaning with data.sampling='segments'"),
    (dict(frame_interval=2), "data.frame_interval=2 has no meaning"),
    (dict(batch_size=9), "data.batch_size=9 is the global batch and must be divisible by the 2 "
                         "processes, e.g. 8"),
    (dict(eval_batch_size=1), "data.eval_batch_size=1 .* e.g. 2"),
    (dict(max_broken_share=3), "data.max_broken_share=3 must be at most 1"),
    (dict(seed=2**32), "data.seed=4294967296 must be at most 4294967295"),
])
def test_values_that_cannot_work(changes, message):
    with pytest.raises(DataError, match=message) as caught:
        make_pipeline(data_config(root="unused", **changes), "train", process_count=2)
    assert "\n" not in str(caught.value)


def test_labels_out_of_range_in_records(tmp_path):
    with ShardWriter(tmp_path / "train-0", ["a", "b"]) as writer:
        writer.write(Record("x", (2,), 25.0, 1, video=b"?"))
    config = data_config(source="array_record", root=str(tmp_path), train_list="train-*")
    with pytest.raises(DataError, match=r"clip x has labels \[2\], .* 2 classes"):
        make_pipeline(config, "train")


def test_several_labels_need_multi_label(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_frames(5))
    with ShardWriter(tmp_path / "train-0", ["a", "b"]) as writer:
        writer.write(Record("x", (0, 1), 25.0, 5, video=open(path, "rb").read()))
    config = data_config(source="array_record", root=str(tmp_path), train_list="train-*")
    with pytest.raises(DataError, match=r"x has the labels \[0, 1\], but data.multi_label=False"):
        take(1, config)


def test_clip_functions_agree_with_batches(class_clips):
    options = plain_options(data_config(root=class_clips))
    pipeline = make_pipeline(data_config(root=class_clips), "train")
    batch = next(pipeline)
    pipeline.close()
    index = int(batch["id"][5])  # position 5 of the stream
    targets = ClassLabels(3)
    video, found = train_clip(pipeline.source, options, targets, index, np.random.default_rng([0, 5]))
    np.testing.assert_array_equal(video, batch["video"][5])
    assert found == {"label": batch["label"][5]}
    views, found = eval_clip(pipeline.source, options, targets, 3)
    batch = EvalAssembly(pipeline.source, options, targets, 8, 0, 1)(0)
    np.testing.assert_array_equal(views, batch["video"][3])
    assert found == {"label": batch["label"][3]}


def test_jax_is_not_imported():
    """grain imports jax if it is installed; nothing else here does, so the tools start fast."""
    code = ("import sys, data_pipelines; data_pipelines.ClassLabels(2); "
            "assert not {'cv2', 'av', 'jax', 'grain'} & set(sys.modules); "
            "import data_pipelines.sources, data_pipelines.batches, data_pipelines.batches.cache; "
            "data_pipelines.open_split, data_pipelines.ClipReader; "
            "assert not {'jax', 'grain', 'tensorflow', 'effvid_jax'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_embedded_benchmark_is_read_like_any_list(tmp_path, monkeypatch):
    from data_pipelines import synthetic
    write_video(tmp_path / "a.mp4", numbered_frames(6))
    for name, text in (("train.txt", "a.mp4 1"), ("val.txt", "a.mp4 0"), ("classes.txt", "x\ny")):
        (tmp_path / name).write_text(text)
    built = [str(tmp_path / name) for name in ("train.txt", "val.txt", "classes.txt")]
    monkeypatch.setattr(synthetic, "ensure_built", lambda config: (*built, str(tmp_path)),
                        raising=False)
    pipeline = make_pipeline(data_config(source="synthetic", list_format="frames"), "val")
    batch, = list(pipeline)
    assert pipeline.source.class_names == ["x", "y"] and batch["mask"].sum() == 1
