"""What the gates of a network did on a split: who computes how much, and which videos cost most and least."""

from __future__ import annotations

import os

import numpy as np

from effvid_jax import console, plots, writers
from effvid_jax.errors import UserError


def analyse(rows, names, task, workdir: str, split: str, decide: bool = True) -> dict[str, float]:
    """Metrics of the gates, and files in `workdir` ('': none).

    Writes `gate_ratios_<split>.csv` and `.png`: mean share of a convolution that is computed, per class
    and layer (Fig. 3 of VA-RED2); and `gate_clips_<split>.csv`: the video of every class that cost most
    and the one that cost least (Fig. 4).

    Args:
        rows: see `Method.analyse`; read here: 'ratios' (N, L), 'computed', 'dead', 'gmacs_plain_ops', 'gmacs'
            (N,) of videos with all their views.
        names: of the L gated convolutions.
        task: says what kinds of videos to compare (`Task.groups`).
        workdir, split: where, and of what.
        decide: whether any of the convolutions still has a gate (`freezing.py`).

    Returns:
        'gmacs_plain_ops', 'computed', 'dead', 'varying_layers' (see `gating/decisions.py`).

    Raises:
        UserError: a gate that is not finite.
    """
    ratios_NL = rows["ratios"]
    bad = ~np.isfinite(ratios_NL)
    if bad.any():
        clip, layer = np.argwhere(bad)[0]
        raise UserError(f"the gate of {names[layer]} is not finite for video {rows['name'][clip]} ("
                         f"{bad.any(axis=1).sum()} of {len(bad)} videos): these weights are damaged or "
                         f"diverged; train with a lower config.optim.lr or restore an earlier step.")
    varying = float((np.ptp(ratios_NL, axis=0) > 0).mean())
    if varying == 0 and decide:
        console.say("gates have collapsed: every clip is computed alike, which a smaller static network "
                    "would do too (--mode=freeze makes it of this one). config.method.efficiency_weight or "
                    "optim.lr may be too high.")
    if workdir:
        groups = task.groups(rows)
        _write_ratios(os.path.join(workdir, f"gate_ratios_{split}"), names, rows, groups)
        _write_clips(os.path.join(workdir, f"gate_clips_{split}.csv"), rows, groups)
    return {"gmacs_plain_ops": float(rows["gmacs_plain_ops"].mean(dtype=np.float64)),
            "computed": float(rows["computed"].mean(dtype=np.float64)), "dead": float(rows["dead"].mean()),
            "varying_layers": varying}


def _write_ratios(path: str, names, rows, groups) -> None:
    means_KL = np.stack([rows["ratios"][mine].mean(axis=0) for _, mine in groups])
    writers.write_lines(path + ".csv", [
        ["class", *names],
        *([group, *(f"{x:.4f}" for x in means)] for (group, _), means in zip(groups, means_KL))])
    writers.write_bytes(path + ".png", plots.heat_map(
        means_KL, [group for group, _ in groups], names, "share of the convolution that is computed"))


def _write_clips(path: str, rows, groups) -> None:
    lines = [["class", "most", "gmacs_most", "least", "gmacs_least"]]
    for group, mine in groups:
        most, least = (mine[pick(rows["gmacs"][mine])] for pick in (np.argmax, np.argmin))
        lines.append([group, rows["name"][most], f"{rows['gmacs'][most]:.6g}",
                      rows["name"][least], f"{rows['gmacs'][least]:.6g}"])
    writers.write_lines(path, lines)
