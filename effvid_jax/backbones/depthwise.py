"""Depthwise convolution on a CPU: sums of shifted products, with both gradients written out.

XLA has no fast form of it there: its own takes 10 to 300 times as long. The value is one fused loop, or with
very large kernels one for each position along their first axis. It stands in a call of its own (`once.call`):
XLA takes the sum for something cheap, and would compute it anew in every loop that reads it, such as the mean
of a squeeze-and-excitation or the variance of a batch norm. The gradients need more care, since XLA computes
what comes before `dy` anew for every shifted term of JAX's own gradient of the map, and writes the product of
map and `dy` to memory for every position of the kernel:

    gradient of x        a depthwise convolution of `dy`; with strides one for each phase of the positions
                         (odd and even ones, say), which are then put between each other
    gradient of kernel   a loop over rows of `dy`: all products of a row are added to sums that stay in a
                         cache, (kT, kH, W, C) for each position along the last axis
"""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones.once import call
from effvid_jax.backbones.windows import pad, windows

MOST = 100  # products in one fused loop: 81 are computed eight at a time, 125 one by one, a tenth as fast
LANES = 8  # channels computed at a time; those left over go one by one, so that 54 took almost twice as long
UNROLL = 4  # rows whose products are added in one pass over the sums: fewer are slower, more compile longer


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x, kernel, strides, padding):
    """`x` (B, [T,] H, W, C) with `kernel` ([kT,] kH, kW, 1, C); zeros are added on both sides."""
    (x, kernel), C = _whole_lanes(pad(x, padding), kernel), x.shape[-1]
    return _shifted(x, kernel, strides)[..., :C]


def _whole_lanes(*arrays):
    """With channels of zeros behind the others, if some would be left over."""
    C = arrays[0].shape[-1]
    more = -C % LANES if C > LANES else 0
    return [jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, more)]) if more else a for a in arrays]


def _shifted(x, kernel, strides):
    """Without padding; sums are float32 or wider."""
    return call(_sum_of_shifted, x, kernel, tuple(strides))


@functools.partial(jax.jit, static_argnums=2)
def _sum_of_shifted(x, kernel, strides):
    sizes, wide = kernel.shape[:-2], jnp.promote_types(jnp.float32, x.dtype)
    if math.prod(sizes) > MOST:
        return _shifted_in_turns(x, kernel, strides)
    weights = kernel.reshape(-1, kernel.shape[-1]).astype(wide)
    found = windows(x, sizes, strides, (1,) * len(sizes))
    return sum(tap.astype(wide) * w for tap, w in zip(found, weights)).astype(x.dtype)


def _shifted_in_turns(x, kernel, strides):
    """The same, in a loop over the first axis of the kernel."""
    first, wide = x.ndim - 1 - len(strides), jnp.promote_types(jnp.float32, x.dtype)
    span = (x.shape[first] - kernel.shape[0]) // strides[0] * strides[0] + 1

    def part(place, k):
        rows = jax.lax.dynamic_slice_in_dim(x, place, span, first).astype(wide)
        rows = jax.lax.slice_in_dim(rows, 0, span, strides[0], first)
        return _shifted(rows, k[None], (1, *strides[1:]))

    places = jnp.arange(kernel.shape[0], dtype=jnp.int32)
    zeros = jnp.zeros(jax.eval_shape(part, places[0], kernel[0]).shape, wide)
    total, _ = jax.lax.scan(lambda total, one: (total + part(*one), None), zeros, (places, kernel))
    return total.astype(x.dtype)


def _gradients(strides, padding, inputs, dy):
    x, kernel = inputs
    return _of_map(x.shape, kernel, strides, padding, dy), _of_kernel(x, kernel, strides, padding, dy)


convolve.defvjp(lambda x, kernel, *args: (convolve(x, kernel, *args), (x, kernel)), _gradients)


def _of_map(shape, kernel, strides, padding, dy):
    """Position s a + r of padded x is read at kernel positions r, r + s, ... only: dy at a, a - 1, ..."""
    n, sizes = len(strides), kernel.shape[:-2]
    first = len(shape) - 1 - n
    steps = [-(-k // s) for k, s in zip(sizes, strides)]  # kernel positions of the first phase: the most
    around = [(0, 0)] * first + [(m - 1, m - 1) for m in steps] + [(0, 0)]
    dy, kernel = _whole_lanes(jnp.pad(dy, around), kernel)  # once, for all phases
    lengths = [dy.shape[first + i] - m + 1 for i, m in enumerate(steps)]

    def phases(fixed: tuple[int, ...]):
        """Positions whose first axes are at these phases, the others complete."""
        i = len(fixed)
        if i < n:
            parts = jnp.stack([phases((*fixed, r)) for r in range(strides[i])], axis=first + i + 1)
            return parts.reshape(*parts.shape[:first + i], -1, *parts.shape[first + i + 2:])
        part = kernel[tuple(slice(r, None, s) for r, s in zip(fixed, strides))]
        if not part.size:
            return jnp.zeros((*dy.shape[:first], *lengths, dy.shape[-1]), dy.dtype)
        rows = dy[(..., *(slice(m - k, None) for m, k in zip(steps, part.shape)), slice(None))]
        return _shifted(rows, jnp.flip(part, range(n)), (1,) * n)

    dx = phases(())
    for axis, p in zip(range(first, first + n), padding):
        missing = p + shape[axis] - dx.shape[axis]  # behind the last window
        sides = [(0, 0, 0)] * dx.ndim
        sides[axis] = (-p, missing, 0)
        dx = jax.lax.pad(dx, jnp.zeros((), dx.dtype), sides)
    return dx[..., :shape[-1]]


def _of_kernel(x, kernel, strides, padding, dy):
    wide, more = jnp.promote_types(jnp.float32, x.dtype), 3 - len(strides)
    sizes, steps = (1,) * more + kernel.shape[:-2], (1,) * more + tuple(strides)
    x, dy = (a.reshape(math.prod(a.shape[:a.ndim + more - 4]), *(1,) * more, *a.shape[a.ndim + more - 4:])
             for a in _whole_lanes(pad(x, padding), dy))
    B, T, H, W, C = dy.shape
    across, none = (W - 1) * steps[2] + 1, np.int32(0)  # all of a type, also where integers have 64 bits

    def add_row(sums, place):
        b, t, h = place
        rows = jax.lax.dynamic_slice(
            x, (b, t * steps[0], h * steps[1], none, none), (1, *sizes[:2], *x.shape[3:]))[0].astype(wide)
        row = jax.lax.dynamic_slice(dy, (b, t, h, none, none), (1, 1, 1, W, C))[0, 0, 0].astype(wide)
        return [total + rows[:, :, j:j + across:steps[2]] * row for j, total in enumerate(sums)], None

    places = np.array(list(itertools.product(range(B), range(T), range(H))), np.int32).reshape(-1, 3)
    zeros = [jnp.zeros((*sizes[:2], W, C), wide)] * sizes[2]
    sums, _ = jax.lax.scan(add_row, zeros, jnp.asarray(places), unroll=UNROLL)
    found = jnp.stack([total.sum(2) for total in sums], axis=2)[..., :kernel.shape[-1]]
    return found.reshape(kernel.shape).astype(kernel.dtype)
