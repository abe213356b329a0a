"""MobileNetV4-Conv S, M and L on clips, plain (frames are averaged) and TSM (frames exchange channels).

Sources: MobileNetV4, arXiv 2404.10518; timm's `timm/models/mobilenetv3.py` (`mobilenetv4_conv_*`), whose
parameters and arithmetic these are. There is no TSM of it elsewhere: the shift stands where TSM has it in
MobileNetV2, before the first convolution of a block with a shortcut.

    clip (B,T,H,W,3) ─ stem ─ stage 1..4 ─ stage 5 (1x1) = features (B,T,h,w,960) ─ pool ─ linear 1280, batch
                     norm, ReLU ─ logits

A universal inverted bottleneck has up to two depthwise convolutions, before and after its expansion.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn

from effvid_jax.backbones import blocks, shifts
from effvid_jax.backbones.mobilenet_v2 import round_channels
from effvid_jax.backbones.mobilenet_v3 import Conv, MobileNetV3, Stages, shifted


class Universal(NamedTuple):
    """Blocks in a row: their number, depthwise kernels before and after the expansion (0: none), stride of
    the first block, expansion, channels."""

    count: int
    start: int
    middle: int
    stride: int
    expansion: float
    features: int


class Fused(NamedTuple):
    """A block whose expansion is a whole convolution: kernel, stride, expansion, channels."""

    kernel: int
    stride: int
    expansion: float
    features: int
    count: int = 1


U = Universal
STAGES: dict[str, tuple[Stages, int]] = {  # stages, channels of the stem
    "small": ((
        (Conv(3, 2, 32), Conv(1, 1, 32)),
        (Conv(3, 2, 96), Conv(1, 1, 64)),
        (U(1, 5, 5, 2, 3, 96), U(4, 0, 3, 1, 2, 96), U(1, 3, 0, 1, 4, 96)),
        (U(1, 3, 3, 2, 6, 128), U(1, 5, 5, 1, 4, 128), U(1, 0, 5, 1, 4, 128), U(1, 0, 5, 1, 3, 128),
         U(2, 0, 3, 1, 4, 128)),
        (Conv(1, 1, 960),),
    ), 32),
    "medium": ((
        (Fused(3, 2, 4, 48),),
        (U(1, 3, 5, 2, 4, 80), U(1, 3, 3, 1, 2, 80)),
        (U(1, 3, 5, 2, 6, 160), U(2, 3, 3, 1, 4, 160), U(1, 3, 5, 1, 4, 160), U(1, 3, 3, 1, 4, 160),
         U(1, 3, 0, 1, 4, 160), U(1, 0, 0, 1, 2, 160), U(1, 3, 0, 1, 4, 160)),
        (U(1, 5, 5, 2, 6, 256), U(1, 5, 5, 1, 4, 256), U(2, 3, 5, 1, 4, 256), U(1, 0, 0, 1, 4, 256),
         U(1, 3, 0, 1, 4, 256), U(1, 3, 5, 1, 2, 256), U(1, 5, 5, 1, 4, 256), U(2, 0, 0, 1, 4, 256),
         U(1, 5, 0, 1, 2, 256)),
        (Conv(1, 1, 960),),
    ), 32),
    "large": ((
        (Fused(3, 2, 4, 48),),
        (U(1, 3, 5, 2, 4, 96), U(1, 3, 3, 1, 4, 96)),
        (U(1, 3, 5, 2, 4, 192), U(3, 3, 3, 1, 4, 192), U(1, 3, 5, 1, 4, 192), U(5, 5, 3, 1, 4, 192),
         U(1, 3, 0, 1, 4, 192)),
        (U(4, 5, 5, 2, 4, 512), U(1, 5, 0, 1, 4, 512), U(1, 5, 3, 1, 4, 512), U(2, 5, 0, 1, 4, 512),
         U(1, 5, 3, 1, 4, 512), U(1, 5, 5, 1, 4, 512), U(3, 5, 0, 1, 4, 512)),
        (Conv(1, 1, 960),),
    ), 24),
}


class UniversalBlock(nn.Module):
    """`Universal` as a module: (B,T,H,W,C) in and out; the input is added where its shape is the output's."""

    in_features: int
    features: int
    row: Universal
    drop_path: float
    shift: Callable | None
    conv: blocks.ModuleDef
    norm: blocks.ModuleDef

    def setup(self):
        row = self.row
        unit = partial(blocks.ConvBN, conv_type=self.conv, norm=self.norm)
        hidden = round_channels(self.in_features * row.expansion)
        self.shortcut = row.stride == 1 and self.in_features == self.features
        self.shift_input = shifts.make_shift(self.shift if self.shortcut else None)
        layers = []
        if row.start:
            stride = 1 if row.middle else row.stride
            layers.append(("dw_start", unit(self.in_features, (row.start,) * 2, stride, row.start // 2,
                                            groups=self.in_features, relu=False)))
        layers.append(("pw_exp", unit(hidden, (1, 1))))
        if row.middle:
            layers.append(("dw_mid", unit(hidden, (row.middle,) * 2, row.stride, row.middle // 2,
                                          groups=hidden)))
        layers.append(("pw_proj", unit(self.features, (1, 1), relu=False)))
        for name, layer in layers:
            setattr(self, name, layer)
        self.names = tuple(name for name, _ in layers)
        self.drop_branch = blocks.DropPath(self.drop_path)

    def __call__(self, x, train: bool = False):
        y = self.shift_input(x)
        for name in self.names:
            y = getattr(self, name)(y, train)
        return blocks.once(x + self.drop_branch(y, train)) if self.shortcut else y


class FusedBlock(nn.Module):
    """`Fused` as a module: a convolution that expands, a linear 1x1 projection; children as timm's."""

    in_features: int
    features: int
    row: Fused
    drop_path: float
    conv: blocks.ModuleDef
    norm: blocks.ModuleDef

    def setup(self):
        row = self.row
        self.shortcut = row.stride == 1 and self.in_features == self.features
        self.conv_exp = self.conv(round_channels(self.in_features * row.expansion), (row.kernel,) * 2,
                                  row.stride, row.kernel // 2)
        self.bn1 = self.norm()
        self.conv_pwl = self.conv(self.features, (1, 1))
        self.bn2 = self.norm()
        self.drop_branch = blocks.DropPath(self.drop_path)

    def __call__(self, x, train: bool = False):
        y = blocks.relu(self.bn1(self.conv_exp(x, train), train))
        y = self.bn2(self.conv_pwl(y, train), train)
        return blocks.once(x + self.drop_branch(y, train)) if self.shortcut else y


class MobileNetV4(MobileNetV3):
    """MobileNetV4-Conv applied to each frame; fields as `MobileNetV3`, with rows of this file in `stages`."""

    stages: Stages = STAGES["small"][0]
    stem_features: int = 32
    stem_from: float = 1.0

    act = staticmethod(blocks.relu)
    head_norm = True

    def make_block(self, row, channels: int, features: int, drop_path: float, conv, norm) -> nn.Module:
        """See `MobileNetV3.make_block`."""
        if isinstance(row, Universal):
            return UniversalBlock(channels, features, row, drop_path, self.shift, conv, norm)
        if isinstance(row, Fused):
            return FusedBlock(channels, features, row, drop_path, conv, norm)
        return super().make_block(row, channels, features, drop_path, conv, norm)


def mobilenet_v4_conv(size: str, shift: bool | Callable = False, **options) -> MobileNetV4:
    """MobileNetV4-Conv-S, -M or -L ('small', 'medium', 'large').

    `shift` makes it TSM: True for 1/8 of the channels each way, or a function (see `MobileNetV3.shift`).
    """
    stages, stem = STAGES[size]
    return MobileNetV4(**{"stages": stages, "stem_features": stem, **shifted(shift, options)})
