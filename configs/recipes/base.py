"""What recipes share: every field with its default, the data sets, stages, and `key=value` arguments.

A config file says how its benchmark differs from here. Sources of the numbers: the released configs of
CVMI-Lab/ResKD (configs/myconfig/**, configs/_base_/**), commit c6b85a3.
"""

from __future__ import annotations

import difflib
from typing import Any

import ml_collections

from effvid_jax.errors import UserError
from effvid_jax.methods.supervised import Supervised


def defaults() -> ml_collections.ConfigDict:
    """Every field of a config, with its default and what it means."""
    config = ml_collections.ConfigDict()
    config.name = ""  # of the benchmark, in messages and reports
    config.note = ""  # printed at the start: what :tiny and :demo shrink
    config.seed = 0  # weights, dropout; the data has its own

    config.data = ml_collections.ConfigDict(dict(
        source="list",  # list | folder | array_record | tfds | synthetic (the embedded benchmark)
        # synthetic_moments (the same of long clips) | images: masks | sceneparse | synthetic_scenes
        root="",  # folder that paths are relative to; folder source: the folder of classes
        train_root="", val_root="",  # the same of one split, below `root` or anywhere; "": `root`
        train_list="", val_list="",  # list files, shard patterns (array_record), splits (tfds)
        tfds_name="",  # name of the TFDS builder
        list_format="video",  # video: "path label ..." | frames: "dir num_frames label ..."
        frame_template="img_{:05}.png",  # names of frames in their folder
        start_index=1,  # number of the first frame
        classes_file="",  # names of the classes, one a line; "": where the source finds them
        num_classes=0,  # 0: count the folders (folder source)
        multi_label=False,  # train on one randomly drawn label, evaluate mAP on all of them
        val_share=0.2, split_seed=0,  # held out of a folder without train/ and val/: share, by which seed
        calib_share=0.0,  # of train, held out as the split 'calib' (thresholds of early exits)
        sampling="segments",  # segments (TSN, TSM: one frame each) | dense (a clip at frame_interval) |
        # around (a clip around the key frame of each example)
        num_frames=8,  # T, of a clip
        frame_interval=1,  # frames from one of a dense clip to the next
        test_clips=1,  # clips a video in evaluation (dense)
        twice_sample=False,  # evaluation sees the beginnings of segments beside their middles
        short_side=256,  # that frames are resized to before they are cropped
        train_crop="multi_scale",  # multi_scale | random_resized | center | whole (frame, in a square) |
        # jitter (the whole, edges moved at random) | random_scale (one of `short_sides`, padded where it is
        # smaller)
        short_sides=(),  # of random_scale, in pixels
        mask_first=0,  # masks: number of the first class in them; smaller ones and 255 are no class
        crop=224,  # side of training clips
        randaugment=0,  # operations on each training clip, drawn anew, the same for its frames: 2 is usual
        randaugment_magnitude=9.0,  # how strong they are, of 10
        flip=True,  # left and right change places in every other training clip
        fixed_views=0,  # training clips of a video that come again and again; 0: drawn anew in every pass
        snap_side=0,  # sides of a multi-scale crop within 2 pixels of this become it; 0: of `crop`
        test_short_side=256,  # as short_side, in evaluation
        test_crop="center",  # center | three (along the long side) | whole | pad (to a square)
        test_crop_size=224,  # side of clips in evaluation
        quality=0,  # side that clips are shrunk to and enlarged again from: fewer details, as many pixels
        batch_size=64, eval_batch_size=64,  # global; the reference has 8 GPUs x 8 clips
        views_per_pass=0,  # evaluation: views of a video that go through the network at a time; 0: all
        seed=0,  # of order, frames, crops and flips
        num_threads=16,  # that read and decode, in all processes of `num_workers` together; in training and
        # evaluation no more than there are cores
        num_workers=0,  # processes that build every batch together; 0: threads of this one
        prefetch=8,  # batches that are made ahead
        max_broken_share=0.01,  # more broken files than this end the run, by name
        cache="none", cache_gib=4.0,  # memory: keep decoded clips in RAM, as far as so many GiB go
        synthetic=dict(),  # parameters of the embedded benchmark, see data_pipelines/synthetic.py
    ))
    config.model = ml_collections.ConfigDict(dict(
        backbone="resnet50",  # a name of `effvid_jax.BACKBONES`
        resolution=0,  # side of the network's input, resized on the device; 0: as the pipeline crops
        dropout=0.5,  # before the classifier
        dtype="float32",  # bfloat16: compute type; parameters stay float32
        remat="none",  # products, block: train in less memory and more time, see backbones/remat.py
        bn_groups=0,  # statistics per part of the batch: 0 = per device (the reference), 1 = global
        options=dict(),  # further fields of the backbone, such as width
        exits=dict(),  # early exits, see `dynamic_inference` below; {}: none
    ))
    config.method = Supervised.Settings().to_config()
    config.optim = ml_collections.ConfigDict(dict(
        name="sgd",  # sgd | adamw
        lr=0.01,  # learning rate after the warm-up
        momentum=0.9,  # of sgd
        weight_decay=1e-4,  # of all weights, or as `groups` says
        groups="single",  # rates and decay by kind of weight: single | tsm | swin, see effvid_jax/optim.py
        frozen="",  # regular expression of parameters that stay as they are, such as '^(conv1|bn1|layer1_)'
        clip_norm=20.0,  # largest norm of a gradient; 0: any
        accumulate=1,  # steps whose gradients make an update
        schedule="cosine_epoch",  # cosine_epoch (changes once an epoch, as released) | cosine | step |
        # constant
        milestones=(),  # epochs after which a step schedule divides the rate by ten
        warmup_epochs=0.0, warmup_ratio=0.1,  # the rate rises from this share of it for so many epochs
    ))
    config.train = ml_collections.ConfigDict(dict(
        num_epochs=50.0, num_steps=0,  # steps win over epochs if not 0
        log_every_steps=20,  # a line of the history
        eval_every_epochs=5.0,  # 0: at the end only
        checkpoint_every_steps=1000,  # a save
        keep=2,  # newest saves that stay
        best="",  # metric, such as val/top1, whose best evaluation is kept as the workdir DIR/best
        patience=0,  # evaluations without a better `best` after which the run ends; 0: it does not
        min_change=0.0,  # what counts as better for that
        ema=0.0,  # decay of running averages of weights and statistics, which are evaluated then; 0: none
        label_smoothing=0.0,  # share of the target that all classes have alike
        mixup=0.0, cutmix=0.0,  # a of Beta(a, a): clips mixed in pairs, see effvid_jax/mixing.py; 0: not
        fsdp=1,  # devices that share one copy of parameters, optimizer, averages and frozen teacher
        wandb="",  # project of Weights & Biases that metrics go to as well; "": none
        min_reference_ratio=2.0,  # a frozen teacher below this times chance is refused
        # Evaluations during training that cost less than the one at the end; 0 or "": as that one, `data`.
        validation=dict(test_clips=0, test_crop="", test_short_side=0, test_crop_size=0, eval_batch_size=0),
    ))
    config.init = ml_collections.ConfigDict(dict(
        # Workdir whose weights to start from (ImageNet weights: torch_import), or 'pretrained': the published
        # ones of the backbone that a package installs, all but the classifier. In a run of stages all start
        # from it for which `stages.<name>.init.checkpoint` names no other, or 'none'.
        checkpoint="",
        skip="",  # regular expression of arrays to leave at their initial values
        probe=False,  # the classifier begins as a linear one that is fitted to what the start sees
        step=0,  # checkpoint step to restore; 0 = the newest
    ))
    config.bench = ml_collections.ConfigDict(dict(
        seconds=60.0,  # to spend on measuring; compiling comes on top
        batch_size=0,  # 0: that of the data, on a CPU less where clips are large
        threads=(),  # reading threads to try; (): 1, 2, 4, ... up to twice the cores
        workers=(1, 2),  # worker processes to try, beside none
        resolutions=(),  # of inference, in pixels; (): 224, 144, 112, 96, 72, 56, scaled to data.crop
    ))
    config.export = ml_collections.ConfigDict(dict(
        format="jax",  # of the program: jax | savedmodel (TensorFlow's, beside it)
    ))
    # Stages of one run: 'teacher,baseline,student' trains them in this order, each in its own folder of
    # the workdir. A stage is this config with the fields of `stages.<name>` changed; 'student' is the
    # config itself. Empty: one run, directly in the workdir.
    config.run = ""
    config.stages = ml_collections.ConfigDict()  # changes of each
    return config


DATASETS: dict[str, dict[str, Any]] = {
    "actnet": dict(
        num_classes=200, num_frames=16, list_format="frames", multi_label=True, root="data/actnet/imgs",
        train_list="data/actnet/actnet_png_img_train_split.txt",
        val_list="data/actnet/actnet_png_img_val_split.txt"),
    # 239 classes; the released configs say 200 in the data, which cannot be evaluated.
    "fcvid": dict(
        num_classes=239, num_frames=16, list_format="frames", multi_label=True, root="data/fcvid",
        train_root="imgs_train", val_root="imgs_test",
        train_list="data/fcvid/fcvid_png_img_train_split.txt",
        val_list="data/fcvid/fcvid_png_img_val_split.txt"),
    "minik": dict(
        num_classes=200, num_frames=8, root="data/kinetics400",
        train_list="data/kinetics400/mini-kinetics/minik_train_videofolder.txt",
        val_list="data/kinetics400/mini-kinetics/minik_val_videofolder.txt"),
    "sthv2": dict(
        num_classes=174, num_frames=8, flip=False, root="data/sthv2/videos",
        train_list="data/sthv2/sthv2_train_list_videos.txt",
        val_list="data/sthv2/sthv2_val_list_videos.txt"),
    # {} is the number of the split.
    "k400": dict(
        num_classes=400, root="data/kinetics400",
        train_list="data/kinetics400/kinetics400_train_list_videos.txt",
        val_list="data/kinetics400/kinetics400_val_list_videos.txt"),
    "ucf101": dict(
        num_classes=101, root="data/ucf101/videos",
        train_list="data/ucf101/ucf101_train_split_{}_videos.txt",
        val_list="data/ucf101/ucf101_val_split_{}_videos.txt"),
    "hmdb51": dict(
        num_classes=51, root="data/hmdb51/videos",
        train_list="data/hmdb51/hmdb51_train_split_{}_videos.txt",
        val_list="data/hmdb51/hmdb51_val_split_{}_videos.txt"),
    "sthv1": dict(
        num_classes=174, flip=False, root="data/sthv1/rawframes", list_format="frames",
        frame_template="{:05}.jpg",
        train_list="data/sthv1/sthv1_train_list_rawframes.txt",
        val_list="data/sthv1/sthv1_val_list_rawframes.txt"),
    "mit": dict(
        num_classes=339, root="data/mit/videos", train_list="data/mit/mit_train_list_videos.txt",
        val_list="data/mit/mit_val_list_videos.txt"),
    "folder": dict(source="folder", num_frames=8, flip=False),
}

# Short side before cropping, by resolution: the released configs' RS(n).
SHORT_SIDES = {224: 256, 160: 180, 144: 160, 112: 128, 96: 108, 72: 80, 56: 64}
# Their MultiScaleCrop's `input_size`, where it makes a difference: to the resolution itself, 94 and 70 would
# snap.
SNAP_SIDES = {96: 108, 72: 80}


def dataset(config, name: str) -> None:
    """Sets the fields of a data set; paths are the released layout, relative to the project."""
    config.data.update(DATASETS[name])


def pixels(config, resolution: int) -> None:
    """Clips of one resolution, from the short side that the released configs crop it from.

    Raises:
        UserError: a resolution that no network sees.
    """
    if not 16 <= resolution <= 2**13:
        raise UserError(f"config argument resolution={resolution}: expected pixels, at least 16 and at most "
                        f"{2**13}.")
    short_side = SHORT_SIDES.get(resolution, round(resolution * 8 / 7))
    config.data.update(dict(short_side=short_side, test_short_side=short_side, crop=resolution,
                            test_crop_size=resolution, snap_side=SNAP_SIDES.get(resolution, 0)))


DEVICES = 8  # of the released recipes: a batch is 8 clips (TSM: 12, Swin: 8 or 4) on each of 8 GPUs


def on_devices(config, args) -> ml_collections.ConfigDict:
    """The recipe of 8 devices on fewer (argument `devices`; 0: as it is), updates made of the same clips.

    A step takes the clips of so many devices, and gradients add up until they are those of the recipe's
    batch; batch statistics are of as many clips as a device of the recipe has, so are the teacher's. Lengths
    in epochs, learning rates and crops stay, those in steps grow. What differs: running statistics move
    8 / `devices` times an update instead of once, and dropout draws other numbers.

    Raises:
        UserError: a number that does not divide 8, or a form that has batches of its own.
    """
    number = args.get("devices", 0)
    if not number:
        return config
    for size in ("tiny", "demo", "small"):
        if args.get(size):
            refuse(args, size, "devices")
    if number < 1 or DEVICES % number:
        raise UserError(f"config argument devices={number}: expected 1, 2, 4 or 8, as many as there are.")
    parts, data, train = DEVICES // number, config.data, config.train
    data.batch_size //= parts
    data.eval_batch_size = max(number, data.eval_batch_size // parts)
    train.validation.eval_batch_size //= parts
    config.optim.accumulate *= parts
    config.model.bn_groups = number
    train.update(dict(log_every_steps=train.log_every_steps * parts,
                      checkpoint_every_steps=train.checkpoint_every_steps * parts))
    return config


WHOLE = ("method", "options", "exits")


def add_stages(config, **others) -> None:
    """Adds `config.stages`: for each other config the fields in which it differs from this one.

    Differences rather than whole configs, so that `--config.data.root=...` reaches every stage. The
    dicts of `WHOLE` are replaced, not merged: their fields depend on the method or backbone. What a stage
    starts from is always there, so that a command can name it.
    """
    for name, other in others.items():
        stage = _difference(config, other, ("name", "note", "run", "stages"))
        ours, theirs = config.init.checkpoint, other.init.checkpoint
        if "init" not in stage:
            stage.init = ml_collections.ConfigDict()
        stage.init.checkpoint = "" if theirs == ours else theirs or "none"
        config.stages[name] = stage


def _difference(ours, other, without=()) -> ml_collections.ConfigDict:
    out = ml_collections.ConfigDict()
    for key, value in other.items():
        if key in without:
            continue
        if isinstance(value, ml_collections.ConfigDict) and key in ours and key not in WHOLE:
            nested = _difference(ours[key], value)
            if nested:
                out[key] = nested
        elif key not in ours or ours[key] != value:
            out[key] = value
    return out


# ------------------------------------------------------------------------------ `config.py:arguments`
def parse_arg(arg: str, **defaults) -> ml_collections.ConfigDict:
    """`'tiny,backbone=resnet50,resolution=112'` -> the values, typed like their defaults.

    A bare word stands for `word=True`. `given` has the names of those that are not left at their defaults.

    Raises:
        UserError: an unknown argument (lists the known ones), a value of another type, or a second one.
    """
    values: dict[str, Any] = dict(defaults)
    given_names: list[str] = []
    for item in filter(None, (arg or "").split(",")):
        key, given, text = item.partition("=")
        key = key.strip()
        if key not in defaults:
            close = difflib.get_close_matches(key, defaults)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UserError(f"unknown config argument {key!r} in {arg!r}.{hint} Known: "
                             f"{', '.join(f'{k}={v!r}' for k, v in defaults.items())}.")
        if key in given_names:
            raise UserError(f"config argument {key!r} is given twice in {arg!r}.")
        given_names.append(key)
        kind = type(defaults[key])
        try:
            values[key] = _parse_bool(text) if kind is bool and given else kind(text) if given else True
        except ValueError as error:
            raise UserError(f"config argument {item!r}: expected {kind.__name__}.") from error
        if not given and kind is not bool:
            raise UserError(f"config argument {key!r} needs a value: {key}={defaults[key]!r}.")
    return ml_collections.ConfigDict({**values, "given": tuple(
        name for name in given_names if values[name] != defaults[name])})


def refuse(args, by: str, *ignored: str) -> None:
    """Raises `UserError` if an argument is given beside another one by which it would be ignored."""
    for name in ignored:
        if name in args.given:
            raise UserError(f"config argument {name}={args[name]!r} has no meaning with {by}, which does not "
                            f"use it: leave one of them out.")


def _parse_bool(text: str) -> bool:
    if text.lower() not in ("1", "true", "0", "false"):
        raise ValueError(text)
    return text.lower() in ("1", "true")
