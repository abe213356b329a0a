"""Recipe of spatio-temporal localisation: VA-RED2's Table 8, gated and static."""

from __future__ import annotations

import ml_collections

from configs.recipes import base, embedded, va_red2
from effvid_jax.errors import UserError
from effvid_jax.tasks.localisation import DEFAULTS

BACKBONES = ("x3d_m", "i3d_tp")  # the first one is better in the paper, at an eighth of the cost


def recipe(arg: str):
    """J-HMDB with VA-RED2, and its static counterpart; the paper's recipe is not public.

    Arguments: tiny, demo, static (the plain network alone), backbone (x3d_m, i3d_tp), split (1, 2, 3),
    search_space (2, 3), from_static (settings for a start from a static network, given by init.checkpoint).
    Learning rate, weight decay, epochs, augmentation and loss are YOWO's (cfg/jhmdb.yaml: 1e-4 on sums over
    128 clips is 0.0128 on means; jitter of 0.2 and flips, not its colours). Ours are the cosine for its
    halving at epochs 3 to 6, a clip of 16 frames with the key frame in its middle for 32 that end with it,
    and the start from scratch: with weights of a classifier `init.checkpoint` starts the backbone alone.
    """
    args = base.parse_arg(arg, tiny=False, demo=False, static=False, backbone="x3d_m", split=1,
                          search_space=2, from_static=False)
    if args.backbone not in BACKBONES:
        raise UserError(f"config argument backbone={args.backbone!r}: expected {' or '.join(BACKBONES)}.")
    if args.split not in (1, 2, 3):
        raise UserError(f"config argument split={args.split}: J-HMDB has the splits 1, 2 and 3.")
    if args.static:
        base.refuse(args, "static", "from_static", "search_space")
    for size in ("tiny", "demo"):
        if args[size]:
            base.refuse(args, size, "split", "from_static")
    config = base.defaults()
    config.name = "localise_jhmdb"
    config.task, config.localisation = "localisation", ml_collections.ConfigDict(DEFAULTS)
    lists = f"splits/*_test_split{args.split}.txt"
    config.data.update(dict(
        source="jhmdb", root="data/jhmdb", frame_template="{:05}.png", train_list=lists, val_list=lists,
        num_classes=21,
        sampling="around", num_frames=16, frame_interval=1, short_side=240, train_crop="jitter", crop=224,
        flip=True, test_short_side=240, test_crop="whole", test_crop_size=224, batch_size=64,
        eval_batch_size=32))
    config.model.update(dict(backbone=args.backbone, dropout=0.1))
    config.optim.update(dict(lr=0.0128, weight_decay=5e-4, accumulate=2, schedule="cosine"))
    config.train.update(dict(num_epochs=10.0, eval_every_epochs=1.0))
    config.init.skip = "^head/|^fc|gate|cheap_"
    if not args.static:
        config.method = va_red2.method(args.search_space)
    embedded.finish(config, args, embed)
    return va_red2.beside_static(config, args, adjust=demo_gates if args.demo else None)


def demo_gates(config) -> None:
    """What the gates of `:demo` have of their own, and how much they are to leave out."""
    if config.model.backbone == "x3d_m":  # of narrow layers: 3x3 costs as much as a convolution of 9 channels
        config.optim.groups = "single"  # a tenth of AdamW's rate would not bring a gate to its end
        config.method.update(dict(target=0.91, cheap_kernel=1))
    else:  # the stem is 63 % of this network's cost (30 % of the published one's), all blocks are a sixth
        config.optim.groups = "calm_gates"
        config.method.update(dict(target=0.7, layers=r"Conv3d_\w+/conv", channel=False, beta=0.6,
                                  beta_reduced=0.4))


def embed(config, args) -> None:
    """What `:tiny` and `:demo` have of their own: clips with boxes, and a head that fits the network."""
    config.data.update(dict(
        source="synthetic_boxes", sampling="around", num_frames=8, crop=96, short_side=96,
        train_crop="jitter", flip=True, test_short_side=96, test_crop="whole", test_crop_size=96))
    config.data.synthetic = ml_collections.ConfigDict(dict(train_clips=24, val_clips=8))
    config.optim.accumulate = 1
    config.localisation.update(dict(num_anchors=3, head_width=64))
    if args.tiny:
        config.data.num_frames = 4
        config.note = "tiny: 20 steps on 24 synthetic clips, to see that everything runs. Not a result."
        return
    config.note = (
        "demo: the code path of the recipe on the embedded benchmark of localisation (4 classes of textured "
        "patches that move), 4 frames of 96 pixels for 16 of 224, a small network of the same family. Its "
        "numbers compare with each other only.")
    config.data.update(dict(num_frames=4, frame_interval=2, batch_size=16, eval_batch_size=40))
    config.data.synthetic.update(dict(
        num_textures=2, train_clips=1200, val_clips=300, difficulty=0.1, distractors=1, min_size=0.3))
    config.localisation.update(dict(class_scale=4.0, gamma=0.0))  # boxes are easy there, classes are not
    if args.backbone == "x3d_m":
        config.model.options.widths = (32, 64, 128)  # 16 channels have none to spare
    else:  # errors count in cells, and I3D has 3 x 3 of them
        config.localisation.coordinate_scale = 10.0
    config.optim.update(dict(name="adamw", lr=0.004, weight_decay=0.01))  # in fewer steps than SGD
    config.train.num_steps = 1000
