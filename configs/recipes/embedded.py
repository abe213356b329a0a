"""`:tiny` and `:demo`: any recipe on the embedded benchmark, with a small network of the same family."""

from __future__ import annotations

import ml_collections


def finish(config, args) -> ml_collections.ConfigDict:
    """Applies `:tiny` and `:demo`; both replace data set, resolution, network and length."""
    if args.tiny and args.demo:
        raise ValueError("config arguments 'tiny' and 'demo' exclude each other.")
    if args.demo:
        demo(config)
    if args.tiny:
        tiny(config)
    return config


def demo(config) -> None:
    """The same recipe on the embedded benchmark, shrunk to what two cores train in minutes."""
    config.name += "_demo"
    config.note = (
        "demo: the code path of the recipe on the embedded benchmark (16 classes of synthetic clips): 64 "
        "pixels stand for 224 and 32 for 112, ResNets of width 16 with temporal shift for the published "
        "ones (the classes need motion), 500 steps. Its numbers compare with each other only.")
    if config.model.exits:
        config.note = (
            "demo: the code path of the recipe on the embedded benchmark (16 classes of synthetic clips): a "
            "small network of the same family, 8 frames of 64 pixels, 500 steps. Its numbers compare with "
            "each other only.")
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
    if config.model.exits:
        config.model.exits.frames = 4
    config.train.update(dict(num_steps=20, log_every_steps=5, checkpoint_every_steps=10,
                             min_reference_ratio=0.0))  # a teacher of 20 steps is at chance
    config.bench.update(dict(seconds=10.0, workers=(1,)))


def _embed(config, **synthetic) -> None:
    """The embedded benchmark for the data set, a small network of the family for the published one."""
    crop = small(config.data.crop)
    config.data.update(dict(
        source="synthetic", root="", train_list="", val_list="", list_format="video", num_classes=0,
        sampling="segments", num_frames=8, frame_interval=1, max_broken_share=0.0,
        crop=crop, short_side=round(crop * 9 / 8), test_crop="center", test_crop_size=crop,
        test_short_side=round(crop * 9 / 8), twice_sample=False, test_clips=1,
        flip=False))  # a mirrored clip that moves left is one that moves right: another class
    config.data.synthetic = ml_collections.ConfigDict(synthetic)
    small_network(config)
    if config.model.resolution:
        config.model.resolution = small(config.model.resolution)
    if config.method.name == "reskd":
        config.method.teacher_resolution = small(config.method.teacher_resolution)
    config.optim.update(dict(lr=0.05, schedule="cosine", groups="single"))
    config.train.eval_every_epochs = 1.0e6  # only at the end
    if config.model.exits:
        config.data.calib_share = 0.15
        config.model.exits.update(dict(frames=config.data.num_frames, width=64, classifier_std=0.1))
        config.method.calibration_videos = 500


# The second stage keeps its frames: with a stride of 2 three fifths of the gated cost would lie in the first.
_R2PLUS1D = dict(width=16, stem_kernel=(3, 5, 5), stem_norm=True,
                 stage_sizes=(1, 1, 1), inflate=(1, 1, 1), time_strides=(1, 1, 2), space_strides=(1, 2, 2),
                 classifier_std=0.1)
SMALL_NETWORKS = {
    "r2plus1d_18_vared": _R2PLUS1D,
    "tpn_r2plus1d_18": _R2PLUS1D | dict(width=32, levels=(2, 3), time_scales=(2, 1)),
    "corrnet_r2plus1d_18": _R2PLUS1D | dict(stage_sizes=(2, 1, 1), correlations=((1,), (), ())),
    "i3d_tp": dict(width_mult=0.25),
    "x3d_m": dict(stage_sizes=(1, 1, 1), widths=(16, 32, 64)),
}


def small_network(config) -> None:
    """A TSM-ResNet of three stages and width 16: a block per stage, two for the deep ones.

    An MSDNet stays one: five exits, a layer each (two for the first), on two scales.
    """
    if config.model.backbone.startswith("msdnet"):
        config.model.dropout = 0.0
        config.model.options = ml_collections.ConfigDict(dict(
            base=2, step=1, channels=16, growth=8, scale_factors=(1, 2), bottleneck_factors=(1, 2)))
        return
    if config.model.backbone in SMALL_NETWORKS:
        config.model.dropout = 0.0
        config.model.options = ml_collections.ConfigDict(SMALL_NETWORKS[config.model.backbone])
        return
    deep = config.model.backbone.endswith(("101", "152"))
    config.model.update(dict(backbone="tsm_resnet18", dropout=0.0))
    depth = 2 if deep else 1
    config.model.options = ml_collections.ConfigDict(dict(
        width=16, stem="small", stage_sizes=(depth,) * 3, stage_strides=(2, 2, 2),
        classifier_std=0.1))  # trained from scratch


def small(resolution: int) -> int:
    """224 -> 64, 112 -> 32, and so on in between, in multiples of 4."""
    return max(16, round(resolution * 64 / 224 / 4) * 4)
