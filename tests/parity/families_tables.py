"""The other networks of the papers' tables for `forward.py`: a case's network here, and its features.

A builder takes the architecture of a case and returns a `Reference`; `build` finds the builder.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from effvid_jax.backbones import blocks, make_backbone
from tests.parity import golden
from tests.parity.reference import Reference, expect

Features = dict[str, np.ndarray]


def _merged(x):
    """Frames merged into the batch, as 2-D references have them."""
    return None if x is None else x.reshape(-1, *x.shape[2:])


# ------------------------------------------------------------------------------------ BN-Inception
_BN_INCEPTION_CAPTURE = r"inception_(3a|5b)/b1x1|inception_5a|frame_fc"


def _tap_bn_inception(features: Features, name: str):
    name = name.removeprefix("base_model.")
    if name == "global_pool":
        return _merged(features["pooled"])[:, None, None]
    if name == "new_fc":
        return _merged(features["frame_fc"]) if "frame_fc" in features else None
    if pool := re.fullmatch(r"inception_(3c|4e)_pool", name):  # the last channels, without a projection
        before, after = {"3c": (320, "stage2"), "4e": (608, "stage3")}[pool[1]]
        return _merged(features[after][..., -before:])
    if name == "inception_5b_pool":
        return _merged(blocks.max_pool(features["inception_5a"], (3, 3), (1, 1), (1, 1)))
    if unit := re.fullmatch(r"(inception_\d\w)_relu_(\w+)", name):
        return _merged(features.get(f"{unit[1]}/b{unit[2]}"))
    return _merged(features.get({"pool1_3x3_s2": "stem", "pool2_3x3_s2": "stage1"}.get(name, "")))


def tsn_bn_inception(arch: dict[str, Any]) -> Reference:
    """Class `TSN` of the TSM repository and of TRN-pytorch, on BN-Inception."""
    named = {"type": "TSN", "is_shift": False, "img_feature_dim": 256, **arch}
    expect(named, modality="RGB", is_shift=False)
    options: dict[str, Any] = {}
    name = "bninception"
    if arch["consensus_type"] == "TRNmultiscale":
        name = "trn_bninception"
        options = {"frame_features": named["img_feature_dim"], "relations": tuple(
            tuple(frames) for tuples in arch["relations"].values() for frames in tuples)}
    else:
        expect(named, consensus_type="avg")
    return Reference(name, make_backbone(name, arch["num_class"], **options), tap=_tap_bn_inception,
                     capture=_BN_INCEPTION_CAPTURE)


# ------------------------------------------------------------------------------------------ MF-Net
def mfnet(arch: dict[str, Any]) -> Reference:
    """`MFNET_3D` of PyTorch-MFNet."""
    model = make_backbone("mfnet_3d", arch["num_classes"])
    last = f"conv{model.num_stages + 1}_B{model.stage_sizes[-1]:02d}"

    def tap(features: Features, name: str):
        if name == "globalpool":
            return features["features"].mean(axis=(1, 2, 3), keepdims=True)
        names = {"maxpool": "stem", "tail": "features", f"conv{model.num_stages + 1}": last,
                 **{f"conv{s + 1}": f"stage{s}" for s in range(1, model.num_stages)}}
        return features.get(names.get(name, name.replace(".", "_")))

    return Reference("mfnet_3d", model, tap=tap, capture=r"conv1|conv\d_B\d+")


# -------------------------------------------------------------------------------------- PySlowFast
def _head_outputs(logits, features):
    return {"logits_map": features["fc"], "probabilities": jax.nn.softmax(logits)}


def _slowfast_side(arch: dict[str, Any]) -> int:
    """Side of the last map at training resolution, which is the head's window."""
    return arch["TRAIN_CROP_SIZE"] // 32


def nonlocal_net(arch: dict[str, Any]) -> Reference:
    """PySlowFast's I3D-NLN-R50."""
    side = _slowfast_side(arch)
    model = make_backbone("i3d_nonlocal_resnet50", arch["NUM_CLASSES"],
                          head_pool=(arch["NUM_FRAMES"] // 2, side, side))

    def tap(features: Features, name: str):
        if block := re.fullmatch(r"s(\d)\.pathway0_(res|nonlocal)(\d+)", name):
            kind = {"res": "layer", "nonlocal": "nonlocal"}[block[2]]
            return features.get(f"{kind}{int(block[1]) - 1}_{block[3]}")
        return features["stem"] if name == "s1.pathway0_stem" else None

    return Reference("i3d_nonlocal_resnet50", model, tap=tap, outputs=_head_outputs,
                     capture=r"(layer|nonlocal)\d_\d+|fc")


def slowfast(arch: dict[str, Any]) -> Reference:
    """PySlowFast's SlowFast-R50, 4x16 or 8x8."""
    size = re.search(r"SLOWFAST_(\w+)_R50", arch["config"])[1]
    name = f"slowfast_{size}_resnet50"
    model = make_backbone(name, arch["NUM_CLASSES"], head_pool=_slowfast_side(arch))

    def tap(features: Features, name: str):
        if stem := re.fullmatch(r"s1\.pathway(\d)_stem", name):
            return model.part(features["stem"], 0)[int(stem[1])]
        if block := re.fullmatch(r"s(\d)\.pathway(\d)_res(\d+)", name):
            pathway = ("slow", "fast")[int(block[2])]
            return features.get(f"{pathway}_layer{int(block[1]) - 1}_{block[3]}")
        return None

    return Reference(name, model, tap=tap, outputs=_head_outputs, capture=r"(slow|fast)_layer\d_\d+|fc")


# ------------------------------------------------------------------------------------------ ARTNet
def artnet(arch: dict[str, Any]) -> Reference:
    """The Caffe definition of ARTNet-18."""
    model = make_backbone("artnet_18", arch["num_classes"])

    def tap(features: Features, name: str):  # norms before their ReLU
        if block := re.fullmatch(r"res(\d)([ab])_bn", name):
            return features.get(f"layer{int(block[1]) - 1}_{'ab'.index(block[2])}/bn")
        names = {"conv1_bn": "conv1/appearance_bn", "pooling1": "conv1/pairs", "redu1_bn": "bn1"}
        return features.get(names.get(name, ""))

    return Reference("artnet_18", model, tap=tap, capture=r"conv1/(appearance_bn|pairs)|bn1|layer\d_\d/bn")


# --------------------------------------------------------------------------------------------- ECO
def eco(arch: dict[str, Any]) -> Reference:
    """Class `TSN` of ECO-pytorch on its ECO-Lite."""
    expect({"type": "TSN", "head_pool": None, **arch}, modality="RGB", consensus_type="identity")

    def tap(features: Features, name: str):
        name = name.removeprefix("base_model.")
        if name == "res5b_pool":
            return features["features"].mean(axis=(1, 2, 3), keepdims=True)
        if residual := re.fullmatch(r"res(\d)b_relu", name):
            return features[f"stage{residual[1]}"]
        if name == "inception_3c_relu_double_3x3_1":
            return _merged(features["stage2"])
        return _tap_bn_inception(features, name)

    return Reference("eco_lite", make_backbone("eco_lite", arch["num_class"]), tap=tap,
                     capture=_BN_INCEPTION_CAPTURE)


# ------------------------------------------------------------------------------------------- StNet
def stnet(arch: dict[str, Any]) -> Reference:
    """`StNet` of Pytorch-StNet."""
    if (arch["block"], arch["groups"]) not in (("SEResNeXtBottleneck", 32), ("SEResNetBottleneck", 1)):
        raise golden.Unsupported(f"StNet of {arch['block']} with groups={arch['groups']}")
    expect({"type": "StNet", **arch}, inplanes=64)
    name = "stnet_se_resnext50"
    model = make_backbone(name, arch["num_classes"], stage_sizes=tuple(arch["layers"]), groups=arch["groups"],
                          reduction=arch["reduction"], frames_per_image=arch["N"])

    def tap(features: Features, name: str):
        if temporal := re.fullmatch(r"temp(\d)", name):
            return jax.nn.relu(features[f"temp{temporal[1]}_bn1"])
        return _merged(features.get({"layer0": "stem"}.get(name, name.replace("layer", "stage"))))

    return Reference(name, model, tap=tap, capture=r"temp\d_bn1")


# ---------------------------------------------------------------------------------- timm's GhostNet
def ghostnet(arch: dict[str, Any]) -> Reference:
    """timm's `ghostnet_050`, `ghostnet_100` and `ghostnet_130`."""
    kwargs = dict(arch.get("kwargs", {}))
    width = int(arch["constructor"].removeprefix("ghostnet_")) / 100
    model = make_backbone("ghostnet", kwargs.pop("num_classes", 1000), width_mult=kwargs.pop("width", width))
    if kwargs:
        raise golden.Unsupported(f"{arch['constructor']} with options {sorted(kwargs)}")

    def tap(features: Features, name: str):
        if stage := re.fullmatch(r"blocks\.(\d)", name):
            return _merged(features.get(f"stage{int(stage[1]) + 1}"))
        if name == "conv_stem":
            return _merged(features["conv_stem/conv"])
        return _merged(features["conv_head"]) if name == "conv_head" else None

    return Reference("ghostnet", model, tap=tap, capture=r"conv_head|conv_stem/conv")


# -------------------------------------------------------------------------------------------- table
def _is_constructor(pattern: str) -> Callable[[dict[str, Any]], bool]:
    return lambda arch: bool(re.fullmatch(pattern, str(arch.get("constructor"))))


def _is_config(pattern: str) -> Callable[[dict[str, Any]], bool]:
    return lambda arch: bool(re.fullmatch(pattern, str(arch.get("config"))))


def _is_tsn(base_model: str) -> Callable[[dict[str, Any]], bool]:
    return lambda arch: arch.get("repository_class") == "TSN" and arch.get("base_model") == base_model


_BUILDERS: list[tuple[Callable[[dict[str, Any]], bool], Callable[[dict[str, Any]], Reference]]] = [
    (_is_tsn("BNInception"), tsn_bn_inception),
    (_is_constructor("MFNET_3D"), mfnet),
    (_is_config(r"configs/Kinetics/c2/I3D_NLN_8x8_R50\.yaml"), nonlocal_net),
    (_is_config(r"configs/Kinetics/SLOWFAST_(4x16|8x8)_R50\.yaml"), slowfast),
    (_is_constructor("ARTNet-ResNet-18"), artnet),
    (_is_tsn("ECO"), eco),
    (_is_constructor("StNet"), stnet),
    (_is_constructor(r"ghostnet_\d+"), ghostnet),
]


def build(arch: dict[str, Any]) -> Reference | None:
    """Our counterpart of a case's architecture; None if none of these networks is meant.

    Raises:
        golden.Unsupported: one of them, with options that we do not have.
    """
    for means, builder in _BUILDERS:
        if means(arch):
            return builder(arch)
    if "repository_class" in arch:
        raise golden.Unsupported(f"{arch['repository_class']} on {arch.get('base_model')}")
    return None
