"""What a window reads: maps cut into an array for each position of a kernel."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def pad(x, padding: Sequence[int]):
    """Zeros on both sides of the axes before the channels."""
    sides = [(p, p) for p in padding]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1 - len(sides)) + sides + [(0, 0)]) if any(padding) else x


def taps(x, axis: int, size: int, stride: int, dilation: int = 1) -> list[jax.Array]:
    """What each of `size` kernel positions reads along `axis` of padded `x`, one array per position."""
    span = (x.shape[axis] - dilation * (size - 1) - 1) // stride * stride + 1
    return [jax.lax.slice_in_dim(x, i * dilation, i * dilation + span, stride, axis) for i in range(size)]


def windows(x, sizes, strides, dilation) -> list[jax.Array]:
    """What each kernel position reads of padded `x`, in the order of the kernel's values."""
    found = [x]
    for i, args in enumerate(zip(sizes, strides, dilation)):
        found = [t for tap in found for t in taps(tap, x.ndim - 1 - len(sizes) + i, *args)]
    return found
