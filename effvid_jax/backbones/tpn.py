"""TPN: a neck that fuses the last maps of a backbone at several temporal rates (arXiv 2004.03548).

    stage maps ─ spatial modulation (to the last one's size and width)
               ─ temporal modulation (to one length) ─┬─ top-down sums ── level fusion ─┐
                                                      └─ bottom-up sums ─ level fusion ─┴─ features ─ head

Source: ResKD's mmaction2 (`mmaction/models/necks/tpn.py`, `heads/tpn_head.py`), whose module names are
kept; configurations `configs/_base_/models/tpn_{slowonly,tsm}_r50.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from effvid_jax.backbones import blocks, resnet, resnet3d, trace
from effvid_jax.errors import UserError


class LevelFusion(nn.Module):
    """Grouped 1x1x1 convolution of every level, then one 1x1x1 convolution of all of them."""

    level_features: int
    features: int
    num_levels: int
    unit: blocks.ModuleDef

    def setup(self):
        self.downsamples = [self.unit(self.level_features, (1, 1, 1), groups=32)
                            for _ in range(self.num_levels)]
        self.fusion_conv = self.unit(self.features, (1, 1, 1))

    def __call__(self, levels, train: bool = False):
        reduced = [down(x, train) for down, x in zip(self.downsamples, levels)]
        return self.fusion_conv(jnp.concatenate(reduced, axis=-1), train)


class Neck(nn.Module):
    """The pyramid; maps of several stages in, one map out.

    Attributes:
        channels: of the levels, ascending by factors of two.
        level_features, fusion_features, features: channels of the modulated levels, of each of the two
            fused pyramids, and of the output.
        time_scales: max-pooling over time per level; all must come out equally long.
        flow: 'cascade' (bottom-up sums continue from the top-down ones) or 'parallel'.
        conv, norm: module classes.
    """

    channels: tuple[int, ...]
    level_features: int
    fusion_features: int
    features: int
    time_scales: tuple[int, ...]
    flow: str
    conv: blocks.ModuleDef
    norm: blocks.ModuleDef

    def setup(self):
        unit = partial(blocks.ConvBN, conv_type=self.conv, norm=self.norm)
        n, top = len(self.channels), self.channels[-1]
        self.spatial_modulation = [
            [unit(c * 2**(i + 1), (1, 3, 3), (1, 2, 2), (0, 1, 1))
             for i in range((top // c).bit_length() - 1)] for c in self.channels]
        time = partial(self.conv, self.level_features, (3, 1, 1), (1, 1, 1), (1, 0, 0))
        self.temporal_modulation_ops = [time(groups=32) for _ in range(n)]
        self.downsample_ops = [time() for _ in range(n - 1)]
        self.level_fusion_1 = LevelFusion(self.level_features, self.fusion_features, n, unit)
        self.level_fusion_2 = LevelFusion(self.level_features, self.fusion_features, n, unit)
        self.pyramid_fusion = unit(self.features, (1, 1, 1))

    def __call__(self, maps, train: bool = False):
        levels = []
        for x, space, time, scale in zip(maps, self.spatial_modulation, self.temporal_modulation_ops,
                                         self.time_scales):
            for unit in space:
                x = unit(x, train)
            levels.append(_pool_time(time(x, train), scale))
        if len({x.shape for x in levels}) > 1:
            raise UserError(
                f"TPN time_scales={self.time_scales} turn maps of {[x.shape[1] for x in maps]} frames "
                f"into {[x.shape[1] for x in levels]}: choose scales that make them equal.")

        sums = list(levels)
        for i in reversed(range(len(sums) - 1)):
            sums[i] = sums[i] + sums[i + 1]
        top_down = self.level_fusion_1(sums, train)
        sums = sums if self.flow == "cascade" else list(levels)
        for i, op in enumerate(self.downsample_ops):
            sums[i + 1] = sums[i + 1] + op(sums[i], train)
        bottom_up = self.level_fusion_2(sums, train)
        return self.pyramid_fusion(jnp.concatenate([top_down, bottom_up], axis=-1), train)


def _pool_time(x_BTHWC, scale: int):
    """Max over windows of `scale` frames; the last one may be shorter (PyTorch's ceil_mode)."""
    return blocks.max_pool(x_BTHWC, (scale, 1, 1), (scale, 1, 1), ((0, -x_BTHWC.shape[1] % scale), 0, 0))


class AuxHead(nn.Module):
    """Classifier on the level below the last, for an additional loss while training."""

    features: int
    num_classes: int
    conv_type: blocks.ModuleDef
    norm: blocks.ModuleDef

    def setup(self):
        self.conv = blocks.ConvBN(self.features, (1, 3, 3), (1, 2, 2), (0, 1, 1),
                                  conv_type=self.conv_type, norm=self.norm)
        self.drop = nn.Dropout(0.5)
        self.fc = blocks.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01))

    def __call__(self, x, train: bool = False):
        x = blocks.global_avg_pool(self.conv(x, train), (1, 2, 3))
        return self.fc(self.drop(x, deterministic=not train))


class TPN(nn.Module):
    """A residual backbone with the neck between its last stage and its head.

    The backbone's modules keep their names (`conv1`, `layer1_0`, ..., `fc`); the neck's are in `neck`.

    Attributes:
        backbone: `resnet.ResNet` or `resnet3d.ResNet3D`, which also gives num_classes, dropout, conv,
            norm, bn_groups and dtype.
        levels: stages (1-based) that enter the pyramid; the last one must be the last stage.
        time_scales: see `Neck`.
        level_features, fusion_features, features: see `Neck`; 0 for half, all and all of the last
            stage's channels, as in the published configurations.
        flow: see `Neck`.
        aux_head: whether to have the additional classifier, whose logits are then in the features as
            'aux_logits' (B, K) when training. The reference adds 0.5 times their cross-entropy.
    """

    backbone: nn.Module
    levels: tuple[int, ...] = (3, 4)
    time_scales: tuple[int, ...] = (8, 8)
    level_features: int = 0
    fusion_features: int = 0
    features: int = 0
    flow: str = "cascade"
    aux_head: bool = True

    def setup(self):
        if self.flow not in ("cascade", "parallel"):
            raise UserError(f"flow={self.flow!r}: expected 'cascade' or 'parallel'.")
        if self.levels[-1] != self.backbone.num_stages or len(self.time_scales) != len(self.levels):
            raise UserError(f"levels={self.levels}, time_scales={self.time_scales}: expected ascending "
                             f"stages that end with {self.backbone.num_stages}, and one scale for each.")
        nn.share_scope(self, self.backbone)
        net = self.backbone
        channels = tuple(net.width * 2**(s - 1) * (4 if net.bottleneck else 1) for s in self.levels)
        conv = partial(net.conv, dtype=net.dtype)
        norm = partial(net.norm, groups=net.bn_groups, dtype=net.dtype)
        self.neck = Neck(
            channels, self.level_features or channels[-1] // 2, self.fusion_features or channels[-1],
            self.features or channels[-1], self.time_scales, self.flow, conv, norm)
        if self.aux_head:
            self.auxiliary = AuxHead(2 * channels[-2], net.num_classes, conv, norm)

    @property
    def num_stages(self) -> int:
        """Number of stages of the backbone that `run_stage` accepts, 1-based."""
        return self.backbone.num_stages

    def run_stem(self, x_BTHWC, train: bool = False):
        """See the backbone."""
        return self.backbone.run_stem(x_BTHWC, train)

    def run_stage(self, stage: int, x, train: bool = False):
        """See the backbone."""
        return self.backbone.run_stage(stage, x, train)

    def run_neck(self, maps: Sequence, train: bool = False):
        """The maps after `levels` -> the fused map (B, T', h, w, C), time reduced by `time_scales`."""
        return self.neck(maps, train)

    def run_head(self, features_BTHWC, train: bool = False):
        """Fused map -> (logits (B,K), frame features (B,T',C))."""
        return self.backbone.run_head(features_BTHWC, train)

    def classify(self, features):
        """The classifier alone, on any (..., C)."""
        return self.backbone.classify(features)

    def __call__(self, x_BTHWC, train: bool = False):
        """Forward pass.

        Args:
            x_BTHWC: normalised clip (B, T, H, W, 3).
            train: batch statistics and dropout on; needs the 'dropout' rng and mutable 'batch_stats'.

        Returns:
            logits (B, K), and a dict of named maps (B, T', h, w, C): 'stem', 'stage1'...'stage4',
            'features' (the neck's), 'pooled' (B, T', C), and 'aux_logits' (B, K), see `aux_head`.
        """
        out = {"stem": self.run_stem(x_BTHWC, train)}
        x = out["stem"]
        for s in range(1, self.num_stages + 1):
            x = out[f"stage{s}"] = self.run_stage(s, x, train)
        maps = [out[f"stage{s}"] for s in self.levels]
        out["features"] = self.run_neck(maps, train)
        logits, out["pooled"] = self.run_head(out["features"], train)
        if self.aux_head and train:
            out["aux_logits"] = self.auxiliary(maps[-2], train)
        elif self.aux_head and self.is_initializing():
            with trace.silence():  # its parameters are needed, its cost is none of inference
                self.auxiliary(maps[-2], train)
        return logits, out


TPN_FIELDS = ("levels", "time_scales", "level_features", "fusion_features", "features", "flow",
              "aux_head")


def _tpn(make_backbone, options, **defaults) -> TPN:
    """Options that are fields of `TPN` go there, all others to the backbone."""
    own = {k: v for k, v in options.items() if k in TPN_FIELDS}
    backbone = make_backbone(**{k: v for k, v in options.items() if k not in TPN_FIELDS})
    return TPN(backbone, **{**defaults, **own})


def tpn_slowonly(depth: int = 50, **options) -> TPN:
    """TPN on SlowOnly-50; up to 8 frames become one."""
    return _tpn(partial(resnet3d.slowonly, depth), options)


def tpn_tsm(depth: int = 50, **options) -> TPN:
    """TPN on TSM-ResNet-50; up to 8 frames become one."""
    return _tpn(partial(resnet.resnet, depth, shift=True), options)


def tpn_r2plus1d_18(**options) -> TPN:
    """A pyramid over stages 2 to 4 of `resnet3d.r2plus1d_18_vared`: our choice of a network.

    VA-RED2 (arXiv 2102.07887, Table 3) gives 28.5 and 56.8 GFLOPs for TPN at 8 and 16 frames and names
    no backbone; the released TPN has 50. These three levels, brought to the last one's length and with
    the channels of the last stage, have 28.4 and 56.8.
    """
    return _tpn(resnet3d.r2plus1d_18_vared, options, levels=(2, 3, 4), time_scales=(4, 2, 1),
                aux_head=False)
