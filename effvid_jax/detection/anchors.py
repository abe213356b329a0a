"""Anchors: the usual widths and heights of the boxes of a data set, by k-means.

YOLOv2 (arXiv 1612.08242) takes 1 - IoU of boxes with the same centre for the distance, and the mean for the
centre of a cluster; so does YOWO's `datasets/generate_anchors.py`, which begins at boxes drawn at random.
Ours begins at quantiles of the area, so that the same boxes always give the same anchors.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 300


def overlap(sizes_N2: np.ndarray, anchors_A2: np.ndarray) -> np.ndarray:
    """IoU of boxes and anchors with the same centre: (N, A)."""
    both = np.minimum(sizes_N2[:, None], anchors_A2[None]).prod(axis=-1)
    return both / (sizes_N2.prod(axis=-1)[:, None] + anchors_A2.prod(axis=-1)[None] - both)


def find(sizes_N2: np.ndarray, count: int) -> np.ndarray:
    """Anchors of boxes, smallest area first: (count, 2).

    Args:
        sizes_N2: widths and heights, more than 0; at least one box.
        count: A. Of fewer boxes, or boxes all alike, some anchors are the same.
    """
    sizes = np.asarray(sizes_N2, np.float64)
    order = np.argsort(sizes.prod(axis=1), kind="stable")
    anchors = sizes[order[((np.arange(count) + 0.5) / count * len(sizes)).astype(int)]]
    mine = None
    for _ in range(ROUNDS):
        before, mine = mine, overlap(sizes, anchors).argmax(axis=1)
        if before is not None and (before == mine).all():
            break
        anchors = np.stack([sizes[mine == a].mean(axis=0) if (mine == a).any() else anchors[a]
                            for a in range(count)])
    return anchors[np.argsort(anchors.prod(axis=1), kind="stable")]


def fit(sizes_N2: np.ndarray, anchors_A2: np.ndarray) -> float:
    """How well anchors fit boxes: the mean IoU of each box with its best one."""
    return float(overlap(np.asarray(sizes_N2, np.float64), anchors_A2).max(axis=1).mean())
