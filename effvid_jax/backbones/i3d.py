"""I3D: GoogLeNet (Inception-v1) with inflated kernels, and its relatives.

    clip (B,T,H,W,3) ─ stem: 7x7x7
                     ─ stage 1: max-pool, 1x1x1, 3x3x3 ─ stage 2: max-pool, Mixed 3b, 3c
                     ─ stage 3: max-pool, Mixed 4b...4f ─ stage 4: max-pool, Mixed 5b, 5c
                     = features (B,T/8,H/32,W/32,1024) ─ mean ─ logits

Sources: arXiv 1705.07750; piergiaj/pytorch-i3d (`pytorch_i3d.py`, module names and the original
strides); IBM/action-recognition-pytorch (`models/threed_models/i3d.py`, temporal pooling).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from effvid_jax.backbones import blocks
from effvid_jax.backbones.backbone import Backbone
from effvid_jax.backbones.mobilenet_v2 import round_channels
from effvid_jax.errors import UserError

Axes = tuple[int, int, int]  # time, height, width

STAGES = (  # name: widths of 1x1x1; 1x1x1, 3x3x3; 1x1x1, 3x3x3; 1x1x1 after the max-pool
    {},
    {"Mixed_3b": (64, 96, 128, 16, 32, 32), "Mixed_3c": (128, 128, 192, 32, 96, 64)},
    {"Mixed_4b": (192, 96, 208, 16, 48, 64), "Mixed_4c": (160, 112, 224, 24, 64, 64),
     "Mixed_4d": (128, 128, 256, 24, 64, 64), "Mixed_4e": (112, 144, 288, 32, 64, 64),
     "Mixed_4f": (256, 160, 320, 32, 128, 128)},
    {"Mixed_5b": (256, 160, 320, 32, 128, 128), "Mixed_5c": (384, 192, 384, 48, 128, 128)},
)


class Mixed(nn.Module):
    """Inception block: four branches over the same input, concatenated; names as pytorch-i3d.

    Attributes:
        widths: see `STAGES`.
        unit: makes a convolution with norm and ReLU: `unit(features, kernel_size, padding=...)`.
    """

    widths: tuple[int, ...]
    unit: Callable[..., nn.Module]

    def setup(self):
        point, full = (1, 1, 1), {"kernel_size": (3, 3, 3), "padding": (1, 1, 1)}
        b0, b1a, b1b, b2a, b2b, b3b = self.widths
        self.b0 = self.unit(b0, point)
        self.b1a = self.unit(b1a, point)
        self.b1b = self.unit(b1b, **full)
        self.b2a = self.unit(b2a, point)
        self.b2b = self.unit(b2b, **full)
        self.b3b = self.unit(b3b, point)

    def __call__(self, x, train: bool = False):
        pooled = blocks.max_pool(x, (3, 3, 3), (1, 1, 1), (1, 1, 1))
        return jnp.concatenate([
            self.b0(x, train), self.b1b(self.b1a(x, train), train),
            self.b2b(self.b2a(x, train), train), self.b3b(pooled, train)], axis=-1)


class Inception3D(Backbone):
    """3-D Inception-v1; see the module docstring for the flow.

    Attributes:
        num_classes: K.
        width_mult: factor on all channels (rounded to multiples of 8).
        unit: class of the convolutions with norm and ReLU, with the fields of `blocks.ConvBN`.
        stem_strides: of the first convolution (time, height, width).
        pool_kernels: max-pools before stages 1 to 4.
        pool_strides: temporal strides of these; the spatial ones are 2.
        same: pad strided layers as TensorFlow's SAME, which depends on the input's size; otherwise by
            half their kernel on both sides.
        head_pool: window (time, height, width) of the mean before the classifier, clipped to the map;
            the logits of its positions are averaged. None for the mean over the whole map.
        norm_eps, norm_momentum: of all batch norms.
        dropout: rate before the classifier.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        bn_groups: see `blocks.BatchNorm.groups`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    width_mult: float = 1.0
    unit: Callable[..., nn.Module] = blocks.ConvBN
    stem_strides: Axes = (2, 2, 2)
    pool_kernels: tuple[Axes, ...] = ((1, 3, 3), (1, 3, 3), (3, 3, 3), (2, 2, 2))
    pool_strides: tuple[int, ...] = (1, 1, 2, 2)
    same: bool = True
    head_pool: Axes | None = (2, 7, 7)
    norm_eps: float = 1e-3
    norm_momentum: float = 0.99
    dropout: float = 0.5
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        if len(self.pool_kernels) != len(STAGES) or len(self.pool_strides) != len(STAGES):
            raise UserError(f"pool_kernels={self.pool_kernels}, pool_strides={self.pool_strides}: "
                             f"expected one entry for each of the {len(STAGES)} stages.")
        norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype, eps=self.norm_eps,
                       momentum=self.norm_momentum)
        unit = partial(self.unit, conv_type=partial(self.conv, dtype=self.dtype), norm=norm)

        def wide(channels):
            return round_channels(self.width_mult * channels)

        # SAME padding of the only strided convolution depends on the input: `run_stem` adds what is more than
        # 2. (With none of its own, XLA's CPU compiler takes four times as long for it.)
        self.Conv3d_1a_7x7 = unit(wide(64), (7, 7, 7), self.stem_strides,
                                  (2, 2, 2) if self.same else (3, 3, 3))
        self.Conv3d_2b_1x1 = unit(wide(64), (1, 1, 1))
        self.Conv3d_2c_3x3 = unit(wide(192), (3, 3, 3), padding=(1, 1, 1))
        for mixed in STAGES:
            for name, widths in mixed.items():
                setattr(self, name, Mixed(tuple(map(wide, widths)), unit))
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype,
                               kernel_init=nn.initializers.normal(0.01))

    @property
    def num_stages(self) -> int:
        """Number of stages that `run_stage` accepts, 1-based."""
        return len(STAGES)

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map after the 7x7x7 convolution, at half the resolution."""
        if self.same:
            pads = [blocks.same_padding(n, 7, s) for n, s in zip(x_BTHWC.shape[1:4], self.stem_strides)]
            x_BTHWC = jnp.pad(x_BTHWC, ((0, 0), *((a - 2, b - 2) for a, b in pads), (0, 0)))
        return self.Conv3d_1a_7x7(x_BTHWC, train)

    def run_pool(self, stage: int, x):
        """The max-pool that `stage` (1-based) begins with."""
        kernel, strides = self.pool_kernels[stage - 1], (self.pool_strides[stage - 1], 2, 2)
        if self.same:
            pads = [blocks.same_padding(n, k, s) for n, k, s in zip(x.shape[1:4], kernel, strides)]
        else:
            pads = [(k - 1) // 2 for k in kernel]
        return blocks.max_pool(x, kernel, strides, pads)

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs stage `stage` (1-based), which begins with a max-pool, on the map before it."""
        x = self.run_pool(stage, x)
        if stage == 1:
            return self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x, train), train)
        for name in STAGES[stage - 1]:
            x = getattr(self, name)(x, train)
        return x

    def run_head(self, features_BTHWC, train: bool = False):
        """Last map -> (logits (B,K), frame features (B,T,C))."""
        if self.head_pool is None:
            frames_BTC, clip_BC = blocks.clip_avg_pool(features_BTHWC)
            return self.fc(self.drop(clip_BC, deterministic=not train)), frames_BTC
        logits_BTHWK = self.position_logits(features_BTHWC, train)
        return logits_BTHWK.mean(axis=(1, 2, 3)), features_BTHWC.mean(axis=(2, 3))

    def position_logits(self, features_BTHWC, train: bool = False):
        """Logits of every position of the head's window (B, T', h', w', K); one at 16x224x224."""
        window = tuple(min(k, n) for k, n in zip(self.head_pool, features_BTHWC.shape[1:4]))
        pooled = blocks.avg_pool(features_BTHWC, window, (1, 1, 1), (0, 0, 0))
        return self.fc(self.drop(pooled, deterministic=not train))


def i3d(**options) -> Inception3D:
    """The original strides, padding and head (pytorch-i3d): time is halved by the stem and two pools.

    The reference keeps a time axis of logits and fails below 224 pixels or 16 frames, where its window
    does not fit; here the logits are averaged and the window is clipped.
    """
    return Inception3D(**options)


def i3d_tp(**options) -> Inception3D:
    """Temporal pooling (IBM/action-recognition-pytorch): the stem keeps time, the last pools halve it.

    The static cost that VA-RED2 (arXiv 2102.07887) states for I3D, 56.0 and 112.0 GFLOPs at 16 and 32
    frames of 256x256 pixels, is this network's.
    """
    return Inception3D(**{
        "stem_strides": (1, 2, 2), "same": False, "head_pool": None, "norm_momentum": 0.9,
        "pool_kernels": ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)), "pool_strides": (1, 2, 2, 2),
        **options})
