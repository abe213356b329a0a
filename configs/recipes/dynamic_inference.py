"""Recipe of Dynamic Inference: that of TSM, as the paper's own is not known.

Sources: `main.py` and `scripts/` of mit-han-lab/temporal-shift-module; arXiv 2002.03342.
"""

from __future__ import annotations

import ml_collections

from configs.recipes import base, embedded
from effvid_jax.errors import UserError
from effvid_jax.methods.dynamic_inference import DynamicInference


def recipe(dataset_name: str, arg: str, **defaults):
    """The config of one data set.

    Arguments: tiny, demo, backbone (msdnet_38, resnet50, resnet101, resnet18, ...), scheme (depth, input,
    permuted, unified, unified6), frames (8, 16), shift (online, offline, none), and `split` where a data
    set has several.
    """
    args = base.parse_arg(
        arg, tiny=False, demo=False, backbone="resnet50", scheme="unified", frames=16,
        shift="online", **defaults)
    if "split" in defaults and args.split not in (1, 2, 3):
        raise UserError(f"config argument split={args.split}: this data set has the splits 1, 2 and 3.")
    config = base.defaults()
    config.name = f"dynamic_{dataset_name}"
    base.dataset(config, dataset_name)
    config.data.num_frames = args.frames
    config.data.calib_share = 0.05
    config.model.backbone = args.backbone
    small = dataset_name in ("ucf101", "hmdb51")
    config.model.dropout = 0.8 if small else 0.5
    config.model.exits = exits(args.frames, args.scheme, args.shift)
    config.method = DynamicInference.Settings().to_config()
    config.optim.update(dict(groups="tsm_fc5", schedule="step", lr=0.01))
    config.init.skip = "^head_|^judge_|(^|/)fc/|^stopping/"  # classifiers and thresholds are this data set's
    config.train.num_epochs = 50.0
    config.optim.milestones = (20, 40)
    if dataset_name == "k400":
        config.data.update(dict(batch_size=128, eval_batch_size=64))
        config.optim.lr = 0.02
    if small:  # fine-tuned from Kinetics-400: only the first batch norm moves
        for name in ("train_list", "val_list"):
            config.data[name] = config.data[name].format(args.split)
        config.optim.update(dict(lr=0.001, milestones=(10, 20), groups="tsm"))
        config.train.num_epochs = 25.0
        config.model.options = ml_collections.ConfigDict(dict(partial_bn=True))
    return embedded.finish(config, args, embed)


def exits(frames: int, scheme: str, shift: str) -> ml_collections.ConfigDict:
    """`config.model.exits` of a network of its full size."""
    return ml_collections.ConfigDict(dict(
        frames=frames,
        # depth | input | permuted | unified: panels a-d of the paper's figure | unified6: panel d at five
        # depths as drawn, which gives a ResNet six checkpoints (stem and four stages) instead of four
        scheme=scheme,
        route=(),  # by hand: ((frames, depth), ...); (): the scheme's
        order=(),  # by hand: frames in the order they are consumed; (): the scheme's
        groups=0,  # groups of frames that a shift does not leave; 0: the scheme's (1 or 2)
        shift=shift,  # online (the paper) | offline (two-sided, for comparison) | none
        shift_div=8,  # 1/8 of the channels: TSM's; the paper does not say
        stages=(),  # backbone stage behind each depth, 0 the stem; (): MSDNet's exits, or the last three
        width=2048,  # of exits before the last; ours, fits the paper's parameters
        share_heads=False,  # one classifier a depth instead of one a checkpoint (as drawn)
        classifier_std=0.001,
        judge=0,  # hidden units of the heads that the rule 'learned' reads, such as 32; 0: none
    ))


def small_exits(config) -> None:
    """Exits of a small network on clips of its own length."""
    config.model.exits.update(dict(frames=config.data.num_frames, width=64, classifier_std=0.1))


def embed(config, args) -> None:
    """What the embedded benchmark takes from this recipe: shorter routes, a larger share to calibrate on."""
    if args.demo:
        config.note = (
            "demo: the code path of the recipe on the embedded benchmark (16 classes of synthetic clips): a "
            "small network of the same family, 8 frames of 64 pixels, 500 steps. Its numbers compare with "
            "each other only.")
    config.data.calib_share = 0.15
    small_exits(config)
    options = config.model.options
    if args.scheme == "unified6" and len(options.get("stage_sizes", ())) == 3:  # of the small ResNets
        options.update(dict(stage_sizes=(*options.stage_sizes, options.stage_sizes[-1]),
                            stage_strides=(*options.stage_strides, 1)))
    config.method.calibration_videos = 500
