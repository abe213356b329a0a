"""The configs of `peers_embedded.py`: every system on one embedded benchmark, with one training budget.

    python main.py --config=benchmarks/peers_config.py:frameexit --workdir=runs/one

A system is its own `:demo` config, so its networks and settings are those of its recipe there, with what all
share put over it and over its stages: clips, frames, batch, learning steps in all, networks that look at
frames one by one. The benchmark is that of long clips (`data_pipelines/synthetic/moments.py`): few frames
tell, a small place in them, with mixed difficulty.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import ml_collections

from configs.recipes import base
from effvid_jax.backbones.facts import small_member
from effvid_jax.errors import UserError

STEPS, BATCH, FRAMES = 400, 16, 16
CLIPS = dict(train_clips=1600, val_clips=480)


class System(NamedTuple):
    """One of the table.

    Attributes:
        title: of its row.
        config: of `configs/`, with arguments beside `demo`.
        shares: of the budget by stage, in the order of training; the last one is what is scored.
        frames: that a clip has for it.
        changes: fields of the config of every stage: (path, value).
    """

    title: str
    config: str
    shares: dict[str, float] = {"": 1.0}
    frames: int = FRAMES
    changes: tuple[tuple[str, Any], ...] = ()


GLANCES = (("method.glanced", FRAMES), ("method.focused", FRAMES))  # of Uni-AdaFocus
# What is compared. Settings that are not here are those of the system's own `:demo`; none was chosen by its
# result on this benchmark's validation clips.
SYSTEMS = {
    "plain": System("plain network, all frames", "supervised_minik"),
    "reskd": System("ResKD (32 px)", "reskd_minik", {"teacher": 0.5, "student": 0.5}),
    "dynamic_inference": System("Dynamic Inference", "dynamic_k400:shift=none"),
    "va_red2": System("VA-RED2", "va_red2_minik:backbone=resnet50", {"static": 0.8, "dynamic": 0.2}),
    "combined": System("ResKD + exits + gates (32 px)", "combined_minik", {"teacher": 0.5, "student": 0.5}),
    "frameexit": System("FrameExit", "frameexit_minik"),
    "ocsampler": System("OCSampler, 4 of 16", "ocsampler_minik", {"classifier": 0.6, "student": 0.4},
                        changes=(("method.chosen", 4),)),
    "adafocus_v2": System("AdaFocus V2", "adafocus_v2_minik"),
    "adafocus_v2_exits": System("AdaFocus V2, exits", "adafocus_v2_minik:early_exit"),
    "uni_adafocus": System("Uni-AdaFocus, 16 of 48", "uni_adafocus_minik", frames=48, changes=GLANCES),
    "uni_adafocus_exits": System("Uni-AdaFocus, exits", "uni_adafocus_minik:early_exit", frames=48,
                                 changes=GLANCES),
    "arnet": System("AR-Net", "arnet_minik", {"predictors": 0.5, "joint": 0.4, "finetune": 0.1}),
    "scsampler": System("SCSampler, 4 of 16", "scsampler_minik", changes=(("method.keep", 4),)),
    "adafuse": System("AdaFuse", "adafuse_minik"),
    "liteeval": System("LiteEval", "liteeval_minik", {"networks": 0.6, "policy": 0.4}),
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: one of `SYSTEMS`, steps (in all), train_clips, val_clips."""
    name, _, rest = arg.partition(",")
    if name not in SYSTEMS:
        raise UserError(f"benchmarks/peers_config.py:{name}: expected one of {', '.join(SYSTEMS)}.")
    args = base.parse_arg(rest, steps=STEPS, **CLIPS)
    system = SYSTEMS[name]
    module, _, more = system.config.partition(":")
    frames = system.frames
    config = importlib.import_module(f"configs.{module}").get_config(",".join(filter(None, ["demo", more])))
    config.name, config.note = f"peers {name}", "one of benchmarks/peers_embedded.py"
    stages = list(system.shares)
    config.run = "" if stages == [""] else ",".join(stages)
    for stage, share in system.shares.items():
        part = config if stage in ("", "student") else config.stages[stage]
        _put(part, "train.num_steps", max(1, round(share * args.steps)))
    config.train.min_reference_ratio = 0.0  # a short first stage is a result here, not a mistake
    for part in (config, *(config.stages[stage] for stage in config.stages)):
        _together(part, whole=part is config, frames=frames,
                  clips=dict(train_clips=args.train_clips, val_clips=args.val_clips))
        for path, value in system.changes:
            if part is config or path.split(".")[0] != "method":
                _put(part, path, value)
    return config


def _together(part, whole: bool, frames: int, clips) -> None:
    """What all systems have in common, for a config or for the changes of one of its stages."""
    shared = {
        "source": "synthetic_moments", "train_crop": "center", "num_frames": frames, "batch_size": BATCH,
        "eval_batch_size": 32, "cache": "memory", "flip": True, "sampling": "segments", "frame_interval": 1,
        "test_clips": 1, "twice_sample": False}
    data = part.get("data", {})
    for field, value in shared.items():
        if whole:
            data[field] = value
        elif field in data:
            del data[field]
    if "synthetic" in data:
        del data["synthetic"]
    if whole:
        data.synthetic = ml_collections.ConfigDict(clips)
    model = part.get("model", {})
    if str(model.get("backbone", "")).startswith("tsm_resnet"):  # nothing is told by motion here
        model.backbone = model.backbone.removeprefix("tsm_")
    if glance := model.get("glance"):  # as cheap beside the other network as published ones are
        backbone, options = small_member("resnet18")
        glance.update(dict(backbone=backbone, resolution=32))
        glance.options = ml_collections.ConfigDict(options | dict(width=8))
    if exits := model.get("exits"):
        _reroute(exits, frames)


def _reroute(exits, frames: int) -> None:
    """The same kind of route through other frames."""
    from configs.recipes import frameexit

    if exits.get("gates"):
        exits.route = tuple((n, 3) for n in range(1, frames + 1))
    elif exits.get("route"):
        exits.route = ((frames, 3),)
    if exits.get("order"):
        exits.order = frameexit.order(frames)
    exits.frames = frames


def _put(part, path: str, value) -> None:
    """Sets a field of a config, or of the changes of a stage, which may not have its group yet."""
    *groups, last = path.split(".")
    for group in groups:
        if group not in part:
            part[group] = ml_collections.ConfigDict()
        part = part[group]
    part[last] = value
