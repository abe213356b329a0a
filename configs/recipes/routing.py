"""Recipes of AR-Net, SCSampler, AdaFuse and LiteEval: which frames, networks and channels are computed.

Sources: scripts_train.sh and full_test.sh of mengyuest/AR-Net (commit 2a9d72b), zz_train.sh of
mengyuest/AdaFuse (commit 91c3a5d), README.md and main.py of zxwu/lite_eval (commit 64cee90). Commands for
Mini-Kinetics were not released: ActivityNet's numbers there (AdaFuse: those of Something-Something V1, the
only released ones). For a user's own clips: ours.
"""

from __future__ import annotations

import ml_collections

from configs.recipes import base, embedded
from effvid_jax.backbones.facts import small_member
from effvid_jax.methods.adafuse import AdaFuse
from effvid_jax.methods.arnet import ARNet
from effvid_jax.methods.liteeval import LiteEval
from effvid_jax.methods.scsampler import SCSampler

FINAL_TAU = 0.6309  # AR-Net's temperature at the end of its second stage, which the third keeps


def arnet(dataset_name: str, arg: str) -> ml_collections.ConfigDict:
    """AR-Net in its three stages: each network alone, then the policy with all, then all but the policy.

    Arguments: tiny, demo.
    """
    args = _parse(dataset_name, arg)
    config = _config("arnet", dataset_name, "resnet50", frames=16)
    _glance(config, "mobilenet_v2", 84)
    config.method = ARNet.Settings(tau=FINAL_TAU, tau_decay=0.0).to_config()
    config.data.update(dict(batch_size=48, eval_batch_size=48))
    config.optim.update(dict(lr=5e-4, schedule="step", milestones=(50, 100), frozen="^(glance|policy|fc)/"))
    config.train.num_epochs = 50.0
    config.init.skip = "^steps/"  # every stage begins its temperature anew
    _finish(config, args, dataset_name, _embed_arnet)
    config.init.checkpoint = "joint"
    joint = config.copy_and_resolve_references()
    joint.init.checkpoint, joint.optim.frozen = "predictors", ""
    joint.optim.lr = config.optim.lr if _is_embedded(args) else 2 * config.optim.lr
    joint.method.update(dict(tau=5.0, tau_decay=0.045))
    predictors = joint.copy_and_resolve_references()
    predictors.init.checkpoint = ""
    predictors.method.objective = "predictors"
    if not _is_embedded(args):
        predictors.optim.lr = 0.02 * config.optim.lr / 5e-4
        predictors.train.num_epochs = 10.0
    return _stages(config, "predictors,joint" if args.tiny else "predictors,joint,finetune",
                   predictors=predictors, joint=joint, finetune=config.copy_and_resolve_references())


def scsampler(dataset_name: str, arg: str) -> ml_collections.ConfigDict:
    """SCSampler as AR-Net has it; both networks as its first stage trains them.

    Arguments: tiny, demo, keep (frames that are classified).
    """
    args = _parse(dataset_name, arg, keep=10)
    config = _config("scsampler", dataset_name, "resnet50", frames=16)
    _glance(config, "mobilenet_v2", 84)
    config.method = SCSampler.Settings(keep=args.keep).to_config()
    config.data.update(dict(batch_size=48, eval_batch_size=48))
    config.optim.update(dict(lr=0.02, schedule="constant"))
    config.train.num_epochs = 10.0
    return _finish(config, args, dataset_name, _embed_scsampler)


def adafuse(dataset_name: str, arg: str) -> ml_collections.ConfigDict:
    """AdaFuse. Arguments: tiny, demo, backbone (a ResNet, with or without a shift).

    Without a shift the learning rate is that of the released TSN network.
    """
    args = _parse(dataset_name, arg, backbone="resnet50")
    config = _config("adafuse", dataset_name, args.backbone, frames=16 if dataset_name == "actnet" else 8)
    config.method = AdaFuse.Settings().to_config()
    config.optim.update(dict(lr=0.02 if "tsm" in args.backbone else 0.01, weight_decay=5e-4, schedule="step",
                             milestones=(20, 40)))
    config.train.num_epochs = 50.0
    return _finish(config, args, dataset_name, _embed_adafuse)


def liteeval(dataset_name: str, arg: str) -> ml_collections.ConfigDict:
    """LiteEval in two stages: both networks, then what decides and answers, on their features.

    The release reads features of trained networks and gives no recipe for those: ours is AR-Net's first
    stage, on 16 frames. Its own learning rate (0.1 with Adam) cannot be what was used, and 256 videos of 129
    frames fit where only features are read: 1e-3 and 32 are ours. Arguments: tiny, demo.
    """
    args = _parse(dataset_name, arg)
    config = _config("liteeval", dataset_name, "resnet101", frames=129)
    _glance(config, "mobilenet_v2", 112)
    config.method = LiteEval.Settings().to_config()
    config.data.update(dict(batch_size=32, eval_batch_size=16))
    config.optim.update(dict(name="adamw", lr=1e-3, weight_decay=1e-4, clip_norm=5.0, schedule="step",
                             milestones=(40, 80), frozen="^(fine|coarse)/"))
    config.train.num_epochs = 100.0  # released: 500, at a hundredth of the rate from the 80th on
    config.init.skip = "^steps/"
    _finish(config, args, dataset_name, _embed_liteeval)
    config.init.checkpoint = "networks"
    networks = config.copy_and_resolve_references()
    networks.init.checkpoint, networks.optim.frozen = "", ""
    networks.method.objective = "networks"
    networks.optim.update(dict(name="sgd", clip_norm=20.0))
    if _is_embedded(args):
        networks.optim.lr = 0.05
    else:
        networks.data.update(dict(num_frames=16, batch_size=config.data.batch_size * 3 // 2))
        networks.optim.update(dict(lr=0.02 * config.optim.lr / 1e-3, schedule="constant"))
        networks.train.num_epochs = 10.0
    return _stages(config, "networks,policy", networks=networks, policy=config.copy_and_resolve_references())


# ------------------------------------------------------------------------------------- what they share
def _parse(dataset_name: str, arg: str, **own) -> ml_collections.ConfigDict:
    """Arguments; for one's own clips there is `small`, too."""
    sizes = dict(tiny=False, demo=False) | (dict(small=False) if dataset_name == "folder" else {})
    return base.parse_arg(arg, **sizes, **own)


def _config(name: str, dataset_name: str, backbone: str, frames: int) -> ml_collections.ConfigDict:
    config = base.defaults()
    config.name = f"{name}_{dataset_name}"
    base.dataset(config, dataset_name)
    config.data.num_frames = frames
    config.model.backbone = backbone
    return config


def _glance(config, backbone: str, resolution: int) -> None:
    config.model.glance = ml_collections.ConfigDict(dict(
        backbone=backbone, resolution=resolution, options=dict()))


def _is_embedded(args) -> bool:
    return args.tiny or args.demo


def _stages(config, run: str, **stages) -> ml_collections.ConfigDict:
    base.add_stages(config, **stages)
    config.run = run
    return config


def _finish(config, args, dataset_name: str, embed) -> ml_collections.ConfigDict:
    """A user's own clips, `:small` among them, and the embedded benchmark."""
    if dataset_name == "folder":
        batch = config.data.batch_size
        config.data.update(dict(batch_size=16, eval_batch_size=16, max_broken_share=0.1))
        if config.data.num_frames > 16:
            config.data.num_frames = 16
        config.optim.lr *= 16 / batch
        config.train.checkpoint_every_steps = 200
    if args.get("small"):
        config.note = "small: 64 pixels stand for 224, and small networks of the same families."
        base.pixels(config, embedded.small(config.data.crop))
        _shrink(config, embed, args)
    embedded.finish(config, args, lambda config, args: _shrink(config, embed, args))
    return config


def _shrink(config, embed, args) -> None:
    """Small networks that look at frames one by one, at sides that stand for the published ones."""
    config.model.backbone = config.model.backbone.removeprefix("tsm_")
    embedded.small_network(config)
    if config.model.get("glance"):
        glance = config.model.glance
        glance.backbone, options = small_member(glance.backbone)
        glance.options = ml_collections.ConfigDict(options)
        glance.resolution = embedded.small(glance.resolution)
    if args.demo:
        config.note = (
            "demo: the code path of the recipe on the embedded benchmark (16 classes of synthetic clips): 64 "
            "pixels stand for 224, small networks of the same families. They look at frames one by one, and "
            "half of what tells the classes is motion. Its numbers compare with each other only.")
    embed(config, args)


def _embed_arnet(config, args) -> None:
    """Shorter skips for shorter clips; costs of small networks weigh what those of the published ones do."""
    config.method.update(dict(
        others=("resnet18", "resnet18"), resolutions=tuple(map(embedded.small, config.method.resolutions)),
        skips=(1, 2), hidden=64, tau_every=10, efficiency_weight=50.0, balance_weight=0.003))
    config.train.num_steps = min(config.train.num_steps, 300)


def _embed_scsampler(config, args) -> None:
    config.method.keep = min(config.method.keep, config.data.num_frames * 5 // 8)


def _embed_adafuse(config, args) -> None:
    config.method.update(dict(stages=(1, 2, 3), hidden=32, efficiency_weight=140.0))


def _embed_liteeval(config, args) -> None:
    config.method.update(dict(large=96, small=32, width=64, budget_steps=100, skip_target=0.6))
    if _is_embedded(args):
        config.optim.lr = 3e-3
        config.train.num_steps = min(config.train.num_steps, 300)
