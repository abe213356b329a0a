"""What stopping at each checkpoint of a network with exits costs."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import trace
from effvid_jax.cost.counting import CONVENTIONS, count, traced
from effvid_jax.exits import routes
from effvid_jax.exits.network import run_segment


@functools.lru_cache(maxsize=32)
def route_costs(model, clip_shape: tuple[int, ...], convention: str = "macs"):
    """Costs of all checkpoints, all segments before each included.

    Args:
        model: an `ExitNet`.
        clip_shape: (T, H, W, 3) of the network's input.
        convention: see `effvid_jax.cost`.

    Returns:
        (m,) cumulative GMACs, and GMACs of full inference with the last head alone.
    """
    rule = CONVENTIONS[convention]
    t, *image = clip_shape
    count(model, clip_shape)  # refuses clips that are too small
    _, variables = traced(model, clip_shape)
    total, costs, state = 0, [], {}
    for k, segment in enumerate(routes.plan_segments(model.route, model.group)):
        frames = jax.ShapeDtypeStruct((1, segment.frames - segment.first, *image), jnp.float32)
        with trace.recording(shapes_only=True) as tape:
            state, _ = jax.eval_shape(functools.partial(run_segment, model, k=k), variables, state=state,
                                      frames_BTHWC=frames)
        total += sum(rule(op) for op in tape)
        costs.append(total / 1e9)
    with trace.recording(shapes_only=True) as tape:
        jax.eval_shape(functools.partial(model.apply, method="full"), variables, jax.ShapeDtypeStruct(
            (1, t, *image), jnp.float32))
    return np.array(costs), sum(rule(op) for op in tape) / 1e9


def all_heads_cost(model, clip_shape: tuple[int, ...], convention: str = "macs") -> float:
    """GMACs of full inference with the exits of all depths on all frames, as one pass computes them.

    This is how Dynamic Inference's "Full" is counted: MSDNet-38's 52 G are all five exits on 16 frames each,
    although only the last one answers.

    Args:
        model, clip_shape, convention: see `route_costs`.
    """
    depths = sorted({c.depth for c in model.route})
    whole = model.clone(route=tuple(routes.Checkpoint(clip_shape[0], depth) for depth in depths))
    return count(whole, clip_shape, convention).gmacs


def segment_costs(steps, full, variables, clip_shape: tuple[int, ...],
                  convention: str = "macs") -> tuple[np.ndarray, float]:
    """Costs of a network in segments, each computed on top of those before.

    Args:
        steps: see `effvid_jax.exits.executor.Step`.
        full: (variables, clips (1, T, H, W, 3)) -> logits, of what full inference computes.
        variables: that both take, shapes will do.
        clip_shape: (T, H, W, 3).
        convention: see `effvid_jax.cost`.

    Returns:
        (m,) cumulative GMACs, and those of `full`.
    """
    rule, (t, *image) = CONVENTIONS[convention], clip_shape

    def clip(n):
        return jax.ShapeDtypeStruct((1, n, *image), jnp.float32)

    total, costs, state = 0, [], {}
    for step in steps:
        new = clip(step.stop - step.start) if step.stop > step.start else None
        with trace.recording(shapes_only=True) as tape:
            state, _ = jax.eval_shape(step.run, variables, state, new)
        total += sum(rule(op) for op in tape)
        costs.append(total / 1e9)
    with trace.recording(shapes_only=True) as tape:
        jax.eval_shape(full, variables, clip(t))
    return np.array(costs), sum(rule(op) for op in tape) / 1e9
