"""MobileNetV3 Large and Small on clips, plain (frames are averaged) and TSM (frames exchange channels).

Sources: MobileNetV3, arXiv 1905.02244; timm's `timm/models/mobilenetv3.py`, whose parameters and arithmetic
these are. The shift is TSM's, where mmaction2 has it in MobileNetV2.

    clip (B,T,H,W,3) ─ stem ─ stage 1..6 (Small: 5) ─ 1x1 = features (B,T,h,w,960) ─ pool ─ linear 1280,
                     hard swish ─ logits

MobileNetV4 (`mobilenet_v4.py`) has the same stem and head and other blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn

from effvid_jax.backbones import blocks, shifts
from effvid_jax.backbones.backbone import FrameBackbone
from effvid_jax.backbones.mobilenet_v2 import InvertedResidual, round_channels
from effvid_jax.backbones.x3d import SqueezeExcite
from effvid_jax.errors import UserError


class Residual(NamedTuple):
    """Blocks in a row: their number, kernel, stride of the first, expansion, channels, squeeze-excitation,
    and whether ReLU stands in for hard swish."""

    count: int
    kernel: int
    stride: int
    expansion: float
    features: int
    squeeze: bool = False
    relu: bool = False


class Conv(NamedTuple):
    """A convolution with batch norm and activation: kernel, stride, channels."""

    kernel: int
    stride: int
    features: int
    count: int = 1


Stages = tuple[tuple[NamedTuple, ...], ...]

STAGES: dict[str, tuple[Stages, int]] = {  # stages, channels of the head
    "large": ((
        (Residual(1, 3, 1, 1, 16, relu=True),),
        (Residual(1, 3, 2, 4, 24, relu=True), Residual(1, 3, 1, 3, 24, relu=True)),
        (Residual(3, 5, 2, 3, 40, True, True),),
        (Residual(1, 3, 2, 6, 80), Residual(1, 3, 1, 2.5, 80), Residual(2, 3, 1, 2.3, 80)),
        (Residual(2, 3, 1, 6, 112, True),),
        (Residual(3, 5, 2, 6, 160, True),),
        (Conv(1, 1, 960),),
    ), 1280),
    "small": ((
        (Residual(1, 3, 2, 1, 16, True, True),),
        (Residual(1, 3, 2, 4.5, 24, relu=True), Residual(1, 3, 1, 3.67, 24, relu=True)),
        (Residual(1, 5, 2, 4, 40, True), Residual(2, 5, 1, 6, 40, True)),
        (Residual(2, 5, 1, 3, 48, True),),
        (Residual(3, 5, 2, 6, 96, True),),
        (Conv(1, 1, 576),),
    ), 1024),
}


def deepened(stages: Stages, factor: float) -> Stages:
    """Stages with `factor` times as many blocks, rounded up; timm's rule for which are repeated."""
    found = []
    for stage in stages:
        left = sum(row.count for row in stage)
        wanted, rows = math.ceil(left * factor), []
        for row in reversed(stage):
            count = max(1, round(row.count / left * wanted))
            left, wanted = left - row.count, wanted - count
            rows.append(row._replace(count=count))
        found.append(tuple(reversed(rows)))
    return tuple(found)


class ConvAct(nn.Module):
    """`Conv` as a module; children as timm's, `conv` and `bn1`."""

    features: int
    kernel: int
    stride: int
    act: Callable
    conv_type: blocks.ModuleDef
    norm: blocks.ModuleDef

    def setup(self):
        self.conv = self.conv_type(self.features, (self.kernel, self.kernel), self.stride, self.kernel // 2)
        self.bn1 = self.norm()

    def __call__(self, x, train: bool = False):
        return self.act(self.bn1(self.conv(x, train), train))


class MobileNetV3(FrameBackbone):
    """MobileNetV3 applied to each frame; see the module docstring for the flow.

    Attributes:
        num_classes: K.
        stages: rows of blocks of each stage, see `Residual` and `Conv`.
        stem_features, head_features: channels of the stem and of the linear layer after pooling.
        width_mult: factor on all channels but the head's (rounded to multiples of 8), and but the stem's
            below `stem_from`.
        stem_from: least `width_mult` that the stem follows.
        stem: 'imagenet' (3x3 stride 2) or 'small' (3x3 stride 1, for clips of 32 to 64 pixels).
        shift: None, or a function of (B,T,H,W,C) applied before the first convolution of the blocks
            with a shortcut and an expansion (TSM).
        consensus: 'features' averages frames before dropout and classifier (TSN head); 'logits'
            classifies every frame and averages the logits (TSM head). They differ in dropout only.
        drop_path: block i of n (from 0) has i/n of it, see `InvertedResidual`.
        dropout: rate before the classifier.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        bn_groups: see `blocks.BatchNorm.groups`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    stages: Stages = STAGES["large"][0]
    stem_features: int = 16
    head_features: int = 1280
    width_mult: float = 1.0
    stem_from: float = 0.75
    stem: str = "imagenet"
    shift: Callable | None = None
    consensus: str = "features"
    drop_path: float = 0.0
    dropout: float = 0.2
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    bn_groups: int = 1
    dtype: Any = None

    act = staticmethod(blocks.hard_swish)
    head_norm = False  # whether the linear layer after pooling has a batch norm in place of its bias

    def setup(self):
        if self.stem not in ("imagenet", "small"):
            raise UserError(f"stem={self.stem!r}: expected 'imagenet' or 'small'.")
        if self.consensus not in ("features", "logits"):
            raise UserError(f"consensus={self.consensus!r}: expected 'features' or 'logits'.")
        conv = partial(self.conv, dtype=self.dtype)
        norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype)
        channels = self.stem_features
        if self.width_mult >= self.stem_from:
            channels = round_channels(channels * self.width_mult)
        self.conv_stem = conv(channels, (3, 3), 2 if self.stem == "imagenet" else 1, 1)
        self.bn1 = norm()
        index, total = 0, sum(row.count for stage in self.stages for row in stage)
        for s, stage in enumerate(self.stages):
            blocks_of_stage = []
            for row in stage:
                features = round_channels(row.features * self.width_mult)
                for b in range(row.count):
                    first = row if b == 0 else row._replace(stride=1)
                    blocks_of_stage.append(self.make_block(
                        first, channels, features, self.drop_path * index / total, conv, norm))
                    channels, index = features, index + 1
            setattr(self, f"layer{s + 1}", blocks_of_stage)
        self.conv_head = blocks.Dense(self.head_features, not self.head_norm, dtype=self.dtype)
        if self.head_norm:
            self.norm_head = norm()
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype,
                               kernel_init=nn.initializers.normal(0.01))

    def make_block(self, row, channels: int, features: int, drop_path: float, conv, norm) -> nn.Module:
        """The module of a row of `stages`, which `channels` enter and `features` leave."""
        if isinstance(row, Conv):
            return ConvAct(features, row.kernel, row.stride, self.act, conv, norm)

        def squeeze(hidden: int) -> nn.Module:
            return SqueezeExcite(round_channels(hidden / 4), self.dtype, (2, 3), gate=blocks.hard_sigmoid)

        return InvertedResidual(
            channels, features, row.stride, row.expansion, self.shift if row.expansion != 1 else None, conv,
            norm, row.kernel, drop_path=drop_path, act=blocks.relu if row.relu else self.act,
            squeeze=squeeze if row.squeeze else None)

    @property
    def num_stages(self) -> int:
        """Number of stages that `run_stage` accepts, 1-based; the last is the 1x1 convolution."""
        return len(self.stages)

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map after the stem, at 1/2 ('imagenet') or all ('small') of the resolution."""
        return self.act(self.bn1(self.conv_stem(x_BTHWC, train), train))

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs stage `stage` (1-based) on the map before it."""
        for block in getattr(self, f"layer{stage}"):
            x = block(x, train)
        return x

    def run_head(self, features_BTHWC, train: bool = False):
        """Last map -> (logits (B,K), frame features (B,T,C), before the linear layer after pooling)."""
        pooled_BTC = blocks.global_avg_pool(features_BTHWC)
        hidden = self._hidden(pooled_BTC, train)
        if self.consensus == "features":
            return self.fc(self.drop(hidden.mean(axis=1), deterministic=not train)), pooled_BTC
        return self.fc(self.drop(hidden, deterministic=not train)).mean(axis=1), pooled_BTC

    def classify(self, features):
        """The head after pooling, on any (..., C): for logits per position or per frame."""
        return self.fc(self._hidden(features))

    def _hidden(self, pooled, train: bool = False):
        y = self.conv_head(pooled)
        return self.act(self.norm_head(y, train) if self.head_norm else y)


def shifted(shift: bool | Callable, options: dict[str, Any]) -> dict[str, Any]:
    """Options of a network with `shift`: True for 1/8 of the channels each way, or a function."""
    return {"shift": shift if callable(shift) else shifts.temporal_shift, "consensus": "logits",
            **options} if shift else options


def mobilenet_v3(size: str, shift: bool | Callable = False, depth_mult: float = 1.0, **options):
    """MobileNetV3-Large or -Small ('large', 'small').

    `shift` makes it TSM: True for 1/8 of the channels each way, or a function (see `MobileNetV3.shift`).
    `depth_mult`: factor on the blocks of each stage.
    """
    stages, head = STAGES[size]
    return MobileNetV3(**{"stages": deepened(stages, depth_mult), "head_features": head,
                          **shifted(shift, options)})
