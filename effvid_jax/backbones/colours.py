"""Gradients of a network's first kernels, which read three colours, on a CPU.

XLA's form takes each of the three channels for an image; a product over all positions would copy nine or 49
runs of three numbers for each. Here a few results in a row share one run of what all of them read, and the
product finds some sums too many, which are left out: up to 2.7 times as fast (docs/speed.md). Of clips it is
done frame by frame: the runs of all frames together would not stay in the processor's cache until the product
reads them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from effvid_jax.backbones.windows import taps

MOST = 4  # channels


def results_in_a_row(kernel_shape, strides) -> int:
    """That share a run: one where nothing is read twice, else so many that a run ends within the next one."""
    results = 1 if kernel_shape[1] <= strides[1] else 2
    while results * strides[1] < kernel_shape[1] - strides[1]:
        results *= 2
    return results


def of_kernel(x, dy, kernel_shape, strides, padding):
    """Gradient of a 2-D kernel (kH, kW, I, O), neither dilated nor in groups.

    Args:
        x: maps (..., H, W, I) without `padding`.
        dy: gradient of the results (..., H', W', O).
    """
    args = kernel_shape, strides, padding
    if x.ndim < 5 or x.shape[-4] == 1:
        return _at_once(x.reshape(-1, *x.shape[-3:]), dy.reshape(-1, *dy.shape[-3:]), *args)

    def add_frame(t, total):  # not of the first axis, the clips: they may be on several devices
        x_t, dy_t = (jax.lax.dynamic_index_in_dim(a, t, a.ndim - 4, keepdims=False) for a in (x, dy))
        return total + of_kernel(x_t, dy_t, *args)

    return jax.lax.fori_loop(0, x.shape[-4], add_frame, jnp.zeros(kernel_shape, x.dtype))


def _at_once(x, dy, kernel_shape, strides, padding):
    """`of_kernel` of maps (N, H, W, I)."""
    (high, wide, channels, _), (down, right) = kernel_shape, strides
    results = results_in_a_row(kernel_shape, strides)
    rows, runs = dy.shape[1], -(-dy.shape[2] // results)
    dy = jnp.pad(dy, ((0, 0), (0, 0), (0, runs * results - dy.shape[2]), (0, 0)))
    own, rest = results * right, max(0, wide - right)  # positions of a run, and what it reads of the next
    sizes = (rows - 1) * down + high, (runs + 1) * own
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), (  # negative: cut off
        (0, 0, 0), *((p, size - length - p, 0) for p, size, length in zip(padding, sizes, x.shape[1:3])),
        (0, 0, 0)))
    x = x.reshape(*x.shape[:2], runs + 1, own * channels)
    x = jnp.concatenate([x[:, :, :runs], x[:, :, 1:, :rest * channels]], axis=-1)
    x = jnp.concatenate(taps(x, 1, high, down), axis=-1)
    sums = jax.lax.dot_general(x.reshape(-1, x.shape[-1]), dy.reshape(x.shape[0] * rows * runs, -1),
                               (((0,), (0,)), ((), ())))
    sums = sums.reshape(high, -1, channels, results, dy.shape[-1])
    return sum(sums[:, i * right:i * right + wide, :, i] for i in range(results))
