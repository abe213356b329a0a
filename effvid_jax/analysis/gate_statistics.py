"""What rows of an evaluation say about gates: costs, decisions, and what the costs go with. Plain numpy.

Axes: N videos, V views, L gated convolutions, S a gate's weights on an axis.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

PERCENTILES = (5, 50, 95)
RESAMPLES = 1000


def distribution(costs) -> dict[str, float]:
    """Mean, standard deviation, extremes and percentiles of costs, whatever their shape."""
    costs = np.asarray(costs, np.float64).reshape(-1)
    return {"mean": costs.mean(), "std": costs.std(), "min": costs.min(), "max": costs.max(),
            **{f"p{p}": np.percentile(costs, p) for p in PERCENTILES}}


def patterns(decisions_NVLA) -> dict[str, float]:
    """How differently clips are treated as a whole.

    Args:
        decisions_NVLA: number of ratio and of stride (A = 2) of every clip and layer.

    Returns:
        'patterns', different ones; 'commonest_pattern', share of the clips that have it;
        'effective_patterns', exp of the entropy: as many equally frequent ones would be as mixed; 'clips'.
    """
    rows = decisions_NVLA.reshape(-1, math.prod(decisions_NVLA.shape[2:]))
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    p = counts / counts.sum()
    return {"patterns": len(counts), "commonest_pattern": p.max(),
            "effective_patterns": float(np.exp(-(p * np.log(p)).sum())), "clips": len(rows)}


def layer_table(names: Sequence[str], macs: Sequence[int], decisions_NVLA, ratios_NL) -> list[dict]:
    """A row a layer: its multiply-adds, what is computed of it, which decisions clips take, if they vary.

    Args:
        names, macs: of the L layers, for one clip.
        decisions_NVLA: see `patterns`.
        ratios_NL: share computed of every video.
    """
    rows = []
    for i, name in enumerate(names):
        own = decisions_NVLA[:, :, i].reshape(-1, 2)
        row = {"layer": name, "block": block_of(name), "gmacs": macs[i] / 1e9,
               "computed": float(ratios_NL[:, i].mean(dtype=np.float64)),
               "least": float(ratios_NL[:, i].min()), "most": float(ratios_NL[:, i].max()),
               "varies": int(np.ptp(ratios_NL[:, i]) > 0 or np.ptp(own, axis=0).any())}
        for axis, what in enumerate(("channels", "frames")):
            for n in range(decisions_NVLA[..., axis].max() + 1):
                row[f"{what}_1/{2**n}"] = float((own[:, axis] == n).mean())
        rows.append(row)
    return rows


def block_of(layer: str) -> str:
    """The block of a layer: 'layer1_0' of 'layer1_0/conv1/conv_s'; the part of the path with a number."""
    parts = layer.split("/")
    numbered = [i for i, part in enumerate(parts) if re.search(r"\d", part)]
    return "/".join(parts[:(numbered[0] if numbered else 0) + 1])


def block_shares(names: Sequence[str], macs: Sequence[int], decisions_NVLA, ratios_NL, groups):
    """What is computed of each block by each group of videos.

    Args:
        names, macs, decisions_NVLA, ratios_NL: see `layer_table`.
        groups: (name, indices of videos), see `Task.groups`.

    Returns:
        (blocks, {'channels', 'frames', 'multiply-adds': (groups, blocks)}). Channels and frames are means
        over the block's convolutions of 1/2^n; multiply-adds are weighted by what a convolution has.
    """
    blocks = list(dict.fromkeys(map(block_of, names)))
    member_BL = np.array([[block_of(name) == block for name in names] for block in blocks], float)
    heavy_BL = member_BL * np.asarray(macs, float)
    found = {}
    for what, weights_BL, values_NL in (
            ("channels", member_BL, (0.5 ** decisions_NVLA[..., 0].astype(float)).mean(axis=1)),
            ("frames", member_BL, (0.5 ** decisions_NVLA[..., 1].astype(float)).mean(axis=1)),
            ("multiply-adds", heavy_BL, np.asarray(ratios_NL, float))):
        means_GL = np.stack([values_NL[mine].mean(axis=0) for _, mine in groups])
        found[what] = means_GL @ (weights_BL / weights_BL.sum(axis=1, keepdims=True)).T
    return blocks, found


def correlations(costs_N, facts: Mapping[str, np.ndarray]) -> dict[str, dict[str, float | None]]:
    """Correlation of the cost of a video with each fact about it.

    Returns:
        {fact: 'pearson', 'spearman', and 'low', 'high', a 95 % interval of the latter over resampled videos};
        None where cost or fact are alike for all videos.
    """
    found = {}
    for name, values in facts.items():
        x, y = (np.asarray(v, np.float64) for v in (costs_N, values))
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            found[name] = dict.fromkeys(("pearson", "spearman", "low", "high"))
            continue
        rng, many = np.random.default_rng(0), []
        for _ in range(RESAMPLES):
            some = rng.integers(len(x), size=len(x))
            if np.ptp(x[some]) and np.ptp(y[some]):
                many.append(_pearson(ranks(x[some]), ranks(y[some])))
        low, high = np.percentile(many, (2.5, 97.5)) if many else (None, None)
        found[name] = {"pearson": _pearson(x, y), "spearman": _pearson(ranks(x), ranks(y)),
                       "low": low, "high": high}
    return found


def ranks(values) -> np.ndarray:
    """Ranks from 0 on; equal values share the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[which.reshape(-1)]


def _pearson(x, y) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def by_fifths(costs_N, values_N) -> tuple[np.ndarray, np.ndarray]:
    """Mean cost, and half a 95 % interval of it, of the videos with the lowest to highest fifth of values."""
    order = np.argsort(values_N, kind="stable")
    parts = [np.asarray(costs_N, np.float64)[mine] for mine in np.array_split(order, 5) if len(mine)]
    return mean_and_error(parts)


def mean_and_error(parts) -> tuple[np.ndarray, np.ndarray]:
    """Means of arrays, and 1.96 standard errors of each."""
    return (np.array([part.mean() for part in parts]),
            np.array([1.96 * part.std(ddof=1) / len(part)**0.5 if len(part) > 1 else 0.0 for part in parts]))
