"""Transformers of `transformers` and UniFormer for `forward.py`: a case's network here, and its features."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from effvid_jax.backbones import uniformer, videomae, vjepa2
from tests.parity import golden
from tests.parity.reference import Reference

COMMON = {"hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "tubelet_size",
          "hidden_act", "layer_norm_eps", "num_labels"}


def _options(case: dict[str, Any], eps: float, frames: str, side: str, **fixed) -> dict[str, Any]:
    """Options of `VideoTransformer` for a configuration; what it does not say has the library's default.

    Raises:
        golden.Unsupported: another activation or eps, unknown fields, or a clip that the model is not for.
    """
    config = case["arch"]["config"]
    unknown = config.keys() - COMMON - fixed.keys() - {
        frames, side, "intermediate_size", "mlp_ratio", "num_pooler_layers"}
    clip = case["input"]["shape"][-4:-1]
    fits = [config.get(frames, clip[0]), *[config.get(side, clip[1])] * 2] == clip
    same = all(config.get(name, value) == value for name, value in fixed.items())
    if unknown or not (fits and same and config.get("hidden_act", "gelu") == "gelu"
                       and config.get("layer_norm_eps", eps) == eps):
        raise golden.Unsupported(f"{case['arch']['constructor']} {config} for a clip of {clip}")
    width, depth, patch = config["hidden_size"], config["num_hidden_layers"], config.get("patch_size", 16)
    ratio = config.get("mlp_ratio", config.get("intermediate_size", 4 * width) / width)
    return {"num_classes": config["num_labels"], "width": width, "heads": config["num_attention_heads"],
            "mlp_ratio": ratio, "stages": (depth,), "patch": (config.get("tubelet_size", 2), patch, patch)}


def _tokens(x: np.ndarray) -> np.ndarray:
    """Map (N, T, h, w, C) -> tokens (N, tokens, C)."""
    return x.reshape(len(x), -1, x.shape[-1])


def video_mae(case: dict[str, Any]) -> Reference:
    """`VideoMAEForVideoClassification` with the mean over tokens."""
    model = videomae.VideoMAE(**_options(case, 1e-12, "num_frames", "image_size", use_mean_pooling=True,
                                         qkv_bias=True))

    def tap(features, name):
        if name == "videomae.embeddings":
            return _tokens(features["stem"])
        layer = re.fullmatch(r"videomae\.encoder\.layer\.(\d+)", name)
        return features.get(f"blocks_{layer[1]}" if layer else name)

    return Reference("videomae_s", model, tap=tap, capture=r"blocks_\d+|fc_norm")


def v_jepa2(case: dict[str, Any]) -> Reference:
    """`VJEPA2ForVideoClassification`; the predictor of its pretraining is in the state and never run."""
    options = _options(case, 1e-6, "frames_per_clip", "crop_size", qkv_bias=True)
    pooler = case["arch"]["config"].get("num_pooler_layers", 3)
    model = vjepa2.VJEPA2(**options, pooler_blocks=pooler)

    def tap(features, name):
        if name == "vjepa2.encoder.embeddings":
            return _tokens(features["stem"])
        if name == "vjepa2.encoder.layernorm":
            return _tokens(features["features"])
        if name == "pooler":
            return features["pooled"][:, 0]
        layer = re.fullmatch(r"vjepa2\.encoder\.layer\.(\d+)", name)
        return features.get(f"blocks_{layer[1]}") if layer else None

    return Reference("vjepa2_l", model, tap=tap, capture=r"blocks_\d+", unused=r"vjepa2\.predictor\..*")


def uni_former(arch: dict[str, Any]) -> Reference:
    """Sense-X's `Uniformer`, by its configuration.

    Raises:
        golden.Unsupported: attention split into time and space.
    """
    if arch["SPLIT"]:
        raise golden.Unsupported("Uniformer with SPLIT")
    model = uniformer.UniFormer(
        arch["NUM_CLASSES"], tuple(arch["DEPTH"]), tuple(arch["EMBED_DIM"]), arch["HEAD_DIM"],
        arch["MLP_RATIO"], arch["QKV_BIAS"], arch["STD"])

    def tap(features, name):
        return features.get({"patch_embed1": "stem", "norm": "features"}.get(name, name.replace(".", "_")))

    return Reference("uniformer_s", model, tap=tap, capture=r"blocks\d_\d+")
