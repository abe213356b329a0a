"""Transformers, MSDNet, EfficientNet-Lite for `forward.py`: a case's network here, and its features."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np

from effvid_jax.backbones import make_backbone, shifts
from tests.parity import golden
from tests.parity.reference import Reference, expect, options_of

Features = dict[str, np.ndarray]


# ------------------------------------------------------------------------------ Video Swin and MViT
def swin3d(config: dict[str, Any]):
    """mmaction2's `SwinTransformer3D` -> our name, our options, 0."""
    options = options_of(
        config, patch_size=(4, 4, 4), in_chans=3, embed_dim=96, depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24), window_size=(2, 7, 7), mlp_ratio=4.0, qkv_bias=True,
        qk_scale=None, drop_rate=0.0, attn_drop_rate=0.0, drop_path_rate=0.2, patch_norm=False,
        pretrained2d=True, use_checkpoint=False)
    expect(options, in_chans=3, drop_rate=0.0, attn_drop_rate=0.0)
    same = ("embed_dim", "depths", "num_heads", "patch_size", "window_size", "mlp_ratio",
            "qkv_bias", "qk_scale", "patch_norm")
    ours = {field: tuple(options[field]) if isinstance(options[field], list) else options[field]
            for field in same}
    return "swin3d_t", {"drop_path": options["drop_path_rate"], **ours}, 0


def torchvision(constructor: str, kwargs: dict[str, Any]) -> Reference:
    """torchvision's `swin3d_*` and `mvit_v2_s`."""
    return Reference(constructor, make_backbone(constructor, kwargs.pop("num_classes", 400)),
                     tap=tap_mvit if constructor.startswith("mvit") else tap_swin3d)


def tap_swin3d(features: Features, name: str):
    """For 'backbone.layers.2' (mmaction2; includes merging) or 'features.4' (torchvision)."""
    if found := re.fullmatch(r"backbone\.(?:low_res_path\.)?layers\.(\d)", name):
        stage = int(found[1]) + 1
        return features.get(f"merge{stage}", features.get(f"stage{stage}"))
    if found := re.fullmatch(r"features\.(\d)", name):
        stage, merging = divmod(int(found[1]), 2)
        return features.get(f"{'merge' if merging else 'stage'}{stage + 1}")
    last = re.sub(r"^backbone\.(low_res_path\.)?", "", name)
    return features.get({"patch_embed": "stem", "norm": "features", "backbone": "features",
                         "low_res_path": "features"}.get(last, ""))


def tap_mvit(features: Features, name: str):
    """For 'blocks.3[0]', the tokens after a block."""
    found = re.fullmatch(r"blocks\.(\d+)(?:\[0\])?", name)
    return features.get(f"block{found[1]}") if found else None


# ----------------------------------------------------------------------------------- MSDNet-PyTorch
def msdnet(arch: dict[str, Any]) -> Reference:
    """Our MSDNet for the command-line options of MSDNet-PyTorch.

    Raises:
        golden.Unsupported: a network without bottlenecks, or other data.
    """
    data = arch["data"]
    if not arch["bottleneck"] or not (data == "ImageNet" or data.startswith("cifar")):
        raise golden.Unsupported(f"MSDNet bottleneck={arch['bottleneck']}, data={data!r}")
    head = {} if data == "ImageNet" else {"stem": "cifar", "head_channels": 128}
    model = make_backbone(
        "msdnet_38", arch["num_classes"], num_blocks=arch["nBlocks"], base=arch["base"],
        step=arch["step"], step_mode=arch["stepmode"], channels=arch["nChannels"],
        growth=arch["growthRate"], scale_factors=tuple(arch["grFactor"]),
        bottleneck_factors=tuple(arch["bnFactor"]), reduction=arch["reduction"],
        prune=arch["prune"], **head)

    def outputs(logits, features):
        return {f"exit{k}": features[f"exit{k + 1}"].mean(axis=1) for k in range(arch["nBlocks"])}

    return Reference("msdnet_38", model, tap=tap_msdnet, outputs=outputs)


def tap_msdnet(features: Features, name: str):
    """For 'blocks.1[2]', one of the scales after a block (the only one: 'blocks.4')."""
    found = re.fullmatch(r"blocks\.(\d+)(?:\[(\d+)\])?", name)
    if not found:
        return None
    scales = sorted(n for n in features if n.startswith(f"stage{int(found[1]) + 1}_scale"))
    number = int(found[2] or 0)
    if number >= len(scales):
        return None
    x = features[scales[number]]
    return x.reshape(-1, *x.shape[2:])


# ------------------------------------------------------------------------- efficientnet-lite-pytorch
def efficientnet_lite(case: dict[str, Any]) -> Reference:
    """`EfficientNet.from_name('efficientnet-lite0', ...)`, maybe with TSM's shift in its blocks.

    Raises:
        golden.Unsupported: a model that pads for another size than its input has.
    """
    arch, kwargs = case["arch"], dict(case["arch"]["kwargs"])
    number = int(arch["constructor"].removeprefix("efficientnet-lite"))
    side = kwargs.pop("image_size", {0: 224, 1: 240, 2: 260}[number])
    if side is not None and case["input"]["shape"][-3:-1] != [side, side]:
        raise golden.Unsupported(f"image_size={side}, which is not the input's")
    shift = ({"shift": partial(shifts.temporal_shift, div=arch["shift_div"])} if "shift_div" in arch else {})
    name = f"efficientnet_lite{number}"
    model = make_backbone(name, kwargs.pop("num_classes", 1000), **shift)
    if kwargs:
        raise golden.Unsupported(f"{arch['constructor']} with options {sorted(kwargs)}")

    def tap(features: Features, name: str):
        """For '_blocks.4', the last block of a stage."""
        ends = np.cumsum((1, 2, 2, 3, 3, 4, 1) if number == 0 else (1, 3, 3, 4, 4, 5, 1)) - 1
        stages = {f"_blocks.{end}": f"stage{s}" for s, end in enumerate(ends, start=1)}
        x = features.get(stages.get(name, ""))
        return None if x is None else x.reshape(-1, *x.shape[2:])

    return Reference(name, model, arch.get("num_segments", 0), tap=tap)
