"""Videos with answers over their frames."""

import os
import types

import cv2
import numpy as np
import pytest

from effvid_jax import cli, console
from effvid_jax.drawn import answers
from tests.made import decoded


@pytest.mark.parametrize("ending, asked", [
    ("mp4", {}), ("mp4", {"window": 1.0, "stride": 0.5}), ("mp4", {"stream": True}),
    ("gif", {"window": 1.0})])
def test_an_annotated_video_has_every_frame(online_run, video, tmp_path, asked, ending, capsys):
    path = str(tmp_path / f"out.{ending}")
    cli.predict(None, online_run, video, True, annotate=path, **asked)
    found, original = decoded(path), decoded(video)
    assert len(found) == 35 and found.shape[1:3] == (240, 320) and os.listdir(tmp_path) == [f"out.{ending}"]
    upper = np.stack([cv2.resize(frame, (320, 240))[:100] for frame in original]).astype(int)
    difference = np.abs(found[:, :100] - upper).mean()
    assert difference < 12, "the pictures themselves are seen"
    assert np.abs(found[:, 200:] - upper[:, :40]).mean() > 30


def test_a_frame_has_the_answer_next_to_it(monkeypatch):
    """Windows overlap and are told late: few frames wait for the one with the nearest middle."""
    shown, waited = [], []
    monkeypatch.setattr(answers, "over", lambda frame, guesses, note: guesses[0][0])
    writer = types.SimpleNamespace(add=lambda said, seconds: shown.append((round(seconds, 2), said)))
    drawing = answers.Drawing(writer, 1000)
    frames = ((i / 10, np.zeros((20, 20, 3), np.uint8)) for i in range(60))
    number = 0
    for seconds, _ in drawing.seen(frames):
        waited.append(len(drawing._waiting))
        while seconds >= number + 2:  # windows [n, n + 2)
            drawing.say(number, number + 2, [(number, 1.0)])
            number += 1
    drawing.say(4, 6, [(4, 1.0)])
    drawing.finish()
    assert [seconds for seconds, _ in shown] == [i / 10 for i in range(60)]
    assert all(said == min(range(5), key=lambda n: (abs(n + 1 - seconds), n)) for seconds, said in shown)
    assert max(waited) <= 21


def test_words_on_a_frame_stay_within_it():
    frame = np.full((64, 64, 3), 90, np.uint8)
    long = "ein sehr langer Name einer Klasse, größer als das Bild"
    drawn = answers.over(frame, [(long, 1.0), ("b", 0.0)], "note")
    assert drawn.shape == frame.shape and (frame == 90).all() and drawn.max() == 255
    assert console.one_line("a\nb") == "a b"
