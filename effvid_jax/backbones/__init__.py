"""Backbones by name: pure Flax definitions that know no config, file or loss.

    model = make_backbone("tsm_resnet50", num_classes=174)
    variables = model.init(jax.random.key(0), clip_BTHWC)
    logits_BK, features = model.apply(variables, clip_BTHWC)
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial

import flax.linen as nn

from effvid_jax.backbones import (
    artnet,
    bninception,
    corrnet,
    csn,
    dilated_resnet,
    eco,
    efficientnet_lite,
    ghostnet,
    i3d,
    mfnet,
    mobilenet_v2,
    mobilenet_v3,
    mobilenet_v4,
    movinet,
    msdnet,
    mvit,
    nonlocal_net,
    resnet,
    resnet3d,
    s3d,
    slowfast,
    stnet,
    swin3d,
    tpn,
    uniformer,
    videomae,
    vjepa2,
    x3d,
)
from effvid_jax.errors import UserError

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{d}": partial(resnet.resnet, d) for d in resnet.DEPTHS},
    **{f"tsm_resnet{d}": partial(resnet.resnet, d, shift=True) for d in (18, 50, 101)},
    "mobilenet_v2": mobilenet_v2.mobilenet_v2,
    "tsm_mobilenet_v2": partial(mobilenet_v2.mobilenet_v2, shift=True),
    **{f"{tsm}mobilenet_v3_{size}": partial(mobilenet_v3.mobilenet_v3, size, shift=bool(tsm))
       for tsm in ("", "tsm_") for size in mobilenet_v3.STAGES},
    **{f"{tsm}mobilenet_v4_conv_small": partial(mobilenet_v4.mobilenet_v4_conv, "small", shift=bool(tsm))
       for tsm in ("", "tsm_")},
    **{f"efficientnet_lite{n}": partial(efficientnet_lite.efficientnet_lite, n)
       for n in efficientnet_lite.SCALES},
    "tsm_efficientnet_lite0": partial(efficientnet_lite.efficientnet_lite, 0, shift=True),
    **{f"movinet_{size}{kind}": partial(movinet.movinet, size, stream=bool(kind))
       for kind in ("", "_stream") for size in ("a0", "a1", "a2")},
    "slowonly_resnet50": resnet3d.slowonly,
    "i3d_resnet50": resnet3d.i3d_resnet,
    "r2plus1d_18": resnet3d.r2plus1d_18,
    "r2plus1d_34": resnet3d.r2plus1d_mmaction,
    "r2plus1d_18_vared": resnet3d.r2plus1d_18_vared,
    "r3d_18": resnet3d.r3d_18,
    "mc3_18": resnet3d.mc3_18,
    "i3d": i3d.i3d,
    "i3d_tp": i3d.i3d_tp,
    "s3d": s3d.s3d,
    **{f"x3d_{size}": partial(x3d.x3d, size) for size in x3d.DEPTHS},
    "tpn_slowonly_resnet50": tpn.tpn_slowonly,
    "tpn_tsm_resnet50": tpn.tpn_tsm,
    "tpn_r2plus1d_18": tpn.tpn_r2plus1d_18,
    "corrnet_26": partial(corrnet.corrnet, 26),
    "corrnet_50": partial(corrnet.corrnet, 50),
    "corrnet_r2plus1d_18": corrnet.corrnet_r2plus1d_18,
    **{f"{kind}_csn_{depth}": partial(csn.csn, kind, depth)
       for kind, depth in (("ir", 50), ("ir", 152), ("ip", 50), ("ip", 152))},
    **{f"swin3d_{v}": partial(swin3d.swin3d, v) for v in swin3d.VARIANTS},
    "mvit_v2_s": mvit.mvit_v2_s,
    "uniformer_s": partial(uniformer.uniformer, "s"),
    **{f"videomae_{size}": partial(videomae.videomae, size) for size in videomae.SIZES},
    "vjepa2_l": partial(vjepa2.vjepa2, "l"),
    "msdnet_38": msdnet.msdnet,
    "msdnet_b4_s4": partial(msdnet.msdnet, base=4, step=4),
    "dilated_resnet18": dilated_resnet.dilated_resnet18,
    "bninception": bninception.BNInception,
    "trn_bninception": bninception.TRN,
    "mfnet_3d": mfnet.MFNet,
    "i3d_nonlocal_resnet50": nonlocal_net.i3d_nonlocal,
    "slowfast_4x16_resnet50": slowfast.slowfast_4x16,
    "slowfast_8x8_resnet50": slowfast.slowfast_8x8,
    "artnet_18": artnet.ARTNet,
    "eco_lite": eco.ECOLite,
    **{f"stnet_resnet{d}": partial(stnet.stnet_resnet, d) for d in (50, 101)},
    "stnet_se_resnext50": stnet.StNet,
    "ghostnet": ghostnet.GhostNet,
}


def check_name(name: str) -> None:
    """Raises `UserError` with close matches for a name that is not in `BACKBONES`."""
    if name not in BACKBONES:
        close = difflib.get_close_matches(name, BACKBONES)
        raise UserError(f"unknown backbone {name!r}. Close matches: {close}. All: {sorted(BACKBONES)}")


def make_backbone(name: str, num_classes: int, **options) -> nn.Module:
    """The Linen module called `name` with a classifier of `num_classes`.

    Args:
        name: a key of `BACKBONES`.
        num_classes: K.
        **options: fields of the module, such as `dtype`, `dropout`, `width`, `conv`.

    Returns:
        A module with `(logits_BK, features) = module.apply(variables, clip_BTHWC, train=False)`.

    Raises:
        UserError: unknown name (with close matches) or unknown option.
    """
    check_name(name)
    try:
        return BACKBONES[name](num_classes=num_classes, **options)
    except TypeError as error:
        raise UserError(f"backbone {name!r} does not take these options {sorted(options)}: {error}"
                         ) from error


def rematerialised() -> list[str]:
    """Names of the backbones whose field `remat` says what is kept for gradients, see `remat.py`."""
    def has(module):
        return hasattr(module, "remat") or hasattr(getattr(module, "backbone", None), "remat")

    return sorted(name for name in BACKBONES if has(make_backbone(name, num_classes=2)))
