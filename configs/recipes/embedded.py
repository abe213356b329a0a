"""`:tiny` and `:demo`: any recipe on the embedded benchmark, with a small network of the same family."""

from __future__ import annotations

from collections.abc import Callable

import ml_collections

from effvid_jax.backbones import check_name
from effvid_jax.backbones.facts import small_member
from effvid_jax.errors import UserError


def finish(config, args, embed: Callable | None = None) -> ml_collections.ConfigDict:
    """Applies `:tiny` and `:demo`; both replace data set, resolution, network and length.

    Args:
        config: of a recipe.
        args: parsed arguments, read here: `tiny`, `demo`, and `small` where there is one.
        embed: (config, args) -> None, called last: what the recipe of a paper has of its own to shrink.

    Raises:
        UserError: arguments that exclude each other, or a backbone without a small member of its family.
    """
    sizes = [name for name in ("tiny", "demo", "small") if args.get(name)]
    if len(sizes) > 1:
        raise UserError(f"config arguments {' and '.join(map(repr, sizes))} exclude each other.")
    if args.demo:
        demo(config)
    if args.tiny:
        tiny(config)
    if embed is not None and (args.tiny or args.demo):
        embed(config, args)
    return config


def demo(config) -> None:
    """The same recipe on the embedded benchmark, shrunk to what two cores train in minutes."""
    config.name += "_demo"
    config.note = (
        "demo: the code path of the recipe on the embedded benchmark (16 classes of synthetic clips): 64 "
        "pixels stand for 224 and 32 for 112, ResNets of width 16 with temporal shift for the published "
        "ones (the classes need motion), 500 steps. Its numbers compare with each other only.")
    _embed(config, train_clips=3000, val_clips=800, difficulty=0.3, late_share=0.2, min_period=3.2,
           max_period=4.0)
    config.data.update(dict(batch_size=32, eval_batch_size=80, cache="memory", num_threads=4))
    config.train.update(dict(num_steps=500, log_every_steps=20, checkpoint_every_steps=100))


def tiny(config) -> None:
    """20 steps of the same code path, under a minute on a CPU: a smoke run, not a result."""
    config.name += "_tiny"
    config.note = "tiny: 20 steps on 48 synthetic clips, to see that everything runs. Not a result."
    _embed(config, train_clips=48, val_clips=16)
    config.data.update(dict(num_frames=4, batch_size=8, eval_batch_size=8, num_threads=2, prefetch=2))
    config.train.update(dict(num_steps=20, log_every_steps=5, checkpoint_every_steps=10,
                             min_reference_ratio=0.0))  # a teacher of 20 steps is at chance
    config.bench.update(dict(seconds=10.0, workers=(1,)))


def _embed(config, **synthetic) -> None:
    """The embedded benchmark for the data set, a small network of the family for the published one."""
    crop = small(config.data.crop)
    config.data.update(dict(
        source="synthetic", root="", train_root="", val_root="", train_list="", val_list="",
        list_format="video", num_classes=0,
        sampling="segments", num_frames=8, frame_interval=1, max_broken_share=0.0,
        crop=crop, short_side=round(crop * 9 / 8), snap_side=0, test_crop="center", test_crop_size=crop,
        test_short_side=round(crop * 9 / 8), twice_sample=False, test_clips=1,
        flip=False))  # a mirrored clip that moves left is one that moves right: another class
    config.data.synthetic = ml_collections.ConfigDict(synthetic)
    small_network(config, motion=True)
    if config.model.resolution:
        config.model.resolution = small(config.model.resolution)
    config.optim.update(dict(lr=0.05, schedule="cosine", groups="single"))
    config.train.eval_every_epochs = 1.0e6  # only at the end
    config.train.validation.update(dict(
        test_clips=0, test_crop="", test_short_side=0, test_crop_size=0, eval_batch_size=0))


def small_network(config, motion: bool = False) -> None:
    """The small member of the backbone's family, see `effvid_jax/backbones/facts.py`.

    Raises:
        UserError: an unknown backbone, or a family that has none.
    """
    check_name(config.model.backbone)
    backbone, options = small_member(config.model.backbone, motion)
    config.model.update(dict(backbone=backbone, dropout=0.0))
    config.model.options = ml_collections.ConfigDict(options)


def small(resolution: int) -> int:
    """224 -> 64, 112 -> 32, and so on in between, in multiples of 4."""
    return max(16, round(resolution * 64 / 224 / 4) * 4)
