"""AdaFuse: each channel of a frame is computed, taken from the frame before, or left out.

Meng et al., "AdaFuse: Adaptive Temporal Fusion Network for Efficient Action Recognition", ICLR 2021, arXiv
2102.05775; released code: mengyuest/AdaFuse (ops/batenet.py, ops/utils.py). In the residual blocks of the
stages that are chosen:

    y'_t = keep_t y_t + reuse_t y_(t-1)       per channel, one of skip, reuse, keep, `policies/channels.py`
    L = CE + weight * GMACs of a frame, which by `penalty` are those of
        upper   base - sum over blocks of share(skip) conv2
        real    that - sum over blocks of share(neither kept now nor reused by the next frame) conv1

Cost of a video: 'real', the policies included. The released count of the last frame reads the frame before it
by a slip; `last_frame_slip` repeats it. 'gmacs_paper' in `Prediction.extra` is the published kind.

This saves no time: which channels are computed differs from frame to frame, and no CPU or GPU kernel leaves
single channels out, so everything is computed and the cost is counted, in the released program too. As
released the policy may draw in evaluation (`noise_at_test`); by default it takes the most probable action.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import Field
from effvid_jax import cost
from effvid_jax.backbones import resnet
from effvid_jax.errors import UserError
from effvid_jax.losses import weighted_mean
from effvid_jax.methods import base, building
from effvid_jax.policies import actions, channels

ACTIONS = ("skip", "reuse", "keep")


class AdaFuse(base.Method):
    """The method of a config; reads `config.model` and `config.method`.

    Raises:
        UserError: a backbone that is no ResNet, stages that it does not have, or gradients that are computed
            again (`config.model.remat`), which would lose the actions.
    """

    @dataclasses.dataclass(frozen=True)
    class Settings(base.MethodSettings):
        """Numbers of the released script (zz_train.sh, Something-Something V1)."""

        training_only: ClassVar = ("efficiency_weight", "penalty", "tau")

        stages: tuple[int, ...] = (1, 2, 3, 4)  # whose blocks fuse; "Last" of the release: (4,)
        hidden: int = 1024  # units of a block's policy
        tau: float = 0.67  # temperature of the choice, fixed
        efficiency_weight: float = 0.125  # per GMAC of a frame; 0.075 on Something-Something V2
        penalty: str = "upper"  # what it weighs: upper | real (V2), see the module docstring
        last_frame_slip: bool = False  # the last frame is counted as released, by the one before it
        noise_at_test: bool = False  # actions are drawn in evaluation, too; released: they are

        bounds: ClassVar = {
            "stages": Field.many(Field.integer(1, 256)), "hidden": Field.integer(1, 2**16),
            "tau": Field.number(above=0, most=1e6), "efficiency_weight": Field.number(0, 1e9),
            "penalty": Field.choice("upper", "real")}

    pictures = {"usage": ("Channels", "Share of the channels that is skipped, reused and kept, per class.")}

    def __init__(self, config, task):
        super().__init__(config, task)
        s, plain = self.settings, building.build_network(config.model, task)
        if type(plain) is not resnet.ResNet:
            raise UserError(f"config.model.backbone={config.model.backbone!r}: channels are fused in the "
                            f"blocks of a ResNet; expected resnet18 to resnet152, or one of them with a "
                            f"shift, and a task that asks for classes.")
        if config.model.get("remat", "none") != "none":
            raise UserError(f"config.model.remat={config.model.remat!r}: actions inside of blocks that are "
                            f"computed again would be lost; set it to 'none'.")
        if not s.stages or set(s.stages) - set(range(1, plain.num_stages + 1)):
            raise UserError(f"config.method.stages={s.stages}: expected some of the stages 1 to "
                            f"{plain.num_stages} of {config.model.backbone}.")
        self.model = channels.fused(plain, tuple(sorted(set(s.stages))), hidden=s.hidden, tau=s.tau,
                                    noise_at_test=s.noise_at_test)

    def init(self, rng, clip_shape):
        """See `Method.init`."""
        return base.Variables(*building.init_backbone(self.model, rng, clip_shape))

    def costs(self, clip_shape, convention: str = "macs") -> tuple[float, np.ndarray, np.ndarray]:
        """GMACs of a frame: everything; the first and second convolutions of the fused blocks, (L,) each."""
        t, found = clip_shape[0], cost.count(self.model, clip_shape, convention)
        macs = {layer.name: layer.macs / t / 1e9 for layer in found.layers}
        return (found.gmacs / t, *(np.array([macs[f"{block}/{conv}"] for block in self.model.fused_blocks])
                                   for conv in ("conv1", "conv2")))

    def _frame_gmacs(self, found, clip_shape):
        """('upper', 'real') GMACs of a frame, (B, T) each, of the actions of all blocks."""
        whole, conv1, conv2 = self.costs(clip_shape)
        shares = [channels.computed(a, self.settings.last_frame_slip) for a in found]
        upper = whole - sum((1 - second) * c for (_, second), c in zip(shares, conv2, strict=True))
        return upper, upper - sum((1 - first) * c for (first, _), c in zip(shares, conv1, strict=True))

    def run(self, variables, clips, **options):
        """(logits, actions (B, T, C, 3) of every fused block, what else was updated). `variables`: a dict."""
        mutable = [channels.FOUND, *options.pop("mutable", ())]
        (logits, _), state = self.model.apply(variables, clips, mutable=mutable, **options)
        found = state.pop(channels.FOUND)
        return logits, [found[block]["policy"]["actions"] for block in self.model.fused_blocks], state

    def loss(self, params, variables, batch, rng):
        """See `Method.loss`; L of the module docstring."""
        clips, mask, drop = self._clips(batch), batch["mask"], jax.random.split(rng)
        logits, found, updated = self.run(
            {"params": params, "batch_stats": variables.stats}, clips, train=True,
            rngs={"dropout": drop[0], "choice": drop[1]}, mutable=["batch_stats"])
        ce = weighted_mean(self.task.loss(logits, batch), mask)
        gmacs = dict(zip(("upper", "real"), self._frame_gmacs(found, clips.shape[1:])))
        frame = weighted_mean(gmacs[self.settings.penalty].mean(axis=1), mask)
        value = ce + self.settings.efficiency_weight * frame
        shares = jax.lax.stop_gradient(_shares(found))
        return value, (updated["batch_stats"], {
            "loss": value, "loss_cls": ce, "frame_gmacs": frame, **self.task.batch_scalars(logits, batch),
            **{f"usage/{name}": weighted_mean(shares[:, i], mask) for i, name in enumerate(ACTIONS)}})

    def predict(self, variables, batch):
        """See `Method.predict`."""
        video = batch["video"]
        (b, v), shape = video.shape[:2], base.clip_shape(video, self.resolution)

        def look(clips):
            logits, found, _ = self.run(variables.network, clips)
            upper, real = (x.sum(axis=1) for x in self._frame_gmacs(found, shape))
            return logits, upper, real, jnp.stack([a.mean(axis=(1, 2)) for a in found], axis=1)

        logits, upper, real, shares = base.over_views(look, video, self.sight, self.views_per_pass)
        logits = logits.astype(jnp.float32).reshape(b, v, -1)
        shares_BLA = shares.reshape(b, v, *shares.shape[1:]).mean(axis=1).astype(jnp.float32)
        real_BV = real.reshape(b, v).astype(jnp.float32)
        extra = {"block_usage": shares_BLA, "usage": shares_BLA.mean(axis=1), "clip_gmacs": real_BV,
                 "seen": jnp.full((b,), video.shape[2]),
                 "gmacs_paper": upper.reshape(b, v).sum(axis=1).astype(jnp.float32)}
        return base.Prediction(self.task.mean_of_views(logits), real_BV.sum(axis=1),
                               extra | base.clip_answers(self.task, logits))

    def analyse(self, rows, variables, workdir, split):
        """Shares of the actions, in all blocks and in each, and the published kind of cost."""
        found = actions.analyse(rows, ACTIONS, self.task, workdir, split)
        found |= {f"keep_{block}": float(x) for block, x in zip(
            self.model.fused_blocks, rows["block_usage"][..., channels.KEEP].mean(axis=0), strict=True)}
        return {name: x for name, x in found.items() if name != "blind"} | {
            "gmacs_paper": float(rows["gmacs_paper"].mean(dtype=np.float64))}


def _shares(found):
    """Shares of the actions of every example over all blocks, (B, 3); blocks count alike."""
    return sum(a.mean(axis=(1, 2)) for a in found) / len(found)
