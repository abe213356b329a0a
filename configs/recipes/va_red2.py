"""Recipe of VA-RED2 and its static counterpart."""

from __future__ import annotations

import ml_collections

from configs.recipes import base, embedded

# Of the backbones: training crop, learning rate at batch 64, weight decay, frame interval. Crops
# (evaluation has 8/7 of them) follow from the paper's costs; rates and decays are recalled, not confirmed,
# and scaled linearly from 1152 clips; the interval is the usual one of each network.
BACKBONES = {
    **dict.fromkeys(("r2plus1d_18_vared", "tpn_r2plus1d_18", "corrnet_r2plus1d_18"),
                    (112, 0.01, 5e-4, 2)),
    "i3d_tp": (224, 0.1, 1e-4, 2),
    "x3d_m": (224, 0.1, 5e-5, 5),
    "resnet50": (224, 0.01, 1e-4, 0),
}

BASELINES = {
    # Of R(2+1)D-18 this leaves 19.9 of 27.7 GMACs, as in the paper's Table 7.
    "pruning": dict(keep=0.61),
    # Of mengyuest/AdaFuse's port, see `effvid_jax/methods/cgnet.py`.
    "cgnet": dict(partitions=4, threshold=0.0, sharpness=2.0, threshold_target=1.0, threshold_weight=1e-4),
}


def recipe(dataset_name: str, arg: str):
    """VA-RED2 with its static counterpart; the paper's recipe is not public, so it is ours in most parts.

    Arguments: tiny, demo, static (the plain network alone), backbone, frames (8, 16, 32), search_space
    (2, 3), baseline (pruning, cgnet: in place of gated convolutions, the paper's Table 7), from_static
    (settings for a start from a static network, given by init.checkpoint). Else from scratch. Cosine with
    warm-up; 10 clips a video, centre crop of 8/7 of the training crop.
    """
    args = base.parse_arg(
        arg, tiny=False, demo=False, static=False, backbone="r2plus1d_18_vared", frames=8,
        search_space=2, baseline="", from_static=False)
    if args.backbone not in BACKBONES:
        raise ValueError(f"config argument backbone={args.backbone!r}: expected one of "
                         f"{', '.join(BACKBONES)}.")
    config = base.defaults()
    config.name = f"va_red2_{dataset_name}"
    base.dataset(config, dataset_name)
    crop, lr, decay, interval = BACKBONES[args.backbone]
    base.pixels(config, crop)
    config.data.update(dict(num_frames=args.frames, test_crop_size=crop * 8 // 7, eval_batch_size=8))
    if interval:  # clips; the 2-D network sees segments, as in its comparison with AR-Net
        config.data.update(dict(sampling="dense", frame_interval=interval, test_clips=10))
    config.model.backbone = args.backbone
    config.optim.update(dict(lr=lr, weight_decay=decay, schedule="cosine", warmup_ratio=0.1,
                             warmup_epochs=8.0 if dataset_name == "mit" else 15.0))
    config.train.num_epochs = 100.0
    if not args.static:
        config.method = method(args.search_space, args.baseline)
    embedded.finish(config, args)
    if args.demo or args.tiny:
        config.data.num_frames = args.frames
        config.optim.warmup_epochs = 0.0
    if args.demo:
        demo(config, args.backbone)
    static = config.copy_and_resolve_references()
    static.method = ml_collections.ConfigDict(dict(name="supervised"))
    if args.static:
        return static
    dynamic_name = args.baseline or "dynamic"
    if args.demo or args.tiny or args.from_static:
        from_static(config)
    dynamic = config.copy_and_resolve_references()
    if args.demo or args.tiny:  # from scratch the gates need more steps than a demo has
        config.run = f"static,{dynamic_name}"
        dynamic.init.checkpoint = "static"
    base.add_stages(config, **{"static": static, dynamic_name: dynamic})
    return config


def demo(config, backbone: str) -> None:
    """What `:demo` has of its own, for the static network and so for the others: clips, rate and steps."""
    config.note = (
        "demo: the code path of the recipe on the embedded benchmark (16 classes of synthetic clips, "
        "coarser and easier ones than the other demos'), 32 pixels stand for 112 and 64 for 224, a "
        "network of the same family, of width 16 with a block per stage. Its numbers compare with each "
        "other only.")
    config.data.synthetic.update(dict(min_period=10.0, max_period=12.0, difficulty=0.1))
    config.train.num_steps = 400
    if "r2plus1d" in backbone:
        config.optim.lr = 0.1


def from_static(config) -> None:
    """Settings for a start from a trained static network, which gates disturb as little as they can. Ours."""
    config.init.skip = "gate|cheap_"
    config.optim.groups = "gates"
    if config.method.name == "va_red2":
        config.method.update(dict(efficiency_weight=1.5, beta_reduced=0.5, cheap_scale=0.0))


def method(search_space: int, baseline: str = "") -> ml_collections.ConfigDict:
    """`config.method` of VA-RED2. Of all this, only the search space is stated by the paper."""
    if baseline:
        if baseline not in BASELINES:
            raise ValueError(f"config argument baseline={baseline!r}: expected one of "
                             f"{', '.join(BASELINES)}.")
        return ml_collections.ConfigDict(dict(name=baseline, layers="", **BASELINES[baseline]))
    return ml_collections.ConfigDict(dict(
        name="va_red2",
        search_space=search_space,  # the paper: 2 (all, 1/2) or 3 (all, 1/2, 1/4)
        temporal=True, channel=True,  # the paper: both; its Table 10 has one of them alone
        layers="",  # regular expression of gated layers; "": the backbone's, inferred from its costs
        efficiency_weight=0.5,  # lambda_e; ours (1.5 from a static network)
        gate_width=0,  # hidden units; 0: max(16, channels / 4), ours
        beta=1.0,  # initial bias of the gates for the whole convolution, so that it starts active; ours
        beta_reduced=1.0,  # for its variants, see `from_static`; at 0.1 layers died; ours
        cheap_scale=1.0,  # initial size of the operation that makes channels: 1 keeps the variance; ours
        leak=0.1,  # gradient of a closed variant, so that it can open again; the paper's gate has 0
        cheap_kernel=3,  # side of the depthwise operation that makes channels; ours
        form="mixed",  # evaluation: mixed | compact (computes what each clip's gates ask for)
        positions=0,  # compact: clips are grouped up to this many output positions of a layer (GPU:
        # 2**18, say); 0: the network runs clip by clip, the fastest on a CPU; ours
    ))
