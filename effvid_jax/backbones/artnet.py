"""ARTNet: residual networks that model appearance and relation in two branches (arXiv 1711.09125).

    clip (B,T,H,W,3) ─ stem: SMART 7x7 of stride 2 ─ stages 1..3: SMART blocks ─ stage 4: plain blocks
                     = features (B,T/16,H/16,W/16,512) ─ mean ─ logits

Source: wanglimin's ARTNet (`models/112_artnet_resnet_18_deploy.prototxt`, Caffe). The published weights read
BGR (`--bgr` at import); `pixels` in `facts.py` has their normalisation. The file does not say the batch
norms' epsilon: 1e-5 here.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from effvid_jax.backbones import blocks
from effvid_jax.backbones.backbone import ClipBackbone
from effvid_jax.errors import UserError

Axes = tuple[int, int, int]  # time, height, width


class Smart(nn.Module):
    """Appearance and relation of a map: [2-D convolution, squared 3-D convolution summed by pairs], reduced.

    The pair sums are a grouped 1x1x1 convolution, which begins with 0.5 everywhere. The reference keeps these
    weights; here they are trained.

    Attributes:
        features: channels of either branch and of the result, which is not normalised.
        kernel_size, strides: of the 3-D convolution; the 2-D one sees one frame.
        use_bias: of all but the pair sums.
        conv, norm: module classes.
    """

    features: int
    kernel_size: Axes
    strides: Axes = (1, 1, 1)
    use_bias: bool = False
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm

    def setup(self):
        conv = partial(self.conv, use_bias=self.use_bias)
        padding = tuple(k // 2 for k in self.kernel_size)
        self.appearance = conv(self.features, (1, *self.kernel_size[1:]), self.strides, (0, *padding[1:]))
        self.appearance_bn = self.norm()
        self.relation = conv(self.features, self.kernel_size, self.strides, padding)
        self.relation_bn = self.norm()
        pairs = self.features // 2
        self.pairs = self.conv(pairs, (1, 1, 1), groups=pairs, kernel_init=nn.initializers.constant(0.5))
        self.pairs_bn = self.norm()
        self.reduce = conv(self.features, (1, 1, 1))

    def __call__(self, x, train: bool = False):
        appearance = self.appearance_bn(self.appearance(x, train), train)
        relation = self.relation_bn(self.relation(x, train), train)
        relation = self.pairs_bn(self.pairs(jnp.square(relation), train), train)
        return self.reduce(blocks.relu(jnp.concatenate([appearance, relation], axis=-1)), train)


class Block(nn.Module):
    """3x3x3 convolution, then a `Smart` (or a 3x3x3 one), added to the input; norm and ReLU before both.

    Called with the sum that the block before ended with, which is not normalised, and the same normalised;
    `bn` is for this block's own.

    Attributes:
        features: channels.
        stride: on all axes; more than 1 projects the normalised input for the shortcut.
        shortcut_kernel: of that projection, on all axes.
        smart: whether the second convolution is a `Smart`.
        use_bias: of the convolutions.
        conv, norm: module classes.
    """

    features: int
    stride: int
    shortcut_kernel: int
    smart: bool
    use_bias: bool
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm

    def setup(self):
        conv = partial(self.conv, self.features, (3, 3, 3), use_bias=self.use_bias)
        strides = (self.stride,) * 3
        self.conv1 = conv(strides, (1, 1, 1))
        self.bn1 = self.norm()
        self.conv2 = (Smart(self.features, (3, 3, 3), (1, 1, 1), self.use_bias, self.conv, self.norm)
                      if self.smart else conv((1, 1, 1), (1, 1, 1)))
        if self.stride > 1:
            k = self.shortcut_kernel
            self.downsample_conv = self.conv(self.features, (k,) * 3, strides, k // 2, use_bias=self.use_bias)
        self.bn = self.norm()

    def __call__(self, total, normalised, train: bool = False):
        """(sum, the same normalised) before the block -> those after it."""
        y = blocks.relu(self.bn1(self.conv1(normalised, train), train))
        shortcut = self.downsample_conv(normalised, train) if self.stride > 1 else total
        total = blocks.once(self.conv2(y, train) + shortcut)
        return total, blocks.relu(self.bn(total, train))


class ARTNet(ClipBackbone):
    """ARTNet on a ResNet of basic blocks; see the module docstring for the flow.

    Attributes:
        num_classes: K.
        stage_sizes: blocks per stage.
        widths: channels per stage; the stem has the first stage's.
        smart: per stage, whether its blocks are SMART.
        biases: per stage, whether its convolutions have biases; the stem has none.
        shortcut_kernel: of the projections that begin stages 2 to 4; 3 in the authors' file, while the number
            of parameters that they state, 35.2 M, is that of 1.
        dropout: rate before the classifier.
        classifier_std: of the classifier's initial weights.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        bn_groups: see `blocks.BatchNorm.groups`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    smart: tuple[int, ...] = (1, 1, 1, 0)
    biases: tuple[int, ...] = (0, 1, 1, 1)
    shortcut_kernel: int = 3
    dropout: float = 0.2
    classifier_std: float = 0.01
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        for name in ("widths", "smart", "biases"):
            if len(getattr(self, name)) != len(self.stage_sizes):
                raise UserError(f"{name}={getattr(self, name)}: expected one entry for each of the "
                                f"{len(self.stage_sizes)} stages of stage_sizes={self.stage_sizes}.")
        conv = partial(self.conv, dtype=self.dtype)
        norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype)
        self.conv1 = Smart(self.widths[0], (3, 7, 7), (2, 2, 2), False, conv, norm)
        self.bn1 = norm()
        for s, size in enumerate(self.stage_sizes):
            kind = dict(smart=bool(self.smart[s]), use_bias=bool(self.biases[s]), conv=conv, norm=norm)
            setattr(self, f"layer{s + 1}", [
                Block(self.widths[s], 2 if s and b == 0 else 1, self.shortcut_kernel, **kind)
                for b in range(size)])
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype,
                               kernel_init=nn.initializers.normal(self.classifier_std))

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map after the stem at half the frames and resolution, not normalised."""
        return self.conv1(x_BTHWC, train)

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs residual stage `stage` (1-based) on the map before it."""
        total, normalised = x, blocks.relu(self.bn1(x, train)) if stage == 1 else x
        for block in getattr(self, f"layer{stage}"):
            total, normalised = block(total, normalised, train)
        return normalised
