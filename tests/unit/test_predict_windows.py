"""Windows, patterns, rows in files and annotated videos: from the command line, from Python, of exports."""

import csv
import io
import json
import os
import signal
import sys

import av
import cv2
import numpy as np
import pytest

import effvid_jax
from data_pipelines import VideoError, write_frames
from effvid_jax import cli
from effvid_jax.errors import UserError
from effvid_jax.predict import Asked, command, streams
from effvid_jax.predict.rows import Rows, Timeline
from tests.made import decoded, full_disk


@pytest.fixture(scope="module")
def export(online_run):
    return cli.export(None, online_run)["export"]


@pytest.fixture(scope="module")
def model(online_run):
    return effvid_jax.load(online_run)


def told(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


# ------------------------------------------------------------------------------------------------- windows
def test_windows_are_videos_of_their_own(model, online_run, video, tmp_path, capsys):
    """Rows on standard output, in files and in Python are what `predict` says of these frames."""
    seen = decoded(video)
    cli.predict(None, online_run, video, True, window=1.0, stride=0.75, output=str(tmp_path / "rows.jsonl"))
    *rows, summary = told(capsys)
    assert [(row["start"], row["end"]) for row in rows] == [
        (0, 1), (0.75, 1.75), (1.5, 2.5), (2.25, 3.25), (2.5, 3.5)]
    inside = [seen[np.arange(35) / 10 >= row["start"]] for row in rows]
    expected = model.predict([part[:10] for part in inside])
    assert [{**one.told, "start": row["start"], "end": row["end"], "video": video}
            for one, row in zip(expected, rows)] == rows
    assert [json.loads(line) for line in open(tmp_path / "rows.jsonl")] == rows
    mean = np.mean([one.scores for one in expected], axis=0)
    assert summary["windows"] == 5
    assert summary["gmacs"] == pytest.approx(sum(row["gmacs"] for row in rows), rel=1e-5)
    assert summary["top5"][0]["prob"] == pytest.approx(mean.max(), abs=1e-6)

    result = model.predict(video, window=1.0, stride=0.75)
    np.testing.assert_allclose(result.scores, mean, atol=1e-7)
    assert result.told == {name: value for name, value in summary.items() if name != "video"}
    assert [(one.start, one.end, one.told) for one in result.windows] == [
        (row["start"], row["end"], one.told) for row, one in zip(rows, expected)]
    assert result.windows[1].label == rows[1]["top5"][0]["label"] and result.plot()[:4] == b"\x89PNG"
    whole = model.predict(video, window=100.0)
    np.testing.assert_array_equal(whole.scores, model.predict(video).scores)
    lazily = model.windows(io.BytesIO(open(video, "rb").read()), 1.0)
    assert next(lazily).start == 0 and next(lazily).start == 1


def test_words_and_tables(online_run, video, tmp_path, capsys):
    cli.predict(None, online_run, video, False, window=1.0, stride=0.5, output=str(tmp_path / "a.csv"),
                timeline=str(tmp_path / "seconds.csv"), seconds=2.0)
    words = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("{")]
    assert words[0].startswith(f"{video}, 0 to 1 s: ") and "GMACs" in words[0]
    assert words[-1].startswith(f"{video}: ")
    rows = list(csv.DictReader(open(tmp_path / "a.csv")))
    assert list(rows[0]) == ["video", "start", "end", *(
        f"{name}{i}" for i in ("", 2, 3, 4, 5) for name in ("label", "prob")), "gmacs"]
    assert [row["start"] for row in rows] == ["0.0", "0.5", "1.0"]
    seconds = list(csv.DictReader(open(tmp_path / "seconds.csv")))
    assert list(seconds[0]) == ["video", "second", "a", "b", "c", "d", "e"]
    assert [row["second"] for row in seconds] == ["0", "1"]
    probs = {row["start"]: {row[f"label{i}"]: float(row[f"prob{i}"]) for i in ("", 2, 3, 4, 5)}
             for row in rows}
    assert float(seconds[0]["c"]) == pytest.approx((probs["0.0"]["c"] + probs["0.5"]["c"]) / 2, abs=2e-6)
    assert float(seconds[1]["c"]) == pytest.approx((probs["0.5"]["c"] + probs["1.0"]["c"]) / 2, abs=2e-6)


def test_an_export_answers_as_its_workdir(online_run, export, model, video, tmp_path, capsys):
    for asked in ({}, {"window": 1.5}):
        cli.predict(None, online_run, video, True, **asked)
        cli.predict(None, export, video, True, **asked)
        found = told(capsys)
        ours, theirs = found[:len(found) // 2], found[len(found) // 2:]
        for one, other in zip(ours, theirs, strict=True):
            assert one.keys() == other.keys()
            np.testing.assert_allclose([guess["prob"] for guess in one["top5"]],
                                       [guess["prob"] for guess in other["top5"]], atol=2e-6)
    exported = effvid_jax.load(export)
    assert len(exported.predict(video, window=1.0).windows) == 4
    cli.predict(None, export, os.path.join(os.path.dirname(video), "*.mp4"), True)
    assert [one["video"] for one in told(capsys)] == [video]
    for ask in (exported.stream, lambda: cli.predict(None, export, video, True, stream=True)):
        with pytest.raises(UserError, match="an exported network has no program for streams: load"):
            ask()
    with pytest.raises(UserError, match="--config: what .* holds is exported"):
        cli.predict({}, export, video, True)


def test_patterns_and_several_videos(model, online_run, video, tmp_path, capsys):
    for name in ("a.mp4", "b.mp4", "c/d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.symlink(video, tmp_path / name)
    (tmp_path / "e.mp4").write_bytes(b"no video")

    def names(results):
        return [os.path.relpath(name, tmp_path) for name in results]

    cli.predict(None, online_run, [f"{tmp_path}/[ab].mp4", f"{tmp_path}/c", f"{tmp_path}/a.mp4"], True)
    assert names(one["video"] for one in told(capsys)) == ["a.mp4", "b.mp4", "c/d.mp4"]
    cli.predict(None, online_run, f"{tmp_path}/*.mp4", True, window=2.0, timeline=str(tmp_path / "t.csv"),
                output=str(tmp_path / "rows.csv"))
    out, err = capsys.readouterr()
    assert "skipped: " in err and "1 of 3 videos were skipped" in err
    lines = [json.loads(line) for line in out.splitlines()]
    assert names(line["video"] for line in lines) == ["a.mp4"] * 3 + ["b.mp4"] * 3
    rows = list(csv.DictReader(open(tmp_path / "t.csv")))
    assert names(row["video"] for row in rows) == ["a.mp4"] * 4 + ["b.mp4"] * 4
    assert [row["second"] for row in rows] == ["0", "1", "2", "3"] * 2
    assert names(one.video for one in model.predict(f"{tmp_path}/[ab].mp4", window=2.0)) == ["a.mp4", "b.mp4"]
    with pytest.raises(VideoError, match="matches no videos"):
        model.predict(f"{tmp_path}/nothing*")
    with pytest.raises(VideoError, match=r"a camera has no end"):
        model.predict("camera:0")
    with pytest.raises(UserError, match="stride=1 says how far windows are apart"):
        model.predict(video, stride=1)


def test_standard_input(online_run, video, monkeypatch, capsys):
    """A whole video, and windows while it arrives: as of the file."""
    def piped(content, **asked):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        cli.predict(None, online_run, "-", True, **asked)

    content = open(video, "rb").read()
    for asked in ({}, {"window": 1.0}):
        cli.predict(None, online_run, video, True, **asked)
        expected = told(capsys)
        piped(content, **asked)
        assert told(capsys) == [{**one, "video": "-"} for one in expected]
    for content, words in ((b"", "--video=-: empty"), (b"none" * 99, "--video=-: not a readable video")):
        with pytest.raises(VideoError, match=words):
            piped(content)


def test_a_folder_of_frames_tells_no_rate(model, online_run, frames, tmp_path, capsys):
    for i, frame in enumerate(frames[:10], 1):
        cv2.imwrite(str(tmp_path / f"img_{i:05}.png"), frame[..., ::-1])
    cli.predict(None, online_run, str(tmp_path), True, window=0.2)
    out, err = capsys.readouterr()
    assert "does not tell how many frames it has a second: 25 are assumed (--fps=N says it)" in err
    assert [json.loads(line)["end"] for line in out.splitlines()[:-1]] == [0.2, 0.4]
    cli.predict(None, online_run, str(tmp_path), True, window=0.5, fps=10.0)
    out, err = capsys.readouterr()
    assert "does not tell" not in err and json.loads(out.splitlines()[1])["end"] == 1
    assert [window.end for window in model.windows(frames[:10], 0.5, fps=10.0)] == [0.5, 1.0]


def test_a_signal_ends_a_stream_and_its_files_are_whole(online_run, video, tmp_path, monkeypatch, capsys):
    """What was told is in them, the annotated video can be played, the summary is of what was seen."""
    push = streams.Stream.push

    def stopped(self, frame):
        if self.frames == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return push(self, frame)

    monkeypatch.setattr(streams.Stream, "push", stopped)
    code = cli.run(lambda: cli.predict(
        None, online_run, video, True, stream=True, output=str(tmp_path / "rows.csv"),
        annotate=str(tmp_path / "out.mp4"), timeline=str(tmp_path / "t.csv")))
    out, err = capsys.readouterr()
    *rows, summary = [json.loads(line) for line in out.splitlines()]
    assert code == 130 and "interrupted: stopped by SIGTERM" in err and "Traceback" not in err
    assert summary["frames"] == len(rows) == 12 == len(list(csv.DictReader(open(tmp_path / "rows.csv"))))
    assert 12 <= len(decoded(str(tmp_path / "out.mp4"))) <= 13
    assert [row["second"] for row in csv.DictReader(open(tmp_path / "t.csv"))] == ["0", "1"]
    assert sorted(os.listdir(tmp_path)) == ["out.mp4", "rows.csv", "t.csv"]


def test_a_video_that_is_cut_leaves_what_was_told(online_run, frames, tmp_path, capsys):
    """Its rows and pictures, but no answer about the whole."""
    path = tmp_path / "a.mp4"
    write_frames(path, np.concatenate([frames] * 3), 10.0)
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mp4"), "w", options={
            "movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = (tmp_path / "b.mp4").read_bytes()
    path.write_bytes(content[:len(content) * 3 // 5])
    with pytest.raises(VideoError, match="a.mp4: (truncated|reading failed)"):
        cli.predict(None, online_run, str(path), True, window=1.0, annotate=str(tmp_path / "out.mp4"),
                    output=str(tmp_path / "rows.csv"))
    rows = told(capsys)
    assert 1 <= len(rows) == len(list(csv.DictReader(open(tmp_path / "rows.csv")))) and "start" in rows[-1]
    assert len(decoded(str(tmp_path / "out.mp4"))) >= 10


# ------------------------------------------------------------------------------------------------ refused
@pytest.mark.parametrize(("videos", "asked", "words"), [
    ([], {}, "needs --video=FILE"), ([""], {}, "needs --video=FILE"),
    (["a"], {"window": 0.0}, "--window=0: expected at least 0.001 and at most"),
    (["a"], {"window": float("nan")}, "--window=nan: expected"),
    (["a"], {"window": 1.0, "stride": -1.0}, "--stride=-1"),
    (["a"], {"stream": True, "every": 0}, "--every=0: expected at least 1"),
    (["a"], {"stride": 1.0}, "--stride=1.0 has no meaning without --window: add it"),
    (["a"], {"every": 2, "window": 1.0}, "--every=2 has no meaning without --stream"),
    (["a"], {"seconds": 2.0}, "--seconds=2.0 has no meaning without --window or --stream"),
    (["a"], {"timeline": "a.csv"}, "--timeline=a.csv has no meaning without --window or --stream"),
    (["a"], {"fps": 5.0}, "--fps=5.0 has no meaning without --window or --stream or --annotate"),
    (["a"], {"stream": True, "window": 1.0}, "--stream and --window=1 exclude each other"),
    (["camera:0"], {}, "--video=camera:0 has no end: add --window=SECONDS, or --stream"),
    (["camera:0", "a"], {"stream": True}, "--video=camera:0 beside 1 more: a stream is read alone"),
    (["-", "-"], {}, "--video=- beside 1 more"),
    (["a"], {"output": "a.txt"}, r"--output=a.txt: expected a name that ends with .csv or .jsonl"),
    (["a"], {"window": 1.0, "timeline": "a.json"}, "--timeline=a.json: expected a name that ends with .csv"),
    (["a"], {"annotate": "a.avi"}, "--annotate=a.avi: expected a name that ends with .mp4 or .gif"),
    (["a"], {"output": "/nowhere/a.csv"}, "--output=/nowhere/a.csv: the folder /nowhere does not exist"),
    (["a.mp4"], {"annotate": "./a.mp4"}, "--annotate=./a.mp4 is --video=a.mp4 as well"),
    (["a"], {"window": 1.0, "output": "a.csv", "timeline": "a.csv"}, "--timeline=a.csv is --output=a.csv"),
])
def test_mistakes_show_before_anything_is_loaded(videos, asked, words):
    with pytest.raises(UserError, match=words) as caught:
        cli.predict(None, "/nowhere", videos, True, **asked)
    assert "\n" not in str(caught.value)


def test_what_this_network_or_this_disk_cannot(model, online_run, video, tmp_path):
    with pytest.raises(UserError, match="window=-1: expected a number of seconds"):
        next(model.windows(video, -1))
    (tmp_path / "a").mkdir()
    for name in ("1.mp4", "2.mp4"):
        os.symlink(video, tmp_path / "a" / name)
    with pytest.raises(UserError, match="--annotate=.* is one file, and --video means 2 videos"):
        cli.predict(None, online_run, str(tmp_path / "a"), True, annotate=str(tmp_path / "out.mp4"))
    network = model._network
    network.every = 5
    try:
        for asked, words in (({"window": 1.0}, "--window=1.0: this network answers about a frame every 5"),
                             ({"stream": True}, "--stream=True: this network answers about a frame every 5"),
                             ({"output": "a.csv"}, "--output=a.csv: .* no rows of a table: .*jsonl")):
            with pytest.raises(UserError, match=words):
                command.check(network, Asked(**asked))
    finally:
        network.every = 0
    with full_disk(), pytest.raises(UserError, match="a.jsonl cannot be written: File too large"):
        with Rows(str(tmp_path / "a.jsonl")) as rows:
            rows.add({"video": "x" * 100})
            rows.add({"video": "x" * 100})


def test_rows_of_every_kind(tmp_path):
    """Columns are those of the method: exits, views; names hold what they hold."""
    row = {"video": "a,b\n\udc80.mp4", "top5": [{"label": "x", "prob": 0.75}, {"label": "y", "prob": 0.25}],
           "gmacs": 2.0, "gmacs_per_clip": 1.0, "exit": 2, "exits": 4}
    for ending in ("csv", "jsonl"):
        with Rows(str(tmp_path / f"a.{ending}")) as rows:
            rows.add(row)
            assert (tmp_path / f"a.{ending}").stat().st_size > 50, "there at once"
    found, = csv.DictReader(open(tmp_path / "a.csv", newline=""))
    assert found == {"video": "a,b\n\\udc80.mp4", "label": "x", "prob": "0.75", "label2": "y",
                     "prob2": "0.25", "gmacs": "2.0", "gmacs_per_clip": "1.0", "exit": "2", "exits": "4"}
    assert json.loads((tmp_path / "a.jsonl").read_text()) == row


def test_a_timeline_holds_open_seconds_alone(tmp_path):
    with Timeline(str(tmp_path / "t.csv"), ["a"]) as timeline:
        for start in range(0, 1000, 2):
            timeline.add("v", start, start + 1.5, np.array([start]))
            assert len(timeline._open) <= 2
        timeline.add("v", 1003.0, 1003.0, np.array([7.0]))  # a frame
        timeline.add("w", 0.0, 0.5, np.array([8.0]))
    rows = list(csv.DictReader(open(tmp_path / "t.csv")))
    assert [row["second"] for row in rows] == [*map(str, range(1004)), "0"]
    assert [row["a"] for row in rows[:3]] == ["0.000000", "0.000000", "2.000000"]
    assert [row["a"] for row in rows[1000:]] == ["", "", "", "7.000000", "8.000000"]
