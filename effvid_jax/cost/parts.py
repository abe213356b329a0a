"""What one method of a network costs, where a clip does not run through all of it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from effvid_jax.backbones import trace
from effvid_jax.cost.counting import CONVENTIONS, traced


def part_gmacs(model, clip_shape: tuple[int, ...], method: str, *shapes: tuple[int, ...],
               convention: str = "macs", **options) -> float:
    """10^9 multiply-adds of a call.

    Args:
        model: a module, called as `model(clip_BTHWC)`.
        clip_shape: (T, H, W, 3) of a clip that it takes.
        method: name of what is called.
        *shapes: of its array arguments, with a batch axis of 1.
        convention: see `effvid_jax.cost`.
        **options: further arguments of the call, such as numbers.
    """
    rule = CONVENTIONS[convention]
    return sum(rule(op) for op in _tape(model, clip_shape, method, shapes, tuple(options.items()))) / 1e9


@functools.lru_cache(maxsize=64)
def _tape(model, clip_shape, method: str, shapes, options) -> list[trace.Op]:
    variables = traced(model, clip_shape)[1]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    with trace.recording(shapes_only=True) as tape:
        jax.eval_shape(functools.partial(model.apply, method=method, **dict(options)), variables, *arrays)
    return tape
