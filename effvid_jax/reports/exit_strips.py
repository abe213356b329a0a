"""Strips of videos that left a network with exits at the first, a middle and the last checkpoint.

The visualisation of Dynamic Inference (arXiv 2002.03342): what easy, middling and hard videos look like. Of
every such checkpoint a few videos with right answers, of different classes where there are any; frames that
were not looked at until then are faded. A checkpoint where no video left is passed by. Reads
`predictions_<split>.csv` and the videos; drawn by each report.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

import data_pipelines
from effvid_jax import plots, writers
from effvid_jax.methods import building

PER_CHECKPOINT, SHOWN, SIDE, FADED = 3, 16, 96, 0.75


def stops(used: Sequence[int]) -> list[int]:
    """First, middle and last of the checkpoints where videos left, which are sorted."""
    return sorted({used[0], used[(len(used) - 1) // 2], used[-1]})


def choose(rows, said) -> dict[int, list[int]]:
    """{checkpoint, from 0: numbers of rows} of videos to show.

    Args:
        rows: lines of `predictions_<split>.csv`, with 'exit' from 1.
        said: `Task.said`.
    """
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    found = {}
    for k in stops(sorted({int(row["exit"]) - 1 for row in rows})):
        here = [i for i in order if int(rows[i]["exit"]) == k + 1]
        here.sort(key=lambda i: not said(rows[i])[2])  # right ones first
        one_each = list({said(rows[i])[0]: i for i in reversed(here) if said(rows[i])[2]}.values())[::-1]
        rest = [i for i in here if i not in one_each]
        found[k] = [*one_each, *rest][:PER_CHECKPOINT]
    return found


def draw(directory: str, config, task, rows, split: str = "val") -> tuple[bytes, str] | None:
    """Writes `exit_strips_<split>.png` and `.svg` into the folder of a network.

    Args:
        directory: of the network.
        config: of it.
        task: of it.
        rows: lines of its `predictions_<split>.csv`.
        split: their videos'.

    Returns:
        The picture as PNG, and what it shows; None without exits, videos or anything to say of them.
    """
    if not config.model.get("exits") or not rows or not rows[0].get("exit") or task.said(rows[0]) is None:
        return None
    try:
        videos = data_pipelines.open_split(config.data, split)
    except (ValueError, OSError):
        return None
    model = building.build_network(config.model, task)
    numbers = {videos.entry(i).name: i for i in range(len(videos))}
    strips, told = [], []
    for k, chosen in choose(rows, task.said).items():
        stop = model.route[k]
        seen = np.isin(np.arange(len(model.order)), model.order[:stop.frames])
        title = (f"exit {k + 1} of {len(model.route)}: {stop.frames} of {len(model.order)} frames, "
                 f"depth {stop.depth}")
        for i in chosen:
            label, words, right = task.said(rows[i])
            try:
                frames = _frames(videos, numbers[rows[i]["video"]], seen)
            except (data_pipelines.VideoError, KeyError, OSError):
                continue
            strips.append((frames, title, f"true: {label}", words.rpartition(", exit")[0], right,
                           f"{float(rows[i]['gmacs']):.3g} GMACs"))
        told.append(f"{title}: {', '.join(task.said(rows[i])[0] for i in chosen)}")
    if not strips:
        return None
    forms = plots.forms(plots.exit_strips(strips))
    writers.write_picture(os.path.join(directory, f"exit_strips_{split}"), forms)
    return forms[".png"], "; ".join(told)


def _frames(videos, number: int, seen_T: np.ndarray) -> np.ndarray:
    """Frames of the only view, uint8 (n, side, side, 3), unseen ones faded; of many, evenly spread ones."""
    view = videos.views(number)[0]
    faded = view + (FADED * (255.0 - view)).astype(np.uint8)
    shown = np.unique(np.linspace(0, len(view) - 1, min(SHOWN, len(view))).round().astype(int))
    return np.where(seen_T[:, None, None, None], view, faded)[shown]
