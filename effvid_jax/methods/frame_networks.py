"""Networks that look at frames one by one, several of them side by side in a method.

`config.model` describes the main one, `config.model.glance` a cheap one that sees every frame:

    backbone, options    of the network, see `building.build_backbone`
    resolution           side in pixels of its input; 0: as the clip is
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from effvid_jax import checkpoint, fit
from effvid_jax.backbones import blocks
from effvid_jax.backbones.backbone import FrameBackbone
from effvid_jax.backbones.facts import facts
from effvid_jax.errors import UserError
from effvid_jax.methods.building import build_backbone


def build(model, num_classes: int, field: str, name: str = "") -> nn.Module:
    """The network of a `config.model`, which looks at every frame alone.

    Args:
        model: see `building.build_backbone`.
        num_classes: K.
        field: of the config that names the backbone, for messages.
        name: of another backbone with the same fields.

    Raises:
        UserError: see `build_backbone`; a network that relates frames.
    """
    if name:
        model = model.copy_and_resolve_references()
        model.backbone = name
    network = build_backbone(model, num_classes)
    if not isinstance(network, FrameBackbone) or network.relates_frames or getattr(network, "shift", None):
        raise UserError(f"{field}={model.backbone!r} relates frames, but here each is looked at alone: "
                        f"expected a 2-D network without temporal shift, such as resnet50 or mobilenet_v2.")
    return network


def pair(config, task) -> tuple[nn.Module, nn.Module]:
    """(glance, main network) of a config.

    Raises:
        UserError: no glance, networks that relate frames or see pixels differently, a task without classes.
    """
    if not task.class_scores:
        raise UserError(f"config.task: method {config.method.name!r} chooses frames for an answer about a "
                        f"whole video; this task has no scores of classes.")
    if not config.model.get("glance"):
        raise UserError(f"config.model.glance is empty: method {config.method.name!r} needs a second network "
                        f"that sees every frame; start from a config of configs/{config.method.name}_*.py.")
    model = config.model.copy_and_resolve_references()
    with model.unlocked():
        model.backbone, model.options = model.glance.backbone, model.glance.options
    seen = [facts(name).pixels for name in (model.backbone, config.model.backbone)]
    if seen[0] != seen[1]:
        raise UserError(f"config.model.glance.backbone={model.backbone!r} was trained with another "
                        f"normalisation of pixels than config.model.backbone={config.model.backbone!r}, and "
                        f"both see the same ones: choose two of a kind, such as mobilenet_v2 and resnet50.")
    return (build(model, task.num_outputs, "config.model.glance.backbone"),
            build(config.model, task.num_outputs, "config.model.backbone"))


def started(params, stats, names: Sequence[str], workdirs: Sequence[str]):
    """(params, stats) of a method whose networks begin with trained or imported ones.

    A classifier begins anew where it has other classes.

    Args:
        params, stats: random ones, in which each network is a sub-tree.
        names: of the sub-trees.
        workdirs: `config.method.starts`, one a name ('': from scratch), or ().

    Raises:
        UserError: another number of them, or weights that do not fit.
    """
    if workdirs and len(workdirs) != len(names):
        raise UserError(f"config.method.starts={tuple(workdirs)}: expected {len(names)} workdirs, for "
                        f"{', '.join(names)}, with '' for one from scratch; or () for none.")
    params, stats = dict(params), dict(stats)
    for name, workdir in zip(names, workdirs):
        if workdir:
            loaded = checkpoint.load_variables(workdir)[1]
            shapes = [jax.tree.map(jnp.shape, tree.get("fc")) for tree in (params[name], loaded["params"])]
            skip, where = "^fc/" * (shapes[0] != shapes[1]), f"config.method.starts: {workdir!r}"
            params[name] = fit.merge(params[name], loaded["params"], skip, where)
            stats[name] = fit.merge(stats[name], loaded["batch_stats"], skip, where)
    return params, stats


def without_starts(config):
    """A config for inference: `config.method.starts` is what only training reads."""
    config = config.copy_and_resolve_references()
    config.method.starts = ()
    return config


def frame_logits(network: nn.Module, x_BTHWC, train: bool = False):
    """Class scores of every frame, (B, T, K)."""
    return classified(network, x_BTHWC, train)[0]


def classified(network: nn.Module, x_BTHWC, train: bool = False):
    """Class scores of every frame, (B, T, K), and what the classifier read (B, T, C)."""
    b, t, *image = x_BTHWC.shape
    logits, found = network(x_BTHWC.reshape(b * t, 1, *image), train)
    return logits.reshape(b, t, -1), found["pooled"].reshape(b, t, -1)


def pooled(network: nn.Module, x_BTHWC, train: bool = False):
    """What the classifier of a network would read of every frame, (B, T, C)."""
    x = network.run_stem(x_BTHWC, train)
    for stage in range(1, network.num_stages + 1):
        x = network.run_stage(stage, x, train)
    return blocks.global_avg_pool(x)
