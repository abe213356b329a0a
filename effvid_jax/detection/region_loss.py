"""The loss of a grid of anchors: YOLOv2's region loss, with YOWO's focal term for the classes.

    L = coordinates * sum_g smooth_l1(t_g - t*_g) / 2 + object / 2 * sum_g (c_g - IoU_g)^2
      + no_object / 2 * sum_p c_p^2 + classes * sum_g -(1 - p_g)^gamma log p_g

g: boxes of the frame. Each has one predictor, the anchor of its cell whose shape fits it best; of two boxes
with the same one, the later has it. p: predictors that have no box and overlap none by more than `ignore`. t
= (s(t_x), s(t_y), t_w, t_h), c the confidence, IoU_g that of the predicted box (without a gradient).

Source: wei-tim/YOWO, `core/region_loss.py` and `core/FocalLoss.py`, of which this is what they execute:
smooth L1 where YOLOv2 has squares, and a half in front of it. There the terms are added up over a batch, here
every example has its own: with the mean over a batch of 128 that `TOTAL_BATCH_SIZE` asks for, the learning
rate is 128 times theirs.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from effvid_jax.detection.boxes import iou

NEARLY_SURE = 1e-12  # 1 - p of a class, at least


class Scales(NamedTuple):
    """Weights of the terms and the rest of the loss's constants; defaults: `cfg/jhmdb.yaml` of YOWO."""

    object: float = 5.0
    no_object: float = 1.0
    coordinates: float = 1.0
    classes: float = 1.0
    gamma: float = 2.0
    ignore: float = 0.6


def region_loss(raw_BhwAO, boxes_BP4, anchors_A2, truth_BM4, labels_BM, count_B, scales: Scales):
    """The loss of every example, (B,); traced.

    Args:
        raw_BhwAO: outputs (B, h, w, A, 5 + K), float32.
        boxes_BP4: what they say, see `boxes.decode`.
        anchors_A2: widths and heights.
        truth_BM4, labels_BM, count_B: the boxes of each example; of M the first `count` are some.
        scales: see `Scales`.
    """
    boxes_BP4 = jax.lax.stop_gradient(boxes_BP4)
    return jax.vmap(lambda *x: _of_frame(*x, anchors_A2, scales))(
        raw_BhwAO, boxes_BP4, truth_BM4, labels_BM, count_B)


def _of_frame(raw, boxes, truth, labels, count, anchors, scales):
    h, w, num_anchors, _ = raw.shape
    slots = jnp.arange(len(truth))
    there = slots < count
    sizes = jnp.where(there[:, None], truth[:, 2:] - truth[:, :2], 1.0)
    centre = (truth[:, :2] + truth[:, 2:]) / 2 * jnp.asarray([w, h], raw.dtype)
    cell = jnp.clip(jnp.floor(centre), 0, jnp.asarray([w - 1, h - 1], raw.dtype))
    both = jnp.minimum(sizes[:, None], anchors).prod(axis=-1)
    best = jnp.argmax(both / (sizes.prod(axis=-1)[:, None] + anchors.prod(axis=-1) - both), axis=1)
    at = ((cell[:, 1] * w + cell[:, 0]) * num_anchors).astype(jnp.int32) + best
    later = (slots[None] > slots[:, None]) & there[None] & (at[None] == at[:, None])
    has = there & ~later.any(axis=1)

    flat = raw.reshape(-1, raw.shape[-1])
    mine = flat[at]
    wanted = jnp.concatenate([centre - cell, jnp.log(sizes / anchors[best])], axis=1)
    off = jnp.concatenate([jax.nn.sigmoid(mine[:, :2]), mine[:, 2:4]], axis=1) - wanted
    place = jnp.where(jnp.abs(off) < 1, jnp.square(off) / 2, jnp.abs(off) - 0.5).sum(axis=1) / 2
    overlaps = iou(boxes, truth) * there  # (P, M)
    sure = jnp.square(jax.nn.sigmoid(mine[:, 4]) - overlaps[at, slots]) / 2
    log_p = jnp.take_along_axis(jax.nn.log_softmax(mine[:, 5:]), labels[:, None], axis=1)[:, 0]
    wrong = jnp.maximum(-jnp.expm1(log_p), NEARLY_SURE)  # at 0 the power has no gradient for gamma < 1
    kind = -(wrong ** scales.gamma) * log_p
    taken = ((at[None] == jnp.arange(len(flat))[:, None]) & has).any(axis=1)
    empty = ~taken & (overlaps.max(axis=1) <= scales.ignore)
    background = (jnp.square(jax.nn.sigmoid(flat[:, 4])) * empty).sum() / 2
    objects = scales.coordinates * place + scales.object * sure + scales.classes * kind
    return (objects * has).sum() + scales.no_object * background
