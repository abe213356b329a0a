"""Convolution in channel groups on a CPU, as other convolutions that are fast there.

XLA's own is a plain loop: up to 125 times what operations and memory allow for the value, up to 1,400 times
for the gradients (MFNet, TPN and ARTNet have them). With G groups of I channels each:

    repeated     I = 1: every channel once for each of its outputs, then depthwise
    products     kernels of up to three positions, or more than the result has: patches times a matrix for
                 each group, all in one
    blocks       the rest: neighbouring groups as one dense convolution with zeros between them. More
                 operations, but a dense one is that much faster, and few of them compile soon
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from effvid_jax.backbones.windows import pad, windows

WIDTH = 16  # channels of a block at least
BLOCKS = 8  # at most: each is a convolution to compile
DENSE = 64  # channels of a 1x1 kernel up to which zeros cost less than groups


def convolve(form, x, kernel, strides, padding, groups: int, dilation, positions: int):
    """`x` (B, [T,] H, W, C) with `kernel` ([kT,] kH, kW, I, O), groups > 1.

    Args:
        form: computes depthwise and dense convolutions, with the arguments of this function up to `dilation`.
        positions: of one map of the result.
    """
    *sizes, per_group, total = kernel.shape
    outputs = total // groups
    if per_group == 1 and outputs > 1:
        x = jnp.broadcast_to(x[..., None], (*x.shape, outputs)).reshape(*x.shape[:-1], total)
        return form(x, kernel, strides, padding, total, dilation)
    if math.prod(sizes) == 1 and x.shape[-1] <= DENSE:
        return _blocks(form, x, kernel, strides, padding, groups, dilation, together=groups)
    if math.prod(sizes) <= 3 or math.prod(sizes) > positions:
        return _products(x, kernel, strides, padding, groups, dilation)
    together = next(m for m in range(1, groups + 1) if m == groups or (
        groups % m == 0 and groups // m <= BLOCKS and m * per_group >= WIDTH))
    return _blocks(form, x, kernel, strides, padding, groups, dilation, together)


def _products(x, kernel, strides, padding, groups, dilation):
    found = windows(pad(x, padding), kernel.shape[:-2], strides, dilation)
    rows = jnp.concatenate([jnp.moveaxis(tap.reshape(-1, groups, kernel.shape[-2]), 1, 0) for tap in found],
                           axis=-1)
    kernels = jnp.moveaxis(kernel.reshape(rows.shape[-1], groups, -1), 1, 0)
    return jnp.moveaxis(rows @ kernels, 0, 1).reshape(*found[0].shape[:-1], -1)


def _blocks(form, x, kernel, strides, padding, groups, dilation, together: int):
    """`together` groups at a time: input i of group l meets output o of group m where l = m."""
    *sizes, per_group, total = kernel.shape
    number = groups // together
    same = jnp.eye(together, dtype=kernel.dtype).reshape(together, 1, together, 1)

    def block(kernel):  # few axes: jaxlib 0.10.2 dies of some sums of eight
        own = kernel.reshape(-1, 1, per_group, together, total // groups) * same
        return own.reshape(*sizes, together * per_group, -1)

    return jnp.concatenate([
        form(own, block(part), strides, padding, 1, dilation)
        for own, part in zip(jnp.split(x, number, axis=-1), jnp.split(kernel, number, axis=-1))], axis=-1)
