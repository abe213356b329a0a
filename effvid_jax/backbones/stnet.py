"""StNet: super-images of neighbouring frames, with convolutions over time between them (arXiv 1811.01549).

    clip (B,T*N,H,W,3) ─ T images of N frames each (B,T,H,W,3N) ─ stem ─ stages 1..4 of a ResNet
                       ─ mean over space (B,T,2048) ─ temporal Xception ─ maximum over T ─ logits

Stages 3 and 4 begin with a convolution over the T images. Source: a third party's port, hyperfraise's
Pytorch-StNet (`models/{stnet,temporal_xception,senet}.py`; module names from there), on SE-ResNeXt-50. The
authors' own code is in PaddlePaddle and was not run. The size that they state is that of plain ResNets with
1024 channels in the temporal Xception (`stnet_resnet50`, `stnet_resnet101`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn

from effvid_jax.backbones import blocks, remat, resnet
from effvid_jax.backbones.backbone import Backbone
from effvid_jax.errors import UserError


class SqueezeExcite(nn.Module):
    """Scales the channels of every image by a small network of their means (arXiv 1709.01507)."""

    hidden: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        conv = partial(blocks.Conv, kernel_size=(1, 1), use_bias=True, dtype=self.dtype)
        y = blocks.global_avg_pool(x)[..., None, None, :]
        y = blocks.relu(conv(self.hidden, name="fc1")(y))
        return x * blocks.sigmoid(conv(x.shape[-1], name="fc2")(y))


class Bottleneck(nn.Module):
    """1x1, 3x3 (in groups), 1x1, squeeze-and-excitation and a shortcut; `(B,T,H,W,C)` in and out.

    Attributes:
        width: channels inside a plain ResNet's block; the result has four times as many.
        inner: channels inside this one.
        stride: of the block; on its second convolution, in SE-ResNets on the first, as the port has it.
        project: whether the shortcut is a convolution.
        groups: of the 3x3 convolution.
        reduction: channels of the result for one inside squeeze-and-excitation; 0: there is none.
        dtype, conv, norm: see `StNet`.
    """

    width: int
    inner: int
    stride: int
    project: bool
    groups: int
    reduction: int
    dtype: Any = None
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    expansion = 4

    def setup(self):
        features = self.width * self.expansion
        strides = (self.stride, 1) if self.groups == 1 and self.reduction else (1, self.stride)
        self.conv1 = self.conv(self.inner, (1, 1), strides[0])
        self.bn1 = self.norm()
        self.conv2 = self.conv(self.inner, (3, 3), strides[1], 1, self.groups)
        self.bn2 = self.norm()
        self.conv3 = self.conv(features, (1, 1))
        self.bn3 = self.norm()
        if self.reduction:
            self.se_module = SqueezeExcite(features // self.reduction, self.dtype)
        if self.project:
            self.downsample_conv = self.conv(features, (1, 1), self.stride)
            self.downsample_bn = self.norm()

    def __call__(self, x, train: bool = False):
        y = blocks.relu(self.bn1(self.conv1(x, train), train))
        y = blocks.relu(self.bn2(self.conv2(y, train), train))
        y = self.bn3(self.conv3(y, train), train)
        if self.reduction:
            y = self.se_module(y)
        if self.project:
            x = self.downsample_bn(self.downsample_conv(x, train), train)
        return blocks.once(blocks.relu(x + y))


class TemporalXception(nn.Module):
    """Depthwise separable convolutions over time beside a 1x1 one: (B,T,1,1,C) to (B,T,1,1,features)."""

    in_features: int
    features: int
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm

    def setup(self):
        point = partial(self.conv, self.features, (1, 1, 1))
        self.bn1, self.bn2, self.bn3 = self.norm(), self.norm(), self.norm()
        self.sepconv1_conv1 = self.conv(self.in_features, (3, 1, 1), 1, (1, 0, 0), self.in_features)
        self.sepconv1_pointwise = point()
        self.sepconv2_conv1 = self.conv(self.features, (3, 1, 1), 1, (1, 0, 0), self.features)
        self.sepconv2_pointwise = point()
        self.shortcut = point(use_bias=True)

    def __call__(self, x, train: bool = False):
        x = self.bn1(x, train)
        y = self.sepconv1_pointwise(self.sepconv1_conv1(x, train), train)
        y = blocks.relu(self.bn2(y, train))
        y = self.sepconv2_pointwise(self.sepconv2_conv1(y, train), train)
        return blocks.relu(self.bn3(y + self.shortcut(x, train), train)) / 2


class StNet(Backbone):
    """StNet; see the module docstring for the flow.

    A clip's frames are T groups of N consecutive ones; `num_frames` must be a multiple of N.

    Attributes:
        num_classes: K.
        frames_per_image: N.
        stage_sizes: residual blocks per stage.
        width: channels of the stem and inside a plain ResNet's first stage.
        groups: of the 3x3 convolutions; more than 1: ResNeXt, whose blocks are twice as wide inside.
        reduction: see `Bottleneck`.
        head_width: channels of the temporal Xception's result; 0: as many as the last map has.
        dropout: rate before the classifier.
        classifier_std: of the classifier's initial weights.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        bn_groups: see `blocks.BatchNorm.groups`.
        remat: what is kept for gradients, see `remat.py`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    frames_per_image: int = 5
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    groups: int = 32
    reduction: int = 16
    head_width: int = 0
    dropout: float = 0.0
    classifier_std: float = 0.01
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    bn_groups: int = 1
    remat: str = "none"
    dtype: Any = None

    def setup(self):
        conv = partial(self.conv, dtype=self.dtype)
        norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype)
        self.conv1 = conv(self.width, (7, 7), 2, 3)
        self.bn1 = norm()
        for s, size in enumerate(self.stage_sizes):
            width = self.width * 2**s
            if s in self.temporal_stages:
                setattr(self, f"temp{s - 1}_conv1", conv(width * 2, (3, 1, 1), 1, (1, 0, 0)))
                setattr(self, f"temp{s - 1}_bn1", norm())
            setattr(self, f"layer{s + 1}", [
                Bottleneck(width, width * (1 if self.groups == 1 else 2), 2 if s and b == 0 else 1, b == 0,
                           self.groups, self.reduction, self.dtype, conv, norm) for b in range(size)])
        last = self.width * 2**(len(self.stage_sizes) + 1)
        self.xception = TemporalXception(last, self.head_width or last, conv, norm)
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype,
                               kernel_init=nn.initializers.normal(self.classifier_std))

    temporal_stages = (2, 3)  # from 0, which begin with a convolution over time

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map (B, T, h, w, C) of the super-images after the max-pool, at a quarter of the resolution.

        Raises:
            UserError: frames that are no multiple of `frames_per_image`.
        """
        b, frames, h, w, c = x_BTHWC.shape
        n = self.frames_per_image
        if frames % n:
            raise UserError(f"StNet with frames_per_image={n} takes clips of a multiple of {n} frames, not "
                            f"{frames}: choose data.num_frames so, or another frames_per_image.")
        x = x_BTHWC.reshape(b, frames // n, n, h, w, c).transpose(0, 1, 3, 4, 2, 5)
        x = self.conv1(x.reshape(b, frames // n, h, w, n * c), train)
        return blocks.ceil_pool(blocks.relu(self.bn1(x, train)))

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs stage `stage` (1-based) on the map before it."""
        if stage - 1 in self.temporal_stages:
            x = self.run_temporal(stage, x, train)
        for block in getattr(self, f"layer{stage}"):
            x = remat.run(block, x, train, self.remat)
        return x

    def run_temporal(self, stage: int, x, train: bool = False):
        """The convolution over time that stage 3 or 4 begins with."""
        conv, norm = getattr(self, f"temp{stage - 2}_conv1"), getattr(self, f"temp{stage - 2}_bn1")
        return blocks.relu(norm(conv(x, train), train))

    def run_head(self, features_BTHWC, train: bool = False):
        """Last map -> (logits (B,K), features of the super-images (B,T,C))."""
        pooled_BTC = blocks.global_avg_pool(features_BTHWC)
        return self._classify(pooled_BTC, train), pooled_BTC

    def _classify(self, pooled_BTC, train: bool = False):
        y = self.xception(pooled_BTC[:, :, None, None], train).max(axis=(1, 2, 3))
        return self.fc(self.drop(y, deterministic=not train))

    def classify(self, features):
        """The head after pooling, on any (..., C): each as a clip of one super-image."""
        logits = self._classify(features.reshape(-1, 1, features.shape[-1]))
        return logits.reshape(*features.shape[:-1], self.num_classes)


def stnet_resnet(depth: int, **options) -> StNet:
    """StNet on a plain ResNet-50 or -101: our reading of the paper, whose size and cost it has."""
    return StNet(**{"stage_sizes": resnet.DEPTHS[depth][0], "groups": 1, "reduction": 0, "head_width": 1024,
                    **options})
