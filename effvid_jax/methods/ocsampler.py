"""OCSampler: a light network looks at all frames of a clip once, a large one at the few it chooses.

Lin et al., "OCSampler: Compressing Videos to One Clip with Single-step Sampling", CVPR 2022,
arXiv 2201.04388; as its released code computes it (MCG-NJU/OCSampler, commit d25ffce):

    p          = softmax_t(w . pooled(sampler(x_t at few pixels)))     the sampler relates frames: TSM
    chosen     = the n most probable frames, in temporal order; training: n drawn without replacement
    answer     = C max_t relu(norm(W pooled(backbone(x_t))))           t among the chosen, FrameExit's head
    R          = reward(answer of the chosen) - reward(answer of n evenly spread frames)
    L          = -R log P(chosen as a set) - c H(p)

Only the sampler learns. The classifier is trained before, on all frames: `config.method.classifier` names its
workdir, a FrameExit network's (its last head is used), as the released one was, or the stage 'classifier' of
the same run. It is a part of the network (`params/classifier`) that stays as it is: `config.optim.frozen`.

What the release does and a reader of the paper may not expect are settings: its reward reads no label
(`reward='confidence'`: the largest probability), it shrinks frames by the nearest rule (`resize`), and the
weight c of the entropy is 0 from the first step, whatever its configs say (`exploration`).

The cost of an answer is the same for all clips: the sampler on all frames, the classifier on n. 'gmacs_paper'
has the classifier's backbone by mmcv's rules, as the paper has it.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import Field
from effvid_jax import checkpoint, cost
from effvid_jax.backbones import blocks, shifts
from effvid_jax.errors import UserError
from effvid_jax.exits.network import ExitNet
from effvid_jax.losses import weighted_mean
from effvid_jax.methods import base, building
from effvid_jax.methods.clips import resize_nearest
from effvid_jax.policies import policy_gradient, subset

REWARDS = ("confidence", "label")
RESIZES = {"bilinear": base.resize, "nearest": resize_nearest}
FROZEN = "^classifier/"  # `config.optim.frozen` of the recipes


class OCSamplerNet(nn.Module):
    """See the module docstring; the sub-trees of its parameters are sampler, score and classifier.

    Attributes:
        sampler: 2-D network with a temporal shift, of which the maps are used.
        classifier: network with one exit, after all frames.
        chosen: n.
        side: of the sampler's input in pixels; 0: as the clip is.
        resize: how frames are shrunk to it.
    """

    sampler: nn.Module
    classifier: ExitNet
    chosen: int
    side: int = 0
    resize: str = "bilinear"

    def setup(self):
        self.score = blocks.Dense(1)

    def __call__(self, x_BTHWC, train: bool = False):
        """Answer on the best frames.

        Args:
            x_BTHWC: normalised clip.
            train: of the sampler: batch statistics. The classifier never has them.

        Returns:
            logits (B, K), and a dict: 'sampler_logits' (B, T), 'chosen' (B, n) frames in temporal order,
            'pooled' (B, n, C) what the head's maximum is taken of.
        """
        scores = self.scores(x_BTHWC, train)
        chosen = subset.top_frames(scores, self.chosen)
        pooled = self.see(jnp.take_along_axis(x_BTHWC, chosen[:, :, None, None, None], axis=1))
        return self.answer(pooled), {"sampler_logits": scores, "chosen": chosen, "pooled": pooled}

    def scores(self, x_BTHWC, train: bool = False):
        """Of every frame (B, T): logits of the draw."""
        x = RESIZES[self.resize](x_BTHWC, self.side)
        x = self.sampler.run_stem(x, train)
        for stage in range(1, self.sampler.num_stages + 1):
            x = self.sampler.run_stage(stage, x, train)
        return self.score(blocks.global_avg_pool(x))[..., 0]

    def see(self, x_BTHWC):
        """What the classifier's head reads of every frame, (B, T, C)."""
        depths = len(self.classifier.exit_stages)
        return self.classifier.pool(depths, self.classifier.run_depths(x_BTHWC, 0, depths)[0])

    def answer(self, pooled_BTC):
        """Logits (B, K) of some frames together."""
        return self.classifier.classify(0, self.classifier.merged(pooled_BTC))


class OCSampler(base.Method):
    """The method of a config: the classifier is `config.model`, the sampler `config.model.glance`.

    Raises:
        UserError: networks or a number of frames that do not fit, a classifier that is not there.
    """

    @dataclasses.dataclass(frozen=True)
    class Settings(base.MethodSettings):
        """Defaults are the released settings, but for `resize`."""

        workdirs: ClassVar = {"classifier": "classifier"}
        training_only: ClassVar = ("classifier", "reward", "exploration")

        classifier: str = ""  # workdir of a trained network with the same exits; "": config.init.checkpoint's
        chosen: int = 6  # n; released: 4, 5, 6 of 10 frames
        reward: str = "confidence"  # released: the largest probability | label: that of the right class
        exploration: float = 0.0  # c; what the released code uses: its configs' 0.1 is overwritten
        resize: str = "bilinear"  # of the sampler's input; released weights were trained with nearest
        shift_div: int = 10  # 1/10 of the sampler's channels are shifted; released: 8 on Mini-Kinetics

        bounds: ClassVar = {"chosen": Field.integer(1, 12), "exploration": Field.number(0, 1e6),
                            "shift_div": Field.integer(2, 2**14)}

        def check(self, config):
            """Raises UserError for what does not go together."""
            self._check_known(reward=REWARDS, resize=tuple(RESIZES))
            if not config.model.get("glance"):
                raise UserError("config.model.glance is empty: method 'ocsampler' needs a network that "
                                "chooses frames; start from a config of configs/ocsampler_*.py.")
            exits, frames = config.model.get("exits"), config.data.num_frames
            if not exits or len(exits.route) != 1:
                raise UserError("config.model.exits: method 'ocsampler' needs a classifier with one exit, "
                                "after all frames; start from a config of configs/ocsampler_*.py.")
            if exits.frames != frames:
                raise UserError(f"config.data.num_frames={frames}, but config.model.exits.frames="
                                f"{exits.frames}: give the config the argument frames={frames}.")
            if self.chosen > frames:
                raise UserError(f"config.method.chosen={self.chosen}: expected at most as many as a clip has "
                                f"(config.data.num_frames={frames}).")

    def __init__(self, config, task, training: bool = True):
        super().__init__(config, task)
        if not task.class_scores:
            raise UserError("config.task: method 'ocsampler' is rewarded by scores of classes, which this "
                            "task does not have.")
        self.model = OCSamplerNet(self._sampler(), building.build_network(config.model, task),
                                  self.settings.chosen, config.model.glance.get("resolution", 0),
                                  self.settings.resize)
        self.full_gmacs = self.gmacs["sampler"] + self.gmacs["classifier"]
        self._loaded = self._load() if training else None
        if training and config.optim.frozen != FROZEN:
            raise UserError(f"config.optim.frozen={config.optim.frozen!r}: the classifier of method "
                            f"'ocsampler' stays as it is: expected {FROZEN!r}.")

    @classmethod
    def inference(cls, config, task):
        """See `Method.inference`: the classifier is in the checkpoint."""
        return cls(config, task, training=False)

    def _sampler(self) -> nn.Module:
        model = self.config.model.copy_and_resolve_references()
        with model.unlocked():
            model.backbone, model.options = model.glance.backbone, model.glance.options
            del model.exits
        plain = building.build_backbone(model, 1)
        if not hasattr(plain, "shift") or not hasattr(plain, "run_stage"):
            raise UserError(f"config.model.glance.backbone={model.backbone!r} takes no temporal shift: "
                            f"expected a 2-D network such as mobilenet_v2.")
        shift = functools.partial(shifts.temporal_shift, div=self.settings.shift_div)
        return building.build_backbone(model, 1, shift=shift)

    def _load(self) -> dict[str, Any] | None:
        """The trained classifier, its last head under the name of ours; None: that of `config.init`."""
        if not self.settings.classifier:
            if self.config.init.checkpoint:
                return None
            raise UserError(
                "config.method.classifier is empty: it names the workdir of the trained network that "
                "answers. A frameexit config trains one, as does the stage 'classifier': "
                "--config.run=classifier,student.")
        saved, variables = checkpoint.load_variables(self.settings.classifier)
        where, classes = f"config.method.classifier={self.settings.classifier!r}", len(self.task.class_names)
        if saved.num_classes != classes:
            raise UserError(f"{where} has {saved.num_classes} classes, the data has {classes}: use one that "
                            f"was trained on this data.")
        heads = [name for name in variables["params"] if name.startswith("head_")]
        if not heads:
            raise UserError(f"{where} was trained by method "
                            f"{saved.config.get('method', {}).get('name', 'supervised')!r}: expected a "
                            f"network with exits, such as that of a frameexit config.")
        last = max(heads, key=lambda name: int(name.removeprefix("head_")))
        params = {name: x for name, x in variables["params"].items()
                  if not name.startswith(("head_", "gate_after_"))}
        kept = {name: x for name, x in variables["batch_stats"].items() if not name.startswith("gate_after_")}
        return {"params": {**params, "head_1": variables["params"][last]}, "batch_stats": kept}

    def init(self, rng, clip_shape):
        """See `Method.init`."""
        params, stats = building.init_backbone(self.model, rng, clip_shape)
        if self._loaded is None:
            return base.Variables(params, stats)
        ours = {"params": params["classifier"], "batch_stats": stats.get("classifier", {})}
        here, there = (jax.tree.map(lambda x: tuple(x.shape), tree) for tree in (ours, self._loaded))
        if here != there:
            raise UserError(f"config.method.classifier={self.settings.classifier!r} is another network than "
                            f"config.model says (backbone {self.config.model.backbone!r}): give this config "
                            f"the backbone and the exits that it was trained with.")
        return base.Variables({**params, "classifier": self._loaded["params"]},
                              {**stats, "classifier": self._loaded["batch_stats"]})

    def loss(self, params, variables, batch, rng):
        """See `Method.loss`; L of the module docstring."""
        settings, clips = self.settings, self._clips(batch)
        network = {"params": params, "batch_stats": variables.stats}
        scores, updated = self.model.apply(network, clips, train=True, method="scores",
                                           mutable=["batch_stats"])
        p_BT = jax.nn.softmax(scores.astype(jnp.float32))
        chosen = subset.draw_frames(rng, jax.lax.stop_gradient(p_BT), settings.chosen)
        even = np.tile(subset.even_frames(p_BT.shape[1], settings.chosen), (len(p_BT), 1))
        fixed = jax.lax.stop_gradient(network)
        pooled = self.model.apply(fixed, clips, method="see")  # of all frames: both choices are among them
        logits, logits_even = (self.model.apply(fixed, jnp.take_along_axis(
            pooled, frames[:, :, None], axis=1), method="answer") for frames in (chosen, even))
        reward = self._reward(logits, batch) - self._reward(logits_even, batch)
        of_set = subset.set_probability(p_BT, chosen)
        loss_B = policy_gradient.policy_loss(of_set, reward, p_BT, settings.exploration)
        value, mask = weighted_mean(loss_B, batch["mask"]), batch["mask"]
        scalars = {"loss": value, "reward": weighted_mean(reward, mask),
                   "entropy": weighted_mean(policy_gradient.entropy(p_BT), mask),
                   **{f"{name}_even": x for name, x in self.task.batch_scalars(logits_even, batch).items()},
                   **self.task.batch_scalars(logits, batch)}
        return value, ({**variables.stats, **updated.get("batch_stats", {})}, scalars)

    def _reward(self, logits, batch):
        """Of an answer (B, K), less any baseline: (B,)."""
        if self.settings.reward == "label":
            return jnp.exp(-self.task.loss(logits, batch))
        return jax.nn.softmax(logits.astype(jnp.float32)).max(axis=-1)

    def predict(self, variables, batch):
        """See `Method.predict`; frames are chosen in every view for itself."""
        prediction, found = self._predict(
            batch, lambda clips: self.model.apply(variables.network, clips), self.gmacs["sampler"])
        views = batch["video"].shape[:2]
        return prediction.replace(extra=prediction.extra | {
            name: found[name].reshape(*views, -1) for name in ("chosen", "sampler_logits")})

    def predict_even(self, variables, batch):
        """As `predict`, of frames that are evenly spread: the answers that `reward` is compared with."""
        even = np.array(subset.even_frames(batch["video"].shape[2], self.settings.chosen))

        def look(clips):
            pooled = self.model.apply(variables.network, clips[:, even], method="see")
            return self.model.apply(variables.network, pooled, method="answer"), {}

        return self._predict(batch, look, 0.0)[0]

    def _predict(self, batch, look, gmacs: float):
        """(Prediction, what else `look` finds); `gmacs`: of a view, beside the classifier's."""
        b, v = batch["video"].shape[:2]
        logits, found = base.over_views(look, batch["video"], self.sight, self.views_per_pass)
        logits = logits.astype(jnp.float32).reshape(b, v, -1)
        spent = jnp.full((b,), v * (gmacs + self.gmacs["classifier"]), jnp.float32)
        return base.Prediction(self.task.mean_of_views(logits), spent,
                               base.clip_answers(self.task, logits)), found

    @property
    def references(self):
        """See `Method.references`."""
        return {"even": self.predict_even}

    def analyse(self, rows, variables, workdir, split):
        """See `Method.analyse`: how often each frame is chosen, and how sure the sampler is of it."""
        frames = self.config.data.num_frames
        chosen = rows["chosen"].reshape(-1, self.settings.chosen)
        p = np.asarray(jax.nn.softmax(rows["sampler_logits"].reshape(-1, frames).astype(np.float32)))
        entropy = -(p * np.log(np.maximum(p, 1e-30))).sum(axis=1).mean()
        views = rows["chosen"].shape[1]
        return {"frames": float(views * self.settings.chosen), "entropy": float(entropy),
                "gmacs_paper": views * self.gmacs["paper"],
                **{f"frame{t + 1}_share": float((chosen == t).any(axis=1).mean()) for t in range(frames)}}

    @functools.cached_property
    def gmacs(self) -> dict[str, float]:
        """GMACs of a view: 'sampler', 'classifier'; 'paper': of both, backbones alone by mmcv's rules."""
        side = self.resolution or self.config.data.test_crop_size
        shape = (self.config.data.num_frames, side, side, 3)
        layers = cost.count(self.model, shape).layers

        def of(*parts):
            return sum(layer.macs for layer in layers if layer.name.startswith(parts)) / 1e9

        frame = cost.count(self.model.classifier.backbone, (1, *shape[1:]), "mmcv").gmacs
        return {"sampler": of("sampler", "score"), "classifier": of("classifier"),
                "paper": of("sampler", "score", "classifier/lift") + self.settings.chosen * frame}
