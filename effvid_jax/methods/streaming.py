"""Frames one by one: a network whose frames read earlier ones only, with what its shifts remember as a state.

TSM's online form (arXiv 1811.08383, section 4). Every frame runs through the network alone; where a temporal
shift wants a channel of the frame before, the state has it. What a clip-wise pass over all frames so far
would say of each of them is said here too, so the answer after n frames of a clip of T is that of a clip of
these n frames. Later on it is the mean over the last T frames, whose shifts remember all before them.

A stream MoViNet answers itself for all frames since the start, however many; T has no meaning for it.
Networks without a temporal shift see frames one by one anyway. One with early exits runs every frame through
all its depths, since the shifts of the next one need them, and answers with its last head; where its shifts
stay within groups of frames, each group has a memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import blocks, shifts, trace
from effvid_jax.backbones.backbone import FrameBackbone
from effvid_jax.backbones.msdnet import MSDNet
from effvid_jax.cost.counting import CONVENTIONS
from effvid_jax.errors import UserError
from effvid_jax.exits.network import ExitNet

ADVICE = ("A stream can be cut into windows instead (--window=SECONDS, or windows() in Python); networks "
          "that take frames one by one are trained by --config=configs/supervised_folder.py:shift=online, "
          "and by configs/dynamic_*.py.")


class Streaming(NamedTuple):
    """A network that takes frames one by one.

    Attributes:
        frames: T; an answer is the mean over so many of them.
        start: state before the first frame.
        step: (variables, state, frame uint8 (C, H, W, 3), C crops of it) -> (state, logits (K,)). Traced.
        gmacs: multiply-adds in 10^9 of a frame.
    """

    frames: int
    start: Any
    step: Callable
    gmacs: float


def streaming(method, variables, frame_shape: tuple[int, ...], frames: int, dtype=np.uint8) -> Streaming:
    """How the network of a method takes frames one by one.

    Args:
        method: of the evaluated network.
        variables: of it.
        frame_shape: (C, H, W, 3) of what the pipeline shows of a frame: C crops.
        frames: T, of a clip.
        dtype: of frames; floating-point ones are taken as normalised, as everywhere.

    Raises:
        UserError: it cannot: it looks at later frames, or at all of them together.
    """
    groups = memories(method.model, frames)
    task, sight, count = method.task, method.sight, max(groups) + 1
    cumulative = getattr(method.model, "cumulative", False)

    def look(variables, memory, frame_CHWC):
        clip = sight(frame_CHWC[:, None])
        logits, updated = method.model.apply({**variables.network, "stream": memory}, clip,
                                             mutable=["stream"], method=_frame_logits)
        return logits, updated.get("stream", {})

    frame = jax.ShapeDtypeStruct(frame_shape, dtype)
    with trace.recording(shapes_only=True) as tape:
        logits, memory = jax.eval_shape(look, variables, {}, frame)
    start = {"memory": jax.tree.map(lambda x: np.zeros((count, *x.shape), x.dtype), memory),
             "logits": np.zeros((frames, *logits.shape), logits.dtype), "count": np.zeros((), np.int32)}

    def step(variables, state, frame_CHWC):
        place = state["count"] % frames
        group = jnp.asarray(groups)[place]
        memory = jax.tree.map(lambda x: x[group], state["memory"])
        logits_CK, memory = look(variables, memory, frame_CHWC)
        kept = state["logits"].at[place].set(logits_CK)
        seen = jnp.minimum(state["count"] + 1, frames)
        answer = jnp.where(jnp.arange(frames)[:, None, None] < seen, kept, 0).sum(axis=0) / seen
        answer = logits_CK if cumulative else answer
        later = state["count"] + 1
        return {"memory": jax.tree.map(lambda all, new: all.at[group].set(new), state["memory"], memory),
                "logits": kept,
                "count": jnp.where(later < 2 * frames, later, later - frames),  # never overflows
                }, task.mean_of_views(answer[None])[0]

    macs = CONVENTIONS["macs"]
    return Streaming(frames, start, step, sum(macs(op) for op in tape) / 1e9)


def _frame_logits(model: nn.Module, x):
    """Logits (B, K) of single frames (B, 1, H, W, 3); those of a clip are their mean."""
    if not isinstance(model, ExitNet):
        return model(x)[0]
    x, _ = model.run_depths(x, 0, len(model.exit_stages))
    return model.classify(len(model.route) - 1, model.pool(len(model.exit_stages), x).mean(axis=1))


def memories(model: nn.Module, frames: int) -> tuple[int, ...]:
    """Which memory of its shifts each of the T frames of a clip reads and writes, in the order of time.

    Raises:
        UserError: the network cannot take frames one by one.
    """
    inner = model.backbone if isinstance(model, ExitNet) else model
    name = type(inner).__name__
    if getattr(model, "cumulative", False):
        return (0,) * frames
    if not isinstance(inner, (FrameBackbone, MSDNet)) or getattr(inner, "relates_frames", False):
        raise UserError(f"config.model.backbone: {name} looks at several frames at once, so it cannot take "
                        f"them one by one. {ADVICE}")
    if getattr(inner.conv, "func", inner.conv) is not blocks.Conv:
        raise UserError(f"config.method: convolutions with gates decide by a whole clip, so {name} cannot "
                        f"take its frames one by one. {ADVICE}")
    shift = shifts.named(getattr(inner, "shift", None))
    kind = getattr(shift, "func", shift)
    if kind is not None and kind is not shifts.OnlineShift:
        raise UserError(f"the temporal shift of this {name} is two-sided: a frame reads the one after it, "
                        f"which a stream does not have yet. {ADVICE}")
    if getattr(model, "merge", "mean") != "mean":
        raise UserError(f"config.model.exits.merge={model.merge!r}: the largest values of all frames answer, "
                        f"from which a stream cannot take its oldest frame away. {ADVICE}")
    group = (shift is not None and getattr(shift, "keywords", {}).get("group", 0)) or frames
    order = getattr(model, "order", tuple(range(frames)))
    of = [order.index(t) // group for t in range(frames)]
    for one in set(of):
        inside = [order.index(t) for t in range(frames) if of[t] == one]
        if kind is not None and inside != sorted(inside):
            raise UserError(f"config.model.exits.order={order}: in a group of frames later ones come "
                            f"before earlier ones, which a stream does not have yet. {ADVICE}")
    return tuple(of) if kind is not None else (0,) * frames

