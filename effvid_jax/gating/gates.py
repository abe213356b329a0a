"""Gated convolutions: every clip decides how many channels and frames a convolution computes.

VA-RED2 (Pan et al., ICLR 2021, arXiv 2102.07887). A small gate reads the convolution's input X and gives
non-negative weights V_c (one for each channel ratio r_i = 1/2^i) and V_t (one for each temporal stride
R_j = 2^j). With Z = conv(X) and one kernel for all variants:

    Y_c = sum_i V_c[i] * [ Z[..., :rC] , Phi_c,i(Z[..., :rC]) ]    first rC channels; the rest made cheaply
    Y   = sum_j V_t[j] * hold_j(Y_c)                               frames 0, R, 2R, ...; between them
                                                                   Phi_t,j of the frame before

A variant of weight zero costs nothing, so a clip needs Z only for the largest r and the smallest R whose
weight is not zero: its *decision* (i, j). `variants.Layer.variant(i, j)` computes just that:

    form      what is computed                                                               used for
    mixed     variant (0, 0) for all clips                                                   training
    compact   the variant of each clip: `lax.switch` for one clip; several clips are sorted  inference
              by decision and cut into small groups, each of which computes what covers it

Both give the same numbers. The paper has no public code or text beyond its tables; what is ours: the
cheap operations (depthwise 3x3 over space; a factor per channel over time, starting as a copy), rounding
(at least one channel: ceil(rC); frames 0, R, 2R, ... of T are ceil(T/R), so R beyond T is R = T; whole
groups of grouped convolutions), the gate's hidden layer, its initial values and its gradient at zero,
and that a gate with no weight left gives zeros and is charged the cheapest variant. What else than
the paper's mean a gate may see of X is in `inputs.py`.

Axes: B batch, T frames, C output channels, S search space; maps are (B, T, H, W, C), (B, T, C) or without
time (B, H, W, C).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from effvid_jax.backbones import blocks, trace
from effvid_jax.backbones.facts import facts, gated_backbones
from effvid_jax.errors import UserError
from effvid_jax.gating import freezing, inputs, surroundings, variants
from effvid_jax.gating.variants import Decision

FORMS = ("mixed", "compact")


class Gate(nn.Module):
    """max(tanh(W2 tanh(BN(W1 s(X))) + beta), 0): (B, ..., C) -> (B, sum(sizes)), in [0, 1).

    Attributes:
        sizes: number of weights for each gated axis.
        width: hidden units.
        beta: initial bias of every weight; positive for variants that start active.
        leak: share of the gradient that passes where the weight is zero, so that a closed variant can
            open again; the paper's max(., 0) has 0.
        sees: what s(X) is, in words of `inputs.INPUTS`; the paper's is the mean alone.
        normalise: s(X) by running statistics, see `inputs.RunningNorm`.
        scale: initial size of W2. It is what lets the first decisions differ between clips.
        discrete: the largest weight of an axis is 1 and the others are 0, see `choose`.
    """

    sizes: tuple[int, ...]
    width: int
    beta: tuple[float, ...]
    leak: float
    sees: tuple[str, ...] = ("mean",)
    normalise: bool = False
    scale: float = 0.01
    discrete: bool = False

    @nn.compact
    def __call__(self, x, train: bool):
        """`x`: maps (B, ...), or a list of pieces of them, whose weights are (pieces * B, ...)."""
        pieces = [inputs.seen(piece, self.sees) for piece in (x if isinstance(x, list) else [x])]
        y = pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces)
        if self.normalise:
            y = inputs.RunningNorm(name="norm")(y, train)
        y = blocks.Dense(self.width, name="fc1")(y)
        y = jnp.tanh(blocks.BatchNorm(name="bn")(y, train))
        outputs = sum(self.sizes)
        y = blocks.Dense(outputs, use_bias=False, name="fc2",
                         kernel_init=nn.initializers.normal(self.scale))(y)
        beta = self.param("beta", lambda _, shape: jnp.asarray(self.beta, jnp.float32), (outputs,))
        if self.discrete:
            return choose(y + beta, self.sizes)
        y = jnp.tanh(y + beta)
        return jnp.maximum(y, 0) + self.leak * variants.gradient_of(jnp.minimum(y, 0))


class GatedConv(blocks.Conv):
    """`blocks.Conv` with a gate where `layers` matches its path, and exactly `blocks.Conv` elsewhere.

    Attributes:
        layers: regular expression of the (whole) module paths that are gated, see `layers_of`.
        search_space: S; ratios 1, 1/2, ... 1/2^(S-1), strides 1, 2, ... 2^(S-1). The paper has 2 and 3.
        temporal, channel: which of the two axes is gated.
        cheap_kernel: side of the depthwise kernel of Phi_c.
        gate_width: hidden units of the gate; 0 for max(16, C_in / 4).
        beta, beta_reduced: initial biases of the gate for the whole convolution and for its variants.
        cheap_scale: initial size of Phi_c; 1 keeps the variance, 0 lets the made channels begin at zero.
        leak: see `Gate`.
        gate_inputs: words of `inputs.INPUTS` joined by '+'.
        gate_normalise, gate_scale, discrete: see `Gate`.
        form: 'mixed' or 'compact'; training is always mixed.
        positions: compact, several clips: a group has as many clips as it takes for this many output
            positions, at least one. Larger groups fill a device better, in smaller ones more clips
            agree.
        frozen: layers that decide nothing any more, see `freezing.py`.
    """

    layers: str = ""
    search_space: int = 2
    temporal: bool = True
    channel: bool = True
    cheap_kernel: int = 3
    gate_width: int = 0
    beta: float = 1.0
    beta_reduced: float = 1.0
    cheap_scale: float = 1.0
    leak: float = 0.0
    gate_inputs: str = "mean"
    gate_normalise: bool = False
    gate_scale: float = 0.01
    discrete: bool = False
    form: str = "mixed"
    positions: int = 2048
    frozen: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x, train: bool = False):
        S_c = self.search_space if self.channel else 1
        S_t = self.search_space if self.temporal and x.ndim in (3, 5) else 1
        self._check()
        if S_c * S_t == 1 or not re.fullmatch(self.layers, "/".join(self.path)):
            return super().__call__(x, train)
        fixed = freezing.read(self.frozen).get("/".join(self.path))
        if fixed and (len(fixed.channels), len(fixed.frames)) != (S_c, S_t):
            raise UserError(f"config.method.frozen: {'/'.join(self.path)} has {len(fixed.channels)}/"
                            f"{len(fixed.frames)} weights there, and {S_c}/{S_t} here.")
        gated = [S for S in (S_c, S_t) if S > 1]
        width = self.gate_width or max(16, x.shape[-1] // 4)
        beta = sum(((self.beta,) + (self.beta_reduced,) * (S - 1) for S in gated), ())
        sees = inputs.parse(self.gate_inputs)
        numbers, pieces = len(sees) * x.shape[-1], surroundings.cut(x)
        gate_macs = (numbers * width + width * sum(gated) + inputs.operations(pieces[0].shape[1:], sees)
                     + numbers * self.gate_normalise)
        if fixed and not fixed.gate:
            V, gate_macs = self.param("weights", nn.initializers.ones, (1, sum(gated))), 0
            weights = [V] * len(pieces)
        else:
            with trace.silence():  # the static cost is the plain network's
                V = Gate(tuple(gated), width, beta, self.leak, sees, self.gate_normalise, self.gate_scale,
                         self.discrete, name="gate")(x if len(pieces) == 1 else pieces, train)
            V = surroundings.as_used(V, gated)
            weights = [V] if len(pieces) == 1 else jnp.split(V, len(pieces))
        arrays = self._arrays(x, S_c, S_t, fixed)
        found = [self._piece(piece, v, S_c, S_t, fixed, arrays, gate_macs, train)
                 for piece, v in zip(pieces, weights, strict=True)]
        y = found[0][0] if len(found) == 1 else jnp.concatenate([y for y, _ in found], axis=1)
        decision = variants.together([decision for _, decision in found])
        self.note(x, y, x.shape[0] * decision.macs)
        if gate_macs:
            trace.note("gate", self.path, x, V, x.shape[0] * len(pieces) * gate_macs)
        if not self.is_initializing():
            self.sow("gates", "decision", decision, reduce_fn=lambda old, new: new, init_fn=lambda: None)
        return y

    def _piece(self, x, V, S_c: int, S_t: int, fixed, arrays, gate_macs: int, train: bool):
        """Output and decision of frames that a gate decides about together; `V` as the gate gave it."""
        one = jnp.ones((V.shape[0], 1), V.dtype)
        V_c, V_t = V[:, :S_c] if S_c > 1 else one, V[:, -S_t:] if S_t > 1 else one
        layer = self._layer(x, S_c, S_t, arrays)
        if fixed:
            V_c, V_t = V_c * jnp.array(fixed.channels, V.dtype), V_t * jnp.array(fixed.frames, V.dtype)
            y = layer.variant(fixed.ratio, fixed.stride)(x, V_c, V_t)
            V_c, V_t = (jnp.broadcast_to(v, (x.shape[0], v.shape[1])) for v in (V_c, V_t))
        elif train or self.form == "mixed" or self.is_initializing():
            y = layer.variant(0, 0)(x, V_c, V_t)
        else:
            y = variants.compact(layer, x, V_c, V_t, self.positions)
        return y, layer.decision(V_c, V_t, gate_macs)

    def _check(self) -> None:
        if self.form not in FORMS:
            raise UserError(f"form={self.form!r}: expected one of {FORMS}.")
        if not 2 <= self.search_space <= 4:
            raise UserError(f"search_space={self.search_space}: expected 2 (all or half of channels and "
                             f"frames), 3 (also a quarter) or 4.")
        if self.cheap_kernel % 2 == 0 or self.cheap_kernel < 1:
            raise UserError(f"cheap_kernel={self.cheap_kernel}: expected an odd number, such as 1 or 3.")

    def _arrays(self, x, S_c: int, S_t: int, fixed: freezing.Frozen | None = None):
        """Kernel, bias (or None), cheap operations on channels and on frames, by number: the parameters."""
        channels = variants.channel_counts(self.features, self.groups, S_c)
        computed = channels[fixed.ratio if fixed else 0]
        kernel = self.param("kernel", self.kernel_init,
                            (*self.kernel_size, x.shape[-1] // self.groups, computed))
        bias = self.param("bias", nn.initializers.zeros, (computed,)) if self.use_bias else None
        dtype = self.dtype or jnp.result_type(x, kernel)
        side = self.cheap_kernel if x.ndim > 3 else 1
        init = nn.initializers.normal(self.cheap_scale / side)
        cheap_c = {i: self.param(
            f"cheap_c{i}", init, (side, side, 1, self.features - channels[i])).astype(dtype)
            for i in range(1, S_c) if not fixed or fixed.channels[i] or i == fixed.ratio}
        cheap_t = {j: self.param(
            f"cheap_t{j}", nn.initializers.ones, (2**j - 1, self.features)).astype(dtype)
            for j in range(1, S_t) if not fixed or fixed.frames[j] or j == fixed.stride}
        return kernel.astype(dtype), bias, cheap_c, cheap_t

    def _layer(self, x, S_c: int, S_t: int, arrays) -> variants.Layer:
        """Geometry of this convolution for inputs like `x`, with its arrays."""
        n, (kernel, bias, cheap_c, cheap_t) = len(self.kernel_size), arrays
        tuples = (blocks.per_axis(v, n) for v in (self.strides, self.padding, self.dilation))
        channels = variants.channel_counts(self.features, self.groups, S_c)
        layer = variants.Layer(x.shape, kernel.dtype, kernel, bias, *tuples, self.groups, channels, S_t,
                               self.plain)
        layer.cheap_c, layer.cheap_t = cheap_c, cheap_t
        return layer


def choose(y, sizes: Sequence[int]):
    """The variant of each axis that scores highest, the first of equals, as weights 1 and 0: like `y`.

    What the paper writes in one place, R = 2^p and r = (1/2)^p with a single decision p each; its sums have
    soft weights. The gradient is that of a softmax of the scores, passed straight through (ours).
    """
    found, start = [], 0
    for size in sizes:
        scores = y[:, start:start + size]
        soft = jax.nn.softmax(scores, axis=1)
        found.append(jax.nn.one_hot(scores.argmax(axis=1), size, dtype=y.dtype) + variants.gradient_of(soft))
        start += size
    return jnp.concatenate(found, axis=1)


def layers_of(backbone: str, given: str = "") -> str:
    """Regular expression of the gated convolutions: as given, or those known of a backbone.

    Raises:
        UserError: a backbone of which none are known.
    """
    known = given or facts(backbone).gated_layers
    if not known:
        raise UserError(
            f"config.model.backbone={backbone!r} has no list of gated convolutions. Those that have: "
            f"{gated_backbones()}. For another one give config.method.layers, a regular expression of "
            f"module paths such as 'layer.*/conv2'.")
    return known


def collect(gates) -> dict[str, Decision]:
    """{path of a layer: its decision} of the collection 'gates', blocks in numerical order."""
    flat = flax.traverse_util.flatten_dict(flax.core.unfreeze(gates), sep="/")
    return {path.removesuffix("/decision"): flat[path] for path in sorted(flat, key=natural_order)}


def natural_order(path: str) -> list:
    """Sorts 'layer3_10' behind 'layer3_2'."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]
