"""Prediction on files, folders and arrays: the same numbers as evaluation, and errors that name the clip."""

import csv
import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from data_pipelines import VideoError
from data_pipelines.synthetic import write_video
from data_pipelines.video.decode import open_video
from effvid_jax import cli
from effvid_jax.errors import NotFiniteError
from effvid_jax.predict import Predictor, telling
from effvid_jax.tasks.classification import Classification

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(scope="module")
def predictor(tiny_run):
    return Predictor(tiny_run)


def test_equals_evaluation(predictor, tiny_run, val_videos):
    with open(os.path.join(tiny_run, "student", "predictions_val.csv"), newline="") as f:
        rows = list(csv.DictReader(f))
    for row in rows:
        result = predictor(val_videos[row["video"]])
        best = result["top5"][0]
        assert best["label"] == row["predicted"]
        assert abs(best["prob"] - float(row["prob"])) < 2e-4
        assert result["gmacs"] == pytest.approx(float(row["gmacs"]), rel=1e-5)
        probs = [guess["prob"] for guess in result["top5"]]
        assert probs == sorted(probs, reverse=True) and len(probs) == 5 and sum(probs) <= 1 + 1e-5
    assert len(rows) == 16


def test_forms_of_a_clip(predictor, some_video, tmp_path):
    expected = predictor(some_video)
    with open(some_video, "rb") as f:
        assert predictor(f.read()) == expected
    with open_video(some_video) as reader:
        frames = reader.get(range(reader.num_frames))
    assert predictor(frames) == expected
    for i, frame in enumerate(frames, 1):
        cv2.imwrite(str(tmp_path / f"img_{i:05}.png"), frame[..., ::-1])
    assert predictor(str(tmp_path)) == expected
    with pytest.raises(VideoError, match=r"float32 \(4, 8, 8, 3\); expected uint8"):
        predictor(np.zeros((4, 8, 8, 3), np.float32))


def test_compiles_once(predictor, rng):
    for shape in ((3, 90, 160, 3), (50, 200, 72, 3), (1, 64, 64, 3)):
        predictor(rng.integers(0, 256, shape, np.uint8))
    assert predictor._predict._cache_size() == 1


@pytest.fixture
def folder(tmp_path, some_video, rng):
    """Two clips of other sizes, a broken one, a folder of frames and a text file."""
    (tmp_path / "sub").mkdir()
    shutil.copy(some_video, tmp_path / "b.mp4")
    write_video(tmp_path / "sub" / "odd.mp4", rng.integers(0, 256, (5, 61, 33, 3), np.uint8),
                pix_fmt="yuv444p")
    (tmp_path / "a_broken.mp4").write_bytes(b"not a video")
    (tmp_path / "frames").mkdir()
    for i in (1, 2, 3):
        cv2.imwrite(str(tmp_path / "frames" / f"img_{i:05}.png"), np.full((40, 50, 3), 50 * i, np.uint8))
    (tmp_path / "notes.txt").write_text("nothing")
    return tmp_path


def test_folder(tiny_run, folder, capsys):
    cli.predict(None, tiny_run, str(folder), True)
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [os.path.relpath(line["video"], folder) for line in lines] == [
        "b.mp4", "frames", "sub/odd.mp4"]
    assert all(set(line) == {"video", "top5", "gmacs"} for line in lines)
    assert "skipped: " in err and "a_broken.mp4: not a readable video" in err
    assert "1 of 4 videos were skipped" in err and "notes.txt" not in err


def test_words_for_people(tiny_run, some_video, capsys):
    cli.predict(None, tiny_run, some_video, False)
    words, line = capsys.readouterr().out.splitlines()
    print(words)
    result = json.loads(line)
    assert words.startswith(some_video) and result["top5"][0]["label"] in words and "GMACs" in words


def test_mistakes(tiny_run, folder, tmp_path_factory):
    with pytest.raises(VideoError, match=r"a_broken\.mp4: not a readable video"):
        cli.predict(None, tiny_run, str(folder / "a_broken.mp4"), True)
    with pytest.raises(FileNotFoundError, match="--video=/nowhere.mp4 does not exist"):
        cli.predict(None, tiny_run, "/nowhere.mp4", True)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(VideoError, match=r"no videos in this folder.*\.mp4"):
        cli.predict(None, tiny_run, str(empty), True)
    for name in ("x.mp4", "y.mp4"):
        shutil.copy(folder / "a_broken.mp4", empty / name)
    with pytest.raises(VideoError, match="none of the 2 videos can be read; the first: .*x.mp4"):
        cli.predict(None, tiny_run, str(empty), True)


def test_command(tiny_run, folder):
    def main(video):
        return subprocess.run(
            [sys.executable, f"{ROOT}/main.py", "--mode=predict", f"--workdir={tiny_run}",
             f"--video={video}", "--json"], capture_output=True, text=True, cwd=ROOT, check=False)

    done = main(folder / "b.mp4")
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)) == ["video", "top5", "gmacs"]
    done = main(folder / "a_broken.mp4")
    print(done.stderr)
    assert done.returncode != 0 and not done.stdout and "Traceback" not in done.stderr
    assert "error: " in done.stderr and "a_broken.mp4: not a readable video" in done.stderr


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_video_without_finite_scores_costs_the_others_nothing(tiny_run, folder, monkeypatch, capsys, value):
    calls = []

    def scores(self, logits):
        calls.append(1)
        z = np.array(logits, np.float64)
        z[:, 0] = value if len(calls) == 2 else z[:, 0]
        return original(self, z)

    original = Classification.scores
    monkeypatch.setattr(Classification, "scores", scores)
    with pytest.raises(NotFiniteError, match=r"^video .*frames: scores of the network at step 6 are not"):
        cli.predict(None, tiny_run, str(folder), True)
    out, err = capsys.readouterr()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    assert [os.path.relpath(line["video"], folder) for line in lines] == ["b.mp4", "sub/odd.mp4"]
    assert "1 of 4 videos have no answer" in err and "1 of 4 videos were skipped" in err


def test_numbers_that_are_no_json_are_never_printed(predictor, some_video):
    with pytest.raises(ValueError, match="JSON"):
        telling.show(predictor, some_video, {"top5": [], "gmacs": float("nan")}, True)
    with pytest.raises(NotFiniteError, match=r"^video x: gmacs of the network"):
        predictor._scored("x", np.zeros(16), np.nan)
