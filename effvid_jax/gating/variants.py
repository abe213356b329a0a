"""What a gated convolution computes: its variants, what they cost, and which one a clip gets.

The plain arithmetic below `effvid_jax/gating/gates.py`, which has the formulas and says what is whose choice.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp

from effvid_jax.backbones import forms

LARGE = 12_000_000  # bytes of a clip's maps, from which they leave a CPU's cache between passes over them


@flax.struct.dataclass
class Decision:
    """What a gated convolution leaves in the collection 'gates'.

    Attributes:
        V_c, V_t: (B, S) weights of the channel ratios and of the temporal strides.
        ratio: (B,) share of the convolution that is computed, r/R; its gradient reaches the gate. NaN
            where a weight is not finite.
        overhead: (B,) multiply-adds of cheap operations and gate.
        macs: multiply-adds of the whole convolution for one clip.
        least: the smallest `ratio` that there is.
        most: the largest `overhead` that there is.
    """

    V_c: Any
    V_t: Any
    ratio: Any
    overhead: Any
    macs: int = flax.struct.field(pytree_node=False)
    least: float = flax.struct.field(pytree_node=False, default=0.0)
    most: float = flax.struct.field(pytree_node=False, default=0.0)


def together(looks: Sequence[Decision]) -> Decision:
    """Decisions of a convolution about several inputs of a clip as one: costs add up.

    Weights are the largest of all, so that a layer that is open for one of them is open.
    """
    if len(looks) == 1:
        return looks[0]
    macs = sum(d.macs for d in looks)
    return Decision(
        V_c=jnp.stack([d.V_c for d in looks]).max(axis=0), V_t=jnp.stack([d.V_t for d in looks]).max(axis=0),
        ratio=sum(d.ratio * (d.macs / macs) for d in looks), overhead=sum(d.overhead for d in looks),
        macs=macs, least=sum(d.least * (d.macs / macs) for d in looks), most=sum(d.most for d in looks))


class Layer:
    """A gated convolution with its arrays, for one input shape: plain functions of (x, V_c, V_t).

    Attributes:
        channels: computed channels of every ratio; `frames`: computed frames of every stride.
        macs: multiply-adds of the whole convolution for one clip.
        cheap_c, cheap_t: kernels (side, side, 1, C - rC) by i and factors (R - 1, C) by j, from 1 on, those
            that are never used left out; the kernel may end after the channels that are ever computed.
    """

    def __init__(self, in_shape, dtype, kernel, bias, strides, padding, dilation, groups, channels, S_t,
                 plain):
        self.dtype, self.kernel, self.bias = dtype, kernel, bias
        self.strides, self.padding, self.dilation, self.groups = strides, padding, dilation, groups
        self.cheap_c, self.cheap_t = {}, {}
        self.convolve = forms.plain if plain else forms.convolve
        axes = in_shape[1:-1]
        self.in_time = len(strides) == len(axes) and len(axes) in (1, 3)  # the kernel has a time axis
        out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip(
            axes[-len(strides):], padding, dilation, kernel.shape, strides)]
        out = (*axes[:len(axes) - len(strides)], *out)
        features, self.channels = channels[0], channels
        self.frames = [math.ceil(out[0] / 2**j) for j in range(S_t)]
        self.positions = math.prod(out) // out[0] if S_t > 1 else math.prod(out)  # of a frame
        self.features, self.length = features, out[0] if S_t > 1 else 1
        self.macs = math.prod(out) * math.prod(kernel.shape[:-1]) * features

    def variant(self, i: int, j: int):
        """(x, V_c, V_t) -> Y, for weights that are zero before ratio i and stride j."""

        def run(x, V_c, V_t):
            return self._mix_frames(self._mix_channels(x, V_c, i, j), V_t, j)

        return run

    def _mix_channels(self, x, V_c, i: int, j: int):
        """sum_n V_c[n] [z_n, Phi_n(z_n)] over n >= i; z_n: the first channels of the convolution."""
        if len(self.channels) == 1:
            return self._convolve(x, self.kernel, self.bias, j)
        k = self.channels[i]
        used = jnp.arange(k) < jnp.asarray(self.channels[i:])[:, None]
        weights = (V_c[:, i:] @ used.astype(V_c.dtype)).astype(self.dtype)  # (B, k), descending
        bias = None if self.bias is None else self.bias[:k]
        # Weights of one clip, or of all alike, can go into the kernel, where that is smaller than the map.
        inside = V_c.shape[0] == 1 and self.kernel.size < self.positions * self.length * self.features
        if inside:
            bias = None if bias is None else bias * weights[0]
            z = y = self._convolve(x, self.kernel[..., :k] * weights[0], bias, j)
        else:
            z = self._convolve(x, self.kernel[..., :k], bias, j)
            y = weigh(z, weights)
        for n in (n for n in self.cheap_c if n >= i):
            first, weight = self.channels[n], V_c[:, n, None]
            source = jnp.arange(self.features - first) % first  # channels that others are made of
            if inside:
                relative = jnp.where(weight > 0, weight / weights[:, source], weight)
                made = self._make_channels(z, n, source, relative[0])
            else:
                made = weigh(self._make_channels(z, n, source, 1.0), weight)
            # Kept apart from what reads it: on a CPU a training step then takes about a quarter less time.
            made = jax.lax.optimization_barrier(made)
            if n == i:
                y = jnp.concatenate([y, made], axis=-1)
            elif inside and self.cheap_c[n].shape[0] > 1:
                # In their place: a copy of all maps less. On a CPU padding would be fused into the loop of
                # the depthwise convolution, which then takes twice its time. In training, this takes longer.
                y = jax.lax.dynamic_update_slice(y, y[..., first:] + made, (0,) * (y.ndim - 1) + (first,))
            else:
                y = y + jnp.pad(made, [(0, 0)] * (y.ndim - 1) + [(first, 0)])
        return y

    def _convolve(self, x, kernel, bias, j: int):
        """Frames 0, R, 2R, ... of the convolution with the first channels of the kernel, R = 2^j."""
        strides, groups = list(self.strides), self.groups
        if self.in_time:
            strides[0] *= 2**j
        elif j:
            x = x[:, ::2**j]
        if groups > 1:
            groups = groups * kernel.shape[-1] // self.features
            x = x[..., :groups * kernel.shape[-2]]
        z = self.convolve(x.astype(self.dtype), kernel.astype(self.dtype), tuple(strides), self.padding,
                          groups, self.dilation)
        return z if bias is None else z + bias.astype(self.dtype)

    def _make_channels(self, z, n: int, source, weights):
        """Phi_c,n, weighted: the channels after the first k, each from one of these by its own kernel."""
        kernel = (self.cheap_c[n] * weights).astype(self.dtype)
        first, missing = self.channels[n], len(source)
        z = jnp.concatenate([z[..., :first]] * math.ceil(max(missing, 1) / first), axis=-1)[..., :missing]
        if kernel.shape[0] == 1 or not kernel.size:
            return z * kernel[0, 0, 0]
        return self.convolve(z, kernel, (1, 1), (kernel.shape[0] // 2,) * 2, missing, (1, 1))

    def _mix_frames(self, y, V_t, j: int):
        """sum_n V_t[n] hold_n(y) over n >= j, for y with frames 0, R, 2R, ... alone, R = 2^j."""
        if len(self.frames) == 1:
            return y
        total = 0 if j else weigh(y, V_t[:, :1])
        for n in (n for n in self.cheap_t if n >= j):
            factors = jnp.concatenate([jnp.ones_like(self.cheap_t[n][:1]), self.cheap_t[n]])
            factors = weigh(factors[None], V_t[:, n, None]).reshape(
                V_t.shape[0], 1, 2**n, *(1,) * (y.ndim - 3), self.features)
            kept = y[:, ::2**(n - j), None] * factors
            # (B, T/R, R, ...) -> (B, T, ...)
            total += kept.reshape(y.shape[0], -1, *y.shape[2:])[:, :self.length]
        return total

    def decision(self, V_c, V_t, gate_macs: int) -> Decision:
        """Costs of the weights; see `Decision`."""
        open_c, open_t = (jax.lax.stop_gradient(V) > 0 for V in (V_c, V_t))
        frames = share(V_t, self.frames)
        overhead = jnp.full(V_c.shape[:1], gate_macs, jnp.float32)
        for i, kernel in self.cheap_c.items():
            overhead += open_c[:, i] * jax.lax.stop_gradient(frames) * float(
                kernel.size * self.positions * self.length)
        for j, factors in self.cheap_t.items():
            overhead += open_t[:, j] * float(
                (self.length - self.frames[j]) * self.positions * factors.shape[-1])
        sound = jnp.isfinite(V_c).all(axis=1) & jnp.isfinite(V_t).all(axis=1)
        ratio = jnp.where(sound, share(V_c, self.channels) * frames, jnp.nan)
        least = self.channels[-1] / self.channels[0] * self.frames[-1] / self.frames[0]
        most = gate_macs + self.positions * (
            self.length * sum(kernel.size for kernel in self.cheap_c.values()) + sum(
                (self.length - self.frames[j]) * x.shape[-1] for j, x in self.cheap_t.items()))
        return Decision(V_c, V_t, ratio, overhead, self.macs, least, float(most))


def channel_counts(features: int, groups: int, S: int) -> list[int]:
    """Computed channels of every ratio: half of them and so on, rounded up to whole groups."""
    unit = features // groups if groups > 1 else 1
    return [math.ceil(features // unit / 2**i) * unit for i in range(S)]


def share(V, counts):
    """counts[n] / counts[0] for the first n with V[:, n] > 0, or the last; (B,).

    Straight-through: the step from n to n + 1 has the gradient of max(V[:, :n + 1]). Nothing pushes the
    last weight down, which would leave nothing of the convolution.
    """
    share = jnp.full(V.shape[:1], counts[-1] / counts[0], V.dtype)
    for n in range(len(counts) - 1):
        largest = V[:, :n + 1].max(axis=1)
        step = (largest > 0) * (1 + gradient_of(largest))
        share += step * ((counts[n] - counts[n + 1]) / counts[0])
    return share


def gradient_of(x):
    """Zero with the gradient of x."""
    return x - jax.lax.stop_gradient(x)


def weigh(y, weights):
    """Maps (B, ..., C) times weights (B, C) or (B, 1)."""
    return y * weights.astype(y.dtype).reshape(weights.shape[0], *(1,) * (y.ndim - 2), -1)


# ------------------------------------------------------------------------------------- compact form
def compact(layer: Layer, x, V_c, V_t, positions: int):
    """Every clip by a variant that covers its decision; see the module docstring."""
    # Strides beyond the clip's length compute the same frames: they need no variant of their own.
    S_c, S_t = len(set(layer.channels)), len(set(layer.frames))
    variants = [frame_by_frame(layer, x, i, j) for j in range(S_t) for i in range(S_c)]
    i, j = first_open(V_c, S_c), first_open(V_t, S_t)
    batch = x.shape[0]  # a number, or a symbol in a program that is exported for any
    if batch == 1:
        return jax.lax.switch(j[0] * S_c + i[0], variants, x, V_c, V_t)

    def run(ids):
        return jax.lax.switch(j[ids].min() * S_c + i[ids].min(), variants, x[ids], V_c[ids], V_t[ids])

    size = max(1, math.ceil(positions / (layer.positions * layer.length)))
    size = min(size, batch) if isinstance(batch, int) else size
    groups = -(-batch // size)
    order = jnp.argsort(j * S_c + i) if size > 1 else jnp.arange(batch)
    filled = jnp.concatenate([order, jnp.broadcast_to(order[-1:], (groups * size - batch,))])
    y = jax.lax.map(run, filled.reshape(groups, size))
    y = y.reshape(groups * size, *y.shape[2:])
    return y if size == 1 else y[jnp.argsort(order)]


def frame_by_frame(layer: Layer, x, i: int, j: int):
    """`layer.variant(i, j)`; on CPUs, where maps are large, as few frames at a time as their mixing needs.

    What a variant does after its convolution is passes over its maps: of a few frames these are still in
    the processor's cache (R(2+1)D-18 at 16 x 112 x 112: 2 % of a clip's time). Kernels see one frame here.
    """
    whole, T, n = layer.variant(i, j), x.shape[1], 2**(len(layer.frames) - 1)
    size = layer.length * layer.positions * layer.features * jnp.dtype(layer.dtype).itemsize
    apart = not layer.in_time or (layer.kernel.shape[0], layer.strides[0], layer.padding[0]) == (1, 1, 0)
    if n == 1 or not apart or T % n or size < LARGE:
        return whole
    few = copy.copy(layer)
    few.length = n
    run = few.variant(i, j)

    def pieces(x, V_c, V_t):
        def one(t, y):
            piece = run(jax.lax.dynamic_slice_in_dim(x, t * n, n, axis=1), V_c, V_t)
            return jax.lax.dynamic_update_slice_in_dim(y, piece, t * n, axis=1)

        shape = jax.eval_shape(whole, x, V_c, V_t)
        return jax.lax.fori_loop(0, T // n, one, jnp.zeros(shape.shape, shape.dtype))

    return lambda *args: jax.lax.platform_dependent(*args, cpu=pieces, default=whole)


def first_open(V, S: int):
    """Number of the first weight that is not zero, at most S - 1: (B,)."""
    first = jnp.where((V > 0).any(axis=1), jnp.argmax(V > 0, axis=1), S - 1)
    return jnp.minimum(first, S - 1)
