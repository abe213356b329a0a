"""`:pretrained`: a user's own clips, few of them, from ImageNet weights that a package brings.

The recipe is ours, for few clips: the classifier begins as a linear one on what the published weights see
(`init.probe`), batch norms keep ImageNet's statistics, stem and first three stages stay as they are, and the
rest is trained with AdamW. The network is EfficientNet-Lite0 with a temporal shift, which costs nothing and
sees in which direction something moves. A student begins as its teacher and trains all layers: it has to see
the same in fewer pixels. 112 pixels are what a laptop trains in minutes: `resolution=224` is for an
accelerator.
"""

from __future__ import annotations

import ml_collections

from configs.recipes import base
from effvid_jax import published

BACKBONE = "tsm_efficientnet_lite0"
FROZEN = r"^(conv1|layer[1-3]_)|bn"  # stem, first three stages, batch norms
ARGUMENTS = dict(backbone=BACKBONE, resolution=112)  # other defaults than those without `pretrained`


def parse(arg: str, known: dict, pretrained: dict) -> ml_collections.ConfigDict:
    """Arguments of a config, whose defaults are others beside `pretrained`.

    Args:
        arg: see `base.parse_arg`.
        known: arguments with their defaults, `pretrained=False` among them.
        pretrained: those that differ beside it; `resolution` where nothing else shrinks the clips.

    Raises:
        UserError: see `base.parse_arg`; a backbone whose weights are in no package.
    """
    args = base.parse_arg(arg, **known)
    if not args.pretrained:
        return args
    args = base.parse_arg(arg, **{**known, **pretrained})
    for name in ("backbone", "teacher"):
        if name in args:
            published.package_of(args[name], f"config argument {name}={args[name]!r} beside pretrained")
    if sized(args):  # these shrink 224 pixels to 64: half of that would be too few for this network
        pretrained = {**pretrained, "resolution": 2 * pretrained["resolution"]}
    return base.parse_arg(arg, **{**known, **pretrained})


def sized(args) -> str:
    """'tiny', 'demo' or 'small', whichever shrinks the clips; '' if none does."""
    return next((name for name in ("tiny", "demo", "small") if args[name]), "")


def start(config, args, num_epochs: float) -> ml_collections.ConfigDict:
    """The published weights and how they are trained on; applied last, so that they are never shrunk.

    Args:
        config: of a recipe for one's own clips.
        args: parsed arguments, read here: `pretrained`, `backbone`, `tiny`, `demo`, `small`.
        num_epochs: of this network.
    """
    if not args.pretrained:
        return config
    kept = {name: value for name, value in config.model.options.items() if name == "consensus"}
    config.model.update(dict(backbone=args.backbone, dropout=0.2))
    # Branches that drop path would leave out have the shift in them.
    config.model.options = ml_collections.ConfigDict(dict(kept, frozen_bn=True, drop_path=0.0))
    config.optim.update(dict(name="adamw", lr=5e-4, weight_decay=0.01, groups="weights", clip_norm=0.0,
                             schedule="cosine", warmup_epochs=1.0, warmup_ratio=0.1, frozen=FROZEN))
    config.init.update(dict(checkpoint="pretrained", probe=True))
    config.data.cache = "memory"
    config.train.num_epochs = num_epochs
    if sized(args):
        config.note = (f"{sized(args)}: the whole network with its published weights, on "
                       f"{config.model.resolution or config.data.crop} pixels.")
    return config


def student(config, args, num_epochs: float) -> ml_collections.ConfigDict:
    """`start` of a student: as its teacher is, if it is the same network; all of it is trained.

    Args:
        config, args, num_epochs: see `start`; `teacher` is read as well.
    """
    if not args.pretrained:
        return config
    start(config, args, num_epochs)
    same = args.teacher == args.backbone
    config.init.update(dict(checkpoint="teacher" if same else "pretrained", probe=not same))
    # Its batch norms stay the teacher's: with statistics of the clips its first answers would be nobody's.
    config.optim.frozen = "bn"
    return config
