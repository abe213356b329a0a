"""Parity of an inference-mode forward pass (`kind: "forward"`).

`FAMILIES` and `CONSTRUCTORS` map the architecture of a case, in its own repository's words, to our
module: a new family is one more function there. Any depth, size and class count goes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax import cost
from effvid_jax.backbones import make_backbone, shifts
from effvid_jax.methods import base
from effvid_jax.torch_import import convert_with_report
from tests.parity import (
    families3d,
    families_mobile,
    families_other,
    families_tables,
    families_transformers,
    golden,
)
from tests.parity.reference import Reference, expect, options_of

# ------------------------------------------------------------------------------- mmaction2 (mmcv 1.4)
_RESNET = {"depth": None, "num_stages": 4, "style": "pytorch", "in_channels": 3}


def _shift(options) -> dict[str, Any]:
    return {"shift": partial(shifts.temporal_shift, div=options["shift_div"])
            if options["is_shift"] else None}


def _resnet(config):
    options = options_of(config, **_RESNET)
    expect(options, num_stages=4, style="pytorch", in_channels=3)
    return f"resnet{options['depth']}", {}, 0


def _resnet_tsm(config):
    options = options_of(config, **_RESNET, num_segments=8, is_shift=True, shift_div=8,
                       shift_place="blockres", temporal_pool=False)
    expect(options, num_stages=4, style="pytorch", in_channels=3, shift_place="blockres",
            temporal_pool=False)
    return f"resnet{options['depth']}", _shift(options), options["num_segments"]


def _mobilenet(config):
    options = options_of(config, widen_factor=1.0)
    return "mobilenet_v2", {"width_mult": options["widen_factor"]}, 0


def _mobilenet_tsm(config):
    options = options_of(config, widen_factor=1.0, num_segments=8, is_shift=True, shift_div=8)
    return ("mobilenet_v2", {"width_mult": options["widen_factor"], **_shift(options)},
            options["num_segments"])


FAMILIES = {  # backbone type -> (its config) -> (our name, our options, frames per clip or 0)
    "ResNet": _resnet, "ResNetTSM": _resnet_tsm,
    "MobileNetV2": _mobilenet, "MobileNetV2TSM": _mobilenet_tsm,
    "SwinTransformer3D": families_other.swin3d,
    "ResNet3d": families3d.resnet3d, "ResNet3dSlowOnly": families3d.slowonly,
    "ResNet2Plus1d": families3d.resnet2plus1d, "ResNet3dCSN": families3d.csn, "X3D": families3d.x3d,
}
_HEADS = {  # head type -> (recognizer type, our options)
    "TSNHead": ("Recognizer2D", {"consensus": "features"}),
    "RKD2DHead": ("Recognizer2D", {"consensus": "features"}),
    "TSMHead": ("Recognizer2D", {"consensus": "logits"}),
    **dict.fromkeys(("I3DHead", "RKD3DHead", "GeneralRKD3DHead", "X3DHead"), ("Recognizer3D", {})),
    "TPNHead": (None, {}),  # for both
}


def _build_mmaction(config, head, neck=None) -> Reference:
    if config["type"] not in FAMILIES:
        raise golden.Unsupported(f"backbone {config['type']}")
    if head["type"] not in _HEADS or head.get("spatial_type", "avg") != "avg":
        raise golden.Unsupported(f"head {head['type']}, spatial_type {head.get('spatial_type')}")
    family = FAMILIES[config["type"]]({k: v for k, v in config.items() if not (neck and k == "out_indices")})
    name, options, segments = families3d.with_neck(family, neck) if neck else family
    model = make_backbone(name, num_classes=head["num_classes"], dropout=head.get("dropout_ratio", 0),
                          **_HEADS[head["type"]][1], **options)
    return Reference(name, model, segments, tap=TAPS.get(config["type"]),
                     capture="bn1" if config["type"] in TAPS else "")


def build_recognizer(arch: dict[str, Any]) -> Reference:
    """Our student or plain network for an mmaction2 `Recognizer2D` or `Recognizer3D`.

    Raises:
        golden.Unsupported: an architecture that `FAMILIES` does not know.
    """
    backbone, head = arch["backbone"], arch["cls_head"]
    if arch["type"] not in ("Recognizer2D", "Recognizer3D") or (
            _HEADS.get(head["type"], (None,))[0] not in (None, arch["type"])):
        raise golden.Unsupported(f"{arch['type']} with head {head['type']}")
    if backbone["type"] != "RKD":
        return _build_mmaction(backbone, head, arch.get("neck"))
    low = backbone.get("low_img_res", [112, 112])
    if low[0] != low[1]:
        raise golden.Unsupported(f"low_img_res={low}, which is not square")
    student = _build_mmaction(backbone["low_res_cfg"], head)
    teacher = _build_mmaction(backbone["high_res_cfg"], head)
    return dataclasses.replace(student, low=low[0], teacher=teacher)


# ------------------------------------------------------------------------------------- torchvision
def _tv_resnet(constructor, kwargs):
    return Reference(constructor, make_backbone(constructor, kwargs.pop("num_classes", 1000)))


def _tv_mobilenet(constructor, kwargs):
    return Reference(constructor, make_backbone(constructor, kwargs.pop("num_classes", 1000),
                                                width_mult=kwargs.pop("width_mult", 1.0)))


CONSTRUCTORS = {  # torchvision constructor -> (its name, a copy of its kwargs) -> Reference
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), _tv_resnet),
    "mobilenet_v2": _tv_mobilenet,
    **dict.fromkeys(("swin3d_t", "swin3d_s", "swin3d_b", "mvit_v2_s"), families_other.torchvision),
    **dict.fromkeys(("r3d_18", "mc3_18", "r2plus1d_18", "s3d"), families3d.torchvision),
}


def build(case: dict[str, Any]) -> Reference:
    """Our counterpart of any forward case.

    Raises:
        golden.Unsupported: an architecture that the tables do not know.
    """
    arch = case["arch"]
    if (reference := families_tables.build(arch)) is not None:
        return reference
    if "nBlocks" in arch:
        return families_other.msdnet(arch)
    if "corr_block_locs" in arch:
        return families3d.corrnet(arch)
    if str(arch.get("config")).startswith("configs/Kinetics/"):
        return families3d.slowfast_x3d(arch)
    if arch.get("constructor") == "InceptionI3d":
        return families3d.pytorch_i3d(arch)
    if str(arch.get("constructor")).startswith("efficientnet-lite"):
        return families_other.efficientnet_lite(case)
    if arch.get("constructor") == "VideoMAEForVideoClassification":
        return families_transformers.video_mae(case)
    if arch.get("constructor") == "VJEPA2ForVideoClassification":
        return families_transformers.v_jepa2(case)
    if arch.get("constructor") == "Uniformer":
        return families_transformers.uni_former(arch)
    if arch.get("constructor") == "MoViNet":
        return families_mobile.movinet_port(arch)
    if arch.get("library") == "timm" and "mobilenet" in arch["constructor"]:
        return families_mobile.timm_mobilenet(arch)
    if "constructor" not in arch:
        return build_recognizer(arch)
    if arch["constructor"] not in CONSTRUCTORS:
        raise golden.Unsupported(f"constructor {arch['constructor']}")
    kwargs = dict(arch.get("kwargs", {}))
    reference = CONSTRUCTORS[arch["constructor"]](arch["constructor"], kwargs)
    if kwargs:
        raise golden.Unsupported(f"{arch['constructor']} with options {sorted(kwargs)}")
    return reference


# -------------------------------------------------------------------------------------------- check
@contextlib.contextmanager
def precision(x64: bool):
    """Double precision, or single precision without shortcuts of the hardware."""
    with jax.enable_x64(x64), jax.default_matmul_precision("highest"):
        yield


def load(reference: Reference, state: dict[str, np.ndarray], x64: bool, part: str | None = None,
         frames: int = 0):
    """The case's weights as our variables, through the project's own converter.

    Strict: every tensor of `state` must be used. A ResKD case holds two networks: its student is
    taken unless `part` is 'teacher', whose classifier becomes zeros where the state has none.
    `frames` of a clip matter to networks with parameters per frame.

    Returns:
        The variables, and a dict: path in them ('conv1/kernel') -> key of the state that filled it (of
        a plain network, also for a ResKD case).
    """
    clip = jax.ShapeDtypeStruct((1, reference.segments or frames or 1, 160, 160, 3), jnp.float32)
    shapes = jax.eval_shape(reference.model.init, jax.random.key(0), clip)
    template = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    headless = part == "teacher" and not any("fc_cls_t" in key for key in state)
    variables, report = convert_with_report(reference.name, state, template, part=part,
                                            skip=("fc/.*",) if headless else ())
    dtype = jnp.float64 if x64 else jnp.float32
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), variables), report.sources


def tap_frames(features: dict[str, np.ndarray], name: str):
    """Our map for a module path of a 2-D reference, frames merged into the batch, or None.

    Args:
        features: named maps (B, T, h, w, C).
        name: such as 'backbone.layer3', 'maxpool' or 'features.13' (torchvision's MobileNetV2).
    """
    last = re.sub(r"^backbone\.(low_res_path\.)?", "", name)
    stem = "conv1" if "stage8" in features else "maxpool"  # MobileNetV2's or ResNet's names
    table = {stem: "stem", "conv2": "features", "features.0": "stem", "features.18": "features",
             **{f"layer{s}": f"stage{s}" for s in range(1, 8)},
             **{f"features.{i}": f"stage{s}" for s, i in enumerate((1, 3, 6, 10, 13, 16, 17), 1)}}
    x = features.get(table.get(last, ""))
    return None if x is None else x.reshape(-1, *x.shape[2:])


TAPS = {  # mmaction2 backbone type -> tap, where not `tap_frames`
    "SwinTransformer3D": families_other.tap_swin3d,
    **dict.fromkeys(("ResNet3d", "ResNet3dSlowOnly", "ResNet2Plus1d", "ResNet3dCSN", "X3D"),
                    families3d.tap_mmaction),
}


def run(reference: Reference, variables, x):
    """Logits and features, with the results of the modules that `reference.capture` names."""
    if not reference.capture:
        return reference.model.apply(variables, x)

    def wanted(module, method):
        return method == "__call__" and re.fullmatch(reference.capture, "/".join(module.path))

    (logits, features), found = reference.model.apply(
        variables, x, capture_intermediates=wanted, mutable=["intermediates"])
    modules = flax.traverse_util.flatten_dict(found.get("intermediates", {}), sep="/")
    return logits, {**features, **{path.removesuffix("/__call__"): value[0]
                                   for path, value in modules.items()}}


def check(case: dict[str, Any], x64: bool) -> tuple[float, list[str]]:
    """Compares a forward case.

    Returns:
        The largest error over outputs and features (see `golden.output_error`), and one line for
        everything that is out of tolerance, in the order of the network; none if it passes.
    """
    reference = build(case)
    state, x = golden.build_state(case), golden.build_input(case)
    x = x[:, None] if x.ndim == 4 else x
    with precision(x64):
        variables, _ = load(reference, state, x64, frames=x.shape[1])
        x = jnp.asarray(x, jnp.float64 if x64 else jnp.float32)
        if reference.low:
            x = base.resize(x, reference.low)
        if reference.segments:
            if x.shape[1] % reference.segments:
                raise golden.CaseError(f"{x.shape[1]} frames are not whole clips of "
                                       f"num_segments={reference.segments}.")
            x = x.reshape(-1, reference.segments, *x.shape[2:])
        # To numpy at once: outside this context JAX would narrow float64 arrays.
        logits, features = jax.device_get(jax.jit(partial(run, reference))(variables, x))
        taps = jax.device_get({name: (reference.tap or tap_frames)(features, name)
                               for name in case["features"]})
        outputs = {"logits": logits}
        if reference.outputs:
            outputs = jax.device_get(reference.outputs(logits, features))
        if reference.more:
            outputs |= jax.device_get(jax.jit(reference.more)(variables, x))
    if x64 and logits.dtype != np.float64:
        raise golden.CaseError(f"the network computed in {logits.dtype}, not in float64.")

    limit, errors, problems = golden.TOLERANCE[x64], [0.0], []
    for name, stored in case["features"].items():
        value = taps[name]
        if value is None:
            problems.append(f"no counterpart of feature {name}")
            continue
        errors.append(golden.fingerprint_error(value, stored))
        if errors[-1] > limit:
            problems.append(f"feature {name} e={errors[-1]:.1e} {tuple(value.shape)} "
                            f"against {tuple(stored['shape'])}")
    for name, stored in case["outputs"].items():
        if name not in outputs:
            problems.append(f"no counterpart of output {name}")
            continue
        errors.append(golden.output_error(outputs[name], stored))
        if errors[-1] > limit:
            problems.append(f"{name} e={errors[-1]:.1e} {tuple(outputs[name].shape)} "
                            f"against {tuple(stored['shape'])}")
    problems += _check_size(case, reference, x.shape[1:], len(x))
    return max(errors), problems


def _check_size(case, reference: Reference, clip, num_clips: int) -> list[str]:
    """Multiply-adds and numbers of parameters, exactly."""
    found = cost.count(reference.model, clip, "macs_attn")
    samples = case["input"]["shape"][0]
    params, buffers = found.params, found.stats
    if reference.teacher:  # its backbone is in the state too, its classifier is not
        teacher = cost.count(reference.teacher.model, clip)
        head = sum(layer.params for layer in teacher.layers if layer.block == "fc")
        params, buffers = params + teacher.params - head, buffers + teacher.stats
    params += sum(math.prod(shape) for key, shape, kind in case["state"]
                  if kind == "p" and reference.unused and re.fullmatch(reference.unused, key))
    rows = (("multiply-adds", found.macs * num_clips // samples, case["macs"]["per_sample"]),
            ("parameters", params, case["params"]["trainable"]),
            ("running statistics", buffers, case["params"]["state_float_buffers"]))
    return [f"{ours:,} {what}, the reference has {theirs:,}" for what, ours, theirs in rows
            if ours != theirs]
