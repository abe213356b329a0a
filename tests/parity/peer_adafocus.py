"""AdaFocus V2 and Uni-AdaFocus: whole forward passes, one training pass, crops and the choice of frames."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from configs.recipes import base
from effvid_jax.backbones import make_backbone
from effvid_jax.methods import make_method
from effvid_jax.methods.adafocus_v2 import AdaFocusV2Net
from effvid_jax.methods.base import Variables
from effvid_jax.methods.uni_adafocus_net import UniAdaFocusNet
from effvid_jax.policies.crop import crop
from effvid_jax.policies.focus_frames import quantile_frames
from effvid_jax.tasks import make_task
from effvid_jax.torch_import import convert_with_report
from tests.parity import golden
from tests.parity.train_step import in_torch_layout

SOURCES = ("LeapLabTHU/AdaFocusV2", "LeapLabTHU/Uni-AdaFocus")
OPS = ("differentiable_crop",)
GLANCES = {"mbv2": "mobilenet_v2", "res50": "resnet50"}
LOSSES = {"policy_checkpoints": "head_policy", "policy_local": "focus_policy", "policy_global": "glance",
          "random_checkpoints": "head_random", "random_local": "focus_random", "random_global": "glance"}


def run(case, state, inputs):
    """See `peers.py`."""
    if case["kind"] == "peer_op":
        return _crops(case["arch"], inputs)
    if case["kind"] == "peer_train":
        return _training_pass(case, state, inputs)
    model = _network(case["arch"])
    variables = _variables(model, state)[0]
    out = jax.jit(lambda v, x: model.apply(v, x)[1])(variables, inputs["video"])
    found = {"checkpoint_logits": out["checkpoints"], "final_logits": out["checkpoints"][:, -1],
             "global_logits": out["global_logits"], "local_logits": out["local_logits"],
             "patches": out["patches"].reshape(-1, *out["patches"].shape[2:])}
    if "weights" not in out:
        return found | {"actions": out["actions"],
                        "global_map": out["global_map"].reshape(-1, *out["global_map"].shape[2:])}
    return found | {"glance_actions": out["actions"], "temporal_weights": out["weights"],
                    "focus_frames": out["focus_frames"], "temporal_sample_logits": out["expected_logits"],
                    "spatial_sample_logits": out["aux_logits"]}


def _network(arch):
    if arch.get("glance_arch", "mbv2") not in GLANCES or arch["class"] != "AdaFocus":
        raise golden.Unsupported(f"{arch['class']} with the glance {arch['glance_arch']!r}")
    glance, focus = (make_backbone(name, num_classes=arch["num_classes"], dropout=0.0)
                     for name in (GLANCES[arch.get("glance_arch", "mbv2")], "resnet50"))
    if "num_glance_segments" in arch:
        return UniAdaFocusNet(
            glance, focus, arch["num_classes"], arch["num_segments"], arch["num_glance_segments"],
            arch["num_focus_segments"], arch["patch_size"], least=96, hidden=arch["stn_hidden_dim"],
            hidden_when=arch["temporal_hidden_dim"], temperature=arch["temperature"])
    order = tuple(range(arch["num_segments"]))  # of the case: as they come
    return AdaFocusV2Net(glance, focus, arch["num_classes"], order, arch["patch_size"],
                         arch["stn_hidden_dim"], glance_side=96 if arch["glance_arch"] == "res50" else 0)


def _variables(model, state):
    """Ours from the case's weights in the precision of now, and {our path: key}."""
    frames = getattr(model, "candidates", 0) or len(model.order)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(
        (1, frames, 224, 224, 3), jnp.float32))
    template = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    variables, report = convert_with_report("AdaFocus", state, template)
    return jax.tree.map(lambda x: jnp.asarray(x, float), variables), report.sources


def _training_pass(case, state, inputs):
    arch = case["arch"]
    if arch["dropout"] or arch["fc_dropout"] or "num_glance_segments" in arch:
        raise golden.Unsupported("a training pass with dropout, or of Uni-AdaFocus")
    config = base.defaults()
    config.data.update(dict(num_frames=arch["num_segments"], num_classes=arch["num_classes"]))
    config.model.update(dict(backbone="resnet50", dropout=0.0, bn_groups=1))
    config.model.glance = dict(backbone=GLANCES[arch["glance_arch"]], resolution=0, options={})
    with config.unlocked():
        config.method = dict(name="adafocus_v2", patch=arch["patch_size"], head_dropout=0.0,
                             policy_width=arch["stn_hidden_dim"], order=tuple(range(arch["num_segments"])))
    task = make_task(config, [str(k) for k in range(arch["num_classes"])])
    method = make_method(config, task)
    variables, keys = _variables(method.model, state)
    batch = {"video": inputs["video"], "label": inputs["labels"], "mask": jnp.ones(len(inputs["labels"]))}

    def loss(params):
        return method.loss(params, Variables(params, variables["batch_stats"]), batch, jax.random.key(0),
                           inputs["random_actions"])

    (_, (stats, scalars)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    shapes = {key: shape for key, shape, _ in case["state"]}
    gradients, running = (in_torch_layout(tree, keys, shapes) for tree in (gradient, stats))
    flat = flatten_dict(gradients, sep="/")
    norms = {group: np.sqrt(sum(np.square(x).sum() for key, x in flat.items() if key.startswith(group + ".")))
             for group in case["grad"]["norms"]}
    losses = {theirs: scalars[f"loss_{ours}"] for theirs, ours in LOSSES.items()}
    return {"losses": losses | {"total": scalars["loss"]}, "grad": {"norms": norms, "samples": gradients},
            "running_stats_after": running}


def _crops(arch, inputs):
    """Values, gradients and frames; both of the papers' ways to say where a crop lies."""
    def fixed(actions):
        return crop(inputs["image"], actions * (arch["image"] - arch["patch"]), arch["patch"], arch["patch"])

    def scaled(actions):
        sides = 96 + 128 * actions[:, 2:]
        return crop(inputs["scaled_image"], actions[:, :2] * (arch["scaled_image"] - sides), sides,
                    arch["scaled_patch"])

    found = {"focus_frames": quantile_frames(inputs["frame_weights"], arch["candidates"], arch["focused"])}
    for name, cut in (("", fixed), ("scaled_", scaled)):
        patches, back = jax.vjp(cut, inputs[f"{name}actions"])
        found |= {f"{name}patches": patches, f"{name}grad_actions": back(inputs[f"{name}cotangent"])[0]}
    return found
