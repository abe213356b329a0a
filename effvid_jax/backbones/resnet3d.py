"""3-D ResNets: SlowOnly, I3D-ResNet, R3D, MC3 and R(2+1)D are kernel choices of one residual network.

    clip (B,T,H,W,3) ─ stem ─ stage 1..4 ─ features (B,T',h,w,C) ─ mean over T',h,w ─ logits

Sources: ResKD's mmaction2 0.20 (`mmaction/models/backbones/{resnet3d,resnet3d_slowonly,
resnet2plus1d}.py`, `common/conv2plus1d.py`, `heads/i3d_head.py`); torchvision
`models/video/resnet.py`; R(2+1)D, arXiv 1711.11248. Module names follow mmaction2.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn

from effvid_jax.backbones import blocks, remat, resnet
from effvid_jax.backbones.backbone import ClipBackbone
from effvid_jax.errors import UserError

Axes = tuple[int, int, int]  # time, height, width
FACTORINGS = ("", "torchvision", "blocks", "mmaction", "each")


class Conv2Plus1D(nn.Module):
    """A 3-D convolution as a spatial one, batch norm, ReLU and a temporal one.

    Attributes:
        features, kernel_size, strides, padding, use_bias: of the 3-D convolution that it stands for.
        middle: channels between the halves, see `middle_channels`.
        conv, norm: module classes.
    """

    features: int
    kernel_size: Axes
    strides: Axes
    padding: Axes
    middle: int
    use_bias: bool = False
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm

    def setup(self):
        k, s, p = self.kernel_size, self.strides, self.padding
        self.conv_s = self.conv(self.middle, (1, *k[1:]), (1, *s[1:]), (0, *p[1:]),
                                use_bias=self.use_bias)
        self.bn_s = self.norm()
        self.conv_t = self.conv(self.features, (k[0], 1, 1), (s[0], 1, 1), (p[0], 0, 0),
                                use_bias=self.use_bias)

    def __call__(self, x, train: bool = False):
        return self.conv_t(blocks.relu(self.bn_s(self.conv_s(x, train), train)), train)


def middle_channels(in_features: int, features: int, kernel_size: Axes) -> int:
    """Channels between the halves that keep the parameters of the 3-D kernel (arXiv 1711.11248 §3.5)."""
    time, space = kernel_size[0], kernel_size[1] * kernel_size[2]
    return time * space * in_features * features // (space * in_features + time * features)


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes the convolutions of a network, whole or factored; padding is half the kernel.

    Attributes:
        factoring, biases: see `ResNet3D`.
        conv, norm: module classes; the norm inside factored convolutions.
    """

    factoring: str
    biases: bool
    conv: blocks.ModuleDef
    norm: blocks.ModuleDef

    def __call__(self, in_features: int, features: int, kernel_size: Axes, strides: Axes = (1, 1, 1),
                 block_in: int | None = None, middle: int = 0, use_bias: bool = False):
        """A convolution of `in_features` to `features` channels.

        Args:
            in_features, features, kernel_size, strides: of the 3-D convolution.
            block_in: channels that enter the residual block; torchvision derives the middle from them.
            middle: overrides the rule for the channels between the halves.
            use_bias: whether a whole convolution has a bias; factored ones go by `biases`.
        """
        padding = tuple(k // 2 for k in kernel_size)
        everything = self.factoring in ("mmaction", "each")
        if not self.factoring or (kernel_size[0] == 1 and not everything):
            return self.conv(features, kernel_size, strides, padding, use_bias=use_bias)
        if self.factoring == "torchvision":
            in_features = block_in or in_features
        formal = (3, *kernel_size[1:]) if self.factoring == "mmaction" else kernel_size
        return Conv2Plus1D(
            features, kernel_size, strides, padding,
            middle or middle_channels(in_features, features, formal), self.biases, self.conv, self.norm)


class BasicBlock(nn.Module):
    """Two 3x3x3 (or 1x3x3) convolutions and a shortcut; `(B,T,H,W,C)` in and out. Expansion 1."""

    in_features: int
    width: int
    strides: Axes
    temporal: bool
    style: str
    make: Maker
    norm: blocks.ModuleDef
    expansion = 1

    def setup(self):
        kernel = (3 if self.temporal else 1, 3, 3)
        self.conv1 = self.make(self.in_features, self.width, kernel, self.strides)
        self.bn1 = self.norm()
        self.conv2 = self.make(self.width, self.width, kernel, block_in=self.in_features)
        self.bn2 = self.norm()
        self.project = self.strides != (1, 1, 1) or self.in_features != self.width
        if self.project:
            self.downsample_conv = self.make(self.in_features, self.width, (1, 1, 1), self.strides)
            self.downsample_bn = self.norm()

    def __call__(self, x, train: bool = False):
        y = blocks.relu(self.bn1(self.conv1(x, train), train))
        y = self.bn2(self.conv2(y, train), train)
        if self.project:
            x = self.downsample_bn(self.downsample_conv(x, train), train)
        return blocks.once(blocks.relu(x + y))


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut; `(B,T,H,W,C)` in and out. Expansion 4.

    Inflated blocks have a time axis of 3 in the first convolution (style '3x1x1': 3x1x1, 1x3x3, 1x1x1)
    or in the second ('3x3x3': 1x1x1, 3x3x3, 1x1x1). Strides sit on the second.
    """

    in_features: int
    width: int
    strides: Axes
    temporal: bool
    style: str
    make: Maker
    norm: blocks.ModuleDef
    expansion = 4

    def setup(self):
        first = 3 if self.temporal and self.style == "3x1x1" else 1
        second = 3 if self.temporal and self.style == "3x3x3" else 1
        features = self.width * self.expansion
        self.conv1 = self.make(self.in_features, self.width, (first, 1, 1))
        self.bn1 = self.norm()
        self.conv2 = self.make(self.width, self.width, (second, 3, 3), self.strides,
                               block_in=self.in_features)
        self.bn2 = self.norm()
        self.conv3 = self.make(self.width, features, (1, 1, 1))
        self.bn3 = self.norm()
        self.project = self.strides != (1, 1, 1) or self.in_features != features
        if self.project:
            self.downsample_conv = self.make(self.in_features, features, (1, 1, 1), self.strides)
            self.downsample_bn = self.norm()

    def __call__(self, x, train: bool = False):
        y = blocks.relu(self.bn1(self.conv1(x, train), train))
        y = blocks.relu(self.bn2(self.conv2(y, train), train))
        y = self.bn3(self.conv3(y, train), train)
        if self.project:
            x = self.downsample_bn(self.downsample_conv(x, train), train)
        return blocks.once(blocks.relu(x + y))


class ResNet3D(ClipBackbone):
    """3-D ResNet; see the module docstring for the flow.

    Attributes:
        num_classes: K.
        stage_sizes: residual blocks per stage.
        bottleneck: `Bottleneck` or `BasicBlock`s.
        width: channels of the first stage; stage s has `width * 2**s` (times the block's expansion).
        stem_width: channels of the stem; 0 for `width`.
        stem_kernel, stem_strides: of the first convolution (time, height, width).
        stem_norm: whether batch norm and ReLU follow it.
        stem_pool: temporal stride of the max-pool 1x3x3 stride (., 2, 2) after it; 0 for no max-pool.
        pool2: whether a max-pool 2x1x1 stride (2, 1, 1) comes before stage 2.
        inflate: per stage, whether its blocks reach over time: one for all, or a pattern that is
            repeated, such as (1, 0) for every second one.
        inflate_style: where bottlenecks have their time axis, '3x1x1' or '3x3x3'.
        time_strides, space_strides: of each stage's first block.
        factoring: '' for whole 3-D convolutions, or how they are factored as in R(2+1)D. 'blocks': those
            of the blocks that reach over time, each with its own middle. 'torchvision': the same, but
            both of a block with one middle. 'mmaction' and 'each': every convolution, 1x1x1 shortcuts
            too; mmaction takes the middle as if every kernel had a length of 3.
        biases: whether the stem and factored convolutions have biases.
        stem_middle: channels between the halves of a factored stem; 0 for the formula's.
        norm_eps: of all batch norms but those inside factored convolutions, which have 1e-5.
        dropout: rate before the classifier.
        classifier_std: of the classifier's initial weights; 0.01 is the reference's, a narrow network learns
            sooner with more.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        bn_groups: see `blocks.BatchNorm.groups`.
        remat: what is kept for gradients, see `remat.py`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    width: int = 64
    stem_width: int = 0
    stem_kernel: Axes = (1, 7, 7)
    stem_strides: Axes = (1, 2, 2)
    stem_norm: bool = True
    stem_pool: int = 1
    pool2: bool = False
    inflate: tuple[int | tuple[int, ...], ...] = (0, 0, 1, 1)
    inflate_style: str = "3x1x1"
    time_strides: tuple[int, ...] = (1, 1, 1, 1)
    space_strides: tuple[int, ...] = (1, 2, 2, 2)
    factoring: str = ""
    biases: bool = False
    stem_middle: int = 0
    norm_eps: float = 1e-5
    dropout: float = 0.5
    classifier_std: float = 0.01
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    bn_groups: int = 1
    remat: str = "none"
    dtype: Any = None

    def setup(self):
        self._check()
        conv = partial(self.conv, dtype=self.dtype)
        inner_norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype)
        norm = partial(inner_norm, eps=self.norm_eps)
        make = Maker(self.factoring, self.biases, conv, inner_norm)
        channels = self.stem_width or self.width
        self.conv1 = make(3, channels, tuple(self.stem_kernel), tuple(self.stem_strides),
                          middle=self.stem_middle, use_bias=self.biases)
        if self.stem_norm:
            self.bn1 = norm()
        for s, size in enumerate(self.stage_sizes):
            blocks_of_stage = []
            for b in range(size):
                blocks_of_stage.append(self.make_block(s, b, channels, make, norm))
                channels = self.stage_channels(s + 1)
            setattr(self, f"layer{s + 1}", blocks_of_stage)
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype,
                               kernel_init=nn.initializers.normal(self.classifier_std))

    def make_block(self, s: int, b: int, channels: int, make: Maker, norm: blocks.ModuleDef):
        """Block `b` of stage `s` (both 0-based), which `channels` enter."""
        inflate, space = self.inflate[s], self.space_strides[s]
        strides = (self.time_strides[s], space, space) if b == 0 else (1, 1, 1)
        temporal = bool(inflate if isinstance(inflate, int) else inflate[b % len(inflate)])
        block = Bottleneck if self.bottleneck else BasicBlock
        return block(channels, self.width * 2**s, strides, temporal, self.inflate_style, make, norm)

    def stage_channels(self, stage: int) -> int:
        """Channels of the map after `stage` (1-based)."""
        block = Bottleneck if self.bottleneck else BasicBlock
        return self.width * 2**(stage - 1) * block.expansion

    def _check(self) -> None:
        if self.factoring not in FACTORINGS:
            raise UserError(f"factoring={self.factoring!r}: expected one of {FACTORINGS}.")
        if self.inflate_style not in ("3x1x1", "3x3x3"):
            raise UserError(f"inflate_style={self.inflate_style!r}: expected '3x1x1' or '3x3x3'.")
        for name in ("inflate", "time_strides", "space_strides"):
            if len(getattr(self, name)) != len(self.stage_sizes):
                raise UserError(f"{name}={getattr(self, name)}: expected one entry for each of the "
                                 f"{len(self.stage_sizes)} stages of stage_sizes={self.stage_sizes}.")

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map after the first convolution and its max-pool."""
        x = self.conv1(x_BTHWC, train)
        if self.stem_norm:
            x = blocks.relu(self.bn1(x, train))
        if self.stem_pool:
            x = blocks.max_pool(x, (1, 3, 3), (self.stem_pool, 2, 2), (0, 1, 1))
        return x

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs residual stage `stage` (1-based) on the map before it."""
        if stage == 2 and self.pool2:
            x = blocks.max_pool(x, (2, 1, 1), (2, 1, 1), (0, 0, 0))
        for block in getattr(self, f"layer{stage}"):
            x = remat.run(block, x, train, self.remat)
        return x


# ------------------------------------------------------------------------------------- the networks
def slowonly(depth: int = 50, **options) -> ResNet3D:
    """SlowOnly pathway of SlowFast (arXiv 1812.03982): no temporal stride, time in stages 3 and 4."""
    sizes, bottleneck = resnet.DEPTHS[depth]
    return ResNet3D(**{"stage_sizes": sizes, "bottleneck": bottleneck, **options})


def i3d_resnet(**options) -> ResNet3D:
    """mmaction2's I3D-ResNet-50: half of the blocks inflated, time reduced 8-fold by stem and pools."""
    return ResNet3D(**{
        "stem_kernel": (5, 7, 7), "stem_strides": (2, 2, 2), "stem_pool": 2, "pool2": True,
        "inflate": (1, (1, 0), (1, 0), (0, 1)), **options})


def r2plus1d_mmaction(depth: int = 34, **options) -> ResNet3D:
    """mmaction2's R(2+1)D: max-pool in the stem, shortcuts factored, BN eps 1e-3 outside."""
    sizes, bottleneck = resnet.DEPTHS[depth]
    return ResNet3D(**{
        "stage_sizes": sizes, "bottleneck": bottleneck, "factoring": "mmaction",
        "stem_kernel": (3, 7, 7), "inflate": (1, 1, 1, 1), "time_strides": (1, 2, 2, 2),
        "norm_eps": 1e-3, **options})


R3D_18 = {"stage_sizes": (2, 2, 2, 2), "bottleneck": False, "stem_kernel": (3, 7, 7), "stem_pool": 0,
          "inflate": (1, 1, 1, 1), "time_strides": (1, 2, 2, 2)}
R2PLUS1D_18_VARED = {**R3D_18, "factoring": "each", "stem_norm": False}


def r3d_18(**options) -> ResNet3D:
    """torchvision's R3D-18: 3x3x3 convolutions throughout; no dropout."""
    return ResNet3D(**{**R3D_18, "dropout": 0.0, **options})


def mc3_18(**options) -> ResNet3D:
    """torchvision's MC3-18: 3x3x3 convolutions in stage 1, 1x3x3 after it, time is never reduced."""
    return r3d_18(**{"inflate": (1, 0, 0, 0), "time_strides": (1, 1, 1, 1), **options})


def r2plus1d_18(**options) -> ResNet3D:
    """torchvision's R(2+1)D-18: the convolutions of the blocks factored, stem with 45 in the middle."""
    return r3d_18(**{"factoring": "torchvision", "stem_middle": 45, **options})


def r2plus1d_18_vared(**options) -> ResNet3D:
    """R(2+1)D-18 with every convolution factored on its own, 83 channels in the middle of the stem.

    VA-RED2 (arXiv 2102.07887) publishes no code. Of the public variants this one (of
    irhum/R2Plus1D-PyTorch, less its convolution biases; its stem ends without batch norm and ReLU)
    meets the static cost of 27.7 / 55.2 / 110.5 GFLOPs at 8 / 16 / 32 frames of 128x128 pixels within
    0.6 %; torchvision's R(2+1)D-18 has 4 % less.
    """
    return ResNet3D(**{**R2PLUS1D_18_VARED, **options})
