"""FrameExit: frames one by one, from coarse to fine, until a gate has seen enough.

Ghodrati et al., "FrameExit: Conditional Early Exiting for Efficient Video Recognition", CVPR 2021,
arXiv 2104.13400. Inference is that of the released code (Qualcomm-AI-research/FrameExit, commit fc5815f):

    phi_t   = relu(norm(W x_t))           x_t: pooled map of the frame, `exits/network.py` with lift_last
    z_t     = max(z_{t-1}, phi_t)         running maximum, merge='max'
    logits  = C_t z_t                     a classifier after each frame
    stop    after the first frame if it is sure: max softmax(logits_1) > `first_threshold`; after frame t if
            the gate (z_t, z_{t-1}) says so: 1 - sigmoid(gate) > `gate_threshold`; after the last one

Training was not released. Ours: all frames in one pass,

    L = mean_t CE(logits_t, y) + w mean_t BCE(gate_t, CE(logits_t, y) > beta exp(t / 2))

a gate learns to go on while the answer is worse than what is asked of it after t frames (the paper's rule),
from what the heads read but without a gradient to it. So nothing has to be trained before the gates, and the
larger `beta`, the earlier videos stop.

The cost of an answer counts everything: backbone, lift, heads and gates on the way. The paper's figures leave
out all but the backbone, and count that by mmcv's rules: 'gmacs_paper'.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from data_pipelines import Field
from effvid_jax import cost
from effvid_jax.cost.exits import route_costs
from effvid_jax.errors import UserError
from effvid_jax.exits import stopping
from effvid_jax.exits.network import run_segment
from effvid_jax.losses import weighted_mean
from effvid_jax.methods import base, building, stop_settings, stops


class FrameExit(stops.Stops, base.Method):
    """The method of a config; reads `config.model`, `config.method` and the size of clips.

    Raises:
        UserError: a network without gates, or a value that does not fit.
    """

    @dataclasses.dataclass(frozen=True)
    class Settings(stop_settings.StopSettings):
        """Thresholds are the released ones; what training leaves open is ours."""

        training_only: ClassVar = ("beta", "gate_weight")

        beta: float = 0.01  # of the gates' targets: larger ones stop earlier; the paper's has no source
        gate_weight: float = 1.0  # w; ours
        first_threshold: float = 0.99  # of the first frame's confidence; released: 0.95 on Mini-Kinetics
        gate_threshold: float = 0.5  # of a gate's probability of stopping

        bounds: ClassVar = stop_settings.StopSettings.bounds | {
            "beta": Field.number(0, 1e6), "gate_weight": Field.number(0, 1e6),
            "first_threshold": Field.number(0, 2), "gate_threshold": Field.number(0, 2)}

        def check(self, config):
            """Raises UserError for a network without gates, other clips than its route, or unknown words."""
            exits = config.model.get("exits")
            if not exits or not exits.get("gates"):
                raise UserError("config.model.exits.gates is empty: method 'frameexit' needs a network with "
                                "gates; start from a config of configs/frameexit_*.py.")
            if config.data.num_frames != exits.frames:
                raise UserError(f"config.data.num_frames={config.data.num_frames}, but the route of this "
                                f"network is for {exits.frames} frames (config.model.exits.frames): "
                                f"give the config the argument frames={config.data.num_frames}.")
            super().check(config)

        def thresholds(self, m: int) -> np.ndarray:
            """Scores (m,) of stopping that end a video, at each of m places; see `stop_scores`."""
            found = [self.first_threshold, *[self.gate_threshold] * (m - 2), -stopping.NEVER]
            return np.array(found[-m:], np.float32)

    pictures = {"exit_classes": ("Where videos left", "How many stopped after each frame, how many of them "
                                 "were right, and the same per class, cheap ones first.")}

    def __init__(self, config, task):
        super().__init__(config, task)
        self.check_task()
        self.model = building.build_network(config.model, task)
        self.order = self.model.order
        side = self.resolution or config.data.test_crop_size
        self.clip_shape = (config.model.exits.frames, side, side, 3)  # that the network sees
        self.costs, self.full_gmacs = route_costs(self.model, self.clip_shape)  # of a view
        self.frames = np.array([checkpoint.frames for checkpoint in self.model.route])
        self.thresholds = self.settings.thresholds(self.m)

    def init(self, rng, clip_shape):
        """See `Method.init`."""
        return base.Variables(*building.init_backbone(self.model, rng, clip_shape))

    def loss(self, params, variables, batch, rng):
        """See `Method.loss`; L of the module docstring."""
        (_, features), updated = self.model.apply(
            {"params": params, "batch_stats": variables.stats}, self._clips(batch), train=True,
            rngs={"dropout": rng}, mutable=["batch_stats"])
        logits_BmK, value, gate_value, scalars = features["checkpoints"], 0.0, 0.0, {}
        for k in range(self.m):
            ce_B = self.task.loss(logits_BmK[:, k], batch)
            ce = weighted_mean(ce_B, batch["mask"])
            value += ce / self.m
            last = self.task.batch_scalars(logits_BmK[:, k], batch)
            scalars |= {f"loss_{k + 1}": ce} | {f"{name}_{k + 1}": x for name, x in last.items()}
            if 0 < k < self.m - 1:  # the last gate is never asked
                go_on_B = (ce_B > self.settings.beta * np.exp(self.frames[k] / 2)).astype(jnp.float32)
                bce_B = optax.sigmoid_binary_cross_entropy(features["gates"][:, k - 1], go_on_B)
                gate_value += weighted_mean(bce_B, batch["mask"]) / (self.m - 2)
                scalars[f"go_on_{k + 1}"] = weighted_mean(go_on_B, batch["mask"])
        total = value + self.settings.gate_weight * gate_value
        scalars |= {"loss_classes": value, "loss_gates": gate_value, "loss": total} | last
        return total, (updated.get("batch_stats", {}), scalars)

    def predict(self, variables, batch):
        """See `Method.predict`. Views are averaged after every frame: a video stops with all of them."""
        b, v = batch["video"].shape[:2]

        def look(clips):
            features = self.model.apply(variables.network, clips)[1]
            return features["checkpoints"], features["gates"]

        logits, gates = base.over_views(look, batch["video"], self.sight, self.views_per_pass)
        logits = self.task.mean_of_views(logits.astype(jnp.float32).reshape(b, v, self.m, -1))
        gates_Bm = gates.astype(jnp.float32).reshape(b, v, -1).mean(axis=1)
        found = self.stopped(logits, stop_scores(logits, gates_Bm), self.thresholds, v, gates=gates_Bm)
        frames = jnp.asarray(self.frames)[found.extra["exit"]]
        return found.replace(extra={**found.extra, "frames": frames})

    def analyse(self, rows, variables, workdir, split):
        """See `Method.analyse`: how many frames videos take, by class too, and how good each answer is."""
        views, frames = self.costs_of_rows(rows)[0], float(self.frames[rows["exit"]].mean())
        return {"frames": frames, "gmacs_paper": views * frames * self._paper_frame,
                **super().analyse(rows, variables, workdir, split)}

    @functools.cached_property
    def _paper_frame(self) -> float:
        """GMACs of the backbone on one frame by mmcv's rules, which the paper counts."""
        backbone = self.model.backbone
        return cost.count(backbone, (1, *self.clip_shape[1:]), "mmcv").gmacs

    # ---------------------------------------------------------------------------------- see `stops.py`
    @property
    def route(self):
        """See `Stops.route`."""
        return self.model.route

    def steps(self):
        """See `Stops.steps`."""
        return stops.along_route(self.model, self._run_segment)

    def _run_segment(self, k, variables, state, frames):
        return run_segment(self.model, variables.network, k, state, self.sight(frames))

    def score(self, state, logits):
        """See `Stops.score`: what its gate says, or of the first frame how sure the answer is."""
        return jax.nn.sigmoid(-state["gate"].astype(jnp.float32)) if "gate" in state else sure(logits)

    def thresholds_of(self, variables):
        """See `Stops.thresholds_of`; those of the config."""
        del variables
        return self.thresholds

    def full(self, variables, clips):
        """See `Stops.full`."""
        return self.model.apply(variables.network, self.sight(clips), method="full")


def stop_scores(logits_BmK, gates_Bm):
    """Scores (B, m) of stopping: how sure the first answer is, then what the gates say (m - 1 logits)."""
    return jnp.concatenate([sure(logits_BmK[:, 0])[:, None], jax.nn.sigmoid(-gates_Bm)], axis=1)


def sure(logits):
    """Confidence (B,) of an answer: its largest probability."""
    return stopping.scores(logits)[:, stopping.RULES.index("confidence")]
