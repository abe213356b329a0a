"""FrameExit's released inference network (Qualcomm-AI-research/FrameExit)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import make_backbone
from effvid_jax.exits import network, routes, stopping
from effvid_jax.methods.frameexit import FrameExit, stop_scores
from effvid_jax.torch_import import convert_with_report
from tests.parity import golden

SOURCES = ("Qualcomm-AI-research/FrameExit",)
OPS = ()


def run(case, state, inputs):
    """See `peers.py`."""
    arch = case["arch"]
    if (arch["class"], arch["backbone"]) != ("ConditionalFrameExitInferenceModel", "resnet50"):
        raise golden.Unsupported(f"{arch['class']} with {arch['backbone']}")
    frames, classes = arch["num_frames"], arch["num_class"]
    model = network.ExitNet(
        make_backbone("resnet50", num_classes=classes), classes,
        tuple(routes.Checkpoint(n, 3) for n in range(1, frames + 1)), tuple(range(frames)), frames, (2, 3, 4),
        exit_width=4096, lift_last=True, merge="max", gates=(128, 64))
    clip = jax.ShapeDtypeStruct((1, *inputs["video"].shape[1:]), jnp.float32)
    template = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32),
                            jax.eval_shape(model.init, jax.random.key(0), clip))
    variables, _ = convert_with_report("frameexit", state, template)
    variables = jax.tree.map(lambda x: jnp.asarray(x, inputs["video"].dtype), variables)
    out = jax.jit(lambda v, x: model.apply(v, x)[1])(variables, inputs["video"])
    logits = out["checkpoints"]
    settings = FrameExit.Settings(first_threshold=arch["first_threshold"])
    taken = stopping.exits_taken(stop_scores(logits, out["gates"]), settings.thresholds(frames))
    return {"checkpoint_logits": logits, "gate_logits": out["gates"], "exit": taken,
            "final_logits": jnp.take_along_axis(logits, taken[:, None, None], axis=1)[:, 0],
            "frame_features": out["pooled"], "pooled": out["pooled"].max(axis=1)}
