"""Accuracy-cost curves of several networks with exits in one figure."""

import csv
import json
import os

import cv2
import pytest

from effvid_jax import cli, plots
from effvid_jax.analysis import __main__ as commands
from effvid_jax.analysis import exit_curves
from tests.config_texts.__main__ import load


def rows_of(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def curve_of(folder, shift, gmacs):
    """A run with nothing but a config and a curve."""
    config = load("dynamic_k400", f"tiny,shift={shift}")
    os.makedirs(folder)
    (folder / "config.json").write_text(config.to_json_best_effort())
    swept = [("accuracy", k, gmacs * k, 0.3 + 0.1 * k) for k in (1, 2, 3)]
    lines = [("what", "parameter", "gmacs", "top1"), *swept, ("msdnet", 1, gmacs, 0.1),
             ("full inference", 0, 3 * gmacs, 0.6),
             ("full inference, all heads", 0, 3.5 * gmacs, 0.6), ("chosen", 0, 2 * gmacs, 0.5)]
    with open(folder / "exits_val.csv", "w", newline="") as f:
        csv.writer(f).writerows(lines)
    return str(folder)


def test_curves_with_and_without_shift(tmp_path, capsys):
    folders = [curve_of(tmp_path / shift, shift, gmacs) for shift, gmacs in (("online", 1.0), ("none", 1.2))]
    assert commands.main(["exit_curves", f"--workdir={','.join(folders)}", f"--out={tmp_path}"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["unified, online shift/gmacs"] == 2 and told["unified, no shift/top1"] == 0.5
    rows = rows_of(tmp_path / "exit_curves_val.csv")
    assert [row["what"] for row in rows[:5]] == ["thresholds swept"] * 3 + ["full inference", "chosen"]
    assert cv2.imread(str(tmp_path / "exit_curves_val.png")).std() > 5
    assert os.path.getsize(tmp_path / "exit_curves_val.svg") > 2000
    os.remove(os.path.join(folders[0], "exits_val.csv"))
    assert commands.main(["exit_curves", f"--workdir={folders[0]}"]) == 1
    assert "--mode=eval" in capsys.readouterr().err


def test_curves_train_what_is_missing(tmp_path, monkeypatch):
    def train(config, folder):
        curve_of(tmp_path / os.path.basename(folder), config.model.exits.shift, 1.0)

    monkeypatch.setattr(cli, "train", train)
    command = ["exit_curves", "--config=configs/dynamic_k400.py:tiny", f"--workdir={tmp_path}"]
    assert commands.main(command) == 0
    assert {row["folder"] for row in rows_of(tmp_path / "exit_curves_val.csv")} == {
        "unified_online", "unified_none"}
    assert exit_curves.WORDS["online"] == "online shift"


@pytest.mark.parametrize("m", [2, 6, 8, 16, 30])
def test_names_of_exits_do_not_lie_over_each_other(m):
    exits = [{"name": f"{k + 1} fr., d 3", "share": 1 / m, "accuracy": 0.5, "gmacs": 0.00123 * (k + 1)}
             for k in range(m)]
    figure = plots.exit_shares(exits, [("a", [1 / m] * m, 1.0)], "top-1 (%)")
    figure.draw_without_rendering()
    labels = figure.axes[0].get_xticklabels()
    assert len(labels) == m
    long = [label.get_window_extent() for label in labels if "\n" in label.get_text()]
    assert all(left.x1 <= right.x0 for left, right in zip(long, long[1:]))
