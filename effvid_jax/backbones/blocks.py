"""Layers that every backbone is built from, with PyTorch's geometry and statistics.

Why not `flax.linen.Conv` and `BatchNorm`: weights of this field come from PyTorch, so padding is
explicit and symmetric (never `SAME`), the running variance is the unbiased one, and statistics can be
taken per group of the batch (`BatchNorm.groups`), which is what un-synchronised multi-GPU training did.

Every layer notes what it computes (`trace.py`), from which `effvid_jax.cost` reads multiply-adds in each
paper's convention without compiling anything. Backbones therefore use the
functions of this file (`relu`, `max_pool`, ...) in place of `jax.nn`'s.

Axes: B batch, T frames, H W space, C channels; public arrays are (B, T, H, W, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import batch_statistics, forms, remat
from effvid_jax.backbones.once import once  # noqa: F401  (a function of layers, as the ones below)
from effvid_jax.backbones.trace import note, shapes_only, silence
from effvid_jax.errors import UserError

ModuleDef = Callable[..., nn.Module]


# -------------------------------------------------------------------------------------- parameters
def kaiming_normal(key, shape, dtype=jnp.float32):
    """He initialisation on the fan-out, the reference's for convolutions without pretraining."""
    return nn.initializers.variance_scaling(2.0, "fan_out", "normal")(key, shape, dtype)


def per_axis(value: int | Sequence[int], n: int) -> tuple[int, ...]:
    """One number for each of n axes, where one may stand for all."""
    return (value,) * n if isinstance(value, int) else tuple(value)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros (before, after) that TensorFlow's SAME adds on an axis; the odd one comes last."""
    total = max(kernel - (size % stride or stride), 0)
    return total // 2, total - total // 2


# ------------------------------------------------------------------------------------------ layers
class Conv(nn.Module):
    """Convolution over (B, T, H, W, C), per frame (2 kernel axes) or over time too (3 kernel axes).

    This is also the contract for a convolution that replaces it (a gated one, say): constructed with
    these fields, called with `(x, train)`, returning an array of `features` channels.

    Attributes:
        features: output channels.
        kernel_size: (kH, kW) or (kT, kH, kW).
        strides: stride per kernel axis, or one for all.
        padding: zeros added on both sides per kernel axis, or one number for all.
        groups: channel groups; `groups == C` is depthwise.
        use_bias: whether to add a bias.
        dilation: distance of neighbouring kernel positions per kernel axis, or one for all.
        dtype: computation type; None takes the one of input and kernel.
        plain: XLA's own convolution on every platform, not the form that is fast there (`forms.py`);
            the values are the same up to rounding.
    """

    features: int
    kernel_size: tuple[int, ...]
    strides: int | tuple[int, ...] = 1
    padding: int | tuple[int, ...] = 0
    groups: int = 1
    use_bias: bool = False
    dilation: int | tuple[int, ...] = 1
    dtype: Any = None
    kernel_init: Callable = kaiming_normal
    plain: bool = False

    @nn.compact
    def __call__(self, x, train: bool = False):
        del train  # part of the contract: gated convolutions normalise inside
        kernel = self.effective_kernel((*self.kernel_size, x.shape[-1] // self.groups, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        y = remat.product(self.convolve(x, kernel))
        self.note(x, y, math.prod(y.shape) * math.prod(kernel.shape[:-1]))
        return y if bias is None else y + bias.astype(y.dtype)

    def effective_kernel(self, shape: tuple[int, ...]):
        """What `x` is convolved with: the parameter, or what a subclass makes of it."""
        return self.param("kernel", self.kernel_init, shape)

    def convolve(self, x, kernel):
        """`x` with a kernel of this geometry, which may read and make fewer channels; no bias."""
        n, dtype = len(self.kernel_size), self.dtype or jnp.result_type(x, kernel)
        form = forms.plain if self.plain or shapes_only() else forms.convolve
        return form(x.astype(dtype), kernel.astype(dtype), per_axis(self.strides, n),
                    per_axis(self.padding, n), self.groups, per_axis(self.dilation, n))

    def note(self, x, y, macs: int) -> None:
        """Puts this convolution on the tape, with its multiply-adds."""
        note("conv", self.path, x, y, macs, self.use_bias, self.kernel_size,
             per_axis(self.strides, len(self.kernel_size)))


class Dense(nn.Module):
    """Linear layer on the last axis; `kernel` (in, features), optional `bias`."""

    features: int
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        dtype = self.dtype or jnp.result_type(x, kernel)
        y = remat.product(forms.product(x.astype(dtype), kernel.astype(dtype)))
        note("linear", self.path, x, y, math.prod(y.shape) * x.shape[-1], self.use_bias)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(dtype)
        return y


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, as `torch.nn.BatchNorm*d`.

    Attributes:
        momentum: share of the old running statistics that is kept (torch's momentum is 1 minus it).
        eps: added to the variance.
        groups: the batch axis is cut into this many equal parts, each normalised with its own
            statistics. 1 = statistics of the global batch (SyncBN under sharding); the number of
            devices = statistics per device, as un-synchronised data-parallel training has them.
        frozen: training too uses the running statistics and leaves scale and bias alone ("partial BN").
        affine: whether there are a scale and a bias.
        dtype: output type; statistics are float32 or wider.
    """

    momentum: float = 0.9
    eps: float = 1e-5
    groups: int = 1
    frozen: bool = False
    affine: bool = True
    dtype: Any = None
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x, train: bool = False):
        c = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (c,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (c,), jnp.float32)
        scale = self.param("scale", self.scale_init, (c,)) if self.affine else 1.0
        bias = self.param("bias", nn.initializers.zeros, (c,)) if self.affine else 0.0
        note("norm", self.path, x, x)
        wide = jnp.promote_types(jnp.float32, x.dtype)
        x_wide = x.astype(wide)
        if self.frozen:
            scale, bias, train = jax.lax.stop_gradient(scale), jax.lax.stop_gradient(bias), False
        if not train:
            y = _normalise(x_wide, running_mean.value, running_var.value, self.eps, scale, bias)
            return y.astype(self.dtype or x.dtype)
        groups = self.groups
        if x.shape[0] % groups:
            raise UserError(
                f"BatchNorm groups={groups} do not divide the batch of {x.shape[0]}: choose "
                f"model.bn_groups as a divisor of the batch size.")
        x_grouped = x_wide.reshape(groups, x.shape[0] // groups, *x.shape[1:])
        if shapes_only():
            return x_wide.astype(self.dtype or x.dtype)
        scale, bias = (jnp.broadcast_to(jnp.asarray(v, wide), (c,)) for v in (scale, bias))
        y, mean, var = batch_statistics.normalise(x_grouped, scale, bias, self.eps)
        y = y.reshape(x.shape)
        if not self.is_initializing():
            n = x.size // (groups * c)
            unbiased = var * (n / max(n - 1, 1))  # torch stores the unbiased variance
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean.mean(0)
            running_var.value = keep * running_var.value + (1 - keep) * unbiased.mean(0)
        return y.astype(self.dtype or x.dtype)


def _normalise(x, mean, var, eps, scale, bias):
    if shapes_only():
        return x
    return (x - mean) * (jax.lax.rsqrt(var + eps) * scale) + bias


class ConvBN(nn.Module):
    """Convolution, batch norm and ReLU; children `conv` and `bn` (as mmcv's ConvModule).

    Attributes:
        features, kernel_size, strides, padding, groups, use_bias: see `Conv`.
        relu: whether ReLU follows.
        conv, norm: module classes.
    """

    features: int
    kernel_size: tuple[int, ...]
    strides: int | tuple[int, ...] = 1
    padding: int | tuple[int, ...] = 0
    groups: int = 1
    use_bias: bool = False
    relu: bool = True
    conv_type: ModuleDef = Conv
    norm: ModuleDef = BatchNorm

    def setup(self):
        self.conv = self.conv_type(self.features, self.kernel_size, self.strides, self.padding,
                                   self.groups, self.use_bias)
        self.bn = self.norm()

    def __call__(self, x, train: bool = False):
        x = self.bn(self.conv(x, train), train)
        return relu(x) if self.relu else x


class LayerNorm(nn.Module):
    """Normalisation over the last axis, as `torch.nn.LayerNorm`; `scale` and `bias` (C,).

    Attributes:
        eps: added to the variance.
        dtype: output type; statistics are float32 or wider.
    """

    eps: float = 1e-5
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        note("layer_norm", self.path, x, x)
        if shapes_only():
            return x.astype(self.dtype or x.dtype)
        x_wide = x.astype(jnp.promote_types(jnp.float32, x.dtype))
        mean = x_wide.mean(axis=-1, keepdims=True)
        var = jnp.square(x_wide - mean).mean(axis=-1, keepdims=True)
        return _normalise(x_wide, mean, var, self.eps, scale, bias).astype(self.dtype or x.dtype)


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training, drops a residual branch for whole examples.

    Attributes:
        rate: probability per example (axis 0); survivors are divided by 1 - rate.
    """

    rate: float

    @nn.compact
    def __call__(self, x, train: bool = False):
        if not train or self.rate == 0:
            return x
        keep = 1 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        mask = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        return jnp.where(mask, x / keep, 0).astype(x.dtype)


class Mlp(nn.Module):
    """Linear, exact GELU, linear: the feed-forward part of a transformer block.

    Attributes:
        hidden, features: width inside and of the output.
        dense: class of the linear layers.
    """

    hidden: int
    features: int
    dense: ModuleDef = Dense

    def setup(self):
        self.fc1 = self.dense(self.hidden)
        self.fc2 = self.dense(self.features)

    def __call__(self, x):
        return self.fc2(gelu(self.fc1(x)))


# --------------------------------------------------------------------------------------- functions
def relu(x):
    """max(x, 0)."""
    note("relu", (), x, x)
    return x if shapes_only() else jax.nn.relu(x)


def relu6(x):
    """min(max(x, 0), 6)."""
    note("relu", (), x, x)
    return jnp.clip(x, 0, 6)


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    note("act", (), x, x)
    return jax.nn.sigmoid(x)


def swish(x):
    """x * sigmoid(x)."""
    note("act", (), x, x)
    return x if shapes_only() else jax.nn.silu(x)


def hard_sigmoid(x):
    """min(max(x + 3, 0), 6) / 6."""
    note("act", (), x, x)
    return x if shapes_only() else jax.nn.hard_sigmoid(x)


def hard_swish(x):
    """x * hard_sigmoid(x)."""
    note("act", (), x, x)
    return x if shapes_only() else jax.nn.hard_silu(x)


def gelu(x):
    """x times the Gaussian distribution function of x (erf, no tanh approximation)."""
    note("act", (), x, x)
    return x if shapes_only() else jax.nn.gelu(x, approximate=False)


def log_mean_softmax(logits, axis: int):
    """Logarithm of the mean over `axis` (views, say) of the probabilities of (..., K); float32 or wider."""
    wide = jnp.promote_types(jnp.float32, logits.dtype)
    scores = jax.nn.log_softmax(logits.astype(wide))
    return jax.nn.logsumexp(scores, axis=axis) - jnp.log(logits.shape[axis])


def softmax(x):
    """Softmax over the last axis, computed in float32 or wider."""
    if shapes_only():
        return x
    wide = jnp.promote_types(jnp.float32, x.dtype)
    return jax.nn.softmax(x.astype(wide), axis=-1).astype(x.dtype)


def einsum(spec: str, x, y):
    """`jnp.einsum` of two activations, such as 'bqc,bkc->bqk': attention's products."""
    names, out = spec.split("->")[0].split(","), spec.split("->")[1]
    sizes = {**dict(zip(names[0], x.shape)), **dict(zip(names[1], y.shape))}
    z = jnp.zeros([sizes[n] for n in out], x.dtype) if shapes_only() else jnp.einsum(spec, x, y)
    note("matmul", (), x, z, math.prod(sizes.values()))
    return z


def max_pool(x, window: Sequence[int], strides: Sequence[int], padding: Sequence[int]):
    """Max-pool over the last `len(window)` axes before the channels, padded with -inf.

    `padding` holds one number per axis for both sides, or pairs (before, after).
    """
    y = forms.max_pool(x, tuple(window), tuple(strides), tuple(per_axis(p, 2) for p in padding))
    note("max_pool", (), x, y, kernel=window, strides=strides)
    return y


def ceil_pool(x):
    """Max-pool 3x3 of stride 2 without padding, whose last window may reach over the edge, as in Caffe."""
    return max_pool(x, (3, 3), (2, 2), [(0, 1 - n % 2) for n in x.shape[-3:-1]])


def avg_pool(x, window: Sequence[int], strides: Sequence[int], padding: Sequence[int]):
    """Mean over windows of the last `len(window)` axes before the channels; padded zeros count."""
    lead = ((0, 0),) * (x.ndim - 1 - len(window))
    y = jax.lax.reduce_window(
        x, np.asarray(0, x.dtype), jax.lax.add, (*(1 for _ in lead), *window, 1),
        (*(1 for _ in lead), *strides, 1), (*lead, *(per_axis(p, 2) for p in padding), (0, 0)))
    note("avg_pool", (), x, y, kernel=window, strides=strides)
    return y / math.prod(window)


def global_avg_pool(x, axes: Sequence[int] = (-3, -2)):
    """Mean over `axes` (space by default), accumulated in float32 or wider: (..., H, W, C) -> (..., C)."""
    y = x.mean(axis=tuple(axes), dtype=jnp.promote_types(jnp.float32, x.dtype)).astype(x.dtype)
    note("global_avg_pool", (), x, y, kernel=tuple(x.shape[a] for a in axes))
    return y


def clip_avg_pool(x_BTHWC):
    """Means over space (B, T, C), and over space and time (B, C); noted as one adaptive pooling."""
    with silence():
        frames_BTC = global_avg_pool(x_BTHWC)
    return frames_BTC, global_avg_pool(x_BTHWC, (-4, -3, -2))
