"""Recipe of VA-RED2 and its static counterpart."""

from __future__ import annotations

import ml_collections

from configs.recipes import base, embedded
from effvid_jax.backbones.facts import facts
from effvid_jax.errors import UserError
from effvid_jax.methods.cgnet import CGNet
from effvid_jax.methods.pruning import Pruning
from effvid_jax.methods.supervised import Supervised
from effvid_jax.methods.va_red2 import VaRed2

# Of the backbones: learning rate at batch 64 and weight decay, recalled, not confirmed, and scaled linearly
# from 1152 clips. Crops (evaluation of clips has 8/7 of them) and frame intervals:
# `effvid_jax/backbones/facts.py`.
RATES = {
    **dict.fromkeys(("r2plus1d_18_vared", "tpn_r2plus1d_18", "corrnet_r2plus1d_18"), (0.01, 5e-4)),
    "i3d_tp": (0.1, 1e-4),
    "x3d_m": (0.1, 5e-5),
    "resnet50": (0.01, 1e-4),
}
BASELINES = {"pruning": Pruning, "cgnet": CGNet}


def recipe(dataset_name: str, arg: str):
    """VA-RED2 with its static counterpart; the paper's recipe is not public, so it is ours in most parts.

    Arguments: tiny, demo, hard (beside one of these: clips of difficulty up to 1, half of them held, see
    `data_pipelines/synthetic/drawing.py`), static (the plain network alone), backbone, frames (8, 16, 32),
    search_space (2, 3), baseline (pruning, cgnet: in place of gated convolutions, the paper's Table 7),
    from_static (settings for a start from a static network, given by init.checkpoint). Else from scratch.
    Cosine with warm-up; 10 clips a video, centre crop of 8/7 of the training crop. The 2-D ResNet-50 sees
    segments, 224 pixels in evaluation too: its row in the paper has 65.4 GMACs.
    """
    args = base.parse_arg(
        arg, tiny=False, demo=False, static=False, backbone="r2plus1d_18_vared", frames=8,
        search_space=2, baseline="", from_static=False, hard=False)
    if args.backbone not in RATES:
        raise UserError(f"config argument backbone={args.backbone!r}: expected one of {', '.join(RATES)}.")
    if args.static:
        base.refuse(args, "static", "baseline", "from_static")
    if args.hard and not (args.demo or args.tiny):
        raise UserError("config argument hard=True: it says which clips of the embedded benchmark are made, "
                        "expected beside demo or tiny.")
    if args.baseline:
        base.refuse(args, f"baseline={args.baseline}", "search_space")
    config = base.defaults()
    config.name = f"va_red2_{dataset_name}"
    base.dataset(config, dataset_name)
    lr, decay = RATES[args.backbone]
    crop, interval = facts(args.backbone).crop, facts(args.backbone).frame_interval
    base.pixels(config, crop)
    config.data.update(dict(num_frames=args.frames, eval_batch_size=8))
    if interval:  # clips; the 2-D network sees segments, as in its comparison with AR-Net
        config.data.update(dict(sampling="dense", frame_interval=interval, test_clips=10,
                                test_crop_size=crop * 8 // 7))
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
    if args.hard:
        config.data.synthetic.update(dict(difficulty=1.0, held_share=0.5))
    return beside_static(config, args, args.baseline or "dynamic")


def beside_static(config, args, name: str = "dynamic", adjust=None) -> ml_collections.ConfigDict:
    """The end of a recipe: the network with gates and its static counterpart as stages, or that alone.

    Args:
        config: of the network with gates.
        args: parsed arguments, read here: `static`, `from_static`, `tiny`, `demo`.
        name: of its stage.
        adjust: config -> None, called last where it starts from the static network: what `from_static` does
            not know.
    """
    static = config.copy_and_resolve_references()
    static.method = Supervised.Settings().to_config()
    if args.static:
        return static
    embedded_form = args.demo or args.tiny
    if embedded_form or args.from_static:
        from_static(config)
        if adjust is not None:
            adjust(config)
    if args.from_static and not embedded_form:
        config.init.checkpoint = "<the workdir of the static network, trained with :static>"
    dynamic = config.copy_and_resolve_references()
    if embedded_form:  # from scratch the gates need more steps than a demo has
        config.run = f"static,{name}"
        dynamic.init.checkpoint = "static"
    base.add_stages(config, **{"static": static, name: dynamic})
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
    """`config.method` of VA-RED2, or of what it is compared with."""
    if not baseline:
        return VaRed2.Settings(search_space=search_space).to_config()
    if baseline not in BASELINES:
        raise UserError(f"config argument baseline={baseline!r}: expected one of {', '.join(BASELINES)}.")
    return BASELINES[baseline].Settings().to_config()
