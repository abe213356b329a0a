"""What an executor compiles: a step of a network on a buffer of rows, and few sizes that cover any number.

Programs have fixed shapes, rows come and go: a buffer is as long as the largest batch, and a part of it runs
in pieces of compiled sizes, written back in place. `executor.py` decides which rows run when.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Step(NamedTuple):
    """One segment of a network.

    Attributes:
        run: (variables, state, frames) -> (state, logits (B, K)); pure. `state` is {} at first, then
            what the step before returned: a tree of arrays with the rows on axis 0. `frames` is
            (B, stop - start, ...), or None without new frames. A state with 'gmacs' (B,) says what each row
            has cost so far; its answer tells it.
        start, stop: positions of the frames that are new in this step.
    """

    run: Callable
    start: int
    stop: int


class StateScore(NamedTuple):
    """A score that reads a row's state beside its logits, such as a gate's answer that a step left there.

    Attributes:
        of: (state, logits (B, K)) -> (B,); `state` is what the step that gave the logits returned.
    """

    of: Callable


def scored(score: Callable | StateScore, state, logits):
    """(B,) scores of rows after a step, by either kind of rule."""
    return score.of(state, logits) if isinstance(score, StateScore) else score(logits)


def default_sizes(batch_size: int, devices: int = 1) -> set[int]:
    """Batch sizes to compile beside a full one: a half, a quarter, an eighth and a 32nd of it."""
    return {batch_size // part // devices * devices for part in (2, 4, 8, 32)} - {0}


def pieces(n: int, sizes: Sequence[int], room: int) -> list[tuple[int, int]]:
    """(start, size) of compiled sizes that cover `n` rows; the last one may reach beyond them.

    Args:
        n: rows.
        sizes: those that are compiled, the largest first.
        room: rows of the buffer that no piece reaches beyond.
    """
    out, start = [], 0
    while start < n:
        size = next((s for s in sizes if s <= n - start), sizes[-1])
        out.append((min(start, room - size), size))
        start += size
    return out


def run_step(step: Step, score, have, keep, last, variables, threshold, state):
    """One step on a whole buffer. `have`, `keep`: first position of the frames in it, and afterwards."""
    frames = state.get("frames")
    new = frames[:, :step.stop - step.start] if step.stop > step.start else None
    net, logits = step.run(variables, state["net"], new)
    out, spent = {"net": net}, net.get("gmacs") if isinstance(net, dict) else None
    if keep is not None and frames is not None and frames.shape[1] > keep - have:
        out["frames"] = frames[:, keep - have:]
    if last:  # answers everything, whatever its score
        return out, logits, jnp.ones(logits.shape[:1], bool), spent
    return out, logits, scored(score, net, logits) >= threshold, spent


def run_piece(run, size, variables, threshold, state, rows, start, out):
    """The same on `size` rows of a buffer, `rows[start:]`; results are written into `out` from `start` on.

    Survivors are picked here, with what computes on them: to move them together first would pass over all of
    the buffer once more.
    """
    rows = jax.lax.dynamic_slice_in_dim(rows, start, size)
    part = jax.tree.map(lambda a: a.at[rows].get(mode="promise_in_bounds"), state)
    return jax.tree.map(lambda whole, piece: jax.lax.dynamic_update_slice_in_dim(
        whole, piece.astype(whole.dtype), start, 0), out, run(variables, threshold, part))


def empty(shapes):
    """Buffers that pieces are written into, all of them by one program."""
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)


def select(first, second, index):
    """Row `index[i]` of two buffers, one after the other, as row i."""
    n = index.shape[0]
    here = index < n

    def choose(a, b):
        return jnp.where(here.reshape(-1, *(1,) * (a.ndim - 1)), a[index % n], b[index % n])

    return jax.tree.map(choose, first, second)
