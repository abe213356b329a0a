"""Gated convolutions: every clip decides how many channels and frames a convolution computes.

VA-RED2 (Pan et al., ICLR 2021, arXiv 2102.07887). A small gate reads the convolution's input X and gives
non-negative weights V_c (one for each channel ratio r_i = 1/2^i) and V_t (one for each temporal stride
R_j = 2^j). With Z = conv(X) and one kernel for all variants:

    Y_c = sum_i V_c[i] * [ Z[..., :rC] , Phi_c,i(Z[..., :rC]) ]     first rC channels, the rest made cheaply
    Y   = sum_j V_t[j] * hold_j(Y_c)                                frames 0, R, 2R, ..; between them
                                                                    Phi_t,j of the frame before

A variant of weight zero costs nothing, so a clip needs Z only for the largest r and the smallest R whose
weight is not zero: its *decision* (i, j). `variant(i, j)` computes just that, with exact zeros elsewhere:

    form      what is computed                                                               used for
    mixed     variant (0, 0) for all clips                                                   training
    compact   the variant of each clip: `lax.switch` for one clip; several clips are sorted  inference
              by decision and cut into small groups, each of which computes what covers it

Both give the same numbers. The paper has no public code or text beyond its tables; what is ours: the
cheap operations (depthwise 3x3 over space; a factor per channel over time, starting as a copy), rounding
(at least one channel: ceil(rC); frames 0, R, 2R, ... of T are ceil(T/R), so R beyond T is R = T; whole
groups of grouped convolutions), the gate's hidden layer, its initial values and its gradient at zero,
and that a gate with no weight left gives zeros and is charged the cheapest variant.

Axes: B batch, T frames, C output channels, S search space; maps are (B, T, H, W, C), (B, T, C) or without
time (B, H, W, C).
"""

from __future__ import annotations

import math
import re
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from effvid_jax.backbones import blocks

_BLOCK_CONVS = r"layer\d+_\d+/conv\d+"
# Which convolutions are gated, as regular expressions of module paths. The paper does not say; its costs
# leave these: spatial halves of R(2+1)D, all of I3D with the stem, all three of X3D's blocks. Shortcuts,
# squeeze-excitation, necks and correlation blocks stay as they are.
GATED_LAYERS = {
    **dict.fromkeys(("r2plus1d_18_vared", "r2plus1d_18", "r2plus1d_34", "tpn_r2plus1d_18",
                     "corrnet_r2plus1d_18"), _BLOCK_CONVS + "/conv_s"),
    **dict.fromkeys(("r3d_18", "mc3_18", "slowonly_resnet50", "i3d_resnet50", "resnet18", "resnet34",
                     "resnet50", "resnet101", "resnet152", "tsm_resnet18", "tsm_resnet50",
                     "tsm_resnet101", "x3d_s", "x3d_m", "x3d_l"), _BLOCK_CONVS),
    **dict.fromkeys(("i3d", "i3d_tp"), r"(Conv3d_\w+|Mixed_\w+/b\w+)/conv"),
}


@flax.struct.dataclass
class Decision:
    """What a gated convolution leaves in the collection 'gates'.

    Attributes:
        V_c, V_t: (B, S) weights of the channel ratios and of the temporal strides.
        ratio: (B,) share of the convolution that is computed, r/R; its gradient reaches the gate. NaN
            where a weight is not finite.
        overhead: (B,) multiply-adds of cheap operations and gate.
        macs: multiply-adds of the whole convolution for one clip.
    """

    V_c: Any
    V_t: Any
    ratio: Any
    overhead: Any
    macs: int = flax.struct.field(pytree_node=False)


class Gate(nn.Module):
    """max(tanh(W2 tanh(BN(W1 mean(X))) + beta), 0): (B, ..., C) -> (B, outputs), in [0, 1).

    Attributes:
        outputs: number of weights.
        width: hidden units.
        beta: initial bias; positive, so that every variant starts active.
        leak: share of the gradient that passes where the weight is zero, so that a closed variant can
            open again; the paper's max(., 0) has 0.
    """

    outputs: int
    width: int
    beta: float
    leak: float

    @nn.compact
    def __call__(self, x, train: bool):
        y = x.mean(axis=tuple(range(1, x.ndim - 1)), dtype=jnp.promote_types(jnp.float32, x.dtype))
        y = blocks.Dense(self.width, name="fc1")(y)
        y = jnp.tanh(blocks.BatchNorm(name="bn")(y, train))
        y = blocks.Dense(self.outputs, use_bias=False, name="fc2",
                         kernel_init=nn.initializers.normal(0.01))(y)
        beta = self.param("beta", nn.initializers.constant(self.beta), (self.outputs,))
        y = jnp.tanh(y + beta)
        return jnp.maximum(y, 0) + self.leak * _gradient_of(jnp.minimum(y, 0))


class GatedConv(blocks.Conv):
    """`blocks.Conv` with a gate where `layers` matches its path, and exactly `blocks.Conv` elsewhere.

    Attributes:
        layers: regular expression of the (whole) module paths that are gated, see `GATED_LAYERS`.
        search_space: S; ratios 1, 1/2, ... 1/2^(S-1), strides 1, 2, ... 2^(S-1). The paper has 2 and 3.
        temporal, channel: which of the two axes is gated.
        cheap_kernel: side of the depthwise kernel of Phi_c.
        gate_width: hidden units of the gate; 0 for max(16, C_in / 4).
        beta, leak: see `Gate`.
        form: 'mixed' or 'compact'; training is always mixed.
        positions: compact, several clips: a group has as many clips as it takes for this many output
            positions. Larger groups fill a device better, smaller ones share a decision more often.
    """

    layers: str = ""
    search_space: int = 2
    temporal: bool = True
    channel: bool = True
    cheap_kernel: int = 3
    gate_width: int = 0
    beta: float = 1.0
    leak: float = 0.0
    form: str = "mixed"
    positions: int = 2048

    @nn.compact
    def __call__(self, x, train: bool = False):
        S_c = self.search_space if self.channel else 1
        S_t = self.search_space if self.temporal and x.ndim in (3, 5) else 1
        self._check()
        if S_c * S_t == 1 or not re.fullmatch(self.layers, "/".join(self.path)):
            return super().__call__(x, train)
        gated = [S for S in (S_c, S_t) if S > 1]
        width = self.gate_width or max(16, x.shape[-1] // 4)
        with blocks.silence():  # the static cost is the plain network's
            V = Gate(sum(gated), width, self.beta, self.leak, name="gate")(x, train)
        one = jnp.ones((len(x), 1), V.dtype)
        V_c, V_t = V[:, :S_c] if S_c > 1 else one, V[:, -S_t:] if S_t > 1 else one

        layer = self._layer(x, S_c, S_t)
        if train or self.form == "mixed" or self.is_initializing():
            y = layer.variant(0, 0)(x, V_c, V_t)
        else:
            y = _compact(layer, x, V_c, V_t, self.positions)
        blocks.note("conv", self.path, x, y, len(x) * layer.macs, self.use_bias, self.kernel_size,
                    layer.strides)
        gate_macs = x.shape[-1] * width + width * sum(gated)
        blocks.note("gate", self.path, x, V, len(x) * gate_macs)
        if not self.is_initializing():
            self.sow("gates", "decision", layer.decision(V_c, V_t, gate_macs),
                     reduce_fn=lambda old, new: new, init_fn=lambda: None)
        return y

    def _check(self) -> None:
        if self.form not in ("mixed", "compact"):
            raise ValueError(f"form={self.form!r}: expected 'mixed' or 'compact'.")
        if not 2 <= self.search_space <= 4:
            raise ValueError(f"search_space={self.search_space}: expected 2 (all or half of channels and "
                             f"frames), 3 (also a quarter) or 4.")
        if self.cheap_kernel % 2 == 0 or self.cheap_kernel < 1:
            raise ValueError(f"cheap_kernel={self.cheap_kernel}: expected an odd number, such as 1 or 3.")

    def _layer(self, x, S_c: int, S_t: int) -> _Layer:
        """Geometry and arrays of this convolution for inputs like `x`."""
        n = len(self.kernel_size)
        tuples = (blocks._tuple(v, n) for v in (self.strides, self.padding, self.dilation))
        kernel = self.param("kernel", self.kernel_init,
                            (*self.kernel_size, x.shape[-1] // self.groups, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        dtype = self.dtype or jnp.result_type(x, kernel)
        layer = _Layer(x.shape, dtype, kernel.astype(dtype), bias, *tuples, self.groups, S_c, S_t,
                       self.factor_on_cpu and jax.default_backend() == "cpu")
        side = self.cheap_kernel if x.ndim > 3 else 1
        init = nn.initializers.normal(1 / side)  # keeps the variance
        for i in range(1, S_c):
            layer.cheap_c[i] = self.param(
                f"cheap_c{i}", init, (side, side, 1, self.features - layer.channels[i])).astype(dtype)
        for j in range(1, S_t):
            layer.cheap_t[j] = self.param(
                f"cheap_t{j}", nn.initializers.ones, (2**j - 1, self.features)).astype(dtype)
        return layer


class _Layer:
    """A gated convolution with its arrays, for one input shape: plain functions of (x, V_c, V_t).

    Attributes:
        channels: computed channels of every ratio; `frames`: computed frames of every stride.
        macs: multiply-adds of the whole convolution for one clip.
        cheap_c, cheap_t: kernels (side, side, 1, C - rC) by i and factors (R - 1, C) by j, from 1 on.
    """

    def __init__(self, in_shape, dtype, kernel, bias, strides, padding, dilation, groups, S_c, S_t,
                 factor):
        self.dtype, self.kernel, self.bias = dtype, kernel, bias
        self.strides, self.padding, self.dilation, self.groups = strides, padding, dilation, groups
        self.factor, self.cheap_c, self.cheap_t = factor, {}, {}
        axes = in_shape[1:-1]
        self.in_time = len(strides) == len(axes) and len(axes) in (1, 3)  # the kernel has a time axis
        out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip(
            axes[-len(strides):], padding, dilation, kernel.shape, strides)]
        out = (*axes[:len(axes) - len(strides)], *out)
        features, unit = kernel.shape[-1], kernel.shape[-1] // groups if groups > 1 else 1
        self.channels = [math.ceil(features // unit / 2**i) * unit for i in range(S_c)]
        self.frames = [math.ceil(out[0] / 2**j) for j in range(S_t)]
        self.positions = math.prod(out) // out[0] if S_t > 1 else math.prod(out)  # of a frame
        self.features, self.length = features, out[0] if S_t > 1 else 1
        self.macs = math.prod(out) * math.prod(kernel.shape)

    def variant(self, i: int, j: int):
        """Output for weights that are zero before ratio i and stride j: (x, V_c, V_t) -> Y."""

        def run(x, V_c, V_t):
            y = self._mix_channels(self._convolve(x, i, j), V_c, i)
            return self._mix_frames(y, V_t, j)

        return run

    def _convolve(self, x, i: int, j: int):
        """The first channels of frames 0, R, 2R, ... of the convolution, R = 2^j."""
        k, strides, groups = self.channels[i], list(self.strides), self.groups
        if self.in_time:
            strides[0] *= 2**j
        elif j:
            x = x[:, ::2**j]
        if groups > 1:
            groups = groups * k // self.features
            x = x[..., :groups * self.kernel.shape[-2]]
        z = blocks.convolve(x.astype(self.dtype), self.kernel[..., :k], tuple(strides), self.padding,
                            groups, factor=self.factor, dilation=self.dilation)
        return z if self.bias is None else z + self.bias[:k].astype(self.dtype)

    def _mix_channels(self, z, V_c, i: int):
        """sum_n V_c[n] [z_n, Phi_n(z_n)] over n >= i, z_n the first channels of z."""
        if len(self.channels) == 1:
            return z
        parts = []
        for n in range(i, len(self.channels)):
            y = z[..., :self.channels[n]]
            if n:
                y = jnp.concatenate([y, self._make_channels(y, n)], axis=-1)
            parts.append(_weigh(y, V_c[:, n]))
        return sum(parts)

    def _make_channels(self, z, n: int):
        """Phi_c,n: the channels after the first k, each from channel (number mod k) by its own kernel."""
        kernel = self.cheap_c[n]
        missing = kernel.shape[-1]
        copies = math.ceil(missing / z.shape[-1])
        z = jnp.concatenate([z] * max(copies, 1), axis=-1)[..., :missing]
        if kernel.shape[0] == 1 or not missing:
            return z * kernel[0, 0, 0]
        return blocks.convolve(z, kernel, (1, 1), (kernel.shape[0] // 2,) * 2, missing, self.factor)

    def _mix_frames(self, y, V_t, j: int):
        """sum_n V_t[n] hold_n(y) over n >= j, for y with frames 0, R, 2R, ..., R = 2^j."""
        if len(self.frames) == 1:
            return y
        parts = []
        for n in range(j, len(self.frames)):
            kept = y[:, ::2**(n - j)]
            if n:
                factors = jnp.concatenate([jnp.ones_like(self.cheap_t[n][:1]), self.cheap_t[n]])
                factors = factors.reshape(2**n, *(1,) * (y.ndim - 3), self.features)
                kept = kept[:, :, None] * factors  # (B, T/R, R, ..., C)
                kept = kept.reshape(len(y), -1, *y.shape[2:])[:, :self.length]
            parts.append(_weigh(kept, V_t[:, n]))
        return sum(parts)

    def decision(self, V_c, V_t, gate_macs: int) -> Decision:
        """Costs of the weights; see `Decision`."""
        open_c, open_t = (jax.lax.stop_gradient(V) > 0 for V in (V_c, V_t))
        frames = _share(V_t, self.frames)
        overhead = jnp.full((len(V_c),), gate_macs, jnp.float32)
        for i, kernel in self.cheap_c.items():
            overhead += open_c[:, i] * jax.lax.stop_gradient(frames) * (
                kernel.size * self.positions * self.length)
        for j, factors in self.cheap_t.items():
            overhead += open_t[:, j] * (
                (self.length - self.frames[j]) * self.positions * factors.shape[-1])
        sound = jnp.isfinite(V_c).all(axis=1) & jnp.isfinite(V_t).all(axis=1)
        ratio = jnp.where(sound, _share(V_c, self.channels) * frames, jnp.nan)
        return Decision(V_c, V_t, ratio, overhead, self.macs)


def _share(V, counts):
    """counts[n] / counts[0] for the first n with V[:, n] > 0, or the last; (B,).

    Straight-through: the step from n to n + 1 has the gradient of max(V[:, :n + 1]). Nothing pushes the
    last weight down, which would leave nothing of the convolution.
    """
    share = jnp.full((len(V),), counts[-1] / counts[0], V.dtype)
    for n in range(len(counts) - 1):
        largest = V[:, :n + 1].max(axis=1)
        step = (largest > 0) * (1 + _gradient_of(largest))
        share += step * ((counts[n] - counts[n + 1]) / counts[0])
    return share


def _gradient_of(x):
    """Zero with the gradient of x."""
    return x - jax.lax.stop_gradient(x)


def _weigh(y, weights_B):
    return y * weights_B.astype(y.dtype).reshape(-1, *(1,) * (y.ndim - 1))


def collect(gates) -> dict[str, Decision]:
    """{path of a layer: its decision} of the collection 'gates', blocks in numerical order."""
    flat = flax.traverse_util.flatten_dict(flax.core.unfreeze(gates), sep="/")
    return {path.removesuffix("/decision"): flat[path] for path in sorted(flat, key=natural_order)}


def natural_order(path: str) -> list:
    """Sorts 'layer3_10' behind 'layer3_2'."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


# ------------------------------------------------------------------------------------- compact form
def _compact(layer: _Layer, x, V_c, V_t, positions: int):
    """Every clip by a variant that covers its decision; see the module docstring."""
    # Strides beyond the clip's length compute the same frames: they need no variant of their own.
    S_c, S_t = len(set(layer.channels)), len(set(layer.frames))
    variants = [layer.variant(i, j) for j in range(S_t) for i in range(S_c)]
    i, j = _first_open(V_c, S_c), _first_open(V_t, S_t)
    if len(x) == 1:
        return jax.lax.switch(j[0] * S_c + i[0], variants, x, V_c, V_t)

    def run(ids):
        return jax.lax.switch(j[ids].min() * S_c + i[ids].min(), variants, x[ids], V_c[ids], V_t[ids])

    size = min(len(x), math.ceil(positions / (layer.positions * layer.length)))
    groups = math.ceil(len(x) / size)
    order = jnp.argsort(j * S_c + i) if size > 1 else jnp.arange(len(x))
    filled = jnp.concatenate([order, jnp.broadcast_to(order[-1:], (groups * size - len(x),))])
    y = jax.lax.map(run, filled.reshape(groups, size))
    y = y.reshape(-1, *y.shape[2:])
    return y if size == 1 else y[jnp.argsort(order)]


def _first_open(V, S: int):
    """Number of the first weight that is not zero, at most S - 1: (B,)."""
    first = jnp.where((V > 0).any(axis=1), jnp.argmax(V > 0, axis=1), S - 1)
    return jnp.minimum(first, S - 1)
