"""MF-Net: sparse 3-D residual units whose groups are mixed by a multiplexer (arXiv 1807.11195).

    clip (B,T,H,W,3) ─ stem: 3x5x5, max-pool ─ stage 1 (halves time) ─ stages 2..4 (halve space)
                     ─ batch norm, ReLU = features (B,T/2,H/32,W/32,768) ─ mean ─ logits

Source: cypw's PyTorch-MFNet (`network/mfnet_3d.py`; module names from there). The reference asserts 16 frames
and has a head for sides of 193 to 224; here any clip will do.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn

from effvid_jax.backbones import blocks
from effvid_jax.backbones.backbone import ClipBackbone
from effvid_jax.errors import UserError


class NormConv(nn.Module):
    """Batch norm, ReLU, convolution; children `bn` and `conv`."""

    features: int
    kernel_size: tuple[int, int, int] = (1, 1, 1)
    strides: tuple[int, int, int] = (1, 1, 1)
    groups: int = 1
    conv_type: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm

    def setup(self):
        self.bn = self.norm()
        padding = tuple(k // 2 for k in self.kernel_size)
        self.conv = self.conv_type(self.features, self.kernel_size, self.strides, padding, self.groups)

    def __call__(self, x, train: bool = False):
        return self.conv(blocks.relu(self.bn(x, train)), train)


class Unit(nn.Module):
    """Multi-fibre unit: 1x1x1 twice over all channels, then 3x3x3 and 1x3x3 in groups, and a shortcut.

    The first unit of a stage has an ungrouped 1x1x1 in place of the 1x3x3, and a projected shortcut.

    Attributes:
        in_features, features: channels before and after.
        strides: of the 3x3x3 convolution.
        groups: fibres.
        first: whether it is a stage's first one.
        unit: makes a `NormConv`.
    """

    in_features: int
    features: int
    strides: tuple[int, int, int]
    groups: int
    first: bool
    unit: blocks.ModuleDef

    def setup(self):
        self.conv_i1 = self.unit(self.features // 4)
        self.conv_i2 = self.unit(self.in_features)
        self.conv_m1 = self.unit(self.features, (3, 3, 3), self.strides, self.groups)
        self.conv_m2 = (self.unit(self.features) if self.first else
                        self.unit(self.features, (1, 3, 3), groups=self.groups))
        if self.first:
            self.conv_w1 = self.unit(self.features, strides=self.strides)

    def __call__(self, x, train: bool = False):
        y = x + self.conv_i2(self.conv_i1(x, train), train)
        y = self.conv_m2(self.conv_m1(y, train), train)
        return blocks.once(y + (self.conv_w1(x, train) if self.first else x))


class NormRelu(nn.Module):
    """Batch norm and ReLU; child `bn`."""

    norm: blocks.ModuleDef = blocks.BatchNorm

    def setup(self):
        self.bn = self.norm()

    def __call__(self, x, train: bool = False):
        return blocks.relu(self.bn(x, train))


class MFNet(ClipBackbone):
    """3-D MF-Net; see the module docstring for the flow.

    Attributes:
        num_classes: K.
        stage_sizes: units per stage.
        widths: channels per stage.
        stem_width: channels of the stem.
        groups: fibres; they divide all of these.
        dropout: rate before the classifier (the reference has none).
        classifier_std: of the classifier's initial weights.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        bn_groups: see `blocks.BatchNorm.groups`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    stem_width: int = 16
    groups: int = 16
    dropout: float = 0.0
    classifier_std: float = 0.01
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        if len(self.widths) != len(self.stage_sizes):
            raise UserError(f"widths={self.widths}: expected one for each of the {len(self.stage_sizes)} "
                            f"stages of stage_sizes={self.stage_sizes}.")
        odd = [width for width in (self.stem_width, *self.widths) if width % self.groups or width % 4]
        if odd:
            raise UserError(f"stem_width={self.stem_width}, widths={self.widths}: expected multiples of 4 "
                            f"and of groups={self.groups}; not so: {odd}.")
        norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype)
        conv = partial(self.conv, dtype=self.dtype)
        unit = partial(NormConv, conv_type=conv, norm=norm)
        self.conv1 = blocks.ConvBN(self.stem_width, (3, 5, 5), (1, 2, 2), (1, 2, 2), conv_type=conv,
                                   norm=norm)
        channels = self.stem_width
        for s, (size, width) in enumerate(zip(self.stage_sizes, self.widths), start=2):
            for b in range(1, size + 1):
                strides = (1, 1, 1) if b > 1 else (2, 1, 1) if s == 2 else (1, 2, 2)
                setattr(self, f"conv{s}_B{b:02d}", Unit(channels, width, strides, self.groups, b == 1, unit))
                channels = width
        self.tail = NormRelu(norm)
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype,
                               kernel_init=nn.initializers.normal(self.classifier_std))

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map after the max-pool, at a quarter of the resolution."""
        return blocks.max_pool(self.conv1(x_BTHWC, train), (1, 3, 3), (1, 2, 2), (0, 1, 1))

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs stage `stage` (1-based) on the map before it; the last one ends with batch norm and ReLU."""
        for b in range(1, self.stage_sizes[stage - 1] + 1):
            x = getattr(self, f"conv{stage + 1}_B{b:02d}")(x, train)
        return self.tail(x, train) if stage == self.num_stages else x
