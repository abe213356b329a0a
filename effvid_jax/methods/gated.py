"""What methods share whose convolutions decide, for every clip, what they compute (`effvid_jax/gating/`).

    L = CE(logits, y) + penalty

Cost of a clip: the plain network's, less what the convolutions do not compute, plus their overhead;
'gmacs_plain_ops' in `Prediction.extra` leaves the overhead out.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from effvid_jax.errors import UserError
from effvid_jax.gating import decisions, gates, ratios, variants
from effvid_jax.methods import base, sides
from effvid_jax.methods.parts import Answers, Composed, Part, Term

PICTURES = {"gate_ratios": ("Gates", "Share of each gated convolution that is computed, per class.")}


class Gates(Part):
    """Convolutions that leave a `Decision` in the collection 'gates'.

    Attributes:
        marker: end of the path of a parameter that every such convolution has.
        layers: regular expression of their paths.
        clip_by_clip: predict with batches of one clip.
    """

    name, loss_name, collections = "gates", "loss_efficiency", ("gates",)
    marker: str
    clip_by_clip: bool = False

    def __init__(self, config, task, settings):
        super().__init__(config, task, settings)
        self.layers = gates.layers_of(config.model.backbone, settings.layers)
        if config.model.get("exits"):  # the network is a backbone inside of another module
            self.layers = f"backbone/(?:{self.layers})"

    @abc.abstractmethod
    def make_conv(self) -> Callable:
        """The convolution class; those whose path matches `self.layers` decide."""

    @abc.abstractmethod
    def penalty(self, params, stats, found, logits, batch, clip_shape):
        """What is added to the task's loss, given the decisions that were found. Traced.

        Returns:
            The term; what is new in `Variables.stats` beside the network's own; scalars to log.
        """

    def fields(self):
        """See `Part.fields`."""
        return {"conv": self.make_conv()}

    def init(self, variables, rng, clip_shape):
        """See `Part.init`.

        Raises:
            UserError: no convolution of the network decides anything.
        """
        del rng, clip_shape
        if not self.layer_names(variables.params):
            raise UserError(
                f"config.method.layers={self.layers!r} matches no convolution of "
                f"{self.config.model.backbone!r}, or config.method.temporal and channel are both off.")
        return variables

    def layer_names(self, params) -> list[str]:
        """Paths of the convolutions that decide, in the order of `decisions`."""
        return decisions.layer_names(params, self.marker)

    def term(self, seen):
        """See `Part.term`: the penalty."""
        found, mask = list(gates.collect(seen.updated["gates"]).values()), seen.batch["mask"]
        value, own, told = self.penalty(seen.params, seen.variables.stats, found, seen.logits, seen.batch,
                                        seen.clips.shape[1:])
        if self.name in seen.shares:  # what steers the cost waits until gates are all in
            there = seen.shares[self.name] >= 1
            own = jax.tree.map(functools.partial(jnp.where, there), own,
                               {name: seen.variables.stats[name] for name in own})
        return Term(seen.ramped(self.name, value), {**decisions.statistics(found, mask), **told}, own)

    def predict(self, variables, batch):
        """See `Method.predict`."""
        video, method = batch["video"], self.method
        b, v = video.shape[:2]

        def look(clips):
            said = [self.run(variables.network, x) for x in sides.in_sides(self.task, clips)]
            return self.task.of_sides([x for x, _ in said]), decisions.of_sides([x for _, x in said])

        logits, found = base.over_views(look, video, method.sight, method.views_per_pass)
        plain_BV, overhead_BV = (x.reshape(b, v) for x in decisions.clip_gmacs(
            found, sides.gmacs_in_sides(method.model, self.task, base.clip_shape(video, method.resolution))))
        plain, overhead = plain_BV.sum(axis=1), overhead_BV.sum(axis=1)
        extra = {"ratios": jnp.stack([d.ratio for d in found], axis=1),
                 "computed": decisions.computed_share(found),
                 "dead": jnp.stack([decisions.is_dead(d) for d in found], axis=1).astype(jnp.float32)}
        extra = {name: x.reshape(b, v, *x.shape[1:]).mean(axis=1) for name, x in extra.items()}
        logits = logits.astype(jnp.float32).reshape(b, v, *logits.shape[1:])
        decided = jnp.stack([jnp.stack([variants.first_open(V, V.shape[1]) for V in (d.V_c, d.V_t)], axis=1)
                             for d in found], axis=1).astype(jnp.uint8)
        extra |= {"gmacs_plain_ops": plain, "clip_gmacs": plain_BV + overhead_BV,
                  "decisions": decided.reshape(b, v, *decided.shape[1:])}  # numbers of ratio and stride
        return base.Prediction(self.task.mean_of_views(logits), plain + overhead,
                               extra | base.clip_answers(self.task, logits)
                               | sides.cost_of_head(method.model, self.task, video, method.resolution))

    def run(self, variables, clips):
        """(logits, decisions in the order of the layers) of clips (B, T, H, W, 3)."""
        if self.clip_by_clip and clips.shape[0] != 1:
            found = jax.lax.map(lambda clip: self.run(variables, clip[None]), clips)
            return jax.tree.map(lambda x: x[:, 0], found)
        (logits, _), state = self.method.model.apply(variables, clips, mutable=["gates"])
        return logits, list(gates.collect(state["gates"]).values())

    def analyse(self, rows, variables, workdir, split):
        """What the gates did; see `gating.ratios.analyse`."""
        return ratios.analyse(rows, self.layer_names(variables.params), self.task, workdir, split,
                              decide=bool(decisions.layer_names(variables.params, self.marker)))


class Gated(Composed):
    """A network with `Gates`, and nothing else.

    Attributes:
        gates: the part, of the class that a subclass names in `gates_class`.
    """

    gates_class: type[Gates]
    pictures = PICTURES

    def make_parts(self):
        """See `Composed.make_parts`: CE(logits, y) + penalty."""
        self.gates = self.gates_class(self.config, self.task, self.settings)
        return Answers(self.config, self.task, self.settings), self.gates

    def layer_names(self, params) -> list[str]:
        """See `Gates.layer_names`."""
        return self.gates.layer_names(params)

    def decisions(self, variables, clips) -> list[variants.Decision]:
        """What every convolution decides for clips (B, T, H, W, 3); `variables`: of `apply`. Traced."""
        return self.gates.run(variables, clips)[1]

    def predict(self, variables, batch):
        """See `Method.predict`."""
        return self.gates.predict(variables, batch)

    def analyse(self, rows, variables, workdir, split):
        """See `Method.analyse` and `Gates.analyse`."""
        return self.gates.analyse(rows, variables, workdir, split)
