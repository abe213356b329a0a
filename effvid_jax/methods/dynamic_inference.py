"""Dynamic Inference: exits along a route through the grid of frames x depth; easy videos stop early.

Wu et al., "Dynamic Inference: A New Approach Toward Efficient Video Action Recognition", CVPR Workshops
2020, arXiv 2002.03342. No code was published; what the paper leaves open is a field of the config.

    route          checkpoints (frames seen, depth), see `effvid_jax/exits/routes.py`
    network        `effvid_jax/exits/network.py`: head k reads the mean over the frames seen so far
    training       one pass over all frames and depths, every checkpoint read from prefixes:
                   L = sum_k w_k CE(logits_k, y)  [+ distillation from the last checkpoint, ours, off]
    stopping       the first k whose score (`exits/rules.py`) reaches its threshold answers; thresholds from a
                   held-out part of the training videos, for a budget of GMACs (`exits/stopping.py`)
    inference      `predict` computes everything and applies the rule; `segments` go to
                   `effvid_jax/exits/executor.py`, which really stops. Same answers.

The cost of an answer counts all that was computed for it, the heads on the way included. "Full" inference
is counted in three ways. `full_gmacs` is the network with the last head alone, cheaper than the last exit,
and what `budget` is a share of. `full_gmacs_all_heads` has the exits of all depths of the route on all
frames; `full_gmacs_paper` is the same by the counter behind the paper's figures (`msdnet` of
`effvid_jax.cost`: ReLUs and pooling are counted too), the 52 G of "MSDNet-38 (Full)". Their answers are the
same.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax

from data_pipelines import Field
from effvid_jax.errors import UserError
from effvid_jax.losses import soft_kl, weighted_mean
from effvid_jax.methods import base, parts, stop_settings, stops
from effvid_jax.methods.early_exits import Exits


class DynamicInference(parts.Composed):
    """The method of a config; reads `config.model`, `config.method` and the size of clips.

    Raises:
        UserError: a route, order, rule, weight, threshold or budget that does not fit.
    """

    @dataclasses.dataclass(frozen=True)
    class Settings(stop_settings.CalibratedSettings):
        """What the paper leaves open is marked; the route is a part of the network (`config.model.exits`)."""

        training_only: ClassVar = ("loss_weights", "distill_weight", "distill_temperature",
                                   *stop_settings.CalibratedSettings.training_only)

        loss_weights: tuple[float, ...] = ()  # per checkpoint; (): 1 each, MSDNet's; the paper does not say
        distill_weight: float = 0.0  # from the last checkpoint; ours
        distill_temperature: float = 1.0  # of it
        rule: str = "confidence"  # the paper | margin | entropy | patience | learned, see exits/rules.py

        bounds: ClassVar = stop_settings.CalibratedSettings.bounds | {
            "loss_weights": Field.many(Field.number(0, 1e9)), "distill_weight": Field.number(0, 1e9),
            "distill_temperature": Field.number(above=0, most=1e6)}

        def check(self, config):
            """Raises UserError for a network without exits, other clips than its route, or unknown words."""
            if not config.model.get("exits"):
                raise UserError("config.model.exits is empty: method 'dynamic_inference' needs a network "
                                 "with exits; start from a config of configs/dynamic_*.py.")
            if config.data.num_frames != config.model.exits.frames:
                raise UserError(f"config.data.num_frames={config.data.num_frames}, but the route of this "
                                 f"network is for {config.model.exits.frames} frames "
                                 f"(config.model.exits.frames).")
            stop_settings.CalibratedSettings.check(self, config)

    calibrates = True
    pictures = stops.PICTURES

    def make_parts(self):
        """See `Composed.make_parts`: L of the module docstring is all there is."""
        self.exits = Exits(self.config, self.task, self.settings, checkpoint_loss)
        return (self.exits,)

    def predict(self, variables, batch):
        """See `Method.predict` and `Exits.predict`."""
        return self.exits.predict(variables, batch)

    def check_calibration(self):
        """See `Method.check_calibration`: a budget that no thresholds keep."""
        self.exits.check_calibration()

    def calibrated(self, variables):
        """See `Method.calibrated`."""
        return self.exits.calibrated(variables)

    def calibrate(self, variables, rows):
        """See `Method.calibrate`: records what the calibration videos score, and sets the thresholds."""
        return self.exits.calibrate(variables, rows)

    def analyse(self, rows, variables, workdir, split):
        """See `Method.analyse` and `Exits.analyse`."""
        return self.exits.analyse(rows, variables, workdir, split)

    def runners(self):
        """Everything computed and the rule applied, or videos that really stop, by two policies."""
        return self.exits.runners()

    @property
    def runner(self):
        """See `Exits.runner`."""
        return self.exits.runner

    @property
    def segments(self) -> base.Adaptive:
        """The network in segments, see `Exits.segments`."""
        return self.exits.segments

    @property
    def costs(self):
        """(m,) GMACs of a view that stops at each checkpoint."""
        return self.exits.costs

    @property
    def full_gmacs(self) -> float:
        """GMACs of a view without early exits."""
        return self.exits.full_gmacs


def checkpoint_loss(settings, task, logits_BmK, batch, share=None):
    """L of the module docstring, and scalars to log.

    Args:
        settings: `DynamicInference.Settings`; read here: `loss_weights`, `distill_weight`,
            `distill_temperature`.
        task: whose loss it is.
        logits_BmK: of all checkpoints.
        batch: what is true, and `mask` (B,).
        share: of the weights of all checkpoints but the last, while exits come in; None: 1.
    """
    m, last_BK = logits_BmK.shape[1], logits_BmK[:, -1]
    value, scalars = 0.0, {}
    for k, weight in enumerate(settings.loss_weights or (1.0,) * m):
        here = logits_BmK[:, k]
        ce = weighted_mean(task.loss(here, batch), batch["mask"])
        early = share is not None and k < m - 1
        value += weight * (share * ce if early else ce)
        if settings.distill_weight and k < m - 1:
            kl = weighted_mean(soft_kl(here, jax.lax.stop_gradient(last_BK), settings.distill_temperature),
                               batch["mask"])
            value += settings.distill_weight * (share * kl if early else kl)
        last = task.batch_scalars(here, batch)
        scalars |= {f"loss_{k + 1}": ce} | {f"{name}_{k + 1}": x for name, x in last.items()}
    return value, scalars | last
