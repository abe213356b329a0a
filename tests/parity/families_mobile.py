"""Mobile networks for `forward.py`: what a case's architecture is here, and its features."""

from __future__ import annotations

import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import mobilenet_v3, mobilenet_v4, movinet
from tests.parity import golden
from tests.parity.reference import Reference


# --------------------------------------------------------------------------------------------- timm
def timm_mobilenet(arch: dict[str, Any]) -> Reference:
    """timm's `mobilenetv3_{large,small}_WIDTH` and `mobilenetv4_conv_SIZE`.

    Raises:
        golden.Unsupported: another constructor, or options beside the number of classes.
    """
    constructor, kwargs = arch["constructor"], dict(arch.get("kwargs", {}))
    classes = kwargs.pop("num_classes", 1000)
    drop = {"drop_path": kwargs.pop("drop_path_rate", 0.0), "dropout": kwargs.pop("drop_rate", 0.0)}
    v3 = re.fullmatch(r"mobilenetv3_(large|small)_(\d{3})(d?)", constructor)
    v4 = re.fullmatch(r"mobilenetv4_conv_(small|medium|large)(?:_(\d{3}))?", constructor)
    if kwargs or not (v3 or v4):
        raise golden.Unsupported(f"timm's {constructor} with options {sorted(kwargs)}")
    if v3:
        name = f"mobilenet_v3_{v3[1]}"
        model = mobilenet_v3.mobilenet_v3(v3[1], depth_mult=1.2 if v3[3] else 1.0, num_classes=classes,
                                          width_mult=int(v3[2]) / 100, **drop)
    else:
        name = f"mobilenet_v4_conv_{v4[1]}"
        model = mobilenet_v4.mobilenet_v4_conv(v4[1], num_classes=classes,
                                               width_mult=int(v4[2] or 100) / 100, **drop)
    return Reference(name, model, tap=tap_timm, capture="conv_stem|conv_head")


def tap_timm(features: dict[str, np.ndarray], name: str):
    """For 'conv_stem', 'blocks.2' and 'conv_head', frames merged into the batch."""
    if name == "conv_head":
        return features[name].reshape(-1, 1, 1, features[name].shape[-1])
    stage = re.fullmatch(r"blocks\.(\d+)", name)
    x = features.get(f"stage{int(stage[1]) + 1}" if stage else name)
    return None if x is None else x.reshape(-1, *x.shape[2:])


# ------------------------------------------------------------------------------------ MoViNet-pytorch
def movinet_port(arch: dict[str, Any]) -> Reference:
    """`MoViNet(cfg, causal, conv_type=..., tf_like=True)`; `chunks` are the calls of `logits_stream`.

    Raises:
        golden.Unsupported: factored kernels that are not causal or the other way round, other padding.
    """
    stream, size = arch["causal"], arch["config"].lower()
    known = arch["tf_like"] and arch["conv_type"] == ("2plus1d" if stream else "3d")
    if not known or size not in movinet.SIZES:
        raise golden.Unsupported(f"MoViNet {arch}")
    model = movinet.movinet(size, stream=stream, num_classes=arch["num_classes"])

    def in_calls(variables, x):
        """(N, calls, K): a clip in calls of some frames each, the memory kept between them."""
        state, first, found = movinet.init_state(model, len(x), x.shape[2]), 0, []
        for frames in arch["chunks"]:
            state, logits = movinet.step(model, variables, state, x[:, first:first + frames])
            first, found = first + frames, [*found, logits]
        return {"logits_stream": jnp.stack(found, axis=1)}

    def tap(features, name):
        block = re.fullmatch(r"blocks\.b(\d)_l(\d+)", name)
        return features.get(f"layer{int(block[1]) + 1}_{block[2]}" if block else
                            {"conv1": "stem", "conv7": "features"}.get(name, ""))

    return Reference(f"movinet_{size}{'_stream' * stream}", model, tap=tap, capture=r"layer\d_\d+",
                     more=in_calls if "chunks" in arch else None)
