"""Recipe of VA-RED2's segmentation (its Table 11) and its static counterpart."""

from __future__ import annotations

import ml_collections

from configs.recipes import base, embedded, va_red2
from effvid_jax.errors import UserError
from effvid_jax.heads.pixels import DECODERS
from effvid_jax.tasks.segmentation import DEFAULTS


def recipe(arg: str):
    """Dilated ResNet-18 with a C1 or PPM decoder on SceneParse150, convolutions gated by channels.

    Arguments: tiny, demo, static (the plain network alone), decoder (c1, ppm), backbone, search_space (2, 3),
    resolution (side in pixels of training and evaluation alike, such as the 224 that the paper's cost fits;
    0: as below), from_static (settings for a start from a static network, given by init.checkpoint).

    Optimiser, schedule, sizes and the weight of the auxiliary loss are those of CSAILVision's
    semantic-segmentation-pytorch (`config/ade20k-resnet18dilated-ppm_deepsup.yaml`), which the paper's 100K
    iterations of 8 images fit; its images in batches of all shapes are squares of 480 pixels here, padded
    where they are smaller, and evaluation shows whole images in squares of 600.
    """
    args = base.parse_arg(arg, tiny=False, demo=False, static=False, decoder="c1",
                          backbone="dilated_resnet18", search_space=2, resolution=0, from_static=False)
    if args.decoder not in DECODERS:
        raise UserError(f"config argument decoder={args.decoder!r}: expected one of {', '.join(DECODERS)}.")
    if args.static:
        base.refuse(args, "static", "from_static", "search_space")
    if args.tiny and args.demo:
        raise UserError("config arguments 'tiny' and 'demo' exclude each other.")
    config = base.defaults()
    config.name = "segment_ade20k"
    config.task = "segmentation"
    config.segmentation = ml_collections.ConfigDict({**DEFAULTS, "decoder": args.decoder})
    config.data.update(dict(
        source="sceneparse", root="data/ADEChallengeData2016", num_classes=150, sampling="around",
        num_frames=1, train_crop="random_scale", short_side=600, short_sides=(300, 375, 450, 525, 600),
        crop=480, test_short_side=450, test_crop="pad", test_crop_size=600, batch_size=8, eval_batch_size=8))
    if args.resolution:
        resize(config, args)
    config.model.update(dict(backbone=args.backbone, dropout=0.1, bn_groups=1))
    config.optim.update(dict(lr=0.02, weight_decay=1e-4, groups="weights", clip_norm=0.0, schedule="poly"))
    config.train.update(dict(num_steps=100_000, checkpoint_every_steps=5000))
    if not args.static:
        config.method = va_red2.method(args.search_space)
        config.method.temporal = False  # an image has no frames
    if args.demo or args.tiny:
        embed(config, args)
    return va_red2.beside_static(config, args)


def resize(config, args) -> None:
    """Images of another size: short sides go with the crop, and whole images of 4:3 fill the test square."""
    if args.tiny or args.demo:
        base.refuse(args, "tiny or demo", "resolution")
    base.pixels(config, args.resolution)  # or an error
    share = args.resolution / 480
    sides = tuple(round(side * share) for side in config.data.short_sides)
    config.data.update(dict(short_sides=sides, short_side=max(sides), snap_side=0,
                            test_short_side=round(args.resolution * 3 / 4)))


def embed(config, args) -> None:
    """`:tiny` and `:demo`: the embedded benchmark of scenes, a small network of the same family."""
    embedded.small_network(config)
    config.data.update(dict(
        source="synthetic_scenes", root="", num_classes=0, short_side=96, short_sides=(64, 72, 84, 96),
        crop=64, test_short_side=72, test_crop_size=96, max_broken_share=0.0))
    config.optim.update(dict(lr=0.05, groups="single", clip_norm=20.0))
    config.train.eval_every_epochs = 1.0e6  # only at the end
    if args.tiny:
        config.name += "_tiny"
        config.note = "tiny: 20 steps on 48 synthetic scenes, to see that everything runs. Not a result."
        config.data.synthetic = ml_collections.ConfigDict(dict(train_clips=48, val_clips=16))
        config.data.update(dict(batch_size=8, eval_batch_size=8, num_threads=2, prefetch=2))
        config.train.update(dict(num_steps=20, log_every_steps=5, checkpoint_every_steps=10))
        config.bench.update(dict(seconds=10.0, workers=(1,)))
        return
    config.name += "_demo"
    config.note = (
        "demo: the code path of the recipe on the embedded benchmark (scenes of 10 textures): 64 pixels "
        "stand for 480, a dilated ResNet of width 16 with a block per stage and maps of a quarter of the "
        "image for the published encoder, 500 steps. Its numbers compare with each other only.")
    config.data.synthetic = ml_collections.ConfigDict(dict(train_clips=1500, val_clips=300))
    config.data.update(dict(batch_size=16, eval_batch_size=20, cache="memory", num_threads=4))
    config.train.update(dict(num_steps=500, log_every_steps=20, checkpoint_every_steps=100))
