"""Many videos at once: batches, archives, and engines say what one video at a time says, in order."""

import csv
import importlib.util
import json
import os
import shutil
import threading

import numpy as np
import pytest

from data_pipelines import VideoError, in_order
from data_pipelines.engine.local import Threads
from effvid_jax import cli
from effvid_jax.errors import NotFiniteError, UserError
from effvid_jax.predict import Predictor, archive
from effvid_jax.predict.many import Many, batch_size
from effvid_jax.predict.rows import Rows
from effvid_jax.predict.shards import Shards

SIZE = 5  # of a batch of 16 videos and a broken one: the last one is not full


@pytest.fixture(scope="module")
def folder(tmp_path_factory, val_videos):
    """The 16 validation clips of the tiny run, and one that is no video in the middle."""
    root = tmp_path_factory.mktemp("folder")
    for i, path in enumerate(val_videos.values()):
        shutil.copy(path, root / f"{i:02d}.mp4")
    (root / "07_broken.mp4").write_bytes(b"no video")
    return root


@pytest.fixture(scope="module")
def network(tiny_run):
    return Predictor(tiny_run)


@pytest.fixture(scope="module")
def expected(network, folder):
    """{path: what is said of it alone}."""
    return {str(path): network.scored(str(path)) for path in sorted(folder.iterdir())
            if "broken" not in path.name}


def test_in_order_begins_only_a_few_ahead():
    begun, done = [], threading.Lock()

    def work(i):
        with done:
            begun.append(i)
        return i

    found = in_order(work, range(100), 3, 8)
    assert [next(found) for _ in range(10)] == list(range(10)) and len(begun) <= 18
    found.close()
    assert len(begun) < 30
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda i: 1 / (3 - i), range(10), 2, 4))


def test_batches_say_what_one_at_a_time_says(network, folder, expected):
    paths = sorted(map(str, folder.iterdir()))
    many = Many(network, SIZE)
    found = list(many(paths))
    assert [path for path, _ in found] == paths
    for path, outcome in found:
        if path not in expected:
            assert isinstance(outcome, VideoError) and outcome.name == path
            continue
        (scores, told), (alone, said) = outcome, expected[path]
        np.testing.assert_allclose(scores, alone, atol=1e-6)
        assert [x["label"] for x in told["top5"]] == [x["label"] for x in said["top5"]]
        assert list(told) == list(said) == list(network.columns()) and told["gmacs"] == said["gmacs"]
    assert (many.answered, many.after_start) == (17, 12)
    words = many.summary()
    assert "17 videos: the first 5 took" in words and "What limits it is" in words
    assert batch_size(network) == network.batch_size == 8 and batch_size(network, 3) == 3


def test_a_batch_of_broken_videos_asks_nobody(network, folder, monkeypatch):
    monkeypatch.setattr(network, "start", lambda batch: pytest.fail("asked"))
    broken = [str(folder / "07_broken.mp4")] * 3
    assert [type(outcome) for _, outcome in Many(network, 2)(broken)] == [VideoError] * 3


def test_rows_of_a_folder_tell_what_is_broken(tiny_run, folder, expected, tmp_path, capsys):
    for name in ("rows.csv", "rows.jsonl"):
        cli.predict(None, tiny_run, str(folder), True, output=str(tmp_path / name), batch_size=SIZE)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 * 16 and "1 of 17 videos were skipped" in err
    assert "17 videos: the first 5" in err
    rows = list(csv.DictReader(open(tmp_path / "rows.csv")))
    assert [row["video"] for row in rows] == sorted(map(str, folder.iterdir()))
    lines = [json.loads(line) for line in open(tmp_path / "rows.jsonl")]
    for row, line in zip(rows, lines, strict=True):
        assert row["video"] == line["video"]
        if "broken" in row["video"]:
            assert row["error"] == line["error"] and "not a readable video" in row["error"]
            assert row["label"] == "" and set(line) == {"video", "error"}
        else:
            assert row["error"] == "" and row["label"] == line["top5"][0]["label"]
            assert abs(float(row["prob"]) - expected[row["video"]][1]["top5"][0]["prob"]) < 2e-6


def test_a_file_that_begins_with_broken_videos_has_all_columns(network, tmp_path):
    with Rows(str(tmp_path / "a.csv"), network.columns()) as rows:
        rows.add({"video": "x", "error": "no good"})
    header, line = open(tmp_path / "a.csv").read().splitlines()
    assert header.startswith("video,label,prob,label2") and header.endswith("gmacs,error")
    assert line.startswith("x,,") and line.endswith("no good")


# --------------------------------------------------------------------------------------- archives
@pytest.fixture
def in_threads(monkeypatch):
    """Archives are read in threads: nothing to start."""
    monkeypatch.setattr(archive, "make_engine", lambda name, *more: Threads(2))


def rows_of(folder) -> list[dict]:
    return [row for path in sorted(folder.glob("rows-*.csv")) for row in csv.DictReader(open(path))]


def predicted(tiny_run, folder, out, capsys, **asked) -> dict:
    cli.predict(None, tiny_run, str(folder), True, archive=str(out), batch_size=SIZE, block=6, **asked)
    return json.loads(capsys.readouterr().out)


def test_an_archive_goes_on_with_the_blocks_that_are_missing(tiny_run, folder, expected, tmp_path, capsys,
                                                             in_threads, monkeypatch):
    out = tmp_path / "rows"
    told = predicted(tiny_run, folder, out, capsys)
    assert told["videos"] == told["new"] == 17 and told["broken"] == 1 and told["shards"] == 3
    rows = rows_of(out)
    assert [row["video"] for row in rows] == sorted(map(str, folder.iterdir()))
    for row in rows:
        if row["error"]:
            assert "broken" in row["video"] and row["error"].startswith("not a readable video")
        else:
            assert abs(float(row["prob"]) - expected[row["video"]][1]["top5"][0]["prob"]) < 2e-6
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("*.csv")}
    (lost := sorted(before)[1]).unlink()
    assert predicted(tiny_run, folder, out, capsys)["new"] == 6
    assert {path: path.read_bytes() for path in before} == {path: x for path, (x, _) in before.items()}
    assert all(path == lost or path.stat().st_mtime_ns == time for path, (_, time) in before.items())
    assert predicted(tiny_run, folder, out, capsys)["new"] == 0
    with pytest.raises(UserError, match=r"holds the rows of another archive.*batch_size=5 there, 4 now"):
        cli.predict(None, tiny_run, str(folder), True, archive=str(out), batch_size=4, block=6)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").touch()
    with pytest.raises(UserError, match="holds something else"):
        predicted(tiny_run, folder, tmp_path / "else", capsys)

    def dies(self, start, rows):
        if start:
            raise KeyboardInterrupt
        original(self, start, rows)

    original = Shards.add
    monkeypatch.setattr(Shards, "add", dies)
    with pytest.raises(KeyboardInterrupt):
        predicted(tiny_run, folder, tmp_path / "again", capsys)
    assert not list((tmp_path / "again").glob("rows-*"))  # the first block has six rows, of which five came
    monkeypatch.setattr(Shards, "add", original)
    predicted(tiny_run, folder, tmp_path / "again", capsys)
    assert [path.read_bytes() for path in sorted((tmp_path / "again").glob("*.csv"))] == [
        before[path][0] for path in sorted(before)]


def test_numbers_that_are_not_finite_are_rows(network, folder):
    row = archive.row("x", NotFiniteError("x", "scores", "the network at step 1"))
    assert row["video"] == "x" and "scores of the network at step 1" in row["error"]


@pytest.mark.parametrize(("asked", "message"), [
    ({"engine": "local"}, "--engine=local has no meaning without --archive"),
    ({"block": 3}, "--block=3 has no meaning without --archive"),
    ({"archive": "rows", "window": 1.0}, "--archive=rows and --window exclude each other"),
    ({"archive": "rows", "output": "a.csv"}, "--archive=rows and --output exclude each other"),
    ({"batch_size": 4, "window": 1.0}, "--batch_size=4 and --window exclude each other"),
    ({"batch_size": 0}, "--batch_size=0: expected at least 1"),
    ({"archive": "rows", "engine": "dask"}, "--engine=dask: expected one of local, ray"),
    ({"archive": "rows", "address": "auto"}, "--address=auto has no meaning without --engine=ray"),
])
def test_what_cannot_be_asked_for(asked, message, tiny_run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        cli.predict(None, tiny_run, str(folder), True, **asked)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (pip install "
                                                                   "'ray[data]')")
def test_ray_writes_the_bytes_that_local_processes_write(tiny_run, folder, tmp_path, capsys):
    files = {}
    for engine in ("local", "ray"):
        out = tmp_path / engine
        told = predicted(tiny_run, folder, out, capsys, engine=engine, workers=2)
        assert (told["videos"], told["broken"], told["new"]) == (17, 1, 17)
        files[engine] = {path.name: path.read_bytes() for path in out.glob("rows-*.csv")}
    assert files["local"] == files["ray"] and len(files["ray"]) == 3
    assert os.path.exists(tmp_path / "ray" / "archive.json")
