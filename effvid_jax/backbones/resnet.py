"""2-D ResNets on clips: TSN (frames are averaged) and TSM (frames exchange channels).

Sources: torchvision `resnet.py`; ResKD's `mmaction/models/backbones/resnet.py`, `resnet_tsm.py` and
heads `tsn_head.py`, `tsm_head.py`. Module names follow torchvision; the stride of a bottleneck sits
on its 3x3 convolution.

    clip (B,T,H,W,3) ─ stem ─ stage 1..4 ─ features (B,T,h,w,C) ─ pool ─ (B,T,C) ─ consensus ─ logits
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from effvid_jax.backbones import blocks, remat, shifts
from effvid_jax.backbones.backbone import FrameBackbone
from effvid_jax.errors import UserError

DEPTHS = {  # depth: (blocks per stage, bottleneck?)
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; `(B,T,H,W,C)` in and out. Expansion 1."""

    width: int
    stride: int = 1
    project: bool = False
    shift: Callable | None = None
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    expansion = 1

    def setup(self):
        self.shift_input = shifts.make_shift(self.shift)
        self.conv1 = self.conv(self.width, (3, 3), self.stride, 1)
        self.bn1 = self.norm()
        self.conv2 = self.conv(self.width, (3, 3), 1, 1)
        self.bn2 = self.norm()
        if self.project:
            self.downsample_conv = self.conv(self.width, (1, 1), self.stride)
            self.downsample_bn = self.norm()

    def __call__(self, x, train: bool = False):
        y = blocks.relu(self.bn1(self.conv1(self.shift_input(x), train), train))
        y = self.bn2(self.conv2(y, train), train)
        if self.project:
            x = self.downsample_bn(self.downsample_conv(x, train), train)
        return blocks.once(blocks.relu(x + y))


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 convolutions and a shortcut. Expansion 4."""

    width: int
    stride: int = 1
    project: bool = False
    shift: Callable | None = None
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    expansion = 4

    def setup(self):
        self.shift_input = shifts.make_shift(self.shift)
        self.conv1 = self.conv(self.width, (1, 1))
        self.bn1 = self.norm()
        self.conv2 = self.conv(self.width, (3, 3), self.stride, 1)
        self.bn2 = self.norm()
        self.conv3 = self.conv(self.width * self.expansion, (1, 1))
        self.bn3 = self.norm()
        if self.project:
            self.downsample_conv = self.conv(self.width * self.expansion, (1, 1), self.stride)
            self.downsample_bn = self.norm()

    def __call__(self, x, train: bool = False):
        y = blocks.relu(self.bn1(self.conv1(self.shift_input(x), train), train))
        y = blocks.relu(self.bn2(self.conv2(y, train), train))
        y = self.bn3(self.conv3(y, train), train)
        if self.project:
            x = self.downsample_bn(self.downsample_conv(x, train), train)
        return blocks.once(blocks.relu(x + y))


class ResNet(FrameBackbone):
    """ResNet applied to each frame; see the module docstring for the flow.

    Attributes:
        num_classes: K.
        stage_sizes: residual blocks per stage.
        stage_strides: spatial stride of the first block of each stage.
        bottleneck: `Bottleneck` blocks (depth 50 and more) or `BasicBlock`s.
        width: channels of the first stage; stage s has `width * 2**s` (times the block's expansion).
        stem: 'imagenet' (7x7 stride 2, then max-pool 3x3 stride 2) or 'small' (3x3 stride 2 without
            max-pool, for clips of 32 to 64 pixels).
        shift: None for TSN, a word of `shifts.KINDS`, a function of (B,T,H,W,C), or a module class,
            applied to the input of the first convolution of residual branches (TSM "blockres"). Every
            second block where a stage has 23 blocks or more (ResNet-101, -152), as the reference does.
        consensus: 'features' averages frames before dropout and classifier (TSN head, ResKD
            students); 'logits' classifies every frame and averages the logits (TSM head). They differ
            in dropout only.
        dropout: rate before the classifier.
        classifier_std: of the classifier's initial weights. 0.001, the reference's, suits fine-tuning;
            from scratch it delays the first hundreds of steps, as it scales every gradient below it.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        partial_bn: all batch norms but the first are frozen (TSN's and TSM's fine-tuning on small sets).
        bn_groups: see `blocks.BatchNorm.groups`.
        remat: what is kept for gradients, see `remat.py`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    stage_strides: tuple[int, ...] = (1, 2, 2, 2)
    bottleneck: bool = True
    width: int = 64
    stem: str = "imagenet"
    shift: str | Callable | None = None
    consensus: str = "features"
    dropout: float = 0.5
    classifier_std: float = 0.001
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    partial_bn: bool = False
    bn_groups: int = 1
    remat: str = "none"
    dtype: Any = None

    def setup(self):
        if self.stem not in ("imagenet", "small"):
            raise UserError(f"stem={self.stem!r}: expected 'imagenet' or 'small'.")
        if self.consensus not in ("features", "logits"):
            raise UserError(f"consensus={self.consensus!r}: expected 'features' or 'logits'.")

        conv = partial(self.conv, dtype=self.dtype)
        norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype)
        kernel = (7, 3) if self.stem == "imagenet" else (3, 1)
        self.conv1 = conv(self.width, (kernel[0],) * 2, 2, kernel[1])
        self.bn1 = norm()
        norm = partial(norm, frozen=True) if self.partial_bn else norm
        expansion = (Bottleneck if self.bottleneck else BasicBlock).expansion
        every = 2 if max(self.stage_sizes) >= 23 else 1
        channels = self.width
        for s, size in enumerate(self.stage_sizes):
            width, blocks_of_stage = self.width * 2**s, []
            for b in range(size):
                stride = self.stage_strides[s] if b == 0 else 1
                blocks_of_stage.append(self.make_block(
                    s + 1, width, stride, stride > 1 or channels != width * expansion,
                    self.shift if b % every == 0 else None, conv, norm))
                channels = width * expansion
            setattr(self, f"layer{s + 1}", blocks_of_stage)
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype,
                               kernel_init=nn.initializers.normal(self.classifier_std))

    def make_block(self, stage: int, *fields) -> nn.Module:
        """A residual block of a stage (1-based), with the fields of `Bottleneck`; others have their own."""
        del stage
        return (Bottleneck if self.bottleneck else BasicBlock)(*fields)

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map after the stem, at 1/4 ('imagenet') or 1/2 ('small') of the resolution."""
        x = blocks.relu(self.bn1(self.conv1(x_BTHWC, train), train))
        return blocks.max_pool(x, (3, 3), (2, 2), (1, 1)) if self.stem == "imagenet" else x

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs residual stage `stage` (1-based) on the map before it."""
        for block in getattr(self, f"layer{stage}"):
            x = remat.run(block, x, train, self.remat)
        return x


def resnet(depth: int, shift: bool | str | Callable = False, **options):
    """ResNet of `depth` 18, 34, 50, 101 or 152.

    `shift` makes it TSM: True for 1/8 of the channels each way, a word or a function (see `ResNet.shift`).
    """
    sizes, bottleneck = DEPTHS[depth]
    options = {"stage_sizes": sizes, "bottleneck": bottleneck, **options}
    if shift:
        options = {"shift": shifts.temporal_shift if shift is True else shift,
                   "consensus": "logits", **options}
    return ResNet(**options)
