"""Accuracy against mean cost as thresholds move: the curve of a split as table, csv file and picture."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import tabulate

from effvid_jax import console, plots, writers
from effvid_jax.exits import stopping

FULL = "full inference"
ALL_HEADS, PAPER = f"{FULL}, all heads", f"{FULL}, all heads, the paper's counter"


def draw(workdir: str, split: str, task, known, scores_Nm, right_Nm, rows, costs_m,
         full_gmacs: Mapping[str, float], search: str) -> None:
    """Prints the curve of one search, and writes those of all of them.

    Args:
        workdir, split: see `write`.
        task: names the accuracy.
        known: (scores (n, m), right (n, m)) of the calibration videos, from which thresholds are swept.
        scores_Nm: of the split, by the rule that stops.
        rows: of the split: 'exit' (N,) where each video stopped, 'gmacs' (N,).
        right_Nm: whether the answers of every checkpoint are right.
        costs_m: cumulative GMACs of stopping at each checkpoint.
        full_gmacs: of full inference, counted in every way: `FULL` is the network with the last head alone.
        search: whose curve is printed.
    """
    curves = {name: stopping.sweep(*known, scores_Nm, right_Nm, costs_m, name)
              for name in stopping.SEARCHES}
    accuracy, right_N = right_Nm.mean(axis=0), right_Nm[np.arange(len(right_Nm)), rows["exit"]]
    chosen = stopping.Point(0, float(rows["gmacs"].mean()), float(right_N.mean()))
    full = {name: stopping.Point(0, gmacs, float(accuracy[-1])) for name, gmacs in full_gmacs.items()}
    heads = [stopping.Point(0, c, float(a)) for c, a in zip(costs_m, accuracy)]
    write(workdir, split, task, curves, {
        **{name: [point] for name, point in full.items()},
        "everything stops at one checkpoint": heads, "chosen": [chosen]})
    console.say(table(curves[search], chosen, full, task.watched_title))


def table(points, chosen, full, title: str) -> str:
    """The curve as text: at most ten operating points, the chosen one, and full inference in every count."""
    distinct = sorted({(p.gmacs, p.accuracy): p for p in points}.values(), key=lambda p: p.gmacs)
    some = [distinct[i] for i in np.unique(np.linspace(0, len(distinct) - 1, 10).round().astype(int))]
    lines = [("thresholds swept", p) for p in some] + [("chosen", chosen), *full.items()]
    return tabulate.tabulate(
        [[name, p.gmacs, f"{p.gmacs / full[FULL].gmacs:.0%}", f"{p.accuracy:.1%}"] for name, p in lines],
        ["", "mean GMACs per video", "of full", title], floatfmt=".3g")


def write(workdir: str, split: str, task, curves, marks) -> None:
    """Accuracy against mean cost: `exits_<split>.csv`, `.png` and `.svg`.

    Args:
        workdir, split: where.
        task: names the accuracy.
        curves: {search: points}.
        marks: {name: single points}.
    """
    path = os.path.join(workdir, f"exits_{split}")
    writers.write_lines(path + ".csv", [
        ["what", "parameter", "gmacs", task.watched],
        *([name, f"{p.parameter:.4g}", f"{p.gmacs:.6g}", f"{p.accuracy:.4f}"]
          for name, points in {**curves, **marks}.items() for p in points)])
    shown = {name: some for name, some in marks.items() if name != PAPER}  # of another unit
    writers.write_picture(path, plots.forms(plots.exit_curve(curves, shown, f"{task.watched_title} (%)")))
