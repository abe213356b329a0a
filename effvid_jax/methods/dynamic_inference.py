"""Dynamic Inference: exits along a route through the grid of frames x depth; easy videos stop early.

Wu et al., "Dynamic Inference: A New Approach Toward Efficient Video Action Recognition", CVPR Workshops
2020, arXiv 2002.03342. No code was published; what the paper leaves open is a field of the config.

    route          checkpoints (frames seen, depth), see `effvid_jax/exits/routes.py`
    network        `effvid_jax/exits/network.py`: head k reads the mean over the frames seen so far
    training       one pass over all frames and depths, every checkpoint read from prefixes:
                   L = sum_k w_k CE(logits_k, y)  [+ distillation from the last checkpoint, ours, off]
    stopping       the first k whose score reaches its threshold answers, `effvid_jax/exits/stopping.py`;
                   thresholds from a held-out part of the training videos, for a budget of GMACs
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
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

import data_pipelines
from data_pipelines import Field
from effvid_jax.cost.exits import all_heads_cost, route_costs
from effvid_jax.errors import UserError
from effvid_jax.exits import curve, executor, risk, routes, shares, stopping
from effvid_jax.exits.network import run_segment
from effvid_jax.losses import soft_kl, weighted_mean
from effvid_jax.methods import base, building

RECORD = "stopping"  # in `Variables.stats`: thresholds, and the calibration videos' scores
EXECUTORS = ("simulate", *executor.POLICIES)


class DynamicInference(base.Method):
    """The method of a config; reads `config.model`, `config.method` and the size of clips.

    Raises:
        UserError: a route, order, rule, weight, threshold or budget that does not fit.
    """

    @dataclasses.dataclass(frozen=True)
    class Settings(base.MethodSettings):
        """What the paper leaves open is marked; the route is a part of the network (`config.model.exits`)."""

        training_only: ClassVar = ("loss_weights", "distill_weight", "distill_temperature",
                                   "calibration_videos")

        loss_weights: tuple[float, ...] = ()  # per checkpoint; (): 1 each, MSDNet's; the paper does not say
        distill_weight: float = 0.0  # from the last checkpoint; ours
        distill_temperature: float = 1.0  # of it
        rule: str = "confidence"  # the paper | margin | entropy (ours)
        search: str = "accuracy"  # of thresholds: accuracy (ours) | msdnet, see exits/stopping.py | risk:
        # the cheapest that keep a promise about errors, whatever the budget, see exits/risk.py; ours
        epsilon: float = 0.01  # risk: more errors than full inference, at most
        delta: float = 0.1  # risk: probability with which that may fail
        budget: float = 0.5  # mean cost as a share of full inference, for the thresholds
        budget_gmacs: float = 0.0  # the same in GMACs per video with all its views; 0: `budget` counts
        budget_delta: float = 0.0  # probability with which other videos may cost more; 0: nothing is
        # promised of others than the calibration videos; ours
        thresholds: tuple[float, ...] = ()  # by hand, one a checkpoint; (): from the calibration videos
        calibration_videos: int = 5000  # at most; their scores are saved with the checkpoint
        executor: str = "simulate"  # evaluation: compute everything | compact | pool: really stop
        executor_sizes: tuple[int, ...] = ()  # batch sizes to compile beside eval_batch_size; (): 1/2 to 1/32

        bounds: ClassVar = {
            "loss_weights": Field.many(Field.number(0, 1e9)), "distill_weight": Field.number(0, 1e9),
            "distill_temperature": Field.number(above=0, most=1e6), "budget": Field.number(0, 1e6),
            "budget_gmacs": Field.number(0, 1e12), "budget_delta": Field.number(0, below=1),
            "epsilon": Field.number(above=0, below=1), "delta": Field.number(above=0, below=1),
            "calibration_videos": Field.integer(1, 10**7),
            "executor_sizes": Field.many(Field.integer(1, 2**20))}

        def check(self, config):
            """Raises UserError for a network without exits, other clips than its route, or unknown words."""
            if not config.model.get("exits"):
                raise UserError("config.model.exits is empty: method 'dynamic_inference' needs a network "
                                 "with exits; start from a config of configs/dynamic_*.py.")
            if config.data.num_frames != config.model.exits.frames:
                raise UserError(f"config.data.num_frames={config.data.num_frames}, but the route of this "
                                 f"network is for {config.model.exits.frames} frames "
                                 f"(config.model.exits.frames).")
            crop = config.train.get("validation", {}).get("test_crop_size", 0)
            if crop and not config.model.resolution and crop != config.data.test_crop_size:
                raise UserError(f"config.train.validation.test_crop_size={crop}: costs of exits are counted "
                                f"for config.data.test_crop_size={config.data.test_crop_size}; leave it 0.")
            self._check_known(rule=stopping.RULES, search=(*stopping.SEARCHES, risk.SEARCH),
                              executor=EXECUTORS)
            self._check_least(calibration_videos=1, budget_gmacs=0)
            if not self.budget_gmacs and not self.budget > 0:
                raise UserError(f"config.method.budget={self.budget}: expected a share of the cost of full "
                                 f"inference, such as 0.5.")

        def check_lengths(self, route) -> None:
            """Raises UserError where a value a checkpoint is meant, and there are more or fewer."""
            for name in ("loss_weights", "thresholds"):
                values = getattr(self, name)
                if values and len(values) != len(route):
                    raise UserError(f"config.method.{name} has {len(values)} entries; this route has "
                                     f"{len(route)} checkpoints: {[tuple(c) for c in route]}.")

    calibrates = True
    pictures = {"exits": ("Early exits", "Videos stop at the first checkpoint that is sure; moving the "
                                         "thresholds, chosen on held-out training videos, draws the curve."),
                "exit_classes": ("Where videos left", "How many stopped at each checkpoint, how many of them "
                                 "were right, and the same per class, cheap ones first.")}

    def __init__(self, config, task):
        super().__init__(config, task)
        if not task.class_scores:
            raise UserError("config.task: method 'dynamic_inference' stops where a class is sure enough; "
                             "this task has no scores of classes.")
        self.model = building.build_network(config.model, task)
        self.settings.check_lengths(self.model.route)
        self.m = len(self.model.route)  # checkpoints
        self.rule = stopping.RULES.index(self.settings.rule)
        side = self.resolution or config.data.test_crop_size
        self.clip_shape = (config.model.exits.frames, side, side, 3)  # that the network sees
        self.costs, self.full_gmacs = route_costs(self.model, self.clip_shape)  # of a view
        self._views = data_pipelines.num_views(config.data) if self.settings.budget_gmacs else 1

    def init(self, rng, clip_shape):
        """See `Method.init`; until it is calibrated nothing stops early."""
        params, stats = building.init_backbone(self.model, rng, clip_shape)
        m, size = self.m, self.settings.calibration_videos
        thresholds = jnp.array([stopping.NEVER] * (m - 1) + [-stopping.NEVER], jnp.float32)
        record = {"thresholds": thresholds, "count": jnp.zeros((), jnp.int32),
                  "scores": jnp.zeros((size, m, len(stopping.RULES))), "hits": jnp.zeros((size, m), bool)}
        return base.Variables(params, {**stats, RECORD: record})

    def loss(self, params, variables, batch, rng):
        """See `Method.loss`; L of the module docstring."""
        (_, features), updated = self.model.apply(
            {"params": params, "batch_stats": running(variables.stats)}, self._clips(batch), train=True,
            rngs={"dropout": rng}, mutable=["batch_stats"])
        logits_BmK, last_BK = features["checkpoints"], features["checkpoints"][:, -1]
        value, scalars = 0.0, {}
        for k, weight in enumerate(self.settings.loss_weights or (1.0,) * self.m):
            here = logits_BmK[:, k]
            ce = weighted_mean(self.task.loss(here, batch), batch["mask"])
            value += weight * ce
            if self.settings.distill_weight and k < self.m - 1:
                kl = soft_kl(here, jax.lax.stop_gradient(last_BK), self.settings.distill_temperature)
                value += self.settings.distill_weight * weighted_mean(kl, batch["mask"])
            last = self.task.batch_scalars(here, batch)
            scalars |= {f"loss_{k + 1}": ce} | {f"{name}_{k + 1}": x for name, x in last.items()}
        scalars |= {"loss": value} | last
        return value, ({**updated.get("batch_stats", {}), RECORD: variables.stats[RECORD]}, scalars)

    def predict(self, variables, batch):
        """See `Method.predict`. Views are averaged at every checkpoint: a video stops with all of them."""
        b, v = batch["video"].shape[:2]
        logits = base.over_views(lambda clips: self.model.apply(network(variables), clips)[1]["checkpoints"],
                                 batch["video"], self.sight, self.views_per_pass)
        logits = logits.astype(jnp.float32).reshape(b, v, self.m, -1)
        logits = self.task.mean_of_views(logits)
        scores = stopping.scores(logits)
        taken = stopping.exits_taken(scores[..., self.rule], variables.stats[RECORD]["thresholds"])
        return base.Prediction(
            jnp.take_along_axis(logits, taken[:, None, None], axis=1)[:, 0],
            v * jnp.asarray(self.costs, jnp.float32)[taken],
            {"exit": taken, "stop_scores": scores, "answers": self.task.answers(logits)})

    # ----------------------------------------------------------------------------------- thresholds
    def check_calibration(self):
        """See `Method.check_calibration`: a budget that no thresholds keep."""
        if not self.settings.thresholds and self.settings.search != risk.SEARCH:
            share = 0.0 if self.settings.budget_gmacs else self.full_gmacs
            stopping.check_budget(self.costs, self._budget, share, self._views)

    def calibrated(self, variables):
        """See `Method.calibrated`."""
        return int(variables.stats[RECORD]["count"]) > 0

    @property
    def _budget(self) -> float:
        """Mean GMACs of a view that thresholds are to keep: `costs` are of a view as well."""
        return self.settings.budget_gmacs / self._views or self.settings.budget * self.full_gmacs

    def calibrate(self, variables, rows):
        """See `Method.calibrate`: records what the calibration videos score, and sets the thresholds."""
        record = variables.stats[RECORD]
        if rows is not None:
            record = {**record, **self._recorded(rows)}
        if record["thresholds"].shape != (self.m,):
            raise UserError(f"the checkpoint holds {record['thresholds'].shape[0]} thresholds; this "
                             f"route has {self.m} checkpoints: they belong to another network.")
        if self.settings.thresholds:
            found = np.array(self.settings.thresholds, np.float32)
        elif int(record["count"]):
            self.check_calibration()
            found = risk.search(self.settings, *self._known(record), self.costs, self._budget)
        else:
            return variables  # never calibrated: nothing stops early
        record = {**record, "thresholds": jnp.asarray(found, jnp.float32)}
        return base.Variables(variables.params, {**variables.stats, RECORD: record}, variables.frozen)

    def _recorded(self, rows):
        """Entries of the record for calibration videos, evenly chosen where there are too many of them."""
        size, n = self.settings.calibration_videos, len(rows["exit"])
        chosen = np.linspace(0, n - 1, min(size, n)).round().astype(int)
        found = {"scores": rows["stop_scores"], "hits": self.task.right(rows["answers"], rows)}
        return {"count": jnp.asarray(len(chosen), jnp.int32), **{
            name: jnp.asarray(np.resize(values[chosen], (size, *values.shape[1:])))
            for name, values in found.items()}}

    def _known(self, record):
        """(scores (n, m), right answers (n, m)) of the calibration videos."""
        count = int(record["count"])
        return np.asarray(record["scores"])[:count, :, self.rule], np.asarray(record["hits"])[:count]

    def analyse(self, rows, variables, workdir, split):
        """See `Method.analyse`: where videos stop, by class too, how good each checkpoint is, and the curve.

        Costs are per video with all its views, as `gmacs` is.
        """
        views = max(1, round(float(np.mean(rows["gmacs"] / self.costs[rows["exit"]]))))
        costs = views * self.costs
        every, paper = (views * all_heads_cost(self.model, self.clip_shape, rule)
                        for rule in ("macs", "msdnet"))
        out = {"full_gmacs": views * self.full_gmacs, "full_gmacs_all_heads": every,
               "full_gmacs_paper": paper}
        full = dict(zip((curve.FULL, curve.ALL_HEADS, curve.PAPER), out.values()))
        out |= {f"exit{k + 1}_share": float((rows["exit"] == k).mean()) for k in range(self.m)}
        out |= {f"exit{k + 1}_gmacs": float(costs[k]) for k in range(self.m)}
        if workdir:
            right_N = self.task.right(self.task.answers(rows["scores"]), rows)
            shares.write(workdir, split, self.task, rows, right_N, costs, self.model.route)
        if "answers" not in rows:  # videos really stopped: nobody knows what comes after
            return out
        right, name = self.task.right(rows["answers"], rows), self.task.watched
        out |= {f"full_{name}": float(right[:, -1].mean())}
        out |= {f"exit{k + 1}_{name}": float(right[:, k].mean()) for k in range(self.m)}
        record = jax.device_get(variables.stats[RECORD])
        if workdir and int(record["count"]):
            curve.draw(workdir, split, self.task, self._known(record), rows["stop_scores"][..., self.rule],
                       right, rows, costs, full, stopping.family(self.settings.search))
        return out

    # ------------------------------------------------------------------------------------ inference
    def runners(self):
        """Everything computed and the rule applied, or videos that really stop, by two policies."""
        real = {policy: base.Runner(segments=self.segments, policy=policy, sizes=self.settings.executor_sizes)
                for policy in executor.POLICIES}
        return {"simulate": base.Runner(predict=self.predict), **real}

    @property
    def runner(self):
        """`config.method.executor`."""
        return self.settings.executor

    @functools.cached_property
    def segments(self) -> base.Adaptive:
        """The network in segments, with scores, thresholds and costs; made once, so compiled once."""
        segments = routes.plan_segments(self.model.route, self.model.group)
        steps = [executor.Step(functools.partial(self._run_segment, k), s.first, s.frames)
                 for k, s in enumerate(segments)]
        return base.Adaptive(steps, self._score, self._thresholds, self.costs, self.model.order, self._full,
                             self.full_gmacs)

    def _run_segment(self, k, variables, state, frames):
        frames = None if frames is None else self.sight(frames)
        return run_segment(self.model, network(variables), k, state, frames)

    def _score(self, logits):
        return stopping.scores(logits)[:, self.rule]

    def _thresholds(self, variables):
        return variables.stats[RECORD]["thresholds"]

    def _full(self, variables, clips):
        return self.model.apply(network(variables), self.sight(clips), method="full")


def running(stats):
    """Statistics of the normalisation layers alone."""
    return {name: value for name, value in stats.items() if name != RECORD}


def network(variables) -> dict:
    """What `model.apply` takes."""
    return {"params": variables.params, "batch_stats": running(variables.stats)}
