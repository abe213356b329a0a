"""What recipes share: every field with its default, the data sets, and `:tiny`, `:demo`, `key=value`.

A config file says how its benchmark differs from here. Sources of the numbers: the released configs of
CVMI-Lab/ResKD (configs/myconfig/**, configs/_base_/**), commit c6b85a3.
"""

from __future__ import annotations

import difflib
from typing import Any

import ml_collections


def base() -> ml_collections.ConfigDict:
    """Every field of a config, with its default and what it means."""
    config = ml_collections.ConfigDict()
    config.name = ""
    config.note = ""  # printed at the start: what :tiny and :demo shrink
    config.seed = 0  # weights, dropout; the data has its own

    config.data = ml_collections.ConfigDict(dict(
        source="list",  # list | folder | array_record | tfds | synthetic (the embedded benchmark)
        root="",  # folder that paths are relative to; folder source: the folder of classes
        train_list="", val_list="",  # list files, shard patterns (array_record), splits (tfds)
        tfds_name="",
        list_format="video",  # video: "path label ..." | frames: "dir num_frames label ..."
        frame_template="img_{:05}.png", start_index=1,
        classes_file="",
        num_classes=0,  # 0: count the folders (folder source)
        multi_label=False,  # train on one randomly drawn label, evaluate mAP on all of them
        val_share=0.2, split_seed=0,  # folder source without train/ and val/
        calib_share=0.0,  # of train, held out as the split 'calib' (thresholds of early exits)
        sampling="segments",  # segments (TSN, TSM: one frame each) | dense (a clip at frame_interval)
        num_frames=8, frame_interval=1,
        test_clips=1, twice_sample=False,
        short_side=256, train_crop="multi_scale",  # multi_scale | random_resized | center
        crop=224, flip=True,
        test_short_side=256, test_crop="center", test_crop_size=224,  # center | three
        batch_size=64, eval_batch_size=64,  # global; the reference has 8 GPUs x 8 clips
        seed=0, num_threads=16, num_workers=0, prefetch=8,
        max_broken_share=0.01,  # more broken files than this end the run, by name
        cache="none", cache_gib=4.0,  # memory: keep decoded clips in RAM
        synthetic=dict(),  # parameters of the embedded benchmark, see data_pipelines/synthetic.py
    ))
    config.model = ml_collections.ConfigDict(dict(
        backbone="resnet50",
        resolution=0,  # side of the network's input, resized on the device; 0: as the pipeline crops
        dropout=0.5,
        dtype="float32",  # bfloat16: compute type; parameters stay float32
        bn_groups=0,  # statistics per part of the batch: 0 = per device (the reference), 1 = global
        options=dict(),  # further fields of the backbone, such as width
        exits=dict(),  # early exits, see `dynamic_inference` below; {}: none
    ))
    config.method = ml_collections.ConfigDict(dict(name="supervised"))
    config.optim = ml_collections.ConfigDict(dict(
        name="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4,
        groups="single",  # single | tsm | swin, see effvid_jax/optim.py
        clip_norm=20.0, accumulate=1,
        schedule="cosine_epoch", milestones=(), warmup_epochs=0.0, warmup_ratio=0.1,
    ))
    config.train = ml_collections.ConfigDict(dict(
        num_epochs=50.0, num_steps=0,  # steps win over epochs if not 0
        log_every_steps=20, eval_every_epochs=5.0, checkpoint_every_steps=1000, keep=2,
        min_reference_ratio=2.0,  # a frozen teacher below this times chance is refused
    ))
    config.init = ml_collections.ConfigDict(dict(
        checkpoint="",  # workdir whose weights to start from (ImageNet weights: torch_import)
        skip="",  # regular expression of arrays to leave at their initial values
        step=0,  # checkpoint step to restore; 0 = the newest
    ))
    config.bench = ml_collections.ConfigDict(dict(
        seconds=60.0,  # to spend on measuring; compiling comes on top
        batch_size=0,  # 0: that of the data, on a CPU less where clips are large
        threads=(),  # reading threads to try; (): 1, 2, 4, ... up to twice the cores
        workers=(1, 2),  # worker processes to try, beside none
        resolutions=(),  # of inference, in pixels; (): 224, 144, 112, 96, 72, 56, scaled to data.crop
    ))
    # Stages of one run: 'teacher,baseline,student' trains them in this order, each in its own folder of
    # the workdir. A stage is this config with the fields of `stages.<name>` changed; 'student' is the
    # config itself. Empty: one run, directly in the workdir.
    config.run = ""
    config.stages = ml_collections.ConfigDict()
    return config


DATASETS: dict[str, dict[str, Any]] = {
    "actnet": dict(
        num_classes=200, num_frames=16, list_format="frames", multi_label=True, root="data/actnet/imgs",
        train_list="data/actnet/actnet_png_img_train_split.txt",
        val_list="data/actnet/actnet_png_img_val_split.txt"),
    # 239 classes; the released configs say 200 in the data, which cannot be evaluated.
    "fcvid": dict(
        num_classes=239, num_frames=16, list_format="frames", multi_label=True, root="data/fcvid",
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
}

DATASETS["folder"] = dict(source="folder", num_frames=8, flip=False)

# Short side before cropping, by resolution: the released configs' RS(n).
SHORT_SIDES = {224: 256, 160: 180, 144: 160, 112: 128, 96: 108, 72: 80, 56: 64}


def dataset(config, name: str) -> None:
    """Sets the fields of a data set; paths are the released layout, relative to the project."""
    config.data.update(DATASETS[name])


def pixels(config, resolution: int) -> None:
    """Clips of one resolution, from the short side that the released configs crop it from."""
    short_side = SHORT_SIDES.get(resolution, round(resolution * 8 / 7))
    config.data.update(dict(short_side=short_side, test_short_side=short_side, crop=resolution,
                            test_crop_size=resolution))


# ------------------------------------------------------------------------------------------- recipes
def supervised_tsn(dataset_name: str, backbone: str, resolution: int) -> ml_collections.ConfigDict:
    """Teachers and baselines on segments: SGD, 50 epochs, cosine per epoch, batch 8 x 8."""
    config = base()
    config.name = f"supervised_{dataset_name}"
    dataset(config, dataset_name)
    pixels(config, resolution)
    config.model.backbone = backbone
    config.optim.groups = "tsm"
    if backbone == "resnet50" and resolution < 224:  # tsn_r50_{160,112,96,72}p_*
        config.optim.update(dict(groups="single", clip_norm=40.0))
    return config


def reskd(dataset_name: str, supervised, args, num_epochs: int, options=None):
    """The ResKD recipe on segments, with its teacher and baseline as stages.

    Args:
        dataset_name: key of `DATASETS`, or 'folder'.
        supervised: `get_config` of the supervised config of this data set.
        args: parsed arguments: tiny, demo, backbone, teacher, resolution, distill.
        num_epochs: of the student.
        options: further fields of the student's backbone.
    """
    if args.distill not in ("both", "model", "resolution"):
        raise ValueError(f"config argument distill={args.distill!r}: expected both, model or resolution.")
    teacher = args.backbone if args.distill == "resolution" else args.teacher
    high = args.resolution if args.distill == "model" else 224
    size = "tiny," if args.tiny else "demo," if args.demo else ""
    teacher_config = supervised(f"{size}backbone={teacher},resolution={high}")
    baseline_config = supervised(f"{size}backbone={args.backbone},resolution={args.resolution}")

    config = base()
    config.name = f"reskd_{dataset_name}"
    dataset(config, dataset_name)
    pixels(config, high)
    config.model.update(dict(backbone=args.backbone, resolution=args.resolution))
    config.model.options = ml_collections.ConfigDict(options or {})
    config.train.num_epochs = float(num_epochs)
    reskd_method(config, teacher_resolution=high)
    if dataset_name == "folder":
        folder(config, args)
    finish(config, args)
    add_stages(config, teacher=teacher_config, baseline=baseline_config)
    if size:
        config.run = "teacher,baseline,student"
    return config


def folder(config, args) -> ml_collections.ConfigDict:
    """Settings of a user's own clips, which are few: shorter epochs, and `:small` for a CPU."""
    config.data.update(dict(batch_size=16, eval_batch_size=16, max_broken_share=0.1))
    config.optim.lr = 0.0025  # 0.01 at batch 64, scaled with the batch
    config.train.update(dict(num_epochs=30.0 if config.method.name == "supervised" else 60.0,
                             checkpoint_every_steps=200))
    if args.small:
        config.note = "small: 64 pixels stand for 224 and 32 for 112, a ResNet of width 16."
        crop = _small(config.data.crop)
        pixels(config, crop)
        if config.method.name == "reskd":
            config.model.resolution = _small(config.model.resolution)
            config.method.teacher_resolution = _small(config.method.teacher_resolution)
        small_network(config)
        config.optim.lr = 0.05
    return config


def reskd_method(config, teacher_resolution: int) -> None:
    """Adds `config.method` of ResKD with the released settings."""
    config.method = ml_collections.ConfigDict(dict(
        name="reskd",
        teacher="",  # workdir of the trained or imported teacher
        teacher_resolution=teacher_resolution,  # Table 6, "model distillation": the student's
        loss="feature",  # feature | position_kl | frame_kl | clip_kl (Table 5)
        weight=100.0,
        temperature=2.0,  # of the KL losses
        kl_mean="element",  # element: divide by positions x classes, as torch does | row
        teacher_bn="batch",  # batch: as the released code executes | running: evaluation mode
    ))


# Classes, list files and splits of the data sets of Dynamic Inference; {} is the number of the split.
DATASETS |= {
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
}


def dynamic_inference(dataset_name: str, arg: str, **defaults):
    """Dynamic Inference with the recipe of TSM, as the paper's own is not known.

    Sources: `main.py` and `scripts/` of mit-han-lab/temporal-shift-module; arXiv 2002.03342. Arguments:
    tiny, demo, backbone (msdnet_38, resnet50, resnet101, resnet18, ...), scheme (depth, input, permuted,
    unified), frames (8, 16), shift (online, offline, none), and `split` where a data set has several.
    """
    args = parse_arg(arg, tiny=False, demo=False, backbone="resnet50", scheme="unified", frames=16,
                     shift="online", **defaults)
    config = base()
    config.name = f"dynamic_{dataset_name}"
    dataset(config, dataset_name)
    config.data.num_frames = args.frames
    config.data.calib_share = 0.05
    config.model.backbone = args.backbone
    small = dataset_name in ("ucf101", "hmdb51")
    config.model.dropout = 0.8 if small else 0.5
    config.model.exits = ml_collections.ConfigDict(dict(
        frames=args.frames,
        scheme=args.scheme,  # depth | input | permuted | unified: panels a-d of the paper's figure
        route=(),  # by hand: ((frames, depth), ...); (): the scheme's
        order=(),  # by hand: frames in the order they are consumed; (): the scheme's
        groups=0,  # groups of frames that a shift does not leave; 0: the scheme's (1 or 2)
        shift=args.shift,  # online (the paper) | offline (two-sided, for comparison) | none
        shift_div=8,  # 1/8 of the channels: TSM's; the paper does not say
        stages=(),  # backbone stage behind each depth; (): MSDNet's exits, or the last three
        width=2048,  # of exits before the last; ours, fits the paper's parameters
        share_heads=False,  # one classifier a depth instead of one a checkpoint (as drawn)
        classifier_std=0.001,
    ))
    config.method = ml_collections.ConfigDict(dict(
        name="dynamic_inference",
        loss_weights=(),  # per checkpoint; (): 1 each, MSDNet's; the paper does not say
        distill_weight=0.0, distill_temperature=1.0,  # from the last checkpoint; ours
        rule="confidence",  # the paper | margin | entropy (ours)
        search="accuracy",  # of thresholds: accuracy (ours) | msdnet, see effvid_jax/stopping.py
        budget=0.5,  # mean cost as a share of full inference, for the thresholds
        budget_gmacs=0.0,  # the same in GMACs per video; 0: `budget` counts
        thresholds=(),  # by hand, one a checkpoint; (): from the calibration videos
        calibration_videos=5000,  # at most; their scores are saved with the checkpoint
        executor="simulate",  # evaluation: compute everything | compact | pool: really stop
        executor_sizes=(),  # batch sizes to compile beside eval_batch_size; (): halves down to 1/32
    ))
    config.optim.update(dict(groups="tsm_fc5", schedule="step", lr=0.01))
    config.init.skip = "^head_|(^|/)fc/|^stopping/"  # classifiers and thresholds are this data set's
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
    return finish(config, args)


DATASETS["mit"] = dict(
    num_classes=339, root="data/mit/videos", train_list="data/mit/mit_train_list_videos.txt",
    val_list="data/mit/mit_val_list_videos.txt")

# Of VA-RED2's backbones: training crop, learning rate at batch 64, weight decay, frame interval. Crops
# (evaluation has 8/7 of them) follow from the paper's costs; rates and decays are recalled, not confirmed,
# and scaled linearly from 1152 clips; the interval is the usual one of each network.
VA_RED2_BACKBONES = {
    **dict.fromkeys(("r2plus1d_18_vared", "tpn_r2plus1d_18", "corrnet_r2plus1d_18"),
                    (112, 0.01, 5e-4, 2)),
    "i3d_tp": (224, 0.1, 1e-4, 2),
    "x3d_m": (224, 0.1, 5e-5, 5),
    "resnet50": (224, 0.01, 1e-4, 0),
}


def va_red2(dataset_name: str, arg: str):
    """VA-RED2 with its static counterpart; the paper's recipe is not public, so it is ours in most parts.

    Arguments: tiny, demo, static (the plain network alone), backbone, frames (8, 16, 32), search_space
    (2, 3). From scratch, cosine with warm-up; 10 clips a video, centre crop of 8/7 of the training crop.
    """
    args = parse_arg(arg, tiny=False, demo=False, static=False, backbone="r2plus1d_18_vared", frames=8,
                     search_space=2)
    if args.backbone not in VA_RED2_BACKBONES:
        raise ValueError(f"config argument backbone={args.backbone!r}: expected one of "
                         f"{', '.join(VA_RED2_BACKBONES)}.")
    config = base()
    config.name = f"va_red2_{dataset_name}"
    dataset(config, dataset_name)
    crop, lr, decay, interval = VA_RED2_BACKBONES[args.backbone]
    pixels(config, crop)
    config.data.update(dict(num_frames=args.frames, test_crop_size=crop * 8 // 7, eval_batch_size=8))
    if interval:  # clips; the 2-D network sees segments, as in its comparison with AR-Net
        config.data.update(dict(sampling="dense", frame_interval=interval, test_clips=10))
    config.model.backbone = args.backbone
    config.optim.update(dict(lr=lr, weight_decay=decay, schedule="cosine", warmup_ratio=0.1,
                             warmup_epochs=8.0 if dataset_name == "mit" else 15.0))
    config.train.num_epochs = 100.0
    if not args.static:
        config.method = va_red2_method(args.search_space)
    finish(config, args)
    if args.demo or args.tiny:
        config.data.num_frames = args.frames
        config.optim.warmup_epochs = 0.0
    if args.demo:
        config.note = (
            "demo: the code path of the recipe on the embedded benchmark (16 classes of synthetic clips, "
            "coarser ones than the other demos'), 32 pixels stand for 112 and 64 for 224, a network of "
            "the same family, of width 16 with a block per stage. Its numbers compare with each other only.")
        config.data.synthetic.update(dict(min_period=6.0, max_period=8.0))
    static = config.copy_and_resolve_references()
    static.method = ml_collections.ConfigDict(dict(name="supervised"))
    if args.static:
        return static
    dynamic = config.copy_and_resolve_references()
    if args.demo or args.tiny:
        config.run = "static,dynamic"
        # From the static network's weights: from scratch the gates need more steps than a demo has.
        dynamic.init.update(dict(checkpoint="static", skip="gate/|cheap_"))
    add_stages(config, static=static, dynamic=dynamic)
    return config


def va_red2_method(search_space: int) -> ml_collections.ConfigDict:
    """`config.method` of VA-RED2. Of all this, only the search space is stated by the paper."""
    return ml_collections.ConfigDict(dict(
        name="va_red2",
        search_space=search_space,  # the paper: 2 (all, 1/2) or 3 (all, 1/2, 1/4)
        temporal=True, channel=True,  # the paper: both; its Table 10 has one of them alone
        layers="",  # regular expression of gated layers; "": the backbone's, inferred from its costs
        efficiency_weight=0.5,  # lambda_e; ours
        gate_width=0,  # hidden units; 0: max(16, channels / 4), ours
        beta=1.0,  # initial bias of the gates, so that all variants start active; ours
        leak=0.1,  # gradient of a closed variant, so that it can open again; the paper's gate has 0
        cheap_kernel=3,  # side of the depthwise operation that makes channels; ours
        form="mixed",  # evaluation: mixed | compact (computes what each clip's gates ask for)
        positions=0,  # compact: clips are grouped up to this many output positions of a layer (GPU:
        # 2**18, say); 0: the network runs clip by clip, the fastest on a CPU; ours
    ))


WHOLE = ("method", "options", "exits")


def add_stages(config, **others) -> None:
    """Adds `config.stages`: for each other config the fields in which it differs from this one.

    Differences rather than whole configs, so that `--config.data.root=...` reaches every stage. The
    dicts of `WHOLE` are replaced, not merged: their fields depend on the method or backbone.
    """
    for name, other in others.items():
        config.stages[name] = _difference(config, other)


def _difference(ours, other) -> ml_collections.ConfigDict:
    out = ml_collections.ConfigDict()
    for key, value in other.items():
        if key in ("name", "note", "run", "stages"):
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

    A bare word stands for `word=True`.

    Raises:
        ValueError: an unknown argument (lists the known ones) or a value of another type.
    """
    values = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        key, given, text = item.partition("=")
        key = key.strip()
        if key not in defaults:
            close = difflib.get_close_matches(key, defaults)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown config argument {key!r} in {arg!r}.{hint} Known: "
                             f"{', '.join(f'{k}={v!r}' for k, v in defaults.items())}.")
        kind = type(defaults[key])
        try:
            values[key] = _parse_bool(text) if kind is bool and given else kind(text) if given else True
        except ValueError as error:
            raise ValueError(f"config argument {item!r}: expected {kind.__name__}.") from error
        if not given and kind is not bool:
            raise ValueError(f"config argument {key!r} needs a value: {key}={defaults[key]!r}.")
    return ml_collections.ConfigDict(values)


def _parse_bool(text: str) -> bool:
    if text.lower() not in ("1", "true", "0", "false"):
        raise ValueError(text)
    return text.lower() in ("1", "true")


# ------------------------------------------------------------------------------------- tiny and demo
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
    crop = _small(config.data.crop)
    config.data.update(dict(
        source="synthetic", root="", train_list="", val_list="", list_format="video", num_classes=0,
        sampling="segments", num_frames=8, frame_interval=1, max_broken_share=0.0,
        crop=crop, short_side=round(crop * 9 / 8), test_crop="center", test_crop_size=crop,
        test_short_side=round(crop * 9 / 8), twice_sample=False, test_clips=1,
        flip=False))  # a mirrored clip that moves left is one that moves right: another class
    config.data.synthetic = ml_collections.ConfigDict(synthetic)
    small_network(config)
    if config.model.resolution:
        config.model.resolution = _small(config.model.resolution)
    if config.method.name == "reskd":
        config.method.teacher_resolution = _small(config.method.teacher_resolution)
    config.optim.update(dict(lr=0.05, schedule="cosine", groups="single"))
    config.train.eval_every_epochs = 1.0e6  # only at the end
    if config.model.exits:
        config.data.calib_share = 0.15
        config.model.exits.update(dict(frames=config.data.num_frames, width=64, classifier_std=0.1))
        config.method.calibration_videos = 500


_R2PLUS1D = dict(width=16, stem_kernel=(3, 5, 5), stem_norm=True,
                 stage_sizes=(1, 1, 1), inflate=(1, 1, 1), time_strides=(1, 2, 2), space_strides=(1, 2, 2))
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


def _small(resolution: int) -> int:
    """224 -> 64, 112 -> 32, and so on in between, in multiples of 4."""
    return max(16, round(resolution * 64 / 224 / 4) * 4)
