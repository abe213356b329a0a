"""X3D: a narrow, deep 3-D network of depthwise bottlenecks (arXiv 2004.04730).

    clip (B,T,H,W,3) ─ stem ─ stage 1..4 ─ stage 5 (1x1x1) = features (B,T,h,w,432) ─ pool
                     ─ linear 2048, ReLU ─ logits

Time is never reduced. Sources: PySlowFast (`slowfast/models/video_model_builder.py`, `head_helper.py`,
`resnet_helper.py`, `configs/Kinetics/X3D_*.yaml`) and ResKD's mmaction2 (`mmaction/models/backbones/
x3d.py`, `heads/x3d_head.py`); both have the same tensors and differ in the head at other resolutions.
Module names follow mmaction2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from effvid_jax.backbones import blocks
from effvid_jax.backbones.backbone import Backbone, mean_of_positions
from effvid_jax.backbones.mobilenet_v2 import round_channels
from effvid_jax.errors import UserError

DEPTHS = {"s": (3, 5, 11, 7), "m": (3, 5, 11, 7), "l": (5, 10, 25, 15)}  # blocks per stage


class SqueezeExcite(nn.Module):
    """Scales channels by a small network of their means over the clip (arXiv 1709.01507).

    Attributes:
        hidden: channels of the small network.
        dtype: computation type.
        axes: that the means are over; (2, 3): of every frame.
        act, gate: functions after its two layers.
    """

    hidden: int
    dtype: Any = None
    axes: tuple[int, ...] = (1, 2, 3)
    act: Callable = blocks.relu
    gate: Callable = blocks.sigmoid

    @nn.compact
    def __call__(self, x_BTHWC):
        # Convolutions as in the references, so that counters treat their biases alike.
        conv = partial(blocks.Conv, kernel_size=(1,) * len(self.axes), use_bias=True, dtype=self.dtype)
        y = jnp.expand_dims(blocks.global_avg_pool(x_BTHWC, self.axes), self.axes)
        y = self.act(conv(self.hidden, name="fc1")(y))
        return x_BTHWC * self.gate(conv(x_BTHWC.shape[-1], name="fc2")(y))


class Block(nn.Module):
    """1x1x1, depthwise 3x3x3 (strided in space), optional squeeze-excitation, Swish, 1x1x1; shortcut."""

    in_features: int
    features: int
    hidden: int
    stride: int
    squeeze: int
    dtype: Any
    conv: blocks.ModuleDef
    norm: blocks.ModuleDef
    last_norm: blocks.ModuleDef

    def setup(self):
        strides = (1, self.stride, self.stride)
        self.conv1 = self.conv(self.hidden, (1, 1, 1))
        self.bn1 = self.norm()
        self.conv2 = self.conv(self.hidden, (3, 3, 3), strides, (1, 1, 1), groups=self.hidden)
        self.bn2 = self.norm()
        if self.squeeze:
            self.se_module = SqueezeExcite(self.squeeze, self.dtype)
        self.conv3 = self.conv(self.features, (1, 1, 1))
        self.bn3 = self.last_norm()
        self.project = self.stride > 1 or self.in_features != self.features
        if self.project:
            self.downsample_conv = self.conv(self.features, (1, 1, 1), strides)
            self.downsample_bn = self.norm()

    def __call__(self, x, train: bool = False):
        y = blocks.relu(self.bn1(self.conv1(x, train), train))
        y = self.bn2(self.conv2(y, train), train)
        if self.squeeze:
            y = self.se_module(y)
        y = self.bn3(self.conv3(blocks.swish(y), train), train)
        if self.project:
            x = self.downsample_bn(self.downsample_conv(x, train), train)
        return blocks.once(blocks.relu(x + y))


class X3D(Backbone):
    """X3D; see the module docstring for the flow.

    Attributes:
        num_classes: K.
        stage_sizes: blocks per stage.
        widths: channels per stage; the first is the stem's too.
        expansion: channels inside a block against its output.
        head_pool: None for the mean over the whole map (mmaction2), or the window of PySlowFast's head:
            (frames, side, side) of the last map at *training* resolution. On a larger clip it has
            several positions; the logits are then the log of their mean probabilities. It is clipped to
            a smaller map, where the reference fails.
        zero_init: start the last batch norm of every block at 0, as both references do.
        dropout: rate before the classifier.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        bn_groups: see `blocks.BatchNorm.groups`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = DEPTHS["m"]
    widths: tuple[int, ...] = (24, 48, 96, 192)
    expansion: float = 2.25
    head_pool: tuple[int, int, int] | None = None
    zero_init: bool = True
    dropout: float = 0.5
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        if len(self.widths) != len(self.stage_sizes):
            raise UserError(f"widths={self.widths}: expected one for each of the "
                             f"{len(self.stage_sizes)} stages of stage_sizes={self.stage_sizes}.")
        conv = partial(self.conv, dtype=self.dtype)
        norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype)
        last_norm = partial(norm, scale_init=nn.initializers.zeros) if self.zero_init else norm
        channels = self.widths[0]
        self.conv1_s = conv(channels, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.conv1_t = conv(channels, (5, 1, 1), (1, 1, 1), (2, 0, 0), groups=channels)
        self.bn1 = norm()
        for s, (size, width) in enumerate(zip(self.stage_sizes, self.widths)):
            hidden, blocks_of_stage = int(width * self.expansion), []
            for b in range(size):
                squeeze = round_channels(hidden / 16) if b % 2 == 0 else 0
                blocks_of_stage.append(Block(channels, width, hidden, 2 if b == 0 else 1, squeeze,
                                             self.dtype, conv, norm, last_norm))
                channels = width
            setattr(self, f"layer{s + 1}", blocks_of_stage)
        self.conv5 = conv(int(channels * self.expansion), (1, 1, 1))
        self.bn5 = norm()
        init = nn.initializers.normal(0.01)
        self.fc1 = blocks.Dense(2048, use_bias=False, dtype=self.dtype, kernel_init=init)
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype, kernel_init=init)

    @property
    def num_stages(self) -> int:
        """Number of stages that `run_stage` accepts, 1-based; the last is the 1x1x1 convolution."""
        return len(self.stage_sizes) + 1

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map after the factored stem, at half the resolution."""
        x = self.conv1_t(self.conv1_s(x_BTHWC, train), train)
        return blocks.relu(self.bn1(x, train))

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs stage `stage` (1-based) on the map before it."""
        if stage == self.num_stages:
            return blocks.relu(self.bn5(self.conv5(x, train), train))
        for block in getattr(self, f"layer{stage}"):
            x = block(x, train)
        return x

    def run_head(self, features_BTHWC, train: bool = False):
        """Last map -> (logits (B,K), frame features (B,T,C))."""
        if self.head_pool is None:
            frames_BTC, clip_BC = blocks.clip_avg_pool(features_BTHWC)
            return self._classify(clip_BC, train), frames_BTC
        logits = mean_of_positions(self.position_logits(features_BTHWC, train))
        return logits, features_BTHWC.mean(axis=(2, 3))

    def position_logits(self, features_BTHWC, train: bool = False):
        """Logits of every position of the head's window (B, T', h', w', K)."""
        window = tuple(min(k, n) for k, n in zip(self.head_pool, features_BTHWC.shape[1:4]))
        return self._classify(blocks.avg_pool(features_BTHWC, window, (1, 1, 1), (0, 0, 0)), train)

    def _classify(self, pooled, train: bool = False):
        return self.fc(self.drop(blocks.relu(self.fc1(pooled)), deterministic=not train))

    def classify(self, features):
        """The head after pooling, on any (..., C): for logits per position or per frame."""
        return self._classify(features)


def x3d(size: str = "m", **options) -> X3D:
    """X3D-S, -M or -L. S and M are one network: made for 13x160x160 and 16x224x224 clips; L 16x312x312."""
    return X3D(**{"stage_sizes": DEPTHS[size], **options})
