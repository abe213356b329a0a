"""Batch normalisation by the statistics of what it normalises, with its gradient written out.

JAX's own gradient goes back through mean and variance one by one and writes several whole maps that cancel
each other; on a CPU, where a sum over positions is not fused with what it sums, a step spends up to two and a
half times as long in it. Gradients exist in reverse mode only, as of convolutions (`forms.py`).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(x, scale, bias, eps: float):
    """Maps by their own statistics.

    Args:
        x: (G, B/G, ..., C) in float32 or wider; each of G groups has its own statistics.
        scale, bias: (C,).
        eps: added to the variance.

    Returns:
        Normalised maps, and mean and variance of every group (divided by the number of values), (G, C).
    """
    return _forward(x, scale, bias, eps)[0]


def _forward(x, scale, bias, eps):
    # Over the original axes, not over one flattened axis, which is slower on a CPU. Two passes:
    # E[x^2] - E[x]^2 loses all digits when the mean is large against the spread.
    axes = tuple(range(1, x.ndim - 1))
    mean = x.mean(axes, keepdims=True)  # (G, 1, ..., 1, C)
    var = jnp.square(x - mean).mean(axes, keepdims=True)
    inverse = jax.lax.rsqrt(var + eps)
    y = (x - mean) * (inverse * scale) + bias
    groups = (x.shape[0], x.shape[-1])
    return (y, mean.reshape(groups), var.reshape(groups)), (x, mean, inverse, scale)


def _backward(eps, kept, gradients):
    """h the normalised map: dx = scale / std (dy - mean(dy) - h mean(dy h)), and those of mean and var."""
    del eps
    (dy, dmean, dvar), (x, mean, inverse, scale) = gradients, kept
    axes, count = tuple(range(1, x.ndim - 1)), x.size // mean.size
    dbias = dy.sum(axes, keepdims=True)
    dscale = ((x - mean) * dy).sum(axes, keepdims=True) * inverse
    constant = (inverse * scale * dbias - dmean.reshape(mean.shape)) / count
    linear = (jnp.square(inverse) * scale * dscale - 2 * dvar.reshape(mean.shape)) / count
    dx = inverse * scale * dy - constant - (x - mean) * linear
    return dx, dscale.sum(0).reshape(scale.shape), dbias.sum(0).reshape(scale.shape)


normalise.defvjp(_forward, _backward)
