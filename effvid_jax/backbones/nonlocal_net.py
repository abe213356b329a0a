"""Non-local networks: I3D-ResNets with blocks in which every position sees every other (arXiv 1711.07971).

Source: PySlowFast (`slowfast/models/{video_model_builder,nonlocal_helper,head_helper}.py`,
`configs/Kinetics/c2/I3D_NLN_8x8_R50.yaml`). Flow, features and module names are those of `resnet3d.py`. The
published weights see pixels of mean 0.45 and spread 0.225 of 1.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn

from effvid_jax.backbones import blocks, remat, resnet3d
from effvid_jax.backbones.backbone import mean_of_positions
from effvid_jax.errors import UserError

POOL = (1, 2, 2)  # time, height, width, over which keys and values take their maximum


class NonLocal(nn.Module):
    """softmax(theta(x) phi(x') / sqrt(C/2)) g(x') over all positions of the pooled map x', added to x.

    Attributes:
        features: C.
        conv, norm: module classes.
    """

    features: int
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm

    def setup(self):
        inner = partial(self.conv, self.features // 2, (1, 1, 1), use_bias=True)
        self.conv_theta, self.conv_phi, self.conv_g = inner(), inner(), inner()
        self.conv_out = self.conv(self.features, (1, 1, 1), use_bias=True)
        self.bn = self.norm()

    def __call__(self, x_BTHWC, train: bool = False):
        b, inner = len(x_BTHWC), self.features // 2
        window = tuple(min(k, n) for k, n in zip(POOL, x_BTHWC.shape[1:4]))
        pooled = blocks.max_pool(x_BTHWC, window, window, (0, 0, 0))
        theta = self.conv_theta(x_BTHWC, train).reshape(b, -1, inner)
        phi, g = (conv(pooled, train).reshape(b, -1, inner) for conv in (self.conv_phi, self.conv_g))
        weights = blocks.softmax(blocks.einsum("bqc,bkc->bqk", theta, phi) * inner**-0.5)
        y = blocks.einsum("bqk,bkc->bqc", weights, g).reshape(*x_BTHWC.shape[:-1], inner)
        return x_BTHWC + self.bn(self.conv_out(y, train), train)


class NonLocalResNet(resnet3d.ResNet3D):
    """3-D ResNet with non-local blocks; further fields as `resnet3d.ResNet3D`.

    Attributes:
        nonlocals: per stage, the residual blocks (from 0) that a non-local block follows.
        head_pool: None for the mean over the whole map, or the window (frames, side, side) of the reference's
            head: the last map at *training* resolution. On a larger clip it has several positions; the logits
            are then the log of their mean probabilities. It is clipped to a smaller map.
    """

    nonlocals: tuple[tuple[int, ...], ...] = ((), (1, 3), (1, 3, 5), ())
    head_pool: tuple[int, int, int] | None = None

    def setup(self):
        super().setup()
        for s, places in enumerate(self.nonlocals, start=1):
            for b in places:
                norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype, eps=self.norm_eps,
                               scale_init=nn.initializers.zeros)  # begins as if it were not there
                setattr(self, f"nonlocal{s}_{b}", NonLocal(
                    self.stage_channels(s), partial(self.conv, dtype=self.dtype), norm))

    def _check(self) -> None:
        super()._check()
        if len(self.nonlocals) != len(self.stage_sizes) or any(
                not 0 <= b < size for size, places in zip(self.stage_sizes, self.nonlocals) for b in places):
            raise UserError(f"nonlocals={self.nonlocals}: expected for each of the stages of "
                            f"stage_sizes={self.stage_sizes} numbers of its blocks, from 0.")

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs residual stage `stage` (1-based) on the map before it."""
        if stage == 2 and self.pool2:
            x = blocks.max_pool(x, (2, 1, 1), (2, 1, 1), (0, 0, 0))
        for b, block in enumerate(getattr(self, f"layer{stage}")):
            x = remat.run(block, x, train, self.remat)
            if b in self.nonlocals[stage - 1]:
                x = remat.run(getattr(self, f"nonlocal{stage}_{b}"), x, train, self.remat)
        return x

    def run_head(self, features_BTHWC, train: bool = False):
        """Last map -> (logits (B,K), frame features (B,T,C))."""
        if self.head_pool is None:
            return super().run_head(features_BTHWC, train)
        logits = mean_of_positions(self.position_logits(features_BTHWC, train))
        return logits, features_BTHWC.mean(axis=(2, 3))

    def position_logits(self, features_BTHWC, train: bool = False):
        """Logits of every position of the head's window (B, T', h', w', K)."""
        window = tuple(min(k, n) for k, n in zip(self.head_pool, features_BTHWC.shape[1:4]))
        pooled = blocks.avg_pool(features_BTHWC, window, (1, 1, 1), (0, 0, 0))
        return self.fc(self.drop(pooled, deterministic=not train))


def i3d_nonlocal(**options: Any) -> NonLocalResNet:
    """PySlowFast's I3D-NLN-R50: time halved once, by a max-pool before stage 2; five non-local blocks."""
    return NonLocalResNet(**{
        "stem_kernel": (5, 7, 7), "stem_strides": (1, 2, 2), "pool2": True,
        "inflate": (1, (1, 0), (1, 0), (0, 1)), **options})
