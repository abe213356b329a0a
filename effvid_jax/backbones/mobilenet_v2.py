"""MobileNetV2 on clips, plain (frames are averaged) and TSM (frames exchange channels).

Sources: MobileNetV2, arXiv 1801.04381; mmaction2's `mmaction/models/backbones/mobilenet_v2.py`,
`mobilenet_v2_tsm.py` and head `tsm_head.py`. Parameters and arithmetic equal torchvision's
`mobilenet_v2` too.

    clip (B,T,H,W,3) ─ stem ─ stage 1..7 ─ stage 8 (1x1) = features (B,T,h,w,1280) ─ pool ─ logits
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from effvid_jax.backbones import blocks, shifts
from effvid_jax.backbones.backbone import FrameBackbone
from effvid_jax.errors import UserError

STAGES = (  # expansion, channels, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def round_channels(channels: float, divisor: int = 8) -> int:
    """Nearest multiple of `divisor`, raised by one step where rounding would lose over 10 %."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution and linear 1x1 projection; `(B,T,H,W,C)` in and out.

    The input is added where its shape is the output's. Only blocks with that shortcut and an
    expansion are shifted, as the reference does.

    Attributes:
        in_features, features: channels before and after.
        stride, expansion, kernel: of the block; channels inside are `expansion` times those before, rounded.
        padding: zeros on both sides before the depthwise convolution; None: half the kernel.
        pad: what is done to its input besides.
        drop_path: rate at which training leaves the branch beside the shortcut out, for whole clips.
        act: after the expansion and after the depthwise convolution.
        squeeze: None, or a function of the channels inside that makes the module between the depthwise
            convolution and the projection.
        shift, conv, norm: see `MobileNetV2`.
    """

    in_features: int
    features: int
    stride: int = 1
    expansion: float = 6
    shift: Callable | None = None
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    kernel: int = 3
    padding: int | None = None
    pad: Callable | None = None
    drop_path: float = 0.0
    act: Callable = blocks.relu6
    squeeze: Callable[[int], nn.Module] | None = None

    def setup(self):
        hidden = round_channels(self.in_features * self.expansion)
        self.shortcut = self.stride == 1 and self.in_features == self.features
        self.shift_input = shifts.make_shift(self.shift if self.shortcut else None)
        if self.expansion > 1:
            self.expand_conv = self.conv(hidden, (1, 1))
            self.expand_bn = self.norm()
        padding = self.kernel // 2 if self.padding is None else self.padding
        self.depthwise_conv = self.conv(hidden, (self.kernel, self.kernel), self.stride, padding,
                                        groups=hidden)
        self.depthwise_bn = self.norm()
        if self.squeeze is not None:
            self.se = self.squeeze(hidden)
        self.project_conv = self.conv(self.features, (1, 1))
        self.project_bn = self.norm()
        self.drop_branch = blocks.DropPath(self.drop_path)

    def __call__(self, x, train: bool = False):
        y = x
        if self.expansion > 1:
            y = self.shift_input(y)
            y = self.act(self.expand_bn(self.expand_conv(y, train), train))
        y = y if self.pad is None else self.pad(y)
        y = self.act(self.depthwise_bn(self.depthwise_conv(y, train), train))
        if self.squeeze is not None:
            y = self.se(y)
        y = self.project_bn(self.project_conv(y, train), train)
        return blocks.once(x + self.drop_branch(y, train)) if self.shortcut else y


class MobileNetV2(FrameBackbone):
    """MobileNetV2 applied to each frame; see the module docstring for the flow.

    Attributes:
        num_classes: K.
        width_mult: factor on all channels (rounded to multiples of 8; the last layer never has fewer
            than 1280).
        stem: 'imagenet' (3x3 stride 2) or 'small' (3x3 stride 1, for clips of 32 to 64 pixels).
        shift: None, a word of `shifts.KINDS`, or a function of (B,T,H,W,C) applied before the first
            convolution of the blocks with a shortcut (TSM).
        consensus: 'features' averages frames before dropout and classifier (TSN head); 'logits'
            classifies every frame and averages the logits (TSM head). They differ in dropout only.
        dropout: rate before the classifier.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        bn_groups: see `blocks.BatchNorm.groups`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    width_mult: float = 1.0
    stem: str = "imagenet"
    shift: str | Callable | None = None
    consensus: str = "features"
    dropout: float = 0.5
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        if self.stem not in ("imagenet", "small"):
            raise UserError(f"stem={self.stem!r}: expected 'imagenet' or 'small'.")
        if self.consensus not in ("features", "logits"):
            raise UserError(f"consensus={self.consensus!r}: expected 'features' or 'logits'.")

        conv = partial(self.conv, dtype=self.dtype)
        norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype)
        channels = round_channels(32 * self.width_mult)
        self.conv1 = conv(channels, (3, 3), 2 if self.stem == "imagenet" else 1, 1)
        self.bn1 = norm()
        for s, (expansion, base, size, stride) in enumerate(STAGES):
            features, blocks_of_stage = round_channels(base * self.width_mult), []
            for b in range(size):
                blocks_of_stage.append(InvertedResidual(
                    channels, features, stride if b == 0 else 1, expansion, self.shift, conv, norm))
                channels = features
            setattr(self, f"layer{s + 1}", blocks_of_stage)
        self.conv2 = conv(int(1280 * max(self.width_mult, 1.0)), (1, 1))
        self.bn2 = norm()
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype,
                               kernel_init=nn.initializers.normal(0.001))

    @property
    def num_stages(self) -> int:
        """Number of stages that `run_stage` accepts, 1-based; the last is the 1x1 convolution."""
        return len(STAGES) + 1

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map after the stem, at 1/2 ('imagenet') or all ('small') of the resolution."""
        return blocks.relu6(self.bn1(self.conv1(x_BTHWC, train), train))

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs stage `stage` (1-based) on the map before it."""
        if stage == self.num_stages:
            return blocks.relu6(self.bn2(self.conv2(x, train), train))
        for block in getattr(self, f"layer{stage}"):
            x = block(x, train)
        return x


def mobilenet_v2(shift: bool | str | Callable = False, **options):
    """MobileNetV2.

    `shift` makes it TSM: True for 1/8 of the channels each way, a word or a function (see
    `MobileNetV2.shift`).
    """
    if shift:
        options = {"shift": shifts.temporal_shift if shift is True else shift,
                   "consensus": "logits", **options}
    return MobileNetV2(**options)
