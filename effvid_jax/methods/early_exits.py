"""The part that stops: a network with exits whose videos are answered at the first checkpoint that is sure.

Loss and settings are those of `dynamic_inference.py`, how videos stop is in `stops.py`, the rules and the
searches of thresholds in `effvid_jax/exits/` (`rules.py`, `stopping.py`, `risk.py`). Where the network has
gated convolutions too, a gate decides for the frames that a segment gives it, and never sees later ones. What
an answer cost is then its own: what the gates of its segments computed, up to where it stopped. `predict`
then runs one segment after the other, as the executor does.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from effvid_jax.cost.exits import all_heads_cost, route_costs
from effvid_jax.errors import UserError
from effvid_jax.exits import curve, judge
from effvid_jax.exits.network import run_segment
from effvid_jax.losses import weighted_mean
from effvid_jax.methods import base
from effvid_jax.methods.parts import Part, Term
from effvid_jax.methods.stops import RECORD, Calibrated, along_route


class Exits(Calibrated, Part):
    """The exits of `config.model.exits`.

    Args:
        config, task, settings: see `Part`; settings are those of `dynamic_inference.DynamicInference`.
        checkpoint_loss: (settings, task, logits (B, m, K), batch, share) -> (value, scalars).

    Raises:
        UserError: a task without scores of classes; settings that do not fit the route.
    """

    name, records = "exits", (RECORD,)

    def __init__(self, config, task, settings, checkpoint_loss):
        super().__init__(config, task, settings)
        self.begin()
        self.checkpoint_loss = checkpoint_loss

    def bind(self, method):
        """See `Part.bind`."""
        super().bind(method)
        self.model, self.order = method.model, method.model.order
        self.settings.check_lengths(self.m, f"this route has {self.m} checkpoints: "
                                            f"{[tuple(c) for c in self.route]}", "loss_weights")
        if self.settings.rule == "learned" and not self.model.judge_width:
            raise UserError("config.method.rule='learned' reads heads that this network does not have: train "
                            "it with config.model.exits.judge=32 (hidden units), or use another rule.")
        side = method.resolution or self.config.data.test_crop_size
        self.clip_shape = (self.config.model.exits.frames, side, side, 3)  # that the network sees
        self.costs, self.full_gmacs = route_costs(self.model, self.clip_shape)

    def init(self, variables, rng, clip_shape):
        """See `Part.init`; until it is calibrated nothing stops early."""
        return variables.replace(stats=self.with_record(variables.stats))

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
        scores = self.scores(logits, None if sure is None else sure.reshape(b, v, self.m).mean(axis=1))
        return self.stopped(logits, scores[..., self.rule], self.thresholds_of(variables), v,
                            stop_scores=scores)

    def _checkpoints(self, variables, clips):
        """Logits (B, m, K), and what the judges say (B, m), if there are any."""
        out = self.model.apply(self.method.network(variables), clips)[1]
        return out["checkpoints"], jax.nn.sigmoid(out["sure"]) if self.model.judge_width else None

    # ------------------------------------------------------------------------------- see `stops.py`
    @property
    def route(self):
        """See `Stops.route`."""
        return self.model.route

    @property
    def fulls(self):
        """See `Stops.fulls`; counted in three ways, see `dynamic_inference.py`."""
        every, paper = (all_heads_cost(self.model, self.clip_shape, rule) for rule in ("macs", "msdnet"))
        return super().fulls | {"full_gmacs_all_heads": (curve.ALL_HEADS, every),
                                "full_gmacs_paper": (curve.PAPER, paper)}

    @property
    def simulated(self):
        """See `Stops.simulated`."""
        return self.method.predict

    def steps(self):
        """See `Stops.steps`."""
        return along_route(self.model, self._run_segment)

    def _run_segment(self, k, variables, state, frames):
        frames = None if frames is None else self.method.sight(frames)
        return run_segment(self.model, self.method.network(variables), k, state, frames)

    def full(self, variables, clips):
        """See `Stops.full`."""
        return self.model.apply(self.method.network(variables), self.method.sight(clips), method="full")
