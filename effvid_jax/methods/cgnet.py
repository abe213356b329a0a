"""Channel gating (CGNet): parts of a convolution's sum are left out, per position, for comparison.

Hua et al., "Channel Gating Neural Networks", NeurIPS 2019, arXiv 1805.12549, which VA-RED2's Table 7 has
as a baseline. The first 1/p of the input channels give a partial sum; where its normalised value does not
exceed a learned threshold, the rest of the channels is not added:

    y = Wp * x[: C/p],   d = [BN(y) > Delta],   Y = d * (W * x) + (1 - d) * y
    L = CE + weight * sum (target - Delta)^2

d is a step with the gradient of sigmoid(sharpness (BN(y) - Delta)). Delta: one per output channel, and the
target pushes it up, which is what saves. Source of the rule and of the defaults (p = 4, initial threshold 0,
sharpness 2, target 1, weight 1e-4): the port in mengyuest/AdaFuse, by co-authors of VA-RED2
(ops/cg_utils.py `CGConv2dNew`, opts.py, the loss in main_gate.py). Which of our layers are gated is
ours: those of VA-RED2. How VA-RED2's table ran CGNet is not known.

There is a decision for every output number, so everything is computed and the cost is counted, there too: on
CPU and GPU this saves no time. The published speed is that of a chip made for it.
"""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from typing import ClassVar

import flax
import flax.linen as nn
import jax.numpy as jnp

from data_pipelines import Field
from effvid_jax.backbones import blocks, trace
from effvid_jax.gating.variants import Decision, gradient_of
from effvid_jax.methods import base
from effvid_jax.methods.gated import Gated, Gates


class ChannelGatedConv(blocks.Conv):
    """`blocks.Conv` with channel gating where `layers` matches its path and it has no groups.

    Attributes:
        layers: regular expression of (whole) module paths.
        partitions: p; convolutions of fewer input channels stay as they are.
        threshold: initial value of Delta.
        sharpness: of the sigmoid whose gradient the decision has.
    """

    layers: str = ""
    partitions: int = 4
    threshold: float = 0.0
    sharpness: float = 2.0

    @nn.compact
    def __call__(self, x, train: bool = False):
        first = x.shape[-1] // self.partitions
        if not first or self.groups > 1 or not re.fullmatch(self.layers, "/".join(self.path)):
            return super().__call__(x, train)
        kernel = self.effective_kernel((*self.kernel_size, x.shape[-1], self.features))
        threshold = self.param("gate_threshold", nn.initializers.constant(self.threshold), (self.features,))
        partial_sum, y = self.convolve(x[..., :first], kernel[..., :first, :]), self.convolve(x, kernel)
        with trace.silence():  # the static cost is the plain network's
            normed = blocks.BatchNorm(affine=False, name="gate_bn")(partial_sum, train)
        open_ = (normed > threshold) + gradient_of(nn.sigmoid(self.sharpness * (normed - threshold)))
        macs = y[0].size * kernel[..., 0].size
        self.note(x, y, x.shape[0] * macs)
        if not self.is_initializing():
            share = first / x.shape[-1]
            ratio = share + (1 - share) * open_.mean(axis=tuple(range(1, y.ndim)), dtype=jnp.float32)
            one = jnp.ones((x.shape[0], 1), jnp.float32)
            self.sow("gates", "decision", Decision(one, one, ratio, jnp.zeros(x.shape[0]), macs),
                     reduce_fn=lambda old, new: new, init_fn=lambda: None)
        y = partial_sum + open_.astype(y.dtype) * (y - partial_sum)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(y.dtype)
        return y


class ChannelGates(Gates):
    """The part: convolutions that are `ChannelGatedConv`, and the pull on their thresholds."""

    marker = "gate_threshold"

    def make_conv(self):
        """The channel-gated convolution with these settings."""
        return partial(ChannelGatedConv, layers=self.layers, partitions=self.settings.partitions,
                       threshold=self.settings.threshold, sharpness=self.settings.sharpness)

    def penalty(self, params, stats, found, logits, batch, clip_shape):
        """weight * sum (target - Delta)^2."""
        del stats, found, logits, batch, clip_shape
        flat = flax.traverse_util.flatten_dict(params)
        return self.settings.threshold_weight * sum(
            jnp.square(self.settings.threshold_target - value).sum()
            for path, value in flat.items() if path[-1] == self.marker), {}, {}


class CGNet(Gated):
    """The method of a config; reads `config.model` and `config.method`.

    Raises:
        UserError: a backbone without a list of layers, or a setting out of its range.
    """

    @dataclasses.dataclass(frozen=True)
    class Settings(base.MethodSettings):
        """Defaults of mengyuest/AdaFuse's port, see the module docstring."""

        training_only: ClassVar = ("threshold", "sharpness", "threshold_target", "threshold_weight")

        layers: str = ""  # regular expression of gated layers; "": the backbone's, as for VA-RED2
        partitions: int = 4  # p
        threshold: float = 0.0  # initial Delta
        sharpness: float = 2.0  # of the sigmoid whose gradient the decision has
        threshold_target: float = 1.0  # where the loss pulls the thresholds, the port's
        threshold_weight: float = 1e-4  # of that pull

        bounds: ClassVar = {
            "layers": Field.pattern(), "partitions": Field.integer(2, 2**16),
            "threshold": Field.number(-1e6, 1e6), "sharpness": Field.number(0, 1e6),
            "threshold_target": Field.number(-1e6, 1e6), "threshold_weight": Field.number(0, 1e9)}

    gates_class = ChannelGates
