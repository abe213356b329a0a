"""Methods whose network may answer after a part of a clip, of any form.

What a network must be able to do is a few functions; how it looks is not known here:

    checkpoints(variables, clips)   logits at every place where a video may stop, all computed
    steps()                         the same in segments, for `effvid_jax.exits.executor`
    full(variables, clips)          the last answer alone

Videos stop at the first place whose score reaches its threshold (`stops.py`), with `early_exit`; without it
the last one answers and nothing on the way there is counted.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from data_pipelines import Field
from effvid_jax.cost.exits import segment_costs
from effvid_jax.errors import UserError
from effvid_jax.exits import risk, routes, rules, stopping
from effvid_jax.methods import base, stop_settings, stops
from effvid_jax.methods.stops import RECORD


@dataclasses.dataclass(frozen=True)
class ExitSettings(stop_settings.CalibratedSettings):
    """What is chosen about stopping."""

    known_rules: ClassVar = rules.WITH_LOGIT

    early_exit: bool = False  # easy videos stop early; needs config.data.calib_share
    exits: tuple[int, ...] = ()  # frames after which a video may stop; (): after each, as published
    search: str = "msdnet"  # of thresholds: msdnet | accuracy, see exits/stopping.py | risk, exits/risk.py

    bounds: ClassVar = stop_settings.CalibratedSettings.bounds | {
        "exits": Field.many(Field.integer(0, 256))}

    def check(self, config):
        """Raises UserError for unknown words, or what does not go together."""
        super().check(config)
        if self.rule == "learned":
            raise UserError(f"config.method.rule='learned' reads heads that the networks of method "
                            f"{self.method_name()!r} do not have: expected one of "
                            f"{[name for name in self.known_rules if name != 'learned']}.")
        for name, off in (("executor", "simulate"), ("deadline_ms", 0.0)):
            if getattr(self, name) != off and not self.early_exit:
                raise UserError(f"config.method.{name}={getattr(self, name)!r} lets videos stop, but "
                                f"config.method.early_exit is False: set it to True, or {name}={off!r}.")
        if self.search == risk.SEARCH and self.rule == rules.LOGIT:
            raise UserError("config.method.rule='logit' has no bounds, which config.method.search='risk' "
                            "needs: expected 'confidence', 'margin', 'entropy' or 'patience'.")

    def places(self, first: int, last: int) -> tuple[int, ...]:
        """`exits`, or all from `first` to `last`, checked.

        Raises:
            UserError: out of these, not growing, or without the last one, which always answers; or what
                `check_lengths` refuses.
        """
        found = self.exits or tuple(range(first, last + 1))
        if list(found) != sorted(set(found)) or found[0] < first or found[-1] != last:
            raise UserError(f"config.method.exits={found}: expected growing numbers of frames from {first} "
                            f"on that end with {last}.")
        self.check_lengths(len(found), f"this network has {len(found)} places to stop: after {found} frames")
        return found


class Exiting(stops.Calibrated, base.Method):
    """See the module docstring.

    A subclass sets `places`, `order` and `model`, calls `_count`, and defines the abstract functions.

    Attributes:
        places: frames seen where a video may stop; the last one always answers.
        order, costs, full_gmacs: see `Stops`.
    """

    Settings = ExitSettings
    pictures = stops.PICTURES
    places: tuple[int, ...]
    order: tuple[int, ...]

    def __init__(self, config, task):
        super().__init__(config, task)
        self.begin()
        self.calibrates = self.settings.early_exit
        side = self.resolution or config.data.test_crop_size
        self.clip_shape = (config.data.num_frames, side, side, 3)  # that the network sees

    @abc.abstractmethod
    def checkpoints(self, variables, clips) -> dict[str, Any]:
        """Clips as the network sees them -> 'checkpoints' (N, m, K), and more of `Prediction.extra`."""

    def _count(self, init) -> None:
        """Costs; `init`: () -> Variables, traced only."""
        self.costs, self.full_gmacs = segment_costs(self.all_steps, self.full, jax.eval_shape(init),
                                                    self.clip_shape)

    @property
    def route(self):
        """See `Stops.route`; all of it is as deep as the network."""
        return [routes.Checkpoint(frames, 1) for frames in self.places]

    def with_record(self, stats):
        """See `Calibrated.with_record`; without early exits there is none."""
        return super().with_record(stats) if self.calibrates else stats

    def predict(self, variables, batch):
        """See `Method.predict`. Views are averaged at every place: a video stops with all of them."""
        b, v = batch["video"].shape[:2]
        found = base.over_views(lambda clips: self.checkpoints(variables, clips), batch["video"], self.sight,
                                self.views_per_pass)
        extra = {name: x.reshape(b, v, *x.shape[1:]) for name, x in found.items()}
        logits = self.task.mean_of_views(extra.pop("checkpoints").astype(jnp.float32))
        if not self.calibrates:
            return base.Prediction(logits[:, -1], jnp.full((b,), v * self.full_gmacs, jnp.float32), extra)
        scores = self.scores(logits)
        return self.stopped(logits, scores[..., self.rule], self.thresholds_of(variables), v,
                            **extra, stop_scores=scores)

    # -------------------------------------------------------------- see `Calibrated`, without exits nothing
    def check_calibration(self):
        """See `Method.check_calibration`: a budget that no thresholds keep."""
        if self.calibrates:
            super().check_calibration()

    def calibrated(self, variables):
        """See `Method.calibrated`."""
        return not self.calibrates or super().calibrated(variables)

    def calibrate(self, variables, rows):
        """See `Calibrated.calibrate`."""
        if RECORD not in variables.stats:
            if not stopping.by_hand(self.settings, self.m):
                raise UserError("config.method.early_exit=True, but this network was trained without it, so "
                                "no thresholds are known: give config.method.thresholds or .patience, or "
                                "set early_exit=False.")
            variables = variables.replace(stats=self.with_record(variables.stats))
        return super().calibrate(variables, rows)

    def analyse(self, rows, variables, workdir, split):
        """See `Calibrated.analyse`."""
        return super().analyse(rows, variables, workdir, split) if "exit" in rows else {}

    def runners(self):
        """See `Stops.runners`."""
        return super().runners() if self.calibrates else {"simulate": base.Runner(predict=self.predict)}


def network(variables) -> dict:
    """What `apply` of the trained network takes."""
    return {"params": variables.params,
            "batch_stats": {name: x for name, x in variables.stats.items() if name != RECORD}}
