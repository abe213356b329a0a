"""AR-Net and AdaFuse (`peers.py`), whose repositories are one author's, and LiteEval."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax import cost
from effvid_jax.backbones import make_backbone
from effvid_jax.methods import arnet, frame_networks
from effvid_jax.policies import channels, two_cells
from effvid_jax.torch_import import convert
from tests.parity import golden

SOURCES = ("mengyuest/AR-Net", "mengyuest/AdaFuse", "zxwu/lite_eval")
OPS = ()


def run(case: dict[str, Any], state, inputs):
    """See `peers.py`."""
    system = {"TSN_Ada": ar_net, "LiteEval": lite_eval}.get(case["arch"]["class"])
    if system is None and case["arch"]["class"].startswith("BateNet (bottleneck"):
        system = ada_fuse
    if system is None:
        raise golden.Unsupported(f"{case['arch']['class']} of {case['source']['repo']}")
    return system(case["arch"], state, **inputs)


def _load(name, state, init, dtype):
    """The state as variables of what `init` (key -> variables) makes, in a precision."""
    template = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32),
                            jax.eval_shape(init, jax.random.key(0)))
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), convert(name, state, template))


def ar_net(arch, state, video):
    """Policy, actions with skips, all predictors, the answer."""
    *sides, glance = arch["resolutions"]
    classes = arch["num_class"]
    if arch["policy_input_offset"] != len(sides) or not arch["policy_also_backbone"]:
        raise golden.Unsupported(f"AR-Net {arch}")
    model = arnet.Network(
        tuple(make_backbone(name, num_classes=classes) for name in arch["backbone_list"]),
        make_backbone(arch["policy_backbone"], num_classes=classes), classes, (*sides, glance),
        tuple(arch["skip_list"]), arch["hidden_dim"])
    clip = jax.ShapeDtypeStruct((1, *video.shape[1:]), jnp.float32)
    variables = _load("arnet", state, lambda key: model.init(key, jnp.zeros(clip.shape)), video.dtype)

    @jax.jit
    def everything(variables, video):
        logits, found = model.apply(variables, video)

        def seen(model):
            g = frame_networks.pooled(model.glance, arnet.base.resize(video, glance))
            return g, model.policy(g)[1]

        features, hidden = arnet.nn.apply(seen, model)(variables)
        return {"policy_logits": found["policy"], "actions": found["actions"].argmax(axis=-1),
                "base_logits": jnp.swapaxes(found["predictors"], 1, 2), "final_logits": logits,
                "policy_features": features, "lstm_hidden": hidden}

    return everything(variables, video)


def ada_fuse(arch, state, video):
    """A ResNet-50 whose blocks all fuse, with the two published costs of a batch for a base of 1 GMAC."""
    if arch["shared_policy_net"] or not (arch["gate_history"] and arch["gate_bn_between_fcs"]):
        raise golden.Unsupported(f"AdaFuse {arch}")
    model = channels.fused(make_backbone("resnet50", num_classes=arch["num_classes"], consensus="logits"),
                           (1, 2, 3, 4), hidden=arch["gate_hidden_dim"])
    variables = _load("adafuse", state, lambda key: model.init(key, jnp.zeros((1, *video.shape[1:]))),
                      video.dtype)
    layers = {layer.name: layer.macs / video.shape[1] / 1e9
              for layer in cost.count(model, video.shape[1:]).layers}
    conv1, conv2 = (np.array([layers[f"{block}/{conv}"] for block in model.fused_blocks], np.float64)
                    for conv in ("conv1", "conv2"))

    @jax.jit
    def everything(variables, video):
        (logits, found), sown = model.apply(variables, video, mutable=[channels.FOUND])
        masks = [sown[channels.FOUND][block]["policy"]["actions"] for block in model.fused_blocks]
        shares = [channels.computed(mask, slip=True) for mask in masks]
        upper = arch["base_gflops_for_the_cost_formula"] - sum(
            (1 - second).mean() * c for (_, second), c in zip(shares, conv2))
        real = upper - sum((1 - first).mean() * c for (first, _), c in zip(shares, conv1))
        frames = model.apply(variables, found["pooled"], method="classify")
        return {"frame_logits": frames, "final_logits": logits, "gmacs_upper_bound": upper[None],
                "gmacs_real": real[None], "conv1_gmacs": conv1, "conv2_gmacs": conv2,
                "action_shares": jnp.stack([mask.mean(axis=(1, 2)) for mask in masks], axis=1),
                "mask_first_block": masks[0], "mask_last_block": masks[-1]}

    return everything(variables, video)


def lite_eval(arch, state, fine, coarse):
    """Both recurrences on given features."""
    width = state["proj_mlp.1.weight"].shape[0]
    model = two_cells.TwoCells(arch["num_classes"], arch["large_cell_size"], arch["small_cell_size"], width)

    def init(key):
        found = model.init(key, *(jnp.zeros((1, *x.shape[1:])) for x in (fine, coarse)))
        return {collection: {"cells": tree} for collection, tree in found.items()}

    variables = _load("liteeval", state, init, fine.dtype)
    variables = {collection: tree["cells"] for collection, tree in variables.items()}
    logits, gate, actions, _ = jax.jit(model.apply)(variables, fine, coarse)
    return {"gate_logits": gate, "actions": actions.argmax(axis=-1), "final_logits": logits}
