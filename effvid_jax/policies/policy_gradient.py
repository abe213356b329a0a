"""The gradient of an expected reward, of a choice that was drawn (REINFORCE)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def policy_loss(probability_B, reward_B, probabilities_BT=None, exploration: float = 0.0):
    """Loss (B,) whose gradient is minus that of the expected reward: -(R log P + c H).

    Args:
        probability_B: P of what was chosen, see `subset.set_probability`.
        reward_B: R, less whatever baseline; without a gradient.
        probabilities_BT: those it was chosen by, whose entropy H counts.
        exploration: c, weight of the entropy; 0: none.
    """
    gain = jax.lax.stop_gradient(reward_B) * _log(probability_B)
    return -(gain + exploration * entropy(probabilities_BT) if exploration else gain)


def entropy(probabilities_BT):
    """-sum p log p (B,), in nats."""
    return -(probabilities_BT * _log(probabilities_BT)).sum(axis=-1)


def _log(x):
    return jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))
