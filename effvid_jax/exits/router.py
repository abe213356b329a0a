"""Rows to branches: each branch of a network really runs on those rows alone that chose it.

    rows, actions ─┬─ rows with action 0, gathered ─ branch 0 ─┬─ scattered back to their places
                   ├─ rows with action 1, gathered ─ branch 1 ─┤
                   └─ others: what was given for them ─────────┘

Rows are frames, say, of many videos. A branch is compiled once per size of a small fixed set, as the steps of
an executor are (`executor.py`); the rows that chose it run in pieces of these sizes. A piece may have places
left over: its branch computes something there that is thrown away. Nothing here knows a network.

What is promised: the result of a row is that of its branch on it, whatever the other rows chose; a row
without a branch keeps what it was given.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.errors import UserError
from effvid_jax.exits.programs import default_sizes, pieces


class Router:
    """Runs branches on the rows that chose them; see the module docstring.

    Args:
        branches: one for each action, (variables, rows (n, ...)) -> (n, ...), all of the same shape and type;
            None: nothing is computed for it.
        batch_size: rows of the largest piece.
        sizes: further sizes to compile; by default a half, a quarter, an eighth and a 32nd.

    Attributes:
        runs: how often each (branch, size) ran since it was made: what was really computed.

    Raises:
        UserError: sizes that are not between 1 and the batch.
    """

    def __init__(self, branches: Sequence[Callable | None], batch_size: int, sizes: Sequence[int] = ()):
        bad = [size for size in (batch_size, *sizes) if not 1 <= size <= batch_size]
        if bad:
            raise UserError(f"sizes={tuple(sizes)}: {bad} are not between 1 and batch_size={batch_size}.")
        self.sizes = tuple(sorted({*(sizes or default_sizes(batch_size)), batch_size}, reverse=True))
        self.runs: collections.Counter = collections.Counter()
        self._branches = [None if branch is None else jax.jit(partial(_run, branch), donate_argnums=3)
                          for branch in branches]

    def run(self, variables, rows, actions, results):
        """Results (N, ...) of all rows.

        Args:
            variables: handed to the branches.
            rows: (N, ...), on the devices; or a tree of such arrays.
            actions: (N,) integers, on the host: which branch; of one that is none, or of a number beyond
                them, `results` stays as it is.
            results: (N, ...), what rows without a branch have; its memory is used again.
        """
        actions = np.asarray(actions)
        n = len(actions)
        for action, branch in enumerate(self._branches):
            mine = np.flatnonzero(actions == action)
            if branch is None or not len(mine):
                continue
            covered = pieces(len(mine), self.sizes, len(mine) + self.sizes[0])
            for start, size in covered:
                here = mine[start:start + size]
                index = np.full(size, n, np.int32)  # beyond the rows: dropped when it is scattered
                index[:len(here)] = here
                results = branch(variables, rows, index, results)
            self.runs.update((action, size) for _, size in covered)
        return results


def _run(branch, variables, rows, index, results):
    """A branch on the rows of `index`, its results in their places; a place beyond the rows is no row."""
    chosen = jax.tree.map(lambda x: jnp.take(x, index, axis=0, mode="clip"), rows)
    found = branch(variables, chosen)
    return results.at[index].set(found.astype(results.dtype), mode="drop")
