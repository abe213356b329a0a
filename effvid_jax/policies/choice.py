"""Choices that a gradient goes through: one of A actions is taken, its probability is what learns.

    a = one_hot(argmax_i (log p_i + g_i)),  da := d softmax((log p + g) / tau)

g is Gumbel noise, with which i is drawn with its probability p_i (Jang et al., arXiv 1611.01144); without it
the most probable action is taken. The temperature tau changes the gradient alone, not the choice.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from effvid_jax.gating.variants import gradient_of

SMALLEST = 1e-8  # probability that counts as none


def log_probabilities(logits):
    """log softmax of (..., A), no probability below `SMALLEST`, as AR-Net and AdaFuse have it."""
    return jnp.log(jnp.maximum(jax.nn.softmax(logits, axis=-1), SMALLEST))


def gumbel(rng, shape: tuple[int, ...], scale: float = 1.0):
    """Noise for `choose`, float32 of `shape`; None without random numbers: then the choice is an arg max.

    Args:
        rng: a key, or one for each entry of axis 0, whose noise then depends on its own key alone; or None.
        shape: (..., A).
        scale: of the noise; 0.5 in LiteEval. Below 1 the probable is drawn more often than its probability.
    """
    if rng is None:
        return None
    if jnp.ndim(rng):
        return scale * jax.vmap(lambda key: jax.random.gumbel(key, shape[1:]))(rng)
    return scale * jax.random.gumbel(rng, shape)


def keys_of(clips, seed: int = 0):
    """A key for every clip (B, ...) of float32 that depends on its pixels alone: (B,).

    For choices that are drawn in evaluation: those of a video are the same in whatever batch it comes.
    """
    bits_BN = jax.lax.bitcast_convert_type(clips.astype(jnp.float32), jnp.uint32).reshape(len(clips), -1)
    return jax.vmap(lambda bits: jax.random.fold_in(jax.random.key(seed), bits))(
        bits_BN.sum(axis=1, dtype=jnp.uint32))


def choose(log_p, tau: float = 1.0, noise=None):
    """One-hot choice (..., A) with the gradient of the softmax.

    Args:
        log_p: (..., A) logarithms of probabilities, or logits.
        tau: temperature of the softmax whose gradient the choice has.
        noise: (..., A) of `gumbel`; None: arg max.
    """
    z = log_p if noise is None else log_p + noise.astype(log_p.dtype)
    hard = jax.nn.one_hot(z.argmax(axis=-1), z.shape[-1], dtype=z.dtype)
    return jax.lax.stop_gradient(hard) + gradient_of(jax.nn.softmax(z / tau, axis=-1))


def falling(start: float, rate: float, every: int, step):
    """Temperature after `step` steps: start * exp(-rate * n), n: how often `every` steps have passed."""
    return start * jnp.exp(-rate * (step // every).astype(jnp.float32))
