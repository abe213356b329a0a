"""Boxes as predictions files have them, json lists [class, score, x1, y1, x2, y2] each; pictures of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from effvid_jax import plots
from effvid_jax.detection import scoring
from effvid_jax.errors import UserError

Listed = list[list]  # [class, score, x1, y1, x2, y2] each


def text(class_names: Sequence[str], boxes_N4, labels_N, scores_N) -> str:
    """Boxes of a frame, surest first."""
    order = np.argsort(-np.asarray(scores_N), kind="stable")
    return json.dumps([[class_names[labels_N[i]], round(float(scores_N[i]), 5),
                        *(round(float(x), 4) for x in boxes_N4[i])] for i in order])


def read(row: Mapping[str, str], column: str) -> Listed:
    """The boxes in a column of a line.

    Raises:
        UserError: it holds something else.
    """
    try:
        found = json.loads(row[column])
        if not all(isinstance(box[0], str) and len(list(map(float, box[1:]))) == 5 for box in found):
            raise ValueError(found)
        return found
    except (ValueError, TypeError, LookupError) as error:
        raise UserError(f"predictions: column {column!r} of {row.get('video')!r} is no json list of [class, "
                        f"score, x1, y1, x2, y2]: the file is damaged, evaluate again.") from error


def as_boxes(frames: Sequence[Listed], class_names: Sequence[str]) -> scoring.Boxes:
    """Boxes of some frames as numbers."""
    index = {name: k for k, name in enumerate(class_names)}
    flat = [(i, index[label], score, *box) for i, boxes in enumerate(frames) for label, score, *box in boxes]
    x = np.array(flat, float).reshape(-1, 7)
    return scoring.Boxes(x[:, 0].astype(int), x[:, 1].astype(int), x[:, 3:], x[:, 2])


def agree(truth: Listed, found: Listed, least: float) -> bool:
    """Whether every box is found with its class, and nothing else is."""
    names = list(dict.fromkeys(label for label, *_ in (*truth, *found)))
    theirs, ours = (as_boxes([boxes], names) for boxes in (truth, found))
    share, right = scoring.recall(ours, theirs, least)
    return len(truth) == len(found) and (not truth or share == right == 1.0)


def pictures(predictions: Mapping[str, Sequence[Mapping[str, str]]], class_names: Sequence[str],
             least: float) -> list[tuple]:
    """(title, PNG, caption, what is to be seen): average precision per class, precision over recall.

    Args:
        predictions: {network: lines}; the last one is the subject.
        class_names: K names.
        least: IoU from which a box is found.
    """
    pairs = {name: [as_boxes([read(row, column) for row in rows], class_names)
                    for column in ("found", "boxes")] for name, rows in predictions.items()}
    each = {name: scoring.frame_map(*both, len(class_names), least)[1] for name, both in pairs.items()}
    subject = list(predictions)[-1]
    curves = {name: scoring.curve(*pairs[subject], k, least) for k, name in enumerate(class_names)}
    curves = {name: found for name, found in curves.items() if found.total}
    told = ", ".join(f"{name} {value:.0%}" for name, value in zip(class_names, each[subject])
                     if not np.isnan(value))
    return [
        ("Average precision per class", plots.per_class(class_names, each, "average precision (%)"),
         f"At an IoU of {least:g}, sorted by {subject}.", f"A bar for each class, of {subject}: {told}."),
        (f"Precision and recall of {subject}",
         plots.precision_recall({name: (c.recall, c.precision) for name, c in curves.items()}),
         f"Of every class as the least score goes down; right is an IoU of at least {least:g}.",
         f"A curve for each class of {subject}; it ends at a recall of "
         + ", ".join(f"{max(c.recall, default=0):.0%} ({name})" for name, c in curves.items()) + ".")]
