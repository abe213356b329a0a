"""GhostNet on clips (frames are averaged): half of every map is a cheap function of the other half.

    clip (B,T,H,W,3) ─ stem ─ stages 1..9 ─ stage 10 (1x1) = features (B,T,H/32,W/32,960) ─ pool
                     ─ linear 1280, ReLU ─ logits

Sources: arXiv 1911.11907, whose redundant feature maps VA-RED2 begins with; timm 1.0.31
(`timm/models/ghostnet.py`; module names from there).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from effvid_jax.backbones import blocks
from effvid_jax.backbones.backbone import FrameBackbone
from effvid_jax.backbones.mobilenet_v2 import round_channels
from effvid_jax.errors import UserError

STAGES = (  # of blocks: kernel, channels inside, channels, squeeze-and-excitation?, stride
    ((3, 16, 16, 0, 1),),
    ((3, 48, 24, 0, 2),),
    ((3, 72, 24, 0, 1),),
    ((5, 72, 40, 1, 2),),
    ((5, 120, 40, 1, 1),),
    ((3, 240, 80, 0, 2),),
    ((3, 200, 80, 0, 1), (3, 184, 80, 0, 1), (3, 184, 80, 0, 1), (3, 480, 112, 1, 1), (3, 672, 112, 1, 1)),
    ((5, 672, 160, 1, 2),),
    ((5, 960, 160, 0, 1), (5, 960, 160, 1, 1), (5, 960, 160, 0, 1), (5, 960, 160, 1, 1)),
)
STEM, LAST, HEAD = 16, 960, 1280  # channels


class SqueezeExcite(nn.Module):
    """Scales the channels of every frame by a small network of their means, with a hard sigmoid."""

    hidden: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        conv = partial(blocks.Conv, kernel_size=(1, 1), use_bias=True, dtype=self.dtype)
        y = blocks.global_avg_pool(x)[..., None, None, :]
        y = blocks.relu(conv(self.hidden, name="conv_reduce")(y))
        return x * (blocks.relu6(conv(x.shape[-1], name="conv_expand")(y) + 3) / 6)


class Ghost(nn.Module):
    """1x1 convolution to half of the channels, a depthwise 3x3 one of these for the other half.

    Attributes:
        features: channels of the result.
        relu: whether ReLU follows both.
        unit: makes a `blocks.ConvBN`.
    """

    features: int
    relu: bool
    unit: blocks.ModuleDef

    def setup(self):
        half = -(-self.features // 2)
        self.primary = self.unit(half, (1, 1), relu=self.relu)
        self.cheap = self.unit(half, (3, 3), 1, 1, half, relu=self.relu)

    def __call__(self, x, train: bool = False):
        primary = self.primary(x, train)
        return jnp.concatenate([primary, self.cheap(primary, train)], axis=-1)[..., :self.features]


class Block(nn.Module):
    """Ghost module, strided depthwise convolution, squeeze-and-excitation, linear ghost module; shortcut.

    Attributes:
        in_features, hidden, features: channels before, inside and after.
        kernel, stride: of the depthwise convolutions, which only strided blocks have.
        squeeze: channels inside squeeze-and-excitation; 0: none.
        dtype: see `GhostNet`.
        unit: see `Ghost`.
    """

    in_features: int
    hidden: int
    features: int
    kernel: int
    stride: int
    squeeze: int
    dtype: Any
    unit: blocks.ModuleDef

    def setup(self):
        def depthwise(channels):
            return self.unit(channels, (self.kernel,) * 2, self.stride, self.kernel // 2, channels,
                             relu=False)

        self.ghost1 = Ghost(self.hidden, True, self.unit)
        if self.stride > 1:
            self.dw = depthwise(self.hidden)
        if self.squeeze:
            self.se = SqueezeExcite(self.squeeze, self.dtype)
        self.ghost2 = Ghost(self.features, False, self.unit)
        self.project = self.stride > 1 or self.in_features != self.features
        if self.project:
            self.shortcut_dw = depthwise(self.in_features)
            self.shortcut = self.unit(self.features, (1, 1), relu=False)

    def __call__(self, x, train: bool = False):
        y = self.ghost1(x, train)
        y = self.dw(y, train) if self.stride > 1 else y
        y = self.se(y) if self.squeeze else y
        y = self.ghost2(y, train)
        return blocks.once(y + (self.shortcut(self.shortcut_dw(x, train), train) if self.project else x))


class GhostNet(FrameBackbone):
    """GhostNet applied to each frame; see the module docstring for the flow.

    Attributes:
        num_classes: K.
        width_mult: factor on all channels but the head's (rounded to multiples of 4).
        kept_blocks: blocks of each stage, the first of those in `STAGES`; 0 leaves a stage out.
        stem: 'imagenet' (3x3 stride 2) or 'small' (3x3 stride 1, for clips of 32 to 64 pixels).
        consensus: 'features' averages frames before dropout and classifier (TSN head); 'logits'
            classifies every frame and averages the logits. They differ in dropout only.
        dropout: rate before the classifier.
        classifier_std: of the classifier's initial weights.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        bn_groups: see `blocks.BatchNorm.groups`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    width_mult: float = 1.0
    kept_blocks: tuple[int, ...] = tuple(map(len, STAGES))
    stem: str = "imagenet"
    consensus: str = "features"
    dropout: float = 0.2
    classifier_std: float = 0.01
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        if self.stem not in ("imagenet", "small"):
            raise UserError(f"stem={self.stem!r}: expected 'imagenet' or 'small'.")
        if self.consensus not in ("features", "logits"):
            raise UserError(f"consensus={self.consensus!r}: expected 'features' or 'logits'.")

        most = tuple(map(len, STAGES))
        if len(self.kept_blocks) != len(most) or any(not 0 <= n <= m for n, m in zip(self.kept_blocks, most)):
            raise UserError(f"kept_blocks={self.kept_blocks}: expected {len(most)} numbers of blocks, at "
                            f"most {most}.")

        def wide(channels):
            return round_channels(self.width_mult * channels, 4)

        conv = partial(self.conv, dtype=self.dtype)
        norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype)
        unit = partial(blocks.ConvBN, conv_type=conv, norm=norm)
        channels = wide(STEM)
        self.conv_stem = unit(channels, (3, 3), 2 if self.stem == "imagenet" else 1, 1)
        for s, stage in enumerate(STAGES):
            blocks_of_stage = []
            for kernel, hidden, features, squeeze, stride in stage[:self.kept_blocks[s]]:
                squeezed = round_channels(wide(hidden) / 4, 4) if squeeze else 0
                blocks_of_stage.append(
                    Block(channels, wide(hidden), wide(features), kernel, stride, squeezed, self.dtype, unit))
                channels = wide(features)
            setattr(self, f"blocks{s}", blocks_of_stage)
        self.conv_last = unit(wide(LAST), (1, 1))
        self.conv_head = conv(HEAD, (1, 1), use_bias=True)
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype,
                               kernel_init=nn.initializers.normal(self.classifier_std))

    @property
    def num_stages(self) -> int:
        """Number of stages that `run_stage` accepts, 1-based; the last is the 1x1 convolution."""
        return len(STAGES) + 1

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map after the stem, at 1/2 ('imagenet') or all ('small') of the resolution."""
        return self.conv_stem(x_BTHWC, train)

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs stage `stage` (1-based) on the map before it."""
        if stage == self.num_stages:
            return self.conv_last(x, train)
        for block in getattr(self, f"blocks{stage - 1}"):
            x = block(x, train)
        return x

    def run_head(self, features_BTHWC, train: bool = False):
        """Last map -> (logits (B,K), frame features (B,T,C) before the head's first layer)."""
        pooled_BTC = blocks.global_avg_pool(features_BTHWC)
        hidden_BTC = self._hidden(pooled_BTC, train)
        if self.consensus == "features":
            logits = self.fc(self.drop(hidden_BTC.mean(axis=1), deterministic=not train))
        else:
            logits = self.fc(self.drop(hidden_BTC, deterministic=not train)).mean(axis=1)
        return logits, pooled_BTC

    def _hidden(self, pooled, train: bool = False):
        return blocks.relu(self.conv_head(pooled[..., None, None, :], train))[..., 0, 0, :]

    def classify(self, features):
        """The head after pooling, on any (..., C): for logits per position or per frame."""
        return self.fc(self._hidden(features))
