"""The part that stops: a network with exits whose videos are answered at the first checkpoint that is sure.

Loss and settings are those of `dynamic_inference.py`, the rules and their thresholds in `effvid_jax/exits/`
(`rules.py`, `stopping.py`, `risk.py`). Where the network has gated convolutions too, a gate decides for the
frames that a segment gives it, and never sees later ones. What an answer cost is then its own: what the gates
of its segments computed, up to where it stopped. `predict` then runs one segment after the other, as the
executor does.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

import data_pipelines
from effvid_jax.cost.exits import all_heads_cost, route_costs
from effvid_jax.errors import UserError
from effvid_jax.exits import curve, deadline, executor, judge, record, risk, routes, rules, shares, stopping
from effvid_jax.exits.network import run_segment
from effvid_jax.losses import weighted_mean
from effvid_jax.methods import base
from effvid_jax.methods.parts import Part, Term

RECORD = record.NAME  # in `Variables.stats`: thresholds, and the calibration videos' scores
EXECUTORS = ("simulate", *executor.POLICIES)
PICTURES = {"exits": ("Early exits", "Videos stop at the first checkpoint that is sure; moving the "
                                     "thresholds, chosen on held-out training videos, draws the curve."),
            "exit_classes": ("Where videos left", "How many stopped at each checkpoint, how many of them "
                             "were right, and the same per class, cheap ones first.")}


class Exits(Part):
    """The exits of `config.model.exits`.

    Args:
        config, task, settings: see `Part`; settings are those of `dynamic_inference.DynamicInference`.
        checkpoint_loss: (settings, task, logits (B, m, K), batch, share) -> (value, scalars).

    Attributes:
        m: number of checkpoints.
        rule: number of the stop rule.
        costs: (m,) GMACs of a view that stops at each of them; full_gmacs: without early exits.

    Raises:
        UserError: a task without scores of classes; settings that do not fit the route.
    """

    name, records = "exits", (RECORD,)
    own_costs = False  # an answer costs what all cost that stop where it does

    def __init__(self, config, task, settings, checkpoint_loss):
        super().__init__(config, task, settings)
        if not task.class_scores:
            raise UserError(f"config.task: method {config.method.name!r} stops where a class is sure enough; "
                            f"this task has no scores of classes.")
        self.checkpoint_loss, self.rule = checkpoint_loss, rules.RULES.index(settings.rule)
        self._views = data_pipelines.num_views(config.data) if settings.budget_gmacs else 1

    def bind(self, method):
        """See `Part.bind`."""
        super().bind(method)
        self.model = method.model
        self.settings.check_lengths(self.model.route)
        self.m = len(self.model.route)
        if self.settings.rule == "learned" and not self.model.judge_width:
            raise UserError("config.method.rule='learned' reads heads that this network does not have: train "
                            "it with config.model.exits.judge=32 (hidden units), or use another rule.")
        side = method.resolution or self.config.data.test_crop_size
        self.clip_shape = (self.config.model.exits.frames, side, side, 3)  # that the network sees
        self.costs, self.full_gmacs = route_costs(self.model, self.clip_shape)

    def init(self, variables, rng, clip_shape):
        """See `Part.init`; until it is calibrated nothing stops early."""
        begun = record.begin(self.settings.calibration_videos, self.m)
        return variables.replace(stats={**variables.stats, RECORD: begun})

    def term(self, seen):
        """See `Part.term`."""
        logits_BmK = seen.out["checkpoints"]
        value, scalars = self.checkpoint_loss(self.settings, self.task, logits_BmK, seen.batch,
                                              seen.shares.get(self.name))
        if self.model.judge_width:  # its gradient stays in its own parameters
            found = weighted_mean(judge.loss(seen.out["sure"], logits_BmK), seen.batch["mask"])
            value, scalars = value + found, {**scalars, "loss_judge": found}
        return Term(value, scalars)

    def predict(self, variables, batch):
        """See `Method.predict`. Views are averaged at every checkpoint: a video stops with all of them."""
        b, v = batch["video"].shape[:2]
        logits, sure = base.over_views(lambda clips: self._checkpoints(variables, clips), batch["video"],
                                       self.method.sight, self.method.views_per_pass)
        logits = logits.astype(jnp.float32).reshape(b, v, self.m, -1)
        logits = self.task.mean_of_views(logits)
        scores = rules.all_scores(logits, None if sure is None else sure.reshape(b, v, self.m).mean(axis=1))
        taken = stopping.exits_taken(scores[..., self.rule], variables.stats[RECORD]["thresholds"])
        return base.Prediction(
            jnp.take_along_axis(logits, taken[:, None, None], axis=1)[:, 0],
            v * jnp.asarray(self.costs, jnp.float32)[taken],
            {"exit": taken, "stop_scores": scores, "answers": self.task.answers(logits)})

    def _checkpoints(self, variables, clips):
        """Logits (B, m, K), and what the judges say (B, m), if there are any."""
        out = self.model.apply(self.method.network(variables), clips)[1]
        return out["checkpoints"], jax.nn.sigmoid(out["sure"]) if self.model.judge_width else None

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

    def costs_of_rows(self, rows):
        """(views, (m,) GMACs of all of them, of a video that stops at each checkpoint: a mean)."""
        views = max(1, round(float(np.mean(rows["gmacs"] / self.costs[rows["exit"]]))))
        return views, views * self.costs

    def check_calibration(self):
        """See `Method.check_calibration`: a budget that no thresholds keep."""
        if not stopping.by_hand(self.settings, self.m) and self.settings.search != risk.SEARCH:
            share = 0.0 if self.settings.budget_gmacs else self.full_gmacs
            stopping.check_budget(self.least_costs, self._budget, share, self._views)

    def calibrated(self, variables):
        """See `Method.calibrated`."""
        return int(variables.stats[RECORD]["count"]) > 0

    @property
    def _budget(self) -> float:
        """Mean GMACs of a view that thresholds are to keep: `costs` are of a view as well."""
        return self.settings.budget_gmacs / self._views or self.settings.budget * self.full_gmacs

    def calibrate(self, variables, rows):
        """See `Method.calibrate`: records what the calibration videos score, and sets the thresholds."""
        kept = variables.stats[RECORD]
        if rows is not None:
            kept = {**kept, **self._recorded(rows)}
        if kept["thresholds"].shape != (self.m,):
            raise UserError(f"the checkpoint holds {kept['thresholds'].shape[0]} thresholds; this "
                             f"route has {self.m} checkpoints: they belong to another network.")
        if found := stopping.by_hand(self.settings, self.m):
            found = np.array(found, np.float32)
        elif int(kept["count"]):
            self.check_calibration()
            known = record.known(kept, self.settings.rule)
            if known is None:
                raise record.unknown(kept, self.settings.rule)
            found = risk.search(self.settings, *known, self.costs_of(kept), self._budget, self.span)
        else:
            risk.say_uncalibrated(self.settings)
            return variables  # nothing stops early
        kept = {**kept, "thresholds": jnp.asarray(found, jnp.float32)}
        return base.Variables(variables.params, {**variables.stats, RECORD: kept}, variables.frozen)

    def _recorded(self, rows):
        """Entries of the record for calibration videos."""
        right = self.task.right(rows["answers"], rows)
        return record.of_videos(rows["stop_scores"], right, self.settings.calibration_videos)

    def analyse(self, rows, variables, workdir, split):
        """See `Method.analyse`: where videos stop, by class too, how good each checkpoint is, and the curve.

        Costs are per video with all its views, as `gmacs` is.
        """
        views, costs = self.costs_of_rows(rows)
        every, paper = (views * all_heads_cost(self.model, self.clip_shape, rule)
                        for rule in ("macs", "msdnet"))
        out = {"full_gmacs": views * self.full_gmacs, "full_gmacs_all_heads": every,
               "full_gmacs_paper": paper}
        full = dict(zip((curve.FULL, curve.ALL_HEADS, curve.PAPER), out.values()))
        right = self.task.right(rows["answers"], rows) if "answers" in rows else None
        out |= shares.metrics(rows["exit"], costs, right, self.task.watched)
        if workdir:
            right_N = self.task.right(self.task.answers(rows["scores"]), rows)
            shares.write(workdir, split, self.task, rows, right_N, costs, self.model.route)
        if "cut" in rows:
            out |= deadline.told(rows, self.settings.deadline_ms)
        known = record.known(jax.device_get(variables.stats[RECORD]), self.settings.rule)
        if workdir and right is not None and known is not None:
            curve.draw(workdir, split, self.task, known, rows["stop_scores"][..., self.rule],
                       right, rows, costs, full, stopping.family(self.settings.search))
        return out

    # ------------------------------------------------------------------------------------ inference
    def runners(self):
        """Everything computed and the rule applied, or videos that really stop, by two policies."""
        sizes, seconds = self.settings.executor_sizes, self.settings.deadline_ms / 1e3 or None
        real = {policy: base.Runner(segments=self.segments, policy=policy, sizes=sizes, deadline=seconds)
                for policy in executor.POLICIES}
        return {"simulate": base.Runner(predict=self.method.predict), **real}

    @property
    def runner(self) -> str:
        """`config.method.executor`; what is simulated knows no deadline."""
        simulated = self.settings.executor == "simulate"
        return "pool" if simulated and self.settings.deadline_ms else self.settings.executor

    @functools.cached_property
    def segments(self) -> base.Adaptive:
        """The network in segments, with scores, thresholds and costs; made once, so compiled once."""
        return self._segments()

    def _segments(self) -> base.Adaptive:
        segments = routes.plan_segments(self.model.route, self.model.group)
        steps = [executor.Step(functools.partial(self._run_segment, k), s.first, s.frames)
                 for k, s in enumerate(segments)]
        score = executor.StateScore(functools.partial(rules.of_state, self.settings.rule, self.m))
        return base.Adaptive(steps, score, self._thresholds, self.costs, self.model.order, self._full,
                             self.full_gmacs, self.own_costs)

    def _run_segment(self, k, variables, state, frames):
        frames = None if frames is None else self.method.sight(frames)
        after, logits = run_segment(self.model, self.method.network(variables), k, state, frames)
        return rules.remember(self.settings.rule, state, after, logits), logits

    def _thresholds(self, variables):
        return variables.stats[RECORD]["thresholds"]

    def _full(self, variables, clips):
        return self.model.apply(self.method.network(variables), self.method.sight(clips), method="full")
