"""What a run tells before its first step, in four lines: data, network, device, where it writes."""

from __future__ import annotations

import functools

import jax

from effvid_jax import console, cost, published
from effvid_jax.backbones.facts import facts
from effvid_jax.errors import UserError
from effvid_jax.methods import building, find_method, make_method
from effvid_jax.tasks import make_task

# What the published runs of a config start from, by `config.name`; `:tiny` and `:demo` have names of their
# own. ResKD: "pretrained='torchvision://...'" of its released configs. Dynamic Inference: its tables. VA-RED2
# and the recipes for a user's own clips start from scratch.
PUBLISHED = {
    **{f"{method}_{data}": "ImageNet" for method in ("supervised", "reskd")
       for data in ("actnet", "fcvid", "minik", "sthv2")},
    **{f"dynamic_{data}": "ImageNet" for data in ("k400", "sthv1", "sthv2")},
    **{f"dynamic_{data}": "Kinetics-400" for data in ("ucf101", "hmdb51")},
}
FULL_SIZE = 1.0  # GMACs of a clip, from which on a CPU trains for days


def introduce(config, workdir: str, split, videos, state, first_step: int) -> None:
    """Prints the four lines, on the first process only, and hints at what a beginner could not know.

    Args:
        config: of the run.
        workdir: of the run.
        split: the training data.
        videos: {split: number of its videos} of what is evaluated.
        state: before the first step.
        first_step: 0, or where an earlier run is continued.
    """
    if jax.process_index() > 0:
        return
    values = sum(x.size for x in jax.tree.leaves(state.params))
    gmacs = cost_of_a_clip(config, split.class_names)
    costs = "" if gmacs is None else f", {gmacs:.3g} GMACs a clip"
    count, kind = jax.device_count(), jax.devices()[0].device_kind
    device = kind if count == 1 else f"{count} x {kind}"
    others = "".join(f", {number:,} in {name}" for name, number in videos.items())
    console.say(f"data: {len(split):,} clips to train on{others}, {len(split.class_names)} classes; "
                f"{console.one_line(split.description)}")
    names = [config.model.glance.backbone] if config.model.get("glance") else []
    name = " and ".join([*names, config.model.backbone])
    console.say(f"network: {console.one_line(name)}, {clip_size(config)}{costs}, "
                f"{values / 1e6:.3g} M parameters, {weights(config, workdir, first_step)}")
    console.say(f"device: {device}, computes in {config.model.dtype}, {config.data.batch_size} clips a step")
    console.say(f"writes to {console.one_line(workdir)}")
    if jax.default_backend() == "cpu" and (gmacs or 0.0) >= FULL_SIZE:
        _once("hint: this is a full-size network on a CPU. configs/supervised_folder.py:pretrained and "
              "configs/reskd_folder.py:pretrained (:small from random weights) are what a CPU can train on "
              "your own videos; :demo of any config is a run of minutes.")


def weights(config, workdir: str, first_step: int) -> str:
    """Where the weights come from, those of a published run where that is elsewhere, and frozen ones."""
    known = PUBLISHED.get(config.name.split(" ")[0])
    if first_step:
        told = f"weights of step {first_step} of {console.one_line(workdir)}"
    elif config.init.checkpoint == published.WORD:
        told = f"published weights of {facts(config.model.backbone).package}"
    elif config.init.checkpoint:
        told = f"weights of {console.one_line(config.init.checkpoint)}"
    elif known is None:
        told = "weights from scratch"
    else:
        told = (f"weights from scratch (published with {known} weights: --config.init.checkpoint=DIR, "
                f"see python -m effvid_jax.torch_import)")
    frozen = find_method(config.method.name).Settings.workdirs
    return told + "".join(f"; {field}: {console.one_line(config.method[field])}" for field in frozen
                          if config.method.get(field))


def clip_size(config) -> str:
    """What the network sees of a video at a time, frames x pixels."""
    side = config.model.resolution or config.data.crop
    return f"{config.data.num_frames} x {side}x{side}"


def cost_of_a_clip(config, class_names) -> float | None:
    """GMACs of a config's network, everything computed; None if they cannot be counted."""
    side = config.model.resolution or config.data.crop
    try:
        if config.model.get("glance"):  # a second network, and parts that no clip runs through
            method = make_method(config, make_task(config, class_names), inference=True)
            if method.full_gmacs is not None:
                return method.full_gmacs
        network = building.build_network(config.model, make_task(config, class_names))
        return cost.gmacs(network, (config.data.num_frames, side, side, 3))
    except (UserError, TypeError):  # a method whose network is described elsewhere
        return None


@functools.cache
def _once(text: str) -> None:
    console.say(text)
