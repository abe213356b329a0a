"""OCSampler's released modules (MCG-NJU/OCSampler) against `effvid_jax/methods/ocsampler.py`."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import make_backbone, shifts
from effvid_jax.exits import network, routes
from effvid_jax.methods.ocsampler import OCSamplerNet
from effvid_jax.policies import policy_gradient, subset
from effvid_jax.torch_import import convert_with_report
from tests.parity import golden

SOURCES = ("MCG-NJU/OCSampler",)
OPS = ("ocsampler_policy_loss",)


def run(case, state, inputs):
    """See `peers.py`."""
    if case["kind"] == "peer_op":
        return _policy_loss(case["arch"], inputs)
    arch = case["arch"]
    sampler = arch["sampler"]
    if sampler["class"] != "MobileNetV2TSM" or not arch["classifier"].startswith("resnet50"):
        raise golden.Unsupported(f"{sampler['class']} before {arch['classifier']}")
    frames, classes = sampler["total_segments"], arch["num_classes"]
    model = OCSamplerNet(
        make_backbone("tsm_mobilenet_v2", num_classes=1,
                      shift=functools.partial(shifts.temporal_shift, div=sampler["shift_div"])),
        network.ExitNet(make_backbone("resnet50", num_classes=classes), classes,
                        (routes.Checkpoint(frames, 3),), tuple(range(frames)), frames, (2, 3, 4),
                        exit_width=4096, lift_last=True, merge="max"),
        arch["num_segments"], arch["resize_px"], "nearest")
    clip = jax.ShapeDtypeStruct((1, *inputs["video"].shape[1:]), jnp.float32)
    template = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32),
                            jax.eval_shape(model.init, jax.random.key(0), clip))
    variables, _ = convert_with_report("ocsampler", state, template)
    variables = jax.tree.map(lambda x: jnp.asarray(x, inputs["video"].dtype), variables)
    logits, out = jax.jit(model.apply)(variables, inputs["video"])
    return {"sampler_logits": out["sampler_logits"], "probabilities": jax.nn.softmax(out["sampler_logits"]),
            "selected": out["chosen"], "final_logits": logits, "final_scores": jax.nn.softmax(logits)}


def _policy_loss(arch, inputs):
    chosen = inputs["chosen"]
    reward = inputs["scores"].max(axis=1) - inputs["baseline_scores"].max(axis=1)  # labels are not read

    def loss(p):
        of_set = subset.set_probability(p, chosen)
        return policy_gradient.policy_loss(of_set, reward, p, arch["explore_rate"]).mean(), of_set

    (value, of_set), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(inputs["probabilities"])
    return {"subset_probability": of_set, "mean_subset_probability": of_set.mean()[None], "reward": reward,
            "loss": jnp.reshape(value, (1,)), "grad_probabilities": gradient}
