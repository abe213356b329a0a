"""ResKD's recipes of clips, not segments: SlowOnly and Video Swin on Kinetics-400 (the paper's Table 3).

Source: the released configs of CVMI-Lab/ResKD (configs/myconfig/{slowonly,swin,rkd}, configs/_base_), commit
c6b85a3, as they execute. The test pipeline of SlowOnly on 112 pixels asks for three crops of 112 from a short
side of 128 and stops at an assertion; the published cost (332 GFLOPs) is that of 112 from 112, as it is here.
"""

from __future__ import annotations

import ml_collections

from configs.recipes import base, embedded
from configs.recipes import reskd as recipe
from effvid_jax.errors import UserError

# Learning rate, weight decay, epochs and stochastic depth of Video Swin's own training.
SWIN = {"swin3d_b": (5e-4, 0.05, 50.0, 0.2), "swin3d_s": (1e-3, 0.02, 30.0, 0.1)}
SLOWONLY = "slowonly_resnet50"
VIEWS_PER_PASS = {"swin3d_b": 2, "swin3d_s": 4, SLOWONLY: 10}  # Swin: the reference's max_testing_views


def supervised(backbone: str, resolution: int) -> ml_collections.ConfigDict:
    """Teachers and baselines: SlowOnly on 8 frames, 8 apart; Video Swin on 32 frames, 2 apart."""
    config = base.defaults()
    config.name = "supervised_k400"
    _clips(config, backbone, resolution)
    if backbone in SWIN:
        lr, decay, epochs, drop_path = SWIN[backbone]
        _adamw(config, lr, decay, accumulate=8)
        config.model.options = ml_collections.ConfigDict(dict(drop_path=drop_path))
        config.train.num_epochs = epochs
    else:
        _sgd(config)
    return config


def student(config, args, high: int) -> None:
    """What `configs/recipes/reskd.py` does not know of these students.

    Args:
        config: with the method's settings; its clips and optimiser are set here.
        args: parsed arguments.
        high: side in pixels of the clips.
    """
    backbone = args.backbone
    _clips(config, backbone, high)
    if backbone in SWIN:  # 4 clips on each of 8 GPUs, 16 times
        _adamw(config, 1e-3, 0.02, accumulate=16)
        config.data.batch_size = 32
        config.model.options = ml_collections.ConfigDict(dict(drop_path=0.1))
        config.train.num_epochs = 60.0
        config.method.update(dict(loss="position_kl", weight=200.0, teacher_clips=0, teacher_drop_path=0.1))
    else:
        _sgd(config)
        config.data.flip = False  # as released, though teacher and baseline have it
    config.model.backbone = backbone


def teacher_of(backbone: str) -> str:
    """The teacher that a student has as released.

    Raises:
        UserError: a backbone without a released recipe.
    """
    if backbone not in (SLOWONLY, *SWIN):
        raise UserError(f"config argument backbone={backbone!r}: this data set has recipes for {SLOWONLY}, "
                        f"{' and '.join(SWIN)}.")
    return "swin3d_b" if backbone in SWIN else SLOWONLY


def _clips(config, backbone: str, resolution: int) -> None:
    """Data: how clips are chosen, cropped and viewed, in training, while training and at the end."""
    teacher_of(backbone)  # or an error
    base.dataset(config, "k400")
    config.data.update(dict(
        train_root="train", val_root="val",
        train_list="data/kinetics400/annotations/k400_video_train.txt",
        val_list="data/kinetics400/annotations/k400_video_val.txt"))
    base.pixels(config, resolution)
    config.model.backbone = backbone
    swin, short_side = backbone in SWIN, config.data.short_side
    config.data.update(dict(
        sampling="dense", num_frames=32 if swin else 8, frame_interval=2 if swin else 8,
        train_crop="random_resized", snap_side=0, test_clips=4 if swin else 10, test_crop="three",
        test_short_side=resolution, eval_batch_size=8, views_per_pass=VIEWS_PER_PASS[backbone]))
    if resolution < 224 and not swin:
        short_side = resolution  # as released: RS112, not RS128 as for Swin
    config.train.validation.update(dict(
        test_clips=1, test_crop="center", test_short_side=short_side, test_crop_size=resolution,
        eval_batch_size=64))


def _sgd(config) -> None:
    config.optim.update(dict(lr=0.01, weight_decay=1e-4, groups="single", clip_norm=40.0, schedule="step",
                             milestones=(90, 130), warmup_epochs=10.0, warmup_ratio=0.1))
    config.train.num_epochs = 150.0


def _adamw(config, lr: float, weight_decay: float, accumulate: int) -> None:
    """8 clips on each of 8 GPUs, several times an update: 512 clips. Mixed precision, as apex' O1."""
    config.optim.update(dict(
        name="adamw", lr=lr, weight_decay=weight_decay, groups="swin", clip_norm=0.0, accumulate=accumulate,
        schedule="cosine_epoch", warmup_epochs=2.5, warmup_ratio=0.1))
    config.model.dtype = "bfloat16"


def embed(config, args) -> None:
    """What `:tiny` and `:demo` have of their own: clips stay clips, a Swin stays with AdamW.

    Networks are the small members of the two families, trained from scratch.
    """
    swin = config.optim.name == "adamw"
    interval = 1 if swin else 2
    if args.demo:
        if swin:  # from scratch they learn slowly: easier clips, more steps
            config.data.synthetic.update(dict(difficulty=0.0, min_period=6.0, max_period=8.0))
            config.train.num_steps = 1500
        networks = "Video Swins" if swin else "SlowOnly networks"
        config.note = (
            f"demo: the code path of the recipe on the embedded benchmark (16 classes of synthetic clips): "
            f"64 pixels stand for 224 and 32 for 112, 8 frames {interval} apart, two clips a video, small "
            f"{networks} for the published ones, {config.train.num_steps} steps. Its numbers compare with "
            f"each other only.")
        config.data.synthetic.late_share = 0.0  # a clip may miss what a segment does not
        config.data.train_crop = "multi_scale"  # the texture of a twelfth of a frame is another one
    config.data.update(dict(sampling="dense", frame_interval=interval, test_clips=2, views_per_pass=1))
    config.train.validation.test_clips = 1
    config.model.dtype = "float32"
    config.optim.update(dict(warmup_epochs=0.0, accumulate=1, clip_norm=20.0))
    if swin:
        config.optim.lr = 2e-3
    else:  # a stem for clips of 32 pixels
        config.model.options.update(dict(stem_kernel=(1, 3, 3), stem_pool=0, space_strides=(2, 2, 2)))
    if config.method.name == "reskd":
        recipe.embed(config, args)
        if swin:  # the released weight is 2 times the mean over positions, with 400 classes; these are 16
            config.method.weight *= 16 / 400


def finish(config, args):
    """`embedded.finish` and `base.on_devices` of a supervised config."""
    return base.on_devices(embedded.finish(config, args, embed), args)
