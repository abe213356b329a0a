"""How well boxes are found: frame-mAP, recall and classification accuracy, as YOWO counts them.

frame-mAP is Pascal VOC's over the frames of a split. Of each class the detections of all frames are sorted by
score (equal ones: as they come); each belongs to the box of its class in its frame that it overlaps most, and
is right where that is at least the threshold and the box was not found before. Average precision is the area
under the precision envelope at every recall (VOC 2010 and later), which YOWO's evaluation executes
(`EveryPointInterpolation` of its Object-Detection-Metrics); the mean over 11 recalls of VOC 2007 is there as
well. Classes without a box do not count.

Two things of YOWO's files are not followed: boxes rounded to pixels of 320 x 240 with an edge of one pixel
more, and further classes of a box written down as its best class (`core/optimization.py`, `box[6]` for `box[6
+ 2 j]`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from effvid_jax.detection.boxes import iou


class Boxes(NamedTuple):
    """Boxes of a split, in the order of its frames.

    Attributes:
        frame, label: number of the frame and of the class, (N,).
        box: (N, 4).
        score: of detections, (N,); of the truth anything.
    """

    frame: np.ndarray
    label: np.ndarray
    box: np.ndarray
    score: np.ndarray


class Curve(NamedTuple):
    """Of a class: precision and recall behind every detection, surest first; scores (n,); boxes there are."""

    precision: np.ndarray
    recall: np.ndarray
    score: np.ndarray
    total: int


def match(boxes: Boxes, others: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """(which of `others` in its frame each box overlaps most, by how much), both (N,); -1: there is none."""
    best, value = np.full(len(boxes.frame), -1), np.zeros(len(boxes.frame))
    there = _by_frame(others.frame)
    for frame, mine in _by_frame(boxes.frame).items():
        if frame in there:
            overlaps = iou(boxes.box[mine], others.box[there[frame]])
            best[mine], value[mine] = there[frame][overlaps.argmax(axis=1)], overlaps.max(axis=1)
    return best, value


def curve(found: Boxes, truth: Boxes, label: int, threshold: float = 0.5) -> Curve:
    """Precision and recall of one class."""
    mine, theirs = (Boxes(*(x[boxes.label == label] for x in boxes)) for boxes in (found, truth))
    order = np.argsort(-mine.score, kind="stable")
    mine = Boxes(*(x[order] for x in mine))
    best, value = match(mine, theirs)
    enough = np.flatnonzero((best >= 0) & (value >= threshold))
    _, first = np.unique(best[enough], return_index=True)
    right = np.zeros(len(order), bool)
    right[enough[first]] = True
    hits = right.cumsum()
    return Curve(hits / np.arange(1, len(order) + 1), hits / max(1, len(theirs.frame)), mine.score,
                 len(theirs.frame))


def average_precision(of: Curve, points: int = 0) -> float:
    """Area under the precision envelope; with `points` (11) the mean of it at so many recalls from 0 to 1.

    NaN for a class without a box.
    """
    if not of.total:
        return float("nan")
    envelope = np.maximum.accumulate(of.precision[::-1])[::-1]
    if points:
        at = np.searchsorted(of.recall, np.linspace(0, 1, points) - 1e-9)
        return float(np.append(envelope, 0.0)[at].mean())
    steps = np.diff(of.recall, prepend=0.0)
    return float((steps * envelope).sum())


def frame_map(found: Boxes, truth: Boxes, num_classes: int, threshold: float = 0.5,
              points: int = 0) -> tuple[float, np.ndarray]:
    """(mean over classes that have boxes, 0 without any; average precisions (K,), NaN for those without)."""
    each = np.array([average_precision(curve(found, truth, k, threshold), points)
                     for k in range(num_classes)])
    return (float(np.nanmean(each)) if np.isfinite(each).any() else 0.0), each


def recall(found: Boxes, truth: Boxes, threshold: float = 0.5) -> tuple[float, float]:
    """(share of the boxes that are found, share of those whose class is right); 0 of none.

    A box is found where the detection that overlaps it most, of any class, does so by more than `threshold`;
    its class is that of this detection. `found` has one class a box.
    """
    best, value = match(truth, found)
    there = (best >= 0) & (value > threshold)
    right = there & (found.label[best] == truth.label if len(found.label) else False)
    return float(there.mean() if len(there) else 0.0), float(right.sum() / max(1, there.sum()))


def _by_frame(frames_N: np.ndarray) -> dict[int, np.ndarray]:
    """Number of a frame -> indices of its boxes, in their order."""
    order = np.argsort(frames_N, kind="stable")
    numbers, starts = np.unique(frames_N[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True)) if len(order) else {}
