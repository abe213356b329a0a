"""What methods share whose videos are answered as soon as an answer is sure.

    `Stops`         a video stops where its score reaches a threshold; costs, runners, where videos left
    `Calibrated`    the thresholds come from held-out videos, whose scores are saved; budget, curve

    has it                                where a score comes from           where a video may stop
    frameexit.py     `Stops`              gates of the network               after each frame
    early_exits.py   `Calibrated`         `exits/rules.py`                   along a route of frames x depth
    exiting.py       `Calibrated`         the same, and the largest logit    after some frames or crops

Both are mixed into a `Method`, or into a `Part` of one, before it in the list of bases. How a network looks
is not known here.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import data_pipelines
from effvid_jax.errors import UserError
from effvid_jax.exits import curve, deadline, executor, record, risk, routes, rules, shares, stopping
from effvid_jax.methods import base

RECORD = record.NAME  # in `Variables.stats`: thresholds, and the calibration videos' scores
PICTURES = {"exits": ("Early exits", "Videos stop at the first checkpoint that is sure; moving the "
                                     "thresholds, chosen on held-out training videos, draws the curve."),
            "exit_classes": ("Where videos left", "How many stopped at each checkpoint, how many of them "
                             "were right, and the same per class, cheap ones first.")}


class Stops(abc.ABC):
    """See the module docstring.

    Whose it is has `config`, `task`, `settings` (a `StopSettings`) and `predict`, and sets:

    Attributes:
        costs: (m,) GMACs of a view that stops at each checkpoint, everything before included.
        full_gmacs: those of the network with the last answer alone.
        order: in which the frames of a clip are consumed.
        own_costs: whether an answer's cost is its own, see `base.Adaptive`; otherwise it is that of all that
            stop where it does.
    """

    own_costs = False

    def check_task(self) -> None:
        """Raises UserError for a task without scores of classes."""
        if not self.task.class_scores:
            raise UserError(f"config.task: method {self.config.method.name!r} stops where a class is sure "
                            f"enough; this task has no scores of classes.")

    @property
    @abc.abstractmethod
    def route(self) -> Sequence[routes.Checkpoint]:
        """Where a video may stop; the last one always answers."""

    @property
    def m(self) -> int:
        """Number of checkpoints."""
        return len(self.route)

    @abc.abstractmethod
    def steps(self) -> list[executor.Step]:
        """The segments up to each checkpoint; their frames are of `order`, as the pipeline gives them."""

    @abc.abstractmethod
    def full(self, variables, clips):
        """The last answer alone: clips as the pipeline gives them, in natural order -> logits (N, K)."""

    @abc.abstractmethod
    def score(self, state, logits):
        """Score (B,) of stopping after a segment: the state that it left, its logits (B, K)."""

    @abc.abstractmethod
    def thresholds_of(self, variables):
        """(m,), one a checkpoint."""

    @property
    def fulls(self) -> dict[str, tuple[str, float]]:
        """{metric: (its name in curves, GMACs of a view without early exits)}, one a way to count."""
        return {"full_gmacs": (curve.FULL, self.full_gmacs)}

    def costs_of_rows(self, rows):
        """(views, (m,) GMACs of all of them, of a video that stops at each checkpoint: a mean)."""
        views = max(1, round(float(np.mean(rows["gmacs"] / self.costs[rows["exit"]]))))
        return views, views * self.costs

    def stopped(self, logits_BmK, scores_Bm, thresholds_m, views: int, **extra) -> base.Prediction:
        """What videos answer that were computed whole, as if they had stopped.

        Args:
            logits_BmK: of all checkpoints, all views together.
            scores_Bm, thresholds_m: see `stopping.exits_taken`.
            views: of a video, all of which it pays for.
            extra: more of `Prediction.extra`, beside 'exit' (B,) and 'answers' of all checkpoints.
        """
        taken = stopping.exits_taken(scores_Bm, thresholds_m)
        return base.Prediction(
            jnp.take_along_axis(logits_BmK, taken[:, None, None], axis=1)[:, 0],
            views * jnp.asarray(self.costs, jnp.float32)[taken],
            {**extra, "exit": taken, "answers": self.task.answers(logits_BmK)})

    def analyse(self, rows, variables, workdir, split):
        """See `Method.analyse`: where videos stop, by class too, and how good each checkpoint is.

        Costs are per video with all its views, as `gmacs` is.
        """
        views, costs = self.costs_of_rows(rows)
        right = self.right(rows)
        out = {name: views * gmacs for name, (_, gmacs) in self.fulls.items()}
        out |= shares.metrics(rows["exit"], costs, right, self.task.watched)
        if workdir:
            right_N = self.task.right(self.task.answers(rows["scores"]), rows)
            shares.write(workdir, split, self.task, rows, right_N, costs, self.route)
        return out | (deadline.told(rows, self.settings.deadline_ms) if "cut" in rows else {})

    def right(self, rows):
        """Whether the answers of all checkpoints are right (N, m); None where videos really stopped."""
        return self.task.right(rows["answers"], rows) if "answers" in rows else None

    # ------------------------------------------------------------------------------------ inference
    @property
    def simulated(self):
        """The traced function that computes everything and applies the rule, see `Method.predict`."""
        return self.predict

    def runners(self):
        """Everything computed and the rule applied, or videos that really stop, by two policies."""
        sizes, seconds = self.settings.executor_sizes, self.settings.deadline_ms / 1e3 or None
        real = {policy: base.Runner(segments=self.segments, policy=policy, sizes=sizes, deadline=seconds)
                for policy in executor.POLICIES}
        return {"simulate": base.Runner(predict=self.simulated), **real}

    @property
    def runner(self) -> str:
        """`config.method.executor`; what is simulated knows no deadline."""
        simulated = self.settings.executor == "simulate"
        return "pool" if simulated and self.settings.deadline_ms else self.settings.executor

    @functools.cached_property
    def segments(self) -> base.Adaptive:
        """The network in segments, with scores, thresholds and costs; made once, so compiled once."""
        return self.in_segments()

    def in_segments(self) -> base.Adaptive:
        """See `segments`; made anew."""
        return base.Adaptive(self.all_steps, executor.StateScore(self.score), self.thresholds_of, self.costs,
                             self.order, self.full, self.full_gmacs, self.own_costs)

    @functools.cached_property
    def all_steps(self) -> list[executor.Step]:
        """`steps`, with what scores read beside; made once, so compiled once."""
        return self.steps()


class Calibrated(Stops):
    """See the module docstring; `settings` are `CalibratedSettings`.

    Attributes:
        rule: number of the stop rule among `settings.known_rules`.
    """

    def begin(self) -> None:
        """Called once, when `config`, `task` and `settings` are there. Raises UserError: see `check_task`."""
        self.check_task()
        self.rule = self.settings.known_rules.index(self.settings.rule)
        self._views = data_pipelines.num_views(self.config.data) if self.settings.budget_gmacs else 1

    def with_record(self, stats) -> dict:
        """Statistics of a new network with an empty record: until it is calibrated nothing stops early."""
        begun = record.begin(self.settings.calibration_videos, self.m, self.settings.known_rules)
        return {**stats, RECORD: begun}

    def scores(self, logits_BmK, sure_Bm=None):
        """(B, m, R) in the order of `settings.known_rules`; `sure_Bm`: see `rules.all_scores`."""
        return rules.all_scores(logits_BmK, sure_Bm, self.settings.known_rules)

    def score(self, state, logits):
        """See `Stops.score`; by the rule of the config."""
        return rules.of_state(self.settings.rule, self.m, state, logits)

    def thresholds_of(self, variables):
        """See `Stops.thresholds_of`; those that calibration has set."""
        return variables.stats[RECORD]["thresholds"]

    @functools.cached_property
    def all_steps(self):
        """See `Stops.all_steps`; the state remembers what the rule reads of earlier answers."""
        return [step._replace(run=functools.partial(self._remembering, step.run)) for step in self.steps()]

    def _remembering(self, run, variables, state, frames):
        after, logits = run(variables, state, frames)
        return rules.remember(self.settings.rule, state, after, logits), logits

    # ----------------------------------------------------------------------------------- thresholds
    @property
    def least_costs(self):
        """(m,) GMACs of a view that stops at each checkpoint, at least."""
        return self.costs

    @property
    def span(self) -> tuple[float, float] | None:
        """GMACs of a view that no video falls below and none exceeds; None: those of the first and last."""
        return None

    def costs_of(self, kept):
        """GMACs of a view of calibration videos that stop at each checkpoint: (m,) or, one by one, (n, m)."""
        del kept
        return self.costs

    @property
    def _budget(self) -> float:
        """Mean GMACs of a view that thresholds are to keep: `costs` are of a view as well."""
        return self.settings.budget_gmacs / self._views or self.settings.budget * self.full_gmacs

    def check_calibration(self):
        """See `Method.check_calibration`: a budget that no thresholds keep."""
        if not stopping.by_hand(self.settings, self.m) and self.settings.search != risk.SEARCH:
            share = 0.0 if self.settings.budget_gmacs else self.full_gmacs
            stopping.check_budget(self.least_costs, self._budget, share, self._views)

    def calibrated(self, variables):
        """See `Method.calibrated`."""
        return int(variables.stats[RECORD]["count"]) > 0

    def calibrate(self, variables, rows):
        """See `Method.calibrate`: records what the calibration videos score, and sets the thresholds."""
        kept = variables.stats[RECORD]
        if rows is not None:
            kept = {**kept, **self.recorded(rows)}
        if kept["thresholds"].shape != (self.m,):
            raise UserError(f"the checkpoint holds {kept['thresholds'].shape[0]} thresholds; this "
                            f"route has {self.m} checkpoints: they belong to another network.")
        if found := stopping.by_hand(self.settings, self.m):
            found = np.array(found, np.float32)
        elif int(kept["count"]):
            self.check_calibration()
            if (known := self._known(kept)) is None:
                raise record.unknown(kept, self.settings.rule, self.settings.known_rules)
            found = risk.search(self.settings, *known, self.costs_of(kept), self._budget, self.span)
        else:
            risk.say_uncalibrated(self.settings)
            return variables  # nothing stops early
        kept = {**kept, "thresholds": jnp.asarray(found, jnp.float32)}
        return base.Variables(variables.params, {**variables.stats, RECORD: kept}, variables.frozen)

    def recorded(self, rows) -> dict:
        """Entries of the record for calibration videos."""
        return record.of_videos(rows["stop_scores"], self.right(rows), self.settings.calibration_videos,
                                self.settings.known_rules)

    def _known(self, kept):
        return record.known(kept, self.settings.rule, self.settings.known_rules)

    def analyse(self, rows, variables, workdir, split):
        """See `Stops.analyse`; and the curve."""
        out, right = super().analyse(rows, variables, workdir, split), self.right(rows)
        known = self._known(jax.device_get(variables.stats[RECORD]))
        if workdir and right is not None and known is not None:
            full = {title: out[name] for name, (title, _) in self.fulls.items()}
            curve.draw(workdir, split, self.task, known, rows["stop_scores"][..., self.rule],
                       right, rows, self.costs_of_rows(rows)[1], full, stopping.family(self.settings.search))
        return out


def along_route(model, run) -> list[executor.Step]:
    """Steps of an `ExitNet`, up to each of its checkpoints.

    Args:
        model: the network.
        run: (number of the segment, from 0; variables, state, frames) -> (state, logits (B, K)).
    """
    return [executor.Step(functools.partial(run, k), segment.first, segment.frames)
            for k, segment in enumerate(routes.plan_segments(model.route, model.group))]
