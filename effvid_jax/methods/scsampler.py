"""SCSampler: a light network scores all frames, the most salient ones go to the expensive network.

Korbar et al., "SCSampler: Sampling Salient Clips from Video for Efficient Action Recognition", ICCV 2019.
Its own code was never published; this is the re-implementation in mengyuest/AR-Net (`--real_scsampler`,
ops/basic_ops.py, ops/sal_rank_loss.py), whose numbers later papers quote. The paper's sampler reads
compressed video and sound, which is left out there as here.

    s_t = largest logit of the sampler on frame t        MobileNetV2, no label and no softmax
    answer = mean over the k frames with the largest s_t of the classifier's logits
    L = CE(mean_t classifier logits) + L_s, with L_s by `sampler_loss`:
        classify   CE(mean_t sampler logits)
        rank       mean over pairs of frames of max(0, -sign(r_i - r_j) (v_i - v_j)): the logits v that the
                   sampler has of the right class are to rank frames as those of the classifier, r, do

No gradient goes through the choice, so both networks learn in one stage, as if they learned alone.

Cost of a video: the sampler on every frame and the classifier on k; 'gmacs_paper' counts batch norms, too.
The shapes are fixed: the classifier runs on the k frames alone, in one program.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import Field
from effvid_jax.cost.parts import part_gmacs
from effvid_jax.errors import UserError
from effvid_jax.losses import weighted_mean
from effvid_jax.methods import base, building, frame_networks
from effvid_jax.policies.subset import top_frames


class Network(nn.Module):
    """A sampler and a classifier.

    Attributes:
        sampler, classifier: networks of single frames.
        resolution: side of the sampler's input.
        keep: k.
    """

    sampler: nn.Module
    classifier: nn.Module
    resolution: int
    keep: int

    def glance(self, x_BTHWC, train: bool = False):
        """The sampler's logits (B, T, K)."""
        return frame_networks.frame_logits(self.sampler, base.resize(x_BTHWC, self.resolution), train)

    def look(self, x_BTHWC, train: bool = False):
        """The classifier's logits (B, T, K)."""
        return frame_networks.frame_logits(self.classifier, x_BTHWC, train)

    def __call__(self, x_BTHWC, train: bool = False):
        """Logits (B, K) of the k frames; 'frames' (B, k), their positions, 'pooled' (B, k, C), what the
        classifier reads of them, and 'sampler' (B, T, K).
        """
        sampler = self.glance(x_BTHWC, train)
        frames = top_frames(sampler.max(axis=-1), min(self.keep, x_BTHWC.shape[1]))
        chosen = jnp.take_along_axis(x_BTHWC, frames[:, :, None, None, None], axis=1)
        logits, pooled = frame_networks.classified(self.classifier, chosen, train)
        return logits.mean(axis=1), {"frames": frames, "sampler": sampler, "pooled": pooled}


class SCSampler(base.Method):
    """The method of a config; `config.model` is the classifier, its `glance` the sampler.

    Raises:
        UserError: a network that relates frames, a task without classes, or more frames than there are.
    """

    @dataclasses.dataclass(frozen=True)
    class Settings(base.MethodSettings):
        """Of AR-Net's re-implementation (full_test.sh exp1)."""

        training_only: ClassVar = ("starts", "sampler_loss")

        starts: tuple[str, ...] = ()  # workdirs that networks begin with: the sampler's, the classifier's
        keep: int = 10  # k, frames that are classified
        sampler_loss: str = "classify"  # classify: as a network of its own | rank: frames as the classifier

        bounds: ClassVar = {
            "keep": Field.integer(1, 2**10), "sampler_loss": Field.choice("classify", "rank")}

        def check(self, config):
            """Raises UserError for more frames than a clip has."""
            if self.keep > config.data.num_frames:
                raise UserError(f"config.method.keep={self.keep}: expected at most config.data.num_frames="
                                f"{config.data.num_frames}, the frames that there are to choose from.")

    def __init__(self, config, task):
        super().__init__(config, task)
        glance, classifier = frame_networks.pair(config, task)
        self.model = Network(glance, classifier, config.model.glance.resolution, self.settings.keep)
        side = self.resolution or config.data.test_crop_size
        self.clip_shape = (config.data.num_frames, side, side, 3)
        self.full_gmacs = sum(self.costs())

    @classmethod
    def inference(cls, config, task):
        """Nothing to start from is loaded."""
        return cls(frame_networks.without_starts(config), task)

    def costs(self, convention: str = "macs") -> tuple[float, float]:
        """GMACs of the sampler on a clip and of the classifier on the frames that it sees."""
        t, *image = self.clip_shape
        return tuple(part_gmacs(self.model, self.clip_shape, method, (1, frames, *image),
                                convention=convention)
                     for method, frames in (("glance", t), ("look", self.settings.keep)))

    def init(self, rng, clip_shape):
        """See `Method.init`."""
        params, stats = building.init_backbone(self.model, rng, clip_shape)
        return base.Variables(*frame_networks.started(params, stats, ("sampler", "classifier"),
                                                self.settings.starts))

    def loss(self, params, variables, batch, rng):
        """See `Method.loss`; L of the module docstring."""
        clips, mask = self._clips(batch), batch["mask"]

        def both(model):
            return model.look(clips, True), model.glance(clips, True)

        (real, seen), updated = nn.apply(both, self.model, mutable=["batch_stats"])(
            {"params": params, "batch_stats": variables.stats}, rngs={"dropout": rng})
        logits = real.mean(axis=1)
        ce = weighted_mean(self.task.loss(logits, batch), mask)
        if self.settings.sampler_loss == "rank":
            sampler = weighted_mean(rank_loss(*(jnp.take_along_axis(
                x, batch["label"][:, None, None], axis=2)[..., 0] for x in (
                    seen, jax.lax.stop_gradient(real)))), mask)
        else:
            sampler = weighted_mean(self.task.loss(seen.mean(axis=1), batch), mask)
        scalars = {"loss": ce + sampler, "loss_cls": ce, "loss_sampler": sampler,
                   **self.task.batch_scalars(logits, batch)}
        return ce + sampler, (updated["batch_stats"], scalars)

    def predict(self, variables, batch):
        """See `Method.predict`."""
        def look(clips):
            logits, found = self.model.apply(variables.network, clips)
            return logits, found["frames"]

        b, v = batch["video"].shape[:2]
        logits, frames = base.over_views(look, batch["video"], self.sight, self.views_per_pass)
        logits = logits.astype(jnp.float32).reshape(b, v, -1)
        extra = {"frames": frames.reshape(b, v, -1).astype(jnp.int32)}
        return base.Prediction(self.task.mean_of_views(logits),
                               jnp.full((b,), v * sum(self.costs()), jnp.float32),
                               extra | base.clip_answers(self.task, logits))

    def analyse(self, rows, variables, workdir, split):
        """How the chosen frames lie: their mean position and its spread between videos, from 0 to 1."""
        mean_N = rows["frames"].mean(axis=(1, 2), dtype=np.float64) / max(1, self.clip_shape[0] - 1)
        return {"frame_position": float(mean_N.mean()), "frame_position_spread": float(mean_N.std()),
                "gmacs_paper": rows["frames"].shape[1] * sum(self.costs("thop"))}


def rank_loss(scores_BT, real_BT):
    """Margin ranking (margin 0) over all pairs of frames, (B,): `scores` are to be ordered as `real`."""
    i, j = np.triu_indices(scores_BT.shape[1], 1)
    wanted = jnp.sign(real_BT[:, i] - real_BT[:, j])
    return jnp.maximum(0, -wanted * (scores_BT[:, i] - scores_BT[:, j])).mean(axis=1)
