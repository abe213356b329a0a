"""SlowFast: a slow pathway of few frames and many channels beside a fast one (arXiv 1812.03982).

    clip (B,T,H,W,3) ─┬─ every alpha-th frame ─ slow stem ─⊕─ stage 1 ─⊕─ ... stage 4 ─┐
                      │                                    │           │               ├─ mean ─ logits
                      └─ all frames ─────────── fast stem ─┴─ stage 1 ─┴─ ... stage 4 ─┘

⊕: a convolution over time of the fast map, concatenated behind the slow one. Both pathways come from one
clip, and a map is one array: (B, T/alpha, h, w, C + alpha * C'), the slow channels first, then those of the
alpha fast frames that belong to a slow one (`join`, `part`). So its mean over space and time holds what the
classifier reads, and executors and heads need to know nothing.

Source: PySlowFast (`slowfast/models/{video_model_builder,head_helper}.py`,
`configs/Kinetics/SLOWFAST_*_R50.yaml`). The published weights see pixels of mean 0.45 and spread 0.225 of 1.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import blocks, remat, resnet3d
from effvid_jax.backbones.backbone import Backbone, mean_of_positions
from effvid_jax.errors import UserError

PATHWAYS = ("slow", "fast")


def slow_frames(frames: int, alpha: int) -> np.ndarray:
    """Which of so many frames the slow pathway sees: from the first to the last, rounded down."""
    count = frames // alpha
    return np.arange(count) * (frames - 1) // max(count - 1, 1)


class SlowFast(Backbone):
    """SlowFast-ResNet; see the module docstring for the flow.

    Attributes:
        num_classes: K.
        stage_sizes: bottleneck blocks per stage, of both pathways.
        width: channels inside the slow pathway's first stage.
        alpha: frames of the fast pathway for one of the slow.
        beta: the slow pathway has so many times the channels of the fast.
        fuse_kernel: length of the convolutions from the fast to the slow pathway.
        slow_inflate: per stage, whether slow blocks reach over time; all fast ones do.
        space_strides: of each stage's first block.
        head_pool: None for the mean over the whole maps, or side of the reference's head: the last map's at
            *training* resolution. On a larger clip the window has several positions; the logits are then the
            log of their mean probabilities. It is clipped to a smaller map.
        dropout: rate before the classifier.
        classifier_std: of the classifier's initial weights.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        bn_groups: see `blocks.BatchNorm.groups`.
        remat: what is kept for gradients, see `remat.py`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    alpha: int = 4
    beta: int = 8
    fuse_kernel: int = 7
    slow_inflate: tuple[int, ...] = (0, 0, 1, 1)
    space_strides: tuple[int, ...] = (1, 2, 2, 2)
    head_pool: int | None = None
    dropout: float = 0.5
    classifier_std: float = 0.01
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    bn_groups: int = 1
    remat: str = "none"
    dtype: Any = None

    def setup(self):
        for name in ("slow_inflate", "space_strides"):
            if len(getattr(self, name)) != len(self.stage_sizes):
                raise UserError(f"{name}={getattr(self, name)}: expected one entry for each of the "
                                f"{len(self.stage_sizes)} stages of stage_sizes={self.stage_sizes}.")
        if self.width % self.beta:
            raise UserError(f"width={self.width}: expected a multiple of beta={self.beta}.")
        conv = partial(self.conv, dtype=self.dtype)
        norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype)
        make = resnet3d.Maker("", False, conv, norm)
        for pathway in PATHWAYS:
            kernel = (1 if pathway == "slow" else 5, 7, 7)
            setattr(self, f"{pathway}_conv1", make(3, self.channels(pathway, 0), kernel, (1, 2, 2)))
            setattr(self, f"{pathway}_bn1", norm())
        for s, size in enumerate(self.stage_sizes):
            features = 2 * self.channels("fast", s)
            setattr(self, f"fuse{s + 1}_conv", conv(features, (self.fuse_kernel, 1, 1), (self.alpha, 1, 1),
                                                    (self.fuse_kernel // 2, 0, 0)))
            setattr(self, f"fuse{s + 1}_bn", norm())
            for pathway in PATHWAYS:
                fused = features if pathway == "slow" else 0
                setattr(self, f"{pathway}_layer{s + 1}",
                        [self._block(pathway, s, b, fused, make, norm) for b in range(size)])
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype,
                               kernel_init=nn.initializers.normal(self.classifier_std))

    def _block(self, pathway: str, s: int, b: int, fused: int, make, norm):
        """Block `b` of stage `s` (both 0-based) of a pathway; `fused` channels enter a stage besides."""
        channels = self.channels(pathway, s) + fused if b == 0 else self.channels(pathway, s + 1)
        strides = (1, *(self.space_strides[s],) * 2) if b == 0 else (1, 1, 1)
        temporal = pathway == "fast" or bool(self.slow_inflate[s])
        width = self.channels(pathway, 0) * 2**s
        return resnet3d.Bottleneck(channels, width, strides, temporal, "3x1x1", make, norm)

    def channels(self, pathway: str, stage: int) -> int:
        """Channels of a pathway's map after `stage`; 0: the stem."""
        width = self.width if pathway == "slow" else self.width // self.beta
        return width * 2**(stage - 1) * resnet3d.Bottleneck.expansion if stage else width

    def join(self, slow_BSHWC, fast_BTHWC):
        """The maps of both pathways as one, see the module docstring."""
        b, s, h, w, _ = slow_BSHWC.shape
        fast = fast_BTHWC.reshape(b, s, self.alpha, h, w, -1).transpose(0, 1, 3, 4, 2, 5)
        return jnp.concatenate([slow_BSHWC, fast.reshape(b, s, h, w, -1)], axis=-1)

    def part(self, x, stage: int):
        """A joined map after `stage` (0: the stem) -> those of the slow (B,S,h,w,C) and fast (B,T,h,w,C')."""
        b, s, h, w, _ = x.shape
        slow = self.channels("slow", stage)
        fast = x[..., slow:].reshape(b, s, h, w, self.alpha, -1).transpose(0, 1, 4, 2, 3, 5)
        return x[..., :slow], fast.reshape(b, s * self.alpha, h, w, -1)

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> joined map after the stems, at a quarter of the resolution.

        Raises:
            UserError: frames that are no multiple of `alpha`.
        """
        frames = x_BTHWC.shape[1]
        if frames % self.alpha:
            raise UserError(f"SlowFast with alpha={self.alpha} takes clips of a multiple of {self.alpha} "
                            f"frames, not {frames}: choose data.num_frames so, or another alpha.")
        maps = []
        for pathway, x in zip(PATHWAYS, (x_BTHWC[:, slow_frames(frames, self.alpha)], x_BTHWC)):
            x = getattr(self, f"{pathway}_bn1")(getattr(self, f"{pathway}_conv1")(x, train), train)
            maps.append(blocks.max_pool(blocks.relu(x), (1, 3, 3), (1, 2, 2), (0, 1, 1)))
        return self.join(*maps)

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs residual stage `stage` (1-based), which the fast map enters on both sides, on a joined map."""
        slow, fast = self.part(x, stage - 1)
        lateral = getattr(self, f"fuse{stage}_bn")(getattr(self, f"fuse{stage}_conv")(fast, train), train)
        maps = [jnp.concatenate([slow, blocks.relu(lateral)], axis=-1), fast]
        for i, pathway in enumerate(PATHWAYS):
            for block in getattr(self, f"{pathway}_layer{stage}"):
                maps[i] = remat.run(block, maps[i], train, self.remat)
        return self.join(*maps)

    def run_head(self, features_BTHWC, train: bool = False):
        """Last joined map -> (logits (B,K), features of the slow frames (B,S,C), joined)."""
        frames_BSC, clip_BC = blocks.clip_avg_pool(features_BTHWC)
        if self.head_pool is None:
            return self._classify(clip_BC, train), frames_BSC
        return mean_of_positions(self.position_logits(features_BTHWC, train)), frames_BSC

    def position_logits(self, features_BTHWC, train: bool = False):
        """Logits of every position of the head's window (B, 1, h', w', K)."""
        s, h, w = features_BTHWC.shape[1:4]
        window = (s, min(self.head_pool, h), min(self.head_pool, w))
        return self._classify(blocks.avg_pool(features_BTHWC, window, (1, 1, 1), (0, 0, 0)), train)

    def _classify(self, joined, train: bool = False):
        slow = self.channels("slow", self.num_stages)
        fast = joined[..., slow:].reshape(*joined.shape[:-1], self.alpha, -1).mean(axis=-2)
        pooled = jnp.concatenate([joined[..., :slow], fast], axis=-1)
        return self.fc(self.drop(pooled, deterministic=not train))

    def classify(self, features):
        """The head after pooling, on any (..., C) of joined maps: logits per position or per slow frame."""
        return self._classify(features)


def slowfast_8x8(**options) -> SlowFast:
    """SlowFast-R50 8x8: 32 frames, 8 of them in the slow pathway."""
    return SlowFast(**options)


def slowfast_4x16(**options) -> SlowFast:
    """SlowFast-R50 4x16: 32 frames, 4 of them in the slow pathway."""
    return SlowFast(**{"alpha": 8, "fuse_kernel": 5, **options})
