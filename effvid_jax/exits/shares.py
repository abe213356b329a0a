"""Where the videos of a split left a network with exits: shares, accuracy, cost by checkpoint and class."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from effvid_jax import plots, writers

EVERYTHING = "(all)"  # in place of a class or of a checkpoint


def table(rows, right_N, costs_m: Sequence[float], groups) -> list[dict]:
    """A line for every class and checkpoint, and for all of them together (`EVERYTHING`).

    Args:
        rows: of an evaluation; read here: 'exit' (N,) from 0, 'gmacs' (N,) per video.
        right_N: whether the answers are right, (N,) of bool.
        costs_m: GMACs per video of leaving at each checkpoint.
        groups: (name, indices of its videos), see `Task.groups`.

    Returns:
        Lines with 'class', 'exit' (from 1), 'videos', 'share' (of the class's videos), 'accuracy' (of those
        that left there; NaN without any) and 'gmacs' (their mean; of a checkpoint without videos its own).
    """
    taken, lines = np.asarray(rows["exit"]), []
    for name, mine in [(EVERYTHING, np.arange(len(taken))), *groups]:
        for k in [None, *range(len(costs_m))]:
            here = mine if k is None else mine[taken[mine] == k]
            lines.append({
                "class": name, "exit": EVERYTHING if k is None else k + 1, "videos": len(here),
                "share": len(here) / max(1, len(mine)),
                "accuracy": float(np.mean(right_N[here])) if len(here) else float("nan"),
                "gmacs": float(np.mean(rows["gmacs"][here], dtype=np.float64)) if len(here) else
                float("nan") if k is None else float(costs_m[k])})
    return lines


def metrics(taken_N, costs_m: Sequence[float], right_Nm, watched: str) -> dict[str, float]:
    """What an evaluation says of every checkpoint, from 1.

    Args:
        taken_N: where the videos left, from 0.
        costs_m: GMACs per video of leaving at each checkpoint.
        right_Nm: whether the answers of all checkpoints are right; None where videos really stopped.
        watched: name of the accuracy.

    Returns:
        'exit1_share', 'exit1_gmacs', ...; with `right_Nm` also 'full_top1', of the last, 'exit1_top1', ...
    """
    numbers = range(1, len(costs_m) + 1)
    out = {f"exit{k}_share": float((np.asarray(taken_N) == k - 1).mean()) for k in numbers}
    out |= {f"exit{k}_gmacs": float(costs_m[k - 1]) for k in numbers}
    if right_Nm is not None:
        out |= {f"full_{watched}": float(right_Nm[:, -1].mean())}
        out |= {f"exit{k}_{watched}": float(right_Nm[:, k - 1].mean()) for k in numbers}
    return out


def write(workdir: str, split: str, task, rows, right_N, costs_m: Sequence[float], route) -> None:
    """`exit_classes_<split>.csv`, `.png` and `.svg`; classes are sorted by their mean cost.

    Args:
        workdir, split: where, and of what.
        task: names the accuracy and groups the videos.
        rows, right_N, costs_m: see `table`.
        route: the checkpoints, see `effvid_jax.exits.routes`.
    """
    lines, m = table(rows, right_N, costs_m, task.groups(rows)), len(costs_m)
    names = [f"{c.frames} fr., d {c.depth}" for c in route]
    path = os.path.join(workdir, f"exit_classes_{split}")
    writers.write_csv(path + ".csv", [
        {**line, "frames": "" if line["exit"] == EVERYTHING else route[line["exit"] - 1].frames,
         "depth": "" if line["exit"] == EVERYTHING else route[line["exit"] - 1].depth,
         **{name: f"{line[name]:.{n}g}" for name, n in (("share", 4), ("accuracy", 4), ("gmacs", 6))}}
        for line in lines])
    exits = [{"name": name, **line} for name, line in zip(names, lines[1:m + 1], strict=True)]
    groups = [(lines[i]["class"], [line["share"] for line in lines[i + 1:i + 1 + m]], lines[i]["gmacs"])
              for i in range(m + 1, len(lines), m + 1)]
    groups.sort(key=lambda group: group[2])
    writers.write_picture(path, plots.forms(plots.exit_shares(exits, groups, f"{task.watched_title} (%)")))
