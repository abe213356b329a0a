"""Methods whose network may answer after a part of a clip: stopping, its thresholds, and what it costs.

What a network must be able to do is a few functions; how it looks is not known here:

    checkpoints(variables, clips)   logits at every place where a video may stop, all computed
    steps()                         the same in segments, for `effvid_jax.exits.executor`

Videos stop at the first place whose score reaches its threshold (`effvid_jax/exits/stopping.py`), with
`early_exit`; without it the last one answers and nothing on the way there is counted.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

import data_pipelines
from data_pipelines import Field
from effvid_jax.cost.exits import segment_costs
from effvid_jax.errors import UserError
from effvid_jax.exits import curve, executor, risk, routes, shares, stopping
from effvid_jax.methods import base

RECORD = "stopping"  # in `Variables.stats`: thresholds, and the calibration videos' scores
RULES = ("logit", *stopping.RULES)
EXECUTORS = ("simulate", *executor.POLICIES)


@dataclasses.dataclass(frozen=True)
class ExitSettings(base.MethodSettings):
    """What is chosen about stopping."""

    training_only: ClassVar = ("calibration_videos",)

    early_exit: bool = False  # easy videos stop early; needs config.data.calib_share
    exits: tuple[int, ...] = ()  # frames after which a video may stop; (): after each, as published
    rule: str = "confidence"  # of probabilities the largest | margin | entropy | logit: the largest of those
    search: str = "msdnet"  # of thresholds: msdnet | accuracy, see exits/stopping.py | risk, exits/risk.py
    epsilon: float = 0.01  # risk: more errors than full inference, at most
    delta: float = 0.1  # risk: probability with which that may fail
    budget: float = 0.5  # mean cost as a share of full inference, for the thresholds
    budget_gmacs: float = 0.0  # the same in GMACs per video with all its views; 0: `budget` counts
    budget_delta: float = 0.0  # probability with which other videos may cost more; 0: nothing is promised
    thresholds: tuple[float, ...] = ()  # by hand, one a place; (): from the calibration videos
    calibration_videos: int = 5000  # at most; their scores are saved with the checkpoint
    executor: str = "simulate"  # evaluation: compute everything | compact | pool: really stop
    executor_sizes: tuple[int, ...] = ()  # batch sizes to compile beside eval_batch_size; (): 1/2 to 1/32

    bounds: ClassVar = {
        "exits": Field.many(Field.integer(0, 256)), "budget": Field.number(0, 1e6),
        "budget_gmacs": Field.number(0, 1e12), "budget_delta": Field.number(0, below=1),
        "epsilon": Field.number(above=0, below=1), "delta": Field.number(above=0, below=1),
        "calibration_videos": Field.integer(1, 10**7),
        "executor_sizes": Field.many(Field.integer(1, 2**20))}

    def check(self, config):
        """Raises UserError for unknown words, or what does not go together."""
        self._check_known(rule=RULES, search=(*stopping.SEARCHES, risk.SEARCH), executor=EXECUTORS)
        if self.executor != "simulate" and not self.early_exit:
            raise UserError(f"config.method.executor={self.executor!r} lets videos stop, but "
                            f"config.method.early_exit is False: set it to True, or executor='simulate'.")
        if self.search == risk.SEARCH and self.rule == "logit":
            raise UserError("config.method.rule='logit' has no bounds, which config.method.search='risk' "
                            "needs: expected 'confidence', 'margin' or 'entropy'.")
        if not self.budget_gmacs and not self.budget > 0:
            raise UserError(f"config.method.budget={self.budget}: expected a share of the cost of full "
                            f"inference, such as 0.5.")
        crop = config.train.get("validation", {}).get("test_crop_size", 0)
        if crop and not config.model.resolution and crop != config.data.test_crop_size:
            raise UserError(f"config.train.validation.test_crop_size={crop}: costs of exits are counted for "
                            f"config.data.test_crop_size={config.data.test_crop_size}; leave it 0.")

    def places(self, first: int, last: int) -> tuple[int, ...]:
        """`exits`, or all from `first` to `last`, checked.

        Raises:
            UserError: out of these, not growing, or without the last one, which always answers.
        """
        found = self.exits or tuple(range(first, last + 1))
        if list(found) != sorted(set(found)) or found[0] < first or found[-1] != last:
            raise UserError(f"config.method.exits={found}: expected growing numbers of frames from {first} "
                            f"on that end with {last}.")
        if self.thresholds and len(self.thresholds) != len(found):
            raise UserError(f"config.method.thresholds has {len(self.thresholds)} entries; this network has "
                            f"{len(found)} places to stop: after {found} frames.")
        return found


class Exiting(base.Method):
    """See the module docstring.

    A subclass sets `places`, `order` and `model`, calls `_count`, and defines the abstract functions.

    Attributes:
        places: frames seen where a video may stop; the last one always answers.
        order: in which the frames of a clip are consumed.
        costs: (m,) GMACs of a view that stops at each place, everything before included.
        full_gmacs: those of the network with the last answer alone.
    """

    Settings = ExitSettings
    pictures = {"exits": ("Early exits", "Videos stop at the first place that is sure; moving the "
                                         "thresholds, chosen on held-out training videos, draws the curve."),
                "exit_classes": ("Where videos left", "How many stopped at each place, how many of them were "
                                 "right, and the same per class, cheap ones first.")}
    places: tuple[int, ...]
    order: tuple[int, ...]

    def __init__(self, config, task):
        super().__init__(config, task)
        if not task.class_scores:
            raise UserError(f"config.task: method {config.method.name!r} compares scores of classes, which "
                            f"this task does not have.")
        self.calibrates = self.settings.early_exit
        self.rule = RULES.index(self.settings.rule)
        side = self.resolution or config.data.test_crop_size
        self.clip_shape = (config.data.num_frames, side, side, 3)  # that the network sees
        self._views = data_pipelines.num_views(config.data) if self.settings.budget_gmacs else 1

    @abc.abstractmethod
    def checkpoints(self, variables, clips) -> dict[str, Any]:
        """Clips as the network sees them -> 'checkpoints' (N, m, K), and more of `Prediction.extra`."""

    @abc.abstractmethod
    def steps(self) -> list[executor.Step]:
        """The segments up to each place; their frames are of `order`, as the pipeline gives them."""

    @abc.abstractmethod
    def full(self, variables, clips):
        """The last answer alone -> logits (N, K); `clips` as the pipeline gives them, in natural order."""

    def _count(self, init) -> None:
        """Costs; `init`: () -> Variables, traced only."""
        self.costs, self.full_gmacs = segment_costs(self._steps, self.full, jax.eval_shape(init),
                                                    self.clip_shape)

    @functools.cached_property
    def _steps(self) -> list[executor.Step]:
        return self.steps()  # made once, so compiled once

    def with_record(self, stats):
        """Statistics of a new network with an empty record: until it is calibrated nothing stops early."""
        if not self.calibrates:
            return stats
        m, size = len(self.places), self.settings.calibration_videos
        thresholds = jnp.array([stopping.NEVER] * (m - 1) + [-stopping.NEVER], jnp.float32)
        return {**stats, RECORD: {
            "thresholds": thresholds, "count": jnp.zeros((), jnp.int32),
            "scores": jnp.zeros((size, m, len(RULES))), "hits": jnp.zeros((size, m), bool)}}

    def scores(self, logits):
        """Logits (..., K) -> (..., R), in the order of `RULES`."""
        largest = logits.max(axis=-1, keepdims=True).astype(jnp.float32)
        return jnp.concatenate([largest, stopping.scores(logits)], axis=-1)

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
        taken = stopping.exits_taken(scores[..., self.rule], variables.stats[RECORD]["thresholds"])
        return base.Prediction(
            jnp.take_along_axis(logits, taken[:, None, None], axis=1)[:, 0],
            v * jnp.asarray(self.costs, jnp.float32)[taken],
            extra | {"exit": taken, "stop_scores": scores, "answers": self.task.answers(logits)})

    # ----------------------------------------------------------------------------------- thresholds
    @property
    def _budget(self) -> float:
        """Mean GMACs of a view that thresholds are to keep."""
        return self.settings.budget_gmacs / self._views or self.settings.budget * self.full_gmacs

    def check_calibration(self):
        """See `Method.check_calibration`: a budget that no thresholds keep."""
        if self.calibrates and not self.settings.thresholds and self.settings.search != risk.SEARCH:
            share = 0.0 if self.settings.budget_gmacs else self.full_gmacs
            stopping.check_budget(self.costs, self._budget, share, self._views)

    def calibrated(self, variables):
        """See `Method.calibrated`."""
        return not self.calibrates or int(variables.stats[RECORD]["count"]) > 0

    def calibrate(self, variables, rows):
        """See `Method.calibrate`: records what the calibration videos score, and sets the thresholds."""
        if RECORD not in variables.stats and not self.settings.thresholds:
            raise UserError("config.method.early_exit=True, but this network was trained without it, so no "
                            "thresholds are known: give config.method.thresholds, or set early_exit=False.")
        record = variables.stats.get(RECORD) or self.with_record({})[RECORD]
        if rows is not None:
            size, n = self.settings.calibration_videos, len(rows["exit"])
            chosen = np.linspace(0, n - 1, min(size, n)).round().astype(int)
            found = {"scores": rows["stop_scores"], "hits": self.task.right(rows["answers"], rows)}
            record = {**record, "count": jnp.asarray(len(chosen), jnp.int32), **{
                name: jnp.asarray(np.resize(values[chosen], (size, *values.shape[1:])))
                for name, values in found.items()}}
        if self.settings.thresholds:
            found = np.array(self.settings.thresholds, np.float32)
        elif int(record["count"]):
            self.check_calibration()
            found = risk.search(self.settings, *self._known(record), self.costs, self._budget)
        else:
            return variables  # never calibrated: nothing stops early
        record = {**record, "thresholds": jnp.asarray(found, jnp.float32)}
        return base.Variables(variables.params, {**variables.stats, RECORD: record}, variables.frozen)

    def _known(self, record):
        """(scores (n, m), right answers (n, m)) of the calibration videos."""
        count = int(record["count"])
        return np.asarray(record["scores"])[:count, :, self.rule], np.asarray(record["hits"])[:count]

    def analyse(self, rows, variables, workdir, split):
        """See `Method.analyse`: where videos stop, by class too, how good each place is, and the curve."""
        if "exit" not in rows:
            return {}
        views = max(1, round(float(np.mean(rows["gmacs"] / self.costs[rows["exit"]]))))
        costs, full = views * self.costs, views * self.full_gmacs
        right = self.task.right(rows["answers"], rows) if "answers" in rows else None
        out = {"full_gmacs": full, **shares.metrics(rows["exit"], costs, right, self.task.watched)}
        if workdir:
            right_N = self.task.right(self.task.answers(rows["scores"]), rows)
            route = [routes.Checkpoint(frames, 1) for frames in self.places]
            shares.write(workdir, split, self.task, rows, right_N, costs, route)
        if right is None:  # videos really stopped: nobody knows what comes after
            return out
        record = jax.device_get(variables.stats[RECORD])
        if workdir and int(record["count"]):
            curve.draw(workdir, split, self.task, self._known(record), rows["stop_scores"][..., self.rule],
                       right, rows, costs, {curve.FULL: full}, stopping.family(self.settings.search))
        return out

    # ------------------------------------------------------------------------------------ inference
    def runners(self):
        """Everything computed and the rule applied, or videos that really stop, by two policies."""
        whole = {"simulate": base.Runner(predict=self.predict)}
        if not self.calibrates:
            return whole
        return whole | {policy: base.Runner(segments=self.segments, policy=policy,
                                            sizes=self.settings.executor_sizes)
                        for policy in executor.POLICIES}

    @property
    def runner(self):
        """`config.method.executor`."""
        return self.settings.executor

    @functools.cached_property
    def segments(self) -> base.Adaptive:
        """The network in segments, with scores, thresholds and costs."""
        return base.Adaptive(self._steps, self._score, self._thresholds, self.costs, self.order, self.full,
                             self.full_gmacs)

    def _score(self, logits):
        return self.scores(logits)[:, self.rule]

    def _thresholds(self, variables):
        return variables.stats[RECORD]["thresholds"]


def network(variables) -> dict:
    """What `apply` of the trained network takes."""
    return {"params": variables.params,
            "batch_stats": {name: x for name, x in variables.stats.items() if name != RECORD}}
