"""Arithmetic of boxes: overlap, what a grid of anchors says, non-maximum suppression.

Source of the definitions: YOWO (arXiv 1911.06644; wei-tim/YOWO, `core/utils.py`), which has them from YOLOv2
(arXiv 1612.08242).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

LARGEST = 8.0  # of t_w and t_h: what an untrained network says stays finite


def iou(a, b):
    """Intersection over union of every pair: (..., N, 4) and (..., M, 4) -> (..., N, M).

    Of numpy arrays on the host, of jax arrays traced. Boxes without an area overlap nothing.
    """
    xp = jnp if isinstance(a, jax.Array) or isinstance(b, jax.Array) else np
    a, b = a[..., :, None, :], b[..., None, :, :]
    sides = xp.minimum(a[..., 2:], b[..., 2:]) - xp.maximum(a[..., :2], b[..., :2])
    both = xp.prod(xp.maximum(sides, 0), axis=-1)
    union = area(a, xp) + area(b, xp) - both
    return xp.where(union > 0, both / xp.where(union > 0, union, 1), 0)


def area(boxes, xp=np):
    """(..., 4) -> (...,); 0 for a box whose edges have changed sides."""
    return xp.prod(xp.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)


def decode(raw_BhwAO, anchors_A2):
    """What a grid says, as boxes: (B, h, w, A, 5 + K) -> (B, P, 5 + K), P = h w A. Traced.

    Of cell (i, j) and an anchor of width a and height b, with outputs t: centre ((j + s(t_x)) / w, (i +
    s(t_y)) / h), sides (a exp(t_w), b exp(t_h)), confidence s(t_o), s the logistic function; softmax over the
    rest.

    Args:
        raw_BhwAO: outputs of the head, float32.
        anchors_A2: widths and heights in shares of the clip.

    Returns:
        x1, y1, x2, y2, confidence, probabilities of the K classes.
    """
    b, h, w = raw_BhwAO.shape[:3]
    cells = jnp.stack(jnp.meshgrid(jnp.arange(w), jnp.arange(h)), axis=-1)[:, :, None]
    centre = (cells + jax.nn.sigmoid(raw_BhwAO[..., :2])) / jnp.asarray([w, h], raw_BhwAO.dtype)
    half = anchors_A2 * jnp.exp(jnp.minimum(raw_BhwAO[..., 2:4], LARGEST)) / 2
    found = jnp.concatenate([centre - half, centre + half, jax.nn.sigmoid(raw_BhwAO[..., 4:5]),
                             jax.nn.softmax(raw_BhwAO[..., 5:], axis=-1)], axis=-1)
    return found.reshape(b, -1, raw_BhwAO.shape[-1])


def nms(boxes_N4: np.ndarray, confidences_N: np.ndarray, most: float) -> np.ndarray:
    """Greedy non-maximum suppression, whatever the classes: indices of the boxes that stay, surest first.

    A box goes where one that stays overlaps it by more than `most` (intersection over union). Of equally sure
    ones the first comes first.
    """
    order = np.argsort(-confidences_N, kind="stable")
    overlaps = iou(boxes_N4[order], boxes_N4[order]) > most
    gone, kept = np.zeros(len(order), bool), []
    for i in range(len(order)):
        if not gone[i]:
            kept.append(order[i])
            gone |= overlaps[i]
    return np.array(kept, int)
