"""3-D convolutional networks for `forward.py`: what a case's architecture is here, and its features.

Builders of mmaction2 backbones return our name, our options and the frames per clip that the reference
cuts itself (0: none); those of other repositories a `Reference`.
"""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import numpy as np

from effvid_jax.backbones import blocks, make_backbone, mobilenet_v2, resnet
from effvid_jax.torch_import.naming import S3D_NUMBERS
from tests.parity import golden
from tests.parity.reference import Reference, expect, options_of

# ------------------------------------------------------------------------------- mmaction2 (mmcv 1.4)
_RESNET3D = {
    "depth": None, "stage_blocks": None, "pretrained2d": True, "in_channels": 3, "num_stages": 4,
    "base_channels": 64, "out_indices": (3,), "spatial_strides": (1, 2, 2, 2),
    "temporal_strides": (1, 1, 1, 1), "dilations": (1, 1, 1, 1), "conv1_kernel": (3, 7, 7),
    "conv1_stride_s": 2, "conv1_stride_t": 1, "pool1_stride_s": 2, "pool1_stride_t": 1,
    "with_pool1": True, "with_pool2": True, "style": "pytorch", "inflate": (1, 1, 1, 1),
    "inflate_style": "3x1x1", "conv_cfg": {"type": "Conv3d"}, "act_cfg": {"type": "ReLU"},
    "non_local": (0, 0, 0, 0), "non_local_cfg": {}, "zero_init_residual": True}


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def resnet3d(config: dict[str, Any], conv: str = "Conv3d", **defaults):
    """`ResNet3d`, whose convolutions are of type `conv`."""
    options = {k: _tuples(v) for k, v in options_of(config, **{**_RESNET3D, **defaults}).items()}
    expect(options, in_channels=3, style="pytorch", dilations=(1, 1, 1, 1), non_local=(0, 0, 0, 0),
           conv1_stride_s=2, pool1_stride_s=2, conv_cfg={"type": conv})
    n, inflate = options["num_stages"], options["inflate"]
    sizes, bottleneck = resnet.DEPTHS[options["depth"]]
    return "slowonly_resnet50", {
        "stage_sizes": (options["stage_blocks"] or sizes)[:n], "bottleneck": bottleneck,
        "width": options["base_channels"], "stem_kernel": options["conv1_kernel"],
        "stem_strides": (options["conv1_stride_t"], 2, 2),
        "stem_pool": options["pool1_stride_t"] if options["with_pool1"] else 0,
        "pool2": options["with_pool2"], "inflate": (inflate,) * n if isinstance(inflate, int) else inflate,
        "inflate_style": options["inflate_style"], "time_strides": options["temporal_strides"],
        "space_strides": options["spatial_strides"],
        "norm_eps": config.get("norm_cfg", {}).get("eps", 1e-5)}, 0


def slowonly(config):
    """`ResNet3dSlowOnly`."""
    config = {k: v for k, v in config.items() if (k, v) != ("lateral", False)}
    return resnet3d(config, conv1_kernel=(1, 7, 7), inflate=(0, 0, 1, 1), with_pool2=False)


def resnet2plus1d(config):
    """`ResNet2Plus1d`: always with the stem's max-pool, never with the second one."""
    name, options, frames = resnet3d({**config, "with_pool1": True, "with_pool2": False}, "Conv2plus1d")
    return name, {**options, "factoring": "mmaction"}, frames


def csn(config):
    """`ResNet3dCSN`: `inflate_style` 3x3x3, batch norms with an eps of 1e-3 unless the case says another."""
    separation = config.get("bottleneck_mode", "ir")
    config = {"norm_cfg": {"eps": 1e-3}, **{k: v for k, v in config.items()
                                            if k not in ("bottleneck_mode", "bn_frozen")}}
    _, options, frames = resnet3d(config, temporal_strides=(1, 2, 2, 2), inflate_style="3x3x3")
    if not options.pop("bottleneck") or options.pop("inflate_style") != "3x3x3" or set(
            options.pop("inflate")) != {1}:
        raise golden.Unsupported(f"ResNet3dCSN {config}")
    return "ir_csn_50", {**options, "separation": separation}, frames


def x3d(config):
    """`X3D`."""
    options = options_of(
        config, gamma_w=1.0, gamma_b=1.0, gamma_d=1.0, in_channels=3, num_stages=4,
        spatial_strides=[2, 2, 2, 2], se_style="half", se_ratio=1 / 16, use_swish=True,
        zero_init_residual=True)
    expect(options, in_channels=3, num_stages=4, spatial_strides=[2, 2, 2, 2], se_style="half",
           se_ratio=1 / 16)
    width = mobilenet_v2.round_channels(24 * options["gamma_w"])
    return "x3d_m", {
        "stage_sizes": tuple(math.ceil(options["gamma_d"] * n) for n in (1, 2, 5, 3)),
        "widths": tuple(width * 2**s for s in range(4)), "expansion": options["gamma_b"]}, 0


def with_neck(backbone, neck: dict[str, Any]):
    """What a builder returned for a backbone, made into what it is with mmaction2's `TPN` neck."""
    name, options, frames = backbone
    if name.startswith("resnet"):
        name, options = "tsm_resnet50", {"depth": int(name.removeprefix("resnet")), **options}
    fusion, n = neck["level_fusion_cfg"], len(neck["in_channels"])
    ones, levels = [[1, 1, 1]] * n, neck["out_channels"]
    expect({"type": "TPN", **neck, **fusion}, upsample_cfg={"scale_factor": ones[0]},
           downsample_cfg={"downsample_scale": ones[0]}, mid_channels=[levels] * n)
    expect({"downsample_scales": ones, **fusion, "type": "TPN"}, downsample_scales=ones)
    return f"tpn_{name}", {
        **options, "levels": tuple(range(5 - n, 5)), "level_features": levels,
        "time_scales": tuple(neck["temporal_modulation_cfg"]["downsample_scales"]),
        "fusion_features": fusion["out_channels"], "features": 2048,
        "flow": neck.get("flow_type", "cascade"), "aux_head": bool(neck.get("aux_head_cfg"))}, frames


def tap_mmaction(features, name):
    """For 'backbone.layer3', 'backbone.conv5' and the like."""
    last = re.sub(r"^backbone\.(low_res_path\.)?", "", name)
    if last == "pool2":
        return blocks.max_pool(features["stage1"], (2, 1, 1), (2, 1, 1), (0, 0, 0))
    if last == "conv1":  # before the max-pool
        return jax.nn.relu(features["bn1"])
    return features.get({"maxpool": "stem", "conv1_t": "stem", "conv5": "stage5",
                         **{f"layer{s}": f"stage{s}" for s in range(1, 5)}}.get(last, ""))


# ------------------------------------------------------------------------------ other repositories
def torchvision(constructor: str, kwargs: dict[str, Any]) -> Reference:
    """torchvision's `r3d_18`, `mc3_18`, `r2plus1d_18` and `s3d`; takes what it knows out of `kwargs`."""
    kwargs.pop("dropout", None)
    model = make_backbone(constructor, kwargs.pop("num_classes", 400))
    if constructor != "s3d":
        return Reference(constructor, model, tap=tap_mmaction_or_stem)

    def tap(features, name):
        number = int(name.removeprefix("features."))
        if number not in S3D_NUMBERS:  # a max-pool
            return model.run_pool((1, 4, 7, 13).index(number) + 1, features[S3D_NUMBERS[number - 1]])
        return features[S3D_NUMBERS[number]]

    return Reference(constructor, model, tap=tap, capture=r"Conv3d_\w+|Mixed_\w+")


def tap_mmaction_or_stem(features, name):
    """torchvision calls its stages as mmaction2 does, and its stem 'stem'."""
    return features["stem"] if name == "stem" else tap_mmaction(features, name)


def pytorch_i3d(arch: dict[str, Any]) -> Reference:
    """`InceptionI3d`; its logits (N, K, T') keep a time axis, and space where that is no single position."""
    model = make_backbone("i3d", arch["num_classes"])
    before = {"2a": "stem", "3a": "stage1", "4a": "stage2", "5a": "stage3"}

    def tap(features, name):
        if pool := re.fullmatch(r"MaxPool3d_(\da)_\dx\d", name):
            return model.run_pool(int(pool[1][0]) - 1, features[before[pool[1]]])
        return features.get(name)

    def outputs(logits, features):
        logits_NKTHW = np.moveaxis(features["fc"], -1, 1)
        for _ in range(2):  # the reference squeezes axis 3 twice
            logits_NKTHW = logits_NKTHW.squeeze(3) if logits_NKTHW.shape[3:4] == (1,) else logits_NKTHW
        return {"logits": logits_NKTHW}

    return Reference("i3d", model, tap=tap, outputs=outputs, capture=r"Conv3d_\w+|Mixed_\w+|fc")


def slowfast_x3d(arch: dict[str, Any]) -> Reference:
    """PySlowFast's X3D, by its configuration file.

    Raises:
        golden.Unsupported: another configuration.
    """
    size = re.fullmatch(r"configs/Kinetics/X3D_(XS|S|M|L)\.yaml", arch["config"])
    if not size:
        raise golden.Unsupported(f"configuration {arch['config']}")
    side = math.ceil(arch["TRAIN_CROP_SIZE"] / 32)
    name = f"x3d_{size[1].lower().replace('xs', 's')}"
    model = make_backbone(name, arch["NUM_CLASSES"], head_pool=(arch["NUM_FRAMES"], side, side))

    def outputs(logits, features):
        return {"logits_map": features["fc"], "probabilities": jax.nn.softmax(logits)}

    def tap(features, name):
        return features.get("stem" if name == "s1" else f"stage{int(name[1:]) - 1}")

    return Reference(name, model, tap=tap, outputs=outputs, capture="fc")


def corrnet(arch: dict[str, Any]) -> Reference:
    """tefandasy/CorrNet, by its constructor's arguments.

    Raises:
        golden.Unsupported: another neighbourhood of the correlation.
    """
    if (arch["filter_size"], arch["dilation"]) != (7, 2):
        raise golden.Unsupported(f"CorrNet with filter_size={arch['filter_size']}, "
                                 f"dilation={arch['dilation']}")
    model = make_backbone(
        "corrnet_26", arch["num_classes"], stage_sizes=tuple(arch["layer_sizes"]),
        correlations=tuple(tuple(places or ()) for places in arch["corr_block_locs"]),
        groups=arch["groups"])

    def tap(features, name):
        name = re.sub(r"^res(\d)$", lambda m: f"stage{int(m[1]) - 1}", name)
        name = re.sub(r"^res(\d)\.(\d+)", lambda m: f"layer{int(m[1]) - 1}_{m[2]}", name)
        return features.get({"conv1": "stem"}.get(name, name.replace(".", "/")))

    return Reference("corrnet_26", model, tap=tap, capture=r"layer\d_\d+(/correlation)?")
