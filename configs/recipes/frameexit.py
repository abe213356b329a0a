"""Recipes of FrameExit and OCSampler.

FrameExit: the release is inference only (Qualcomm-AI-research/FrameExit, commit fc5815f): its network, frames
and thresholds are those of model/adaptive_models.py and config/*.yml; how it is trained is not known, and is
that of plain networks here (`reskd.supervised_tsn`). OCSampler: configs of MCG-NJU/OCSampler, commit d25ffce,
for the sampler; the classifier is FrameExit's, as the released one.
"""

from __future__ import annotations

import ml_collections

from configs.recipes import base, embedded, reskd
from effvid_jax.backbones.facts import small_member
from effvid_jax.errors import UserError
from effvid_jax.exits import routes
from effvid_jax.methods import ocsampler
from effvid_jax.methods.frameexit import FrameExit

RELEASED_ORDER = (5, 0, 9, 2, 7, 4, 6, 3, 8, 1)  # of 10 frames, config/*.yml
FIRST = {"minik": 0.95}  # first_threshold where it is not 0.99
SHIFT_DIV = {"minik": 8}  # of the sampler where it is not 10
ARGUMENTS = dict(tiny=False, demo=False, small=False, backbone="resnet50", frames=10)


def frameexit(dataset_name: str, arg: str, **given) -> ml_collections.ConfigDict:
    """FrameExit. Arguments: tiny, demo, small, backbone, frames, order (released, rule)."""
    args = base.parse_arg(arg, **ARGUMENTS, order="", **given)
    if args.order not in ("", "released", "rule") or args.order == "released" and args.frames != 10:
        raise UserError(f"config argument order={args.order!r}: expected released, which is of 10 frames, or "
                        f"rule.")
    config = reskd.supervised_tsn(dataset_name, args.backbone, 224)
    config.name = f"frameexit_{dataset_name}"
    config.data.num_frames = args.frames
    config.model.dropout = 0.0  # ours
    config.model.exits = _exits(args, tuple((n, 3) for n in range(1, args.frames + 1)), gates=(128, 64))
    config.method = FrameExit.Settings(first_threshold=FIRST.get(dataset_name, 0.99)).to_config()
    config.init.skip = "^(head|gate_after)_|(^|/)fc/"  # classifiers and gates are this data set's
    if dataset_name == "folder":
        reskd.folder(config, args)
    if args.small:
        _shrink(config)
    return embedded.finish(config, args, embed)


def sampler(dataset_name: str, arg: str) -> ml_collections.ConfigDict:
    """OCSampler. Arguments: tiny, demo, small, backbone, frames, chosen, sampler."""
    args = base.parse_arg(arg, **ARGUMENTS, chosen=6, sampler="mobilenet_v2")
    sizes = [name for name in ("tiny", "demo", "small") if args.get(name)]
    for name in sizes:
        base.refuse(args, name, "sampler")
    size = "".join(f"{name}," for name in sizes)
    classifier = frameexit(dataset_name, f"{size}backbone={args.backbone},frames={args.frames}")
    config = reskd.supervised_tsn(dataset_name, args.backbone, 224)
    config.name = f"ocsampler_{dataset_name}"
    config.data.update(dict(num_frames=args.frames, batch_size=320, eval_batch_size=40))  # 40 a GPU, of 8
    config.model.dropout = 0.0
    config.model.exits = _exits(args, ((args.frames, 3),), gates=())
    config.model.glance = ml_collections.ConfigDict(dict(backbone=args.sampler, resolution=128, options={}))
    config.method = ocsampler.OCSampler.Settings(
        chosen=args.chosen, shift_div=SHIFT_DIV.get(dataset_name, 10)).to_config()
    config.optim.update(dict(lr=0.005, clip_norm=40.0, groups="single", frozen=ocsampler.FROZEN))
    if dataset_name == "folder":
        reskd.folder(config, args, num_epochs=50.0)
        config.data.update(dict(batch_size=32))
    if args.small:
        _shrink(config)
    embedded.finish(config, args, embed)
    base.add_stages(config, classifier=classifier)
    config.run = "classifier,student"
    return config


def order(frames: int, rule: bool = False) -> tuple[int, ...]:
    """In which frames are consumed: as released, or by the rule where that is not for so many frames."""
    return routes.coarse_to_fine(frames) if rule or frames != len(RELEASED_ORDER) else RELEASED_ORDER


def _exits(args, route, gates) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(dict(
        frames=args.frames, scheme="input", route=route, groups=1, shift="none", shift_div=8,
        order=order(args.frames, args.get("order") == "rule"),
        stages=(),  # the last one counts: depth 3 of the last three stages
        width=4096, share_heads=False, classifier_std=0.001, lift_last=True, merge="max", gates=gates))


def embed(config, args) -> None:
    """What the embedded benchmark takes from these recipes: long clips of which few frames tell."""
    if args.demo:
        config.note = (
            "demo: the code path of the recipe on the embedded benchmark of long clips in which few frames "
            "tell (8 classes of synthetic clips): 64 pixels stand for 224, small ResNets for the published "
            "networks, 500 steps. Its numbers compare with each other only.")
    moments(config, demo=args.demo)
    frames = 4 if args.tiny else 10
    exits = config.model.exits
    small = base.parse_arg("", **ARGUMENTS)
    small.frames = frames
    route = ((frames, 3),) if len(exits.route) == 1 else tuple((n, 3) for n in range(1, frames + 1))
    config.model.exits = _exits(small, route, tuple(exits.gates))
    config.data.num_frames = frames
    _shrink(config)
    if config.method.name == "ocsampler":
        config.method.update(dict(chosen=2, reward="label"))
        config.data.batch_size = min(config.data.batch_size, 32)
        config.optim.lr = 0.02


def moments(config, demo: bool) -> None:
    """The embedded benchmark of long clips in place of the usual one: one frame can tell the class."""
    config.data.update(dict(source="synthetic_moments", train_crop="center"))
    config.data.synthetic = ml_collections.ConfigDict(
        dict(train_clips=1600, val_clips=480) if demo else dict(train_clips=48, val_clips=16))


def _shrink(config) -> None:
    """Small networks that look at frames one by one, and heads of their size."""
    config.model.backbone = config.model.backbone.removeprefix("tsm_")
    embedded.small_network(config)
    config.model.exits.update(dict(width=128, classifier_std=0.1))
    if config.model.exits.gates:
        config.model.exits.gates = (32, 16)
    if glance := config.model.get("glance"):
        # A MobileNet that a CPU trains costs as much as the other network: half of that one's width instead.
        glance.backbone, options = small_member("resnet18")
        glance.update(dict(options=ml_collections.ConfigDict(options | dict(width=8)), resolution=32))
        config.method.shift_div = 8
