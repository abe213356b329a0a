"""A clip in several sizes, for tasks that are tested so, and what each of them costs."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from effvid_jax import cost
from effvid_jax.heads import Headed
from effvid_jax.methods.clips import clip_shape, resize
from effvid_jax.tasks import Task


def in_sides(task: Task, clips) -> list:
    """Clips (N, T, side, side, 3) in every size that the task looks at them in (`Task.sides`)."""
    own = clips.shape[-2]
    return [clips if side == own else resize(clips, side) for side in task.sides(own)]


def gmacs_in_sides(model: nn.Module, task: Task, shape: tuple[int, ...]) -> float:
    """10^9 multiply-adds of a clip (T, side, side, 3) in all sizes that the task looks at it in."""
    return sum(cost.gmacs(model, x) for x in _shapes(task, shape))


def _shapes(task: Task, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes of a clip (T, H, W, 3) in all sizes that the task looks at it in."""
    t, _, own, colours = shape
    return [shape if side == own else (t, side, side, colours) for side in task.sides(own)]


def cost_of_head(model: nn.Module, task: Task, video, resolution: int) -> dict[str, Any]:
    """'gmacs_head' (B,) for `Prediction.extra`: what a task's head has of an example's cost; {} without one.

    Papers quote the cost of a segmentation encoder alone, which is the rest.
    """
    if not isinstance(model, Headed):
        return {}
    layers = [layer for shape in _shapes(task, clip_shape(video, resolution))
              for layer in cost.count(model, shape).layers if layer.block == "head"]
    head = video.shape[1] * sum(layer.macs for layer in layers) / 1e9
    return {"gmacs_head": jnp.full((video.shape[0],), head, jnp.float32)}
