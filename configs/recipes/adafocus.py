"""Recipes of AdaFocus V2 and Uni-AdaFocus.

Sources: scripts/train.sh of LeapLabTHU/AdaFocusV2 (commit e97987c) and README.md of LeapLabTHU/Uni-AdaFocus
(commit 8846488), folders of ActivityNet, FCVID and Mini-Kinetics: SGD with momentum 0.9, cosine per epoch, 50
epochs, multi-scale crops and flips, no clipping; rates by sub-network are `optim.groups`. Both start from
ImageNet weights. For a user's own clips: ours.
"""

from __future__ import annotations

import ml_collections

from configs.recipes import base, embedded
from effvid_jax.backbones.facts import small_member
from effvid_jax.errors import UserError
from effvid_jax.methods.adafocus_v2 import AdaFocusV2
from effvid_jax.methods.uni_adafocus import UniAdaFocus

FOCUS = "resnet50"
GLANCES = {"mobilenet_v2": 0, "resnet50": 96}  # side in pixels that frames are shrunk to; 0: as they are
# Learning rate, batch, weight decay, dropout of the two networks' own classifiers.
RATES = {
    "adafocus_v2": {"actnet": (0.002, 32, 1e-4, 0.2), "minik": (0.003, 48, 1e-4, 0.2)},
    "uni_adafocus": {"actnet": (0.002, 32, 2e-4, 0.2), "minik": (0.003, 48, 1e-4, 0.1)},
}


def v2(dataset_name: str, arg: str) -> ml_collections.ConfigDict:
    """AdaFocus V2. Arguments: tiny, demo, small, patch, glance (mobilenet_v2, resnet50), early_exit."""
    args = base.parse_arg(arg, tiny=False, demo=False, small=False, patch=128, glance="mobilenet_v2",
                          early_exit=False)
    if args.glance not in GLANCES:
        raise UserError(f"config argument glance={args.glance!r}: expected one of {', '.join(GLANCES)}.")
    config = _config("adafocus_v2", dataset_name, args, frames=16)
    config.method = AdaFocusV2.Settings(patch=args.patch, early_exit=args.early_exit).to_config()
    return _finish(config, args)


def uni(dataset_name: str, arg: str) -> ml_collections.ConfigDict:
    """Uni-AdaFocus. Arguments: tiny, demo, small, patch, early_exit."""
    args = base.parse_arg(arg, tiny=False, demo=False, small=False, patch=128, early_exit=False)
    args.glance = "mobilenet_v2"
    config = _config("uni_adafocus", dataset_name, args, frames=48)
    config.method = UniAdaFocus.Settings(
        patch=args.patch, early_exit=args.early_exit, least_side=min(96, args.patch),
        size_weight=0.75 if dataset_name == "minik" else 1.0).to_config()
    return _finish(config, args)


def _config(name: str, dataset_name: str, args, frames: int) -> ml_collections.ConfigDict:
    config = base.defaults()
    config.name = f"{name}_{dataset_name}"
    base.dataset(config, dataset_name)
    rate, batch, decay, dropout = RATES[name].get(dataset_name, RATES[name]["actnet"])
    config.data.update(dict(num_frames=frames, batch_size=batch, eval_batch_size=batch))
    config.model.update(dict(backbone=FOCUS, dropout=dropout))
    config.model.glance = ml_collections.ConfigDict(dict(
        backbone=args.glance, resolution=GLANCES[args.glance], options=dict()))
    config.optim.update(dict(lr=rate, weight_decay=decay, groups=name, clip_norm=0.0))
    config.train.num_epochs = 50.0
    if args.early_exit:
        config.data.calib_share = 0.05  # ours: the release takes thresholds from all training videos
    if dataset_name == "folder":
        config.data.update(dict(batch_size=16, eval_batch_size=16, max_broken_share=0.1))
        config.train.update(dict(num_epochs=60.0, checkpoint_every_steps=200))
        config.optim.lr = rate * 16 / batch
    return config


def _finish(config, args) -> ml_collections.ConfigDict:
    if args.small:
        config.note = "small: 64 pixels stand for 224, and small networks of the same families."
        base.pixels(config, embedded.small(config.data.crop))
        embedded.small_network(config)
        _shrink(config)
    return embedded.finish(config, args, _embed)


def _embed(config, args) -> None:
    """What the embedded benchmark takes from these recipes."""
    if args.demo:
        config.note = (
            "demo: the code path of the recipe on the embedded benchmark (16 classes of synthetic clips): "
            "64 pixels stand for 224, small networks of the same families, 500 steps. Both look at frames "
            "one by one, and half of what tells the classes is motion: numbers compare with each other only.")
    frames = 4 if args.tiny else 8
    if config.method.name == "uni_adafocus":
        config.method.update(dict(glanced=frames, focused=frames))
        frames *= 2 if args.tiny else 3
    config.data.num_frames = frames
    if args.early_exit:
        config.data.calib_share = 0.15
        config.method.calibration_videos = 500
    config.model.backbone = FOCUS  # without the temporal shift: frames are looked at one by one
    embedded.small_network(config)
    if args.tiny:
        config.model.glance.backbone = FOCUS  # its small member compiles in a third of the time
    _shrink(config)


def _shrink(config) -> None:
    """The parts that are not the backbone, for clips of 64 pixels, all of them trained from scratch.

    Adam, for which a policy's gradients are as large as those of the networks; the released rates by
    sub-network suit networks that come from ImageNet.
    """
    config.optim.update(dict(name="adamw", lr=0.002, groups="single"))
    glance, method = config.model.glance, config.method
    glance.backbone, options = small_member(glance.backbone)
    glance.options = ml_collections.ConfigDict(options)
    glance.resolution = embedded.small(glance.resolution or 112)  # the small family costs more than the focus
    method.update(dict(patch=embedded.small(method.patch), head_width=128, head_dropout=0.0))
    if method.name == "adafocus_v2":
        method.policy_width = 64
    else:
        method.update(dict(least_side=embedded.small(method.least_side), where_width=32, when_width=32,
                           budget=0.8))  # the glance alone is half of all
