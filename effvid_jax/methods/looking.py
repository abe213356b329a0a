"""What methods share that look at a video with two networks: a glance at whole frames, a focus on crops.

`config.model` describes the focus, `config.model.glance` the glance:

    backbone, options    of the network, see `building.build_backbone`
    resolution           side in pixels that frames are shrunk to for it; 0: as they are

Both look at frames one by one. Each may start from a trained or imported network: the fields `glance` and
`focus` of the method name its workdir, and its classifier counts where it has the same classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax

from data_pipelines import Field
from effvid_jax import checkpoint, cost, fit
from effvid_jax.backbones import blocks
from effvid_jax.backbones.backbone import FrameBackbone
from effvid_jax.backbones.facts import facts
from effvid_jax.errors import UserError
from effvid_jax.losses import weighted_mean
from effvid_jax.methods import base, building, exiting
from effvid_jax.model_fields import module_fields


def build_pair(config, task) -> tuple[nn.Module, nn.Module]:
    """(glance, focus) of a config.

    Raises:
        UserError: no glance, or a network that mixes frames.
    """
    if not config.model.get("glance"):
        name = config.method.name
        raise UserError(f"config.model.glance is empty: method {name!r} needs a second network that looks at "
                        f"whole frames; start from a config of configs/{name}_*.py.")
    model = config.model.copy_and_resolve_references()
    with model.unlocked():
        model.update(dict(backbone=model.glance.backbone))
        model.options = model.glance.options
    found = []
    for field, description in (("model.glance", model), ("model", config.model)):
        network = building.build_backbone(description, task.num_outputs)
        alone = isinstance(network, FrameBackbone) and not network.relates_frames
        if not alone or getattr(network, "shift", None):
            raise UserError(f"config.{field}.backbone={description.backbone!r} mixes frames, but here each "
                            f"is looked at alone: expected a 2-D network without temporal shift, such as "
                            f"resnet50 or mobilenet_v2.")
        found.append(network)
    names = config.model.glance.backbone, config.model.backbone
    if facts(names[0]).pixels != facts(names[1]).pixels:
        raise UserError(f"config.model.glance.backbone={names[0]!r} normalises pixels otherwise than "
                        f"config.model.backbone={names[1]!r}, and both see the same ones: choose two of a "
                        f"kind, such as mobilenet_v2 and resnet50.")
    return tuple(found)


def see(network: nn.Module, x_BTHWC, train: bool = False):
    """(last map (B, T, h, w, C), its mean over positions (B, T, C)) of frames; no classifier is run."""
    x = network.run_stem(x_BTHWC, train)
    for stage in range(1, network.num_stages + 1):
        x = network.run_stage(stage, x, train)
    return x, blocks.global_avg_pool(x)


def classify(network: nn.Module, seen_BTC, train: bool = False):
    """A network's own classifier on every frame, after its dropout: (B, T, K)."""
    return network.classify(network.drop(seen_BTC, deterministic=not train))


@dataclasses.dataclass(frozen=True)
class LookingSettings(exiting.ExitSettings):
    """What both methods have."""

    workdirs: ClassVar = {"glance": "glance", "focus": "focus"}
    training_only: ClassVar = (*exiting.ExitSettings.training_only, "glance", "focus")

    glance: str = ""  # workdir of a trained or imported network that the glance starts from
    focus: str = ""  # the same of the focus
    patch: int = 128  # P, side in pixels of what the focus sees; published: 96, 128, 160
    head_width: int = 4096  # of the head's MLP
    head_dropout: float = 0.2  # before the head's classifiers; config.model.dropout: the networks' own
    rule: str = "logit"  # as released: the largest one | confidence (its softmax) | margin | entropy

    bounds: ClassVar = exiting.ExitSettings.bounds | {
        "patch": Field.integer(1, 2**14), "head_width": Field.integer(1, 2**16),
        "head_dropout": Field.number(0, below=1)}

    def check(self, config):
        """Raises UserError for crops larger than clips, or what `ExitSettings` refuses."""
        super().check(config)
        self._check_side(config, "patch")

    def _check_side(self, config, name: str) -> None:
        side = config.model.resolution or min(config.data.crop, config.data.test_crop_size)
        if getattr(self, name) > side:
            raise UserError(f"config.method.{name}={getattr(self, name)} is more than the side of clips "
                            f"(config.data.crop, config.data.test_crop_size): expected {side} or less.")


class Looking(exiting.Exiting):
    """A method with two networks; a subclass sets `places` and `order`, then calls `_build`."""

    Settings = LookingSettings

    def _build(self, network: Callable[..., nn.Module]) -> None:
        """`network`: (glance, focus, further fields of modules) -> the module with both."""
        fields = module_fields(self.config.model) | {"dropout": self.settings.head_dropout}
        self.model = network(*build_pair(self.config, self.task), **fields)
        self._starts: dict[str, Any] = {}
        self._count(lambda: self.init(jax.random.key(0), (1, *self.clip_shape)))
        named = {name: getattr(self.settings, name) for name in ("glance", "focus")}
        self._starts = {name: checkpoint.load_variables(workdir)[1]
                        for name, workdir in named.items() if workdir}

    @classmethod
    def inference(cls, config, task):
        """Nothing to start from is loaded."""
        config = config.copy_and_resolve_references()
        config.method.update(dict(glance="", focus=""))
        return cls(config, task)

    def init(self, rng, clip_shape):
        """See `Method.init`."""
        shape = (1, *clip_shape[1:])
        cost.check_resolution(self.model, shape[1:], f"{type(self.model).__name__} (config.data.crop)")
        params, stats = map(dict, building.draw(self.model, rng, shape))
        for name, loaded in self._starts.items():
            ours, theirs = (tree["fc"]["bias"].shape for tree in (params[name], loaded["params"]))
            where = f"config.method.{name}={getattr(self.settings, name)!r}"
            params[name] = fit.merge(params[name], loaded["params"], "" if ours == theirs else "^fc/", where)
            stats[name] = fit.merge(stats[name], loaded["batch_stats"], "", where)
        return base.Variables(params, self.with_record(stats))

    def _run(self, params, variables, batch, dropout, **options):
        """(what the network says of a training batch, its new statistics)."""
        state = exiting.network(variables.replace(params=params))
        (_, out), updated = self.model.apply(state, self._clips(batch), train=True, mutable=["batch_stats"],
                                             rngs={"dropout": dropout}, **options)
        kept = {name: x for name, x in variables.stats.items() if name == exiting.RECORD}
        return out, {**updated.get("batch_stats", {}), **kept}

    def _mean_loss(self, logits_BTK, batch):
        """The task's loss of every frame's logits, their mean over frames and examples."""
        each = [self.task.loss(logits_BTK[:, t], batch) for t in range(logits_BTK.shape[1])]
        return weighted_mean(sum(each) / len(each), batch["mask"])
