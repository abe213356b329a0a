"""What is known of a backbone beside its definition, in one table: gated layers, usual clips, a small member.

A backbone without a row has the facts of `Facts()`: it trains as any other, nothing of it is gated unless a
config says what, and the embedded benchmark takes a small TSM-ResNet in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Facts(NamedTuple):
    """Facts of one backbone.

    Attributes:
        gated_layers: regular expression of the module paths of its gated convolutions; "": none are known.
        crop: side in pixels of its usual training crop.
        frame_interval: of its usual clips; 0: it sees segments, one frame each.
        small: (name, options) of a member of the family that a CPU trains in minutes.
    """

    gated_layers: str = ""
    crop: int = 224
    frame_interval: int = 0
    small: tuple[str, Mapping[str, Any]] = ("", {})


_BLOCK_CONVS = r"layer\d+_\d+/conv\d+"
# Which convolutions are gated: VA-RED2 does not say; its costs leave these: spatial halves of R(2+1)D, all of
# I3D with the stem, all three of X3D's blocks. Shortcuts, squeeze-excitation, necks and correlation blocks
# stay as they are.
_SPATIAL_HALVES = _BLOCK_CONVS + "/conv_s"
_I3D_CONVS = r"(Conv3d_\w+|Mixed_\w+/b\w+)/conv"

# The second stage keeps its frames: with a stride of 2 three fifths of the gated cost would lie in the first.
_R2PLUS1D = dict(width=16, stem_kernel=(3, 5, 5), stem_norm=True,
                 stage_sizes=(1, 1, 1), inflate=(1, 1, 1), time_strides=(1, 1, 2), space_strides=(1, 2, 2),
                 classifier_std=0.1)
# Five exits, a layer each (two for the first), on two scales.
_MSDNET = dict(base=2, step=1, channels=16, growth=8, scale_factors=(1, 2), bottleneck_factors=(1, 2))

# Crops follow from the costs in VA-RED2's paper; the interval is the usual one of each network.
FACTS: dict[str, Facts] = {
    "r2plus1d_18_vared": Facts(_SPATIAL_HALVES, 112, 2, ("r2plus1d_18_vared", _R2PLUS1D)),
    "r2plus1d_18": Facts(_SPATIAL_HALVES),
    "r2plus1d_34": Facts(_SPATIAL_HALVES),
    "tpn_r2plus1d_18": Facts(_SPATIAL_HALVES, 112, 2, (
        "tpn_r2plus1d_18", _R2PLUS1D | dict(width=32, levels=(2, 3), time_scales=(2, 1)))),
    "corrnet_r2plus1d_18": Facts(_SPATIAL_HALVES, 112, 2, (
        "corrnet_r2plus1d_18", _R2PLUS1D | dict(stage_sizes=(2, 1, 1), correlations=((1,), (), ())))),
    "r3d_18": Facts(_BLOCK_CONVS),
    "mc3_18": Facts(_BLOCK_CONVS),
    "slowonly_resnet50": Facts(_BLOCK_CONVS),
    "i3d_resnet50": Facts(_BLOCK_CONVS),
    "resnet18": Facts(_BLOCK_CONVS),
    "resnet34": Facts(_BLOCK_CONVS),
    "resnet50": Facts(_BLOCK_CONVS),
    "resnet101": Facts(_BLOCK_CONVS),
    "resnet152": Facts(_BLOCK_CONVS),
    "tsm_resnet18": Facts(_BLOCK_CONVS),
    "tsm_resnet50": Facts(_BLOCK_CONVS),
    "tsm_resnet101": Facts(_BLOCK_CONVS),
    "x3d_s": Facts(_BLOCK_CONVS),
    "x3d_m": Facts(_BLOCK_CONVS, 224, 5, ("x3d_m", dict(stage_sizes=(1, 1, 1), widths=(16, 32, 64)))),
    "x3d_l": Facts(_BLOCK_CONVS),
    "i3d": Facts(_I3D_CONVS),
    "i3d_tp": Facts(_I3D_CONVS, 224, 2, ("i3d_tp", dict(width_mult=0.25))),
    "msdnet_38": Facts(small=("msdnet_38", _MSDNET)),
    "msdnet_b4_s4": Facts(small=("msdnet_b4_s4", _MSDNET)),
}


def facts(name: str) -> Facts:
    """The facts of a backbone; its small member is always there."""
    found = FACTS.get(name, Facts())
    return found if found.small[0] else found._replace(small=_small_tsm(name))


def gated_backbones() -> list[str]:
    """Names of the backbones whose gated convolutions are known, sorted."""
    return sorted(name for name, known in FACTS.items() if known.gated_layers)


def _small_tsm(name: str) -> tuple[str, dict[str, Any]]:
    """A TSM-ResNet of three stages and width 16: a block per stage, two for the deep ones."""
    depth = 2 if name.endswith(("101", "152")) else 1
    return "tsm_resnet18", dict(width=16, stem="small", stage_sizes=(depth,) * 3, stage_strides=(2, 2, 2),
                                classifier_std=0.1)  # trained from scratch
