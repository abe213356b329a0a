"""BN-Inception on clips: TSN (frame logits are averaged) and multi-scale TRN (relations of frames).

    clip (B,T,H,W,3) ─ stem: 7x7, max-pool
                     ─ stage 1: 1x1, 3x3, max-pool ─ stage 2: 3a, 3b, 3c ─ stage 3: 4a...4e
                     ─ stage 4: 5a, 5b = features (B,T,H/32,W/32,1024) ─ mean ─ classifier, or relations

Sources: BN-Inception, arXiv 1502.03167; TSN, arXiv 1608.00859, as in mit-han-lab's temporal-shift-module
(`archs/bn_inception.py`, `ops/models.py`; module names from there); TRN, arXiv 1711.08496, zhoubolei's
TRN-pytorch (`TRNmodule.py`, `models.py`). Every convolution has a bias and a batch norm. The published
weights read BGR (`--bgr` at import); `pixels` in `facts.py` has their normalisation.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import blocks
from effvid_jax.backbones.backbone import FrameBackbone
from effvid_jax.backbones.mobilenet_v2 import round_channels
from effvid_jax.errors import UserError

STAGES = (  # name: 1x1; 1x1, 3x3; 1x1, 3x3 twice; 1x1 after the pool. 0: none, the block halves the map
    {},
    {"3a": (64, 64, 64, 64, 96, 32), "3b": (64, 64, 96, 64, 96, 64), "3c": (0, 128, 160, 64, 96, 0)},
    {"4a": (224, 64, 96, 96, 128, 128), "4b": (192, 96, 128, 96, 128, 128),
     "4c": (160, 128, 160, 128, 160, 128), "4d": (96, 128, 192, 160, 192, 128),
     "4e": (0, 128, 192, 192, 256, 0)},
    {"5a": (352, 192, 320, 160, 224, 128), "5b": (352, 192, 320, 192, 224, 128)},
)
TUPLES = 3  # of frames that TRN looks at per scale


class Inception(nn.Module):
    """Four branches over the same input, concatenated; three and of half the size in 3c and 4e.

    Attributes:
        widths: see `STAGES`.
        unit: makes a convolution with norm and ReLU: `unit(features, kernel_size, strides, padding)`.
        max_pooled: whether the last branch takes maxima, not means.
    """

    widths: tuple[int, ...]
    unit: blocks.ModuleDef
    max_pooled: bool = False

    def setup(self):
        b1, r3, b3, rd, bd, proj = self.widths
        stride = 1 if b1 else 2
        if b1:
            self.b1x1 = self.unit(b1, (1, 1))
        self.b3x3_reduce = self.unit(r3, (1, 1))
        self.b3x3 = self.unit(b3, (3, 3), stride, 1)
        self.bdouble_3x3_reduce = self.unit(rd, (1, 1))
        self.bdouble_3x3_1 = self.unit(bd, (3, 3), 1, 1)
        self.bdouble_3x3_2 = self.unit(bd, (3, 3), stride, 1)
        if b1:
            self.bpool_proj = self.unit(proj, (1, 1))

    def __call__(self, x, train: bool = False):
        strided = not self.widths[0]
        if strided and (x.shape[-3] % 2 or x.shape[-2] % 2):
            h, w = x.shape[-3:-1]
            raise UserError(
                f"this clip gives a map of {h}x{w} where BN-Inception halves it: its branches round an odd "
                f"side differently and do not fit together. Use clips whose sides are multiples of 32, such "
                f"as 224x224 (112x112 cannot run).")
        y3 = self.b3x3(self.b3x3_reduce(x, train), train)
        yd = self.bdouble_3x3_1(self.bdouble_3x3_reduce(x, train), train)
        yd = self.bdouble_3x3_2(yd, train)
        if strided:
            return jnp.concatenate([y3, yd, blocks.ceil_pool(x)], axis=-1)
        pool = blocks.max_pool if self.max_pooled else blocks.avg_pool
        pooled = self.bpool_proj(pool(x, (3, 3), (1, 1), (1, 1)), train)
        return jnp.concatenate([self.b1x1(x, train), y3, yd, pooled], axis=-1)


class BNInception(FrameBackbone):
    """BN-Inception applied to each frame; see the module docstring for the flow.

    Maps must have even sides where 3c and 4e halve them: clips of multiples of 32, for one (the reference
    takes 224 and 223 only).

    Attributes:
        num_classes: K.
        width_mult: factor on all channels (rounded to multiples of 8).
        consensus: 'logits' classifies every frame and averages the logits (TSN's); 'features' averages
            frames before dropout and classifier. They differ in dropout only.
        dropout: rate before the classifier.
        classifier_std: of the classifier's initial weights; 0.001, the reference's, suits fine-tuning.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        partial_bn: all batch norms but the first are frozen (TSN's fine-tuning).
        bn_groups: see `blocks.BatchNorm.groups`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    width_mult: float = 1.0
    consensus: str = "logits"
    dropout: float = 0.8
    classifier_std: float = 0.001
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    partial_bn: bool = False
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        if self.consensus not in ("features", "logits"):
            raise UserError(f"consensus={self.consensus!r}: expected 'features' or 'logits'.")
        self.setup_trunk()
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype,
                               kernel_init=nn.initializers.normal(self.classifier_std))

    def setup_trunk(self) -> None:
        """Everything before the classifier."""
        norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype)
        unit = partial(blocks.ConvBN, use_bias=True, conv_type=partial(self.conv, dtype=self.dtype))

        def wide(channels):
            return round_channels(self.width_mult * channels) if channels else 0

        self.conv1_7x7_s2 = unit(wide(64), (7, 7), 2, 3, norm=norm)
        unit = partial(unit, norm=partial(norm, frozen=True) if self.partial_bn else norm)
        self.conv2_3x3_reduce = unit(wide(64), (1, 1))
        self.conv2_3x3 = unit(wide(192), (3, 3), 1, 1)
        for stage in STAGES:
            for name, widths in stage.items():
                setattr(self, f"inception_{name}", Inception(tuple(map(wide, widths)), unit, name == "5b"))

    @property
    def num_stages(self) -> int:
        """Number of stages that `run_stage` accepts, 1-based."""
        return len(STAGES)

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map after the first max-pool, at a quarter of the resolution."""
        return blocks.ceil_pool(self.conv1_7x7_s2(x_BTHWC, train))

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs stage `stage` (1-based) on the map before it.

        Raises:
            UserError: a map that has to be halved has an odd side.
        """
        if stage == 1:
            return blocks.ceil_pool(self.conv2_3x3(self.conv2_3x3_reduce(x, train), train))
        for name in STAGES[stage - 1]:
            x = getattr(self, f"inception_{name}")(x, train)
        return x


# --------------------------------------------------------------------------------------- relations
def fixed_relations(frames: int, scale: int) -> tuple[tuple[int, ...], ...]:
    """Up to `TUPLES` ascending tuples of `scale` of so many frames, spread evenly over all that there are."""
    every = list(itertools.combinations(range(frames), scale))
    count = min(TUPLES, len(every))
    return tuple(every[(2 * i + 1) * len(every) // (2 * count)] for i in range(count))


def tuples_of(frames: int, relations=()) -> dict[int, tuple[tuple[int, ...], ...]]:
    """Number of frames -> the tuples that are scored, of clips of so many frames; the largest scale first.

    Raises:
        UserError: clips of one frame, or `relations` that do not belong to such clips.
    """
    if frames < 2:
        raise UserError("TRN relates frames with each other: it needs clips of 2 frames or more.")
    given = {scale: tuple(r for r in relations if len(r) == scale) for scale in range(frames - 1, 1, -1)}
    wrong = [r for r in relations if len(r) not in given or list(r) != sorted(set(r))
             or not 0 <= r[0] <= r[-1] < frames]
    missing = [scale for scale, found in given.items() if relations and not found]
    if wrong or missing:
        raise UserError(
            f"relations={relations}: for clips of {frames} frames expected ascending numbers from 0 to "
            f"{frames - 1}, and a tuple or more of every length from 2 to {frames - 1}. Wrong ones: {wrong}; "
            f"lengths without one: {missing}.")
    return {frames: (tuple(range(frames)),),
            **{scale: found or fixed_relations(frames, scale) for scale, found in given.items()}}


class Relation(nn.Module):
    """Scores of tuples of frames, added up: ReLU, linear, ReLU, linear on their concatenated features."""

    num_classes: int
    hidden: int
    dtype: Any = None

    def setup(self):
        self.hidden_fc = blocks.Dense(self.hidden, dtype=self.dtype)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype)

    def __call__(self, tuples_BRC):
        return self.fc(blocks.relu(self.hidden_fc(blocks.relu(tuples_BRC)))).sum(axis=1)


class Relations(nn.Module):
    """Scores of a clip's frame features (B, T, C): every scale from T frames to 2 with its own weights.

    Attributes:
        num_classes, hidden: K, and the width inside.
        relations, drawn: see `TRN`.
    """

    num_classes: int
    hidden: int
    relations: tuple[tuple[int, ...], ...] = ()
    drawn: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, frames_BTC, train: bool = False):
        b, t, _ = frames_BTC.shape
        scales = len(self.variables.get("params", {}))
        if scales and scales != t - 1:
            raise UserError(f"this TRN was made for clips of {scales + 1} frames, the clip has {t}: every "
                            f"number of frames has weights of its own. Use clips of the length that it was "
                            f"trained with.")
        logits = 0
        for number, (scale, tuples) in enumerate(tuples_of(t, self.relations).items()):
            chosen = np.asarray(tuples)
            if train and self.drawn and scale < t:
                every = np.asarray(list(itertools.combinations(range(t), scale)))
                chosen = jax.random.choice(self.make_rng("dropout"), every, (min(TUPLES, len(every)),), False)
            logits += Relation(self.num_classes, self.hidden, self.dtype, name=f"scale_{number}")(
                frames_BTC[:, chosen].reshape(b, len(chosen), -1))
        return logits


class TRN(BNInception):
    """Multi-scale temporal relations over BN-Inception's frames; further fields as `BNInception`.

    Relations of T, T-1, ..., 2 ascending frames are scored and the scores added. The scale of T frames has
    one tuple. Of every other one the reference draws up to 3 anew in each call, in evaluation too; here they
    are fixed unless `drawn` says otherwise. The parameters belong to one length of clips.

    Attributes:
        frame_features: channels of a frame that relations read, and inside them.
        relations: tuples of frame numbers (from 0) of the scales below T, in any order, such as
            ((0, 2), (0, 1), (0, 1, 3)); (): `fixed_relations` of each scale.
        drawn: training draws the tuples anew in every call, from the rng 'dropout'.
        classifier_std: of the initial weights of the layer that makes frame features.
    """

    relates_frames = True

    frame_features: int = 256
    relations: tuple[tuple[int, ...], ...] = ()
    drawn: bool = False

    def setup(self):
        if self.consensus != "logits":
            raise UserError(f"consensus={self.consensus!r}: TRN's frames meet in their relations; leave it "
                            f"out.")
        self.setup_trunk()
        self.drop = nn.Dropout(self.dropout)
        self.frame_fc = blocks.Dense(self.frame_features, dtype=self.dtype,
                                     kernel_init=nn.initializers.normal(self.classifier_std))
        self.scales = Relations(self.num_classes, self.frame_features, self.relations, self.drawn, self.dtype)

    def run_head(self, features_BTHWC, train: bool = False):
        """Last map -> (logits (B,K), frame features (B,T,C)).

        Raises:
            UserError: a clip of another length than the weights, or than `relations`.
        """
        pooled_BTC = blocks.global_avg_pool(features_BTHWC)
        frames_BTC = self.frame_fc(self.drop(pooled_BTC, deterministic=not train))
        return self.scales(frames_BTC, train), pooled_BTC

    def classify(self, features):
        """Not there: one frame or position has no relation.

        Raises:
            UserError: always.
        """
        raise UserError("TRN scores relations of frames and has no classifier of a frame or a position: take "
                        "another network where logits per position are needed, such as bninception.")
