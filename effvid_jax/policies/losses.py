"""Losses of policies: what actions cost, and that all of them are used.

Actions (B, ..., A) are one-hot with a gradient (`choice.py`). Weights (B,) say which examples count.
"""

from __future__ import annotations

import jax.numpy as jnp


def usage(actions, weights_B):
    """Share of each action among all that were taken, (A,)."""
    summed = actions.reshape(len(actions), -1, actions.shape[-1]).sum(axis=1)
    counts = (summed * weights_B[:, None].astype(summed.dtype)).sum(axis=0)
    return counts / jnp.maximum(counts.sum(), 1e-9)


def expected_cost(actions, cost_A, weights_B):
    """Mean cost of an action: sum over actions of usage times cost; in the unit of `cost_A`."""
    return (usage(actions, weights_B) * jnp.asarray(cost_A, actions.dtype)).sum()


def usage_balance(actions, weights_B, squares: bool = False):
    """How far usage u is from equal shares, 0 where they are equal: ||u - 1/A||_2.

    Args:
        actions, weights_B: see the module docstring.
        squares: without the root, as VideoIQ has it.
    """
    shares = usage(actions, weights_B)
    total = jnp.square(shares - shares.mean()).sum()
    return total if squares else jnp.sqrt(jnp.maximum(total, 1e-24))  # the root has no gradient at 0


def share_target(share_B, target: float, weights_B):
    """(mean over the batch of a share - target)^2, LiteEval's: of the batch, not of each example."""
    return jnp.square((share_B * weights_B).sum() / jnp.maximum(weights_B.sum(), 1e-9) - target)
