"""Per-example losses. The caller takes the (weighted) mean.

Axes: B examples, K classes, R rows (positions, frames or clips).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits_BK, labels_B, smoothing: float = 0.0):
    """Softmax cross-entropy: (B, K) logits and (B,) integer labels -> (B,).

    Args:
        logits_BK, labels_B: scores and the right classes.
        smoothing: share of the target that all K classes have alike (arXiv 1512.00567 §7).
    """
    found = optax.softmax_cross_entropy_with_integer_labels(_wide(logits_BK), labels_B)
    if not smoothing:
        return found
    return (1 - smoothing) * found - smoothing * jax.nn.log_softmax(_wide(logits_BK)).mean(axis=-1)


def squared_error(a, b):
    """Mean over all axes but the first of (a - b)^2: (B, ...) twice -> (B,)."""
    difference = _wide(a) - _wide(b)
    return jnp.square(difference).mean(axis=tuple(range(1, difference.ndim)))


def soft_kl(student_logits, teacher_logits, temperature: float):
    """T^2 * KL(softmax(teacher/T) || softmax(student/T)) over the last axis.

    Args:
        student_logits, teacher_logits: (..., K).
        temperature: T; the factor T^2 keeps the gradient's size (Hinton et al., arXiv 1503.02531).

    Returns:
        (...,), one value per row.
    """
    log_s = jax.nn.log_softmax(_wide(student_logits) / temperature)
    log_t = jax.nn.log_softmax(_wide(teacher_logits) / temperature)
    return temperature**2 * (jnp.exp(log_t) * (log_t - log_s)).sum(axis=-1)


def weighted_mean(values_B, weights_B):
    """Mean of (B,) values with (B,) weights; 0 where all weights are 0."""
    return (values_B * weights_B).sum() / jnp.maximum(weights_B.sum(), 1e-9)


def _wide(x):
    return x.astype(jnp.promote_types(jnp.float32, x.dtype))
