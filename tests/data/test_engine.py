"""Engines: the same work in threads, in processes and on Ray, whoever dies."""

import importlib.util
import os
import threading

import numpy as np
import pytest

from data_pipelines import DataError, VideoError, check_videos, extract_frames, to_array_record
from data_pipelines.clip_reader import ClipReader
from data_pipelines.engine import Stage, make_engine, run
from data_pipelines.synthetic import write_video
from data_pipelines.video import remote
from tests.data.clip_files import data_config
from tests.squares import Square, negative

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None,
                               reason="Ray is not installed (pip install 'ray[data]')")


BLOCKS = [list(range(start, start + 3)) for start in range(0, 12, 3)]
SQUARES = {i: [number**2 for number in block] for i, block in enumerate(BLOCKS)}


def test_every_block_once_in_threads():
    engine = make_engine("threads", 3)
    assert dict(run(engine, [Stage(Square())], BLOCKS)) == SQUARES
    both = dict(run(engine, [Stage(Square()), Stage(Square(), device=True)], BLOCKS))
    assert both == {i: [x**2 for x in block] for i, block in SQUARES.items()}
    assert dict(run(engine, [Stage(Square())], [])) == {}
    with pytest.raises(DataError, match="no good"):
        list(run(engine, [Stage(Square(bad=4))], BLOCKS))


def test_who_stops_listening_waits_for_nobody():
    started, go = [], threading.Event()

    def work(numbers):
        started.append(numbers)
        go.wait(5 if len(started) > 1 else 0)
        return numbers

    found = run(make_engine("threads", 1), [Stage(work)], [[i] for i in range(50)])
    next(found)
    go.set()
    found.close()
    assert len(started) < 5


def test_a_process_that_dies_costs_no_other_thing():
    stages = [Stage(Square(deadly=4), negative)]
    assert dict(run(make_engine("local", 2), stages, BLOCKS)) == {**SQUARES, 1: [9, -4, 25]}
    with pytest.raises(DataError, match="no good"):
        list(run(make_engine("local", 1), [Stage(Square(bad=4))], BLOCKS))


@pytest.mark.parametrize("arguments, message", [
    (("threads", 0), "--workers=0: expected at least 1"),
    (("local", 2, "auto"), "--address=auto has no meaning without --engine=ray"),
    (("dask",), "--engine=dask: expected one of threads, local, ray"),
])
def test_engines_that_cannot_be(arguments, message):
    with pytest.raises(DataError, match=message):
        make_engine(*arguments)


def test_ray_that_is_missing_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(DataError, match=r"--engine=ray needs Ray.*pip install 'ray\[data\]'"):
        make_engine("ray")


# ------------------------------------------------------------------------------------------ the tools
@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two classes of five small clips, of which one is no video."""
    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for name in "ab":
        (root / name).mkdir()
        for i in range(5):
            write_video(root / name / f"{i}.mp4", rng.integers(0, 256, (6, 32, 48, 3), np.uint8))
    (root / "b" / "3.mp4").write_bytes(b"no video")
    return root


def written(tool, arguments, out):
    """Content of the files that a tool writes."""
    tool.main([*arguments, f"--out={out}"])
    found = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def tools(clips, tmp_path, engine):
    """What all tools write on an engine."""
    arguments = [f"--engine={engine}", "--workers=2"]
    out = tmp_path / engine
    out.mkdir()
    shards = written(to_array_record, [
        f"--root={clips}", "--split=train", "--num_shards=2", "--val_share=0.1", "--max_broken_share=0.5",
        *arguments], out / "shards")
    check_videos.main([str(clips), f"--out={out / 'broken.txt'}", *arguments])
    images = written(extract_frames, [f"--root={clips}", "--fps=0", *arguments], out / "images")
    return shards, (out / "broken.txt").read_text(), images


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=[pytest.mark.slow, needs_ray])])
def test_tools_write_the_same_bytes_on_every_engine(clips, tmp_path, engine):
    shards, broken, images = tools(clips, tmp_path, "threads")
    assert tools(clips, tmp_path, engine) == (shards, broken, images)
    assert broken.startswith("b/3.mp4\t") and broken.count("\n") == 1
    assert {name for name in shards if "incomplete" in name} == set()
    assert sum(name.endswith(".array_record") for name in shards) == 2


@pytest.mark.slow
@needs_ray
def test_a_process_of_ray_that_dies_costs_no_other_thing():
    stages = [Stage(Square(deadly=4), negative), Stage(Square(), device=True)]
    found = dict(run(make_engine("ray", 1), stages, BLOCKS))
    assert found == {i: [-4 if x == 16 else x**2 for x in block] for i, block in SQUARES.items()}
    with pytest.raises(DataError, match="no good"):
        list(run(make_engine("ray", 1), [Stage(Square(bad=4))], BLOCKS))


# ----------------------------------------------------------------------------------------- stores
@pytest.fixture
def store(clips):
    """The clips in a store of fsspec, which is in memory."""
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in clips.rglob("*.mp4"):
        memory.pipe(f"/bucket/{path.relative_to(clips)}", path.read_bytes())
    yield "memory://bucket"
    memory.rm("/bucket", recursive=True)


def test_videos_of_a_store_are_those_of_a_folder(store, clips, tmp_path):
    reader = ClipReader(data_config())
    found = reader.find(store)
    assert [path.split("bucket/")[1] for path in found] == [
        os.path.relpath(path, clips) for path in reader.find(str(clips))]
    assert len(reader.find(f"{store}/a/*.mp4")) == 5 and reader.find(found[2]) == [found[2]]
    np.testing.assert_array_equal(reader.views(found[2]), reader.views(str(clips / "a" / "2.mp4")))
    with pytest.raises(VideoError, match=r"bucket/b/3\.mp4: not a readable video"):
        reader.views(next(path for path in found if path.endswith("b/3.mp4")))
    with pytest.raises(VideoError, match="bucket/nothing.mp4: file does not exist"):
        reader.views(f"{store}/nothing.mp4")
    with pytest.raises(VideoError, match="no videos there"):
        reader.find(f"{store}/nowhere")
    with reader.play(found[0]) as played:
        assert sum(1 for _ in played) == 6
    folder = found[0].rsplit("/", 2)[0]
    assert check_videos.main([folder, f"--out={tmp_path / 'broken.txt'}"]) == 1
    assert (tmp_path / "broken.txt").read_text().startswith("b/3.mp4\t")
    extract_frames.main([f"--root={folder}", f"--out={tmp_path / 'images'}"])
    assert (tmp_path / "images" / "a" / "0" / "img_00001.png").exists()
    listed = tmp_path / "list.txt"
    listed.write_text("a/0.mp4 0\nb/1.mp4 1\n")
    to_array_record.main([f"--root={folder}", f"--list={listed}", "--num_classes=2", "--split=train",
                          "--num_shards=1", "--kind=video", f"--out={tmp_path / 'shards'}"])
    assert (tmp_path / "shards" / "train-00000-of-00001.array_record").stat().st_size > 1000


def test_addresses_of_the_web_are_no_stores():
    assert not any(remote.is_remote(path) for path in (
        "http://host/a.mp4", "https://host/a.mp4", "rtsp://host/a", "ftp://host/a.mp4", "a.mp4", "/gs/a.mp4"))
    assert remote.is_remote("gs://bucket/a.mp4") and remote.is_remote("s3://bucket/clips")
