"""Progress bars and the log: speed and time left, without the step that compiles."""

import io
import re
import types

import numpy as np

from configs.recipes import base
from effvid_jax import console, log, writers


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def __call__(self):
        return self.now


def shown(bar, clock, monkeypatch, steps, total=100, first=60.0):
    """What a bar says after a slow first step and some quick ones, and its seconds to go."""
    out = io.StringIO()
    monkeypatch.setattr(console.sys, "stderr", out)
    monkeypatch.setattr("tqdm.std.time", clock)
    with bar(total, "train", "step") as progress:
        for i in range(steps):
            clock.now += first if i == 0 else 12.0
            progress.update()
        told = progress.format_dict
    return told, out.getvalue()


def test_time_left_is_without_the_step_that_compiles(monkeypatch):
    told, text = shown(console.bar, Clock(), monkeypatch, 4, first=600.0)
    print(text)
    assert told["n"] == 4 and abs(1 / told["rate"] - 12) < 0.1
    left = re.findall(r"4/100 \[[\d:]+<([\d:]+)", text)[-1]
    assert left == "19:12", "96 steps of 12 seconds"
    assert "1/100 [00:00<?" in text, "the first step is shown as soon as it is done"


def test_a_bar_of_one_unit_and_a_continued_one(monkeypatch):
    told, text = shown(console.bar, Clock(), monkeypatch, 1, total=1)
    assert told["n"] == 1 and "1/1 [00:00" in text
    out = io.StringIO()
    monkeypatch.setattr(console.sys, "stderr", out)
    with console.bar(10, "train", "step", initial=8) as progress:
        progress.update(), progress.update()
    assert "10/10" in out.getvalue()


def test_logged_speed_is_without_the_step_that_compiles(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(log.time, "monotonic", clock)
    monkeypatch.setattr(writers.MetricWriter, "write_scalars", lambda self, step, row: seen.append(row))
    config, seen = base.defaults(), []
    config.train.log_every_steps = 4
    with log.Log(config, str(tmp_path), types.SimpleNamespace(num_steps=8), str, "top1", True) as ours:
        ours.begin(0)
        with ours.progress(lambda step: {}):
            for step in range(1, 9):
                clock.now += 100.0 if step == 1 else 0.5
                ours.add(step, {"loss": 1.0 * step}, np.arange(2))
    assert [row["train/loss"] for row in seen] == [2.5, 6.5], "every step counts for the means"
    assert [row["train/steps_per_second"] for row in seen] == [2.0, 2.0]


def test_an_evaluation_in_between_is_no_time_of_a_step(tmp_path, monkeypatch):
    """Neither of the seconds to go, however short the run so far, nor of the speed that is logged."""
    clock, out, seen = Clock(), io.StringIO(), []
    for name in ("effvid_jax.log.time.monotonic", "tqdm.std.time"):
        monkeypatch.setattr(name, clock)
    monkeypatch.setattr(console.sys, "stderr", out)
    monkeypatch.setattr(writers.MetricWriter, "write_scalars", lambda self, step, row: seen.append(row))
    config = base.defaults()
    config.train.log_every_steps = 4
    with log.Log(config, str(tmp_path), types.SimpleNamespace(num_steps=100), str, "top1", True) as ours:
        ours.begin(0)
        with ours.progress(lambda step: {}):
            for step in range(1, 9):
                clock.now += 2.0
                ours.add(step, {"loss": 1.0}, np.arange(2))
                if step in (2, 6):
                    with ours.paused():
                        clock.now += 3600.0
            told = ours._bar.format_dict
    assert abs(1 / told["rate"] - 2) < 0.01 and told["elapsed"] > 7200
    assert [row["train/steps_per_second"] for row in seen] == [0.5, 0.5]
