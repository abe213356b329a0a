"""What a method is made of: one network, a loss that is a sum of terms over it, an answer that has its cost.

    L = sum over the parts of their terms, all of one forward pass

    part            file                    its term                                   at inference
    `Answers`       parts.py                cross-entropy of the answer                -
    `Exits`         early_exits.py          cross-entropy at every checkpoint          stops
    `Teacher`       teacher.py              what a frozen network's features differ    -
    `Gates`         gated.py                what the convolutions compute              computes less

A recipe is a `Composed` with its list of parts: a paper's equations and settings are in its own file
(`reskd.py`, `dynamic_inference.py`, `va_red2.py`), and `combined.py` has any of them together.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from effvid_jax import checkpoint
from effvid_jax.losses import weighted_mean
from effvid_jax.methods import base, building


class Pass(NamedTuple):
    """What a training step's forward pass gave, for the parts' terms. Traced.

    Attributes:
        params: of the gradient, with what is no part of the network.
        weights: what `apply` of the network took.
        variables: before the step.
        batch: as it came: `video` (B, T, H, W, 3), what is true of it, `mask` (B,).
        clips: as the network saw them (B, T, side, side, 3).
        logits: (B, K), of the last checkpoint.
        out: named maps of the network.
        updated: collections that `apply` gave back.
        rng: of the term, for parts that draw.
        shares: how far parts have come in, by name; without a schedule {}: see `schedule.py`.
    """

    params: Any
    weights: Mapping[str, Any]
    variables: base.Variables
    batch: Mapping[str, Any]
    clips: Any
    logits: Any
    out: Mapping[str, Any]
    updated: Mapping[str, Any]
    rng: Any
    shares: Mapping[str, Any]

    def ramped(self, part: str, value):
        """A term, or a weight, as far as its part has come in."""
        return value * self.shares[part] if part in self.shares else value


class Term(NamedTuple):
    """A part's contribution to the loss.

    Attributes:
        value: scalar.
        scalars: to log.
        stats: what is new in `Variables.stats` under names of the part's own.
    """

    value: Any
    scalars: Mapping[str, Any]
    stats: Mapping[str, Any] = {}


class Part(abc.ABC):
    """One idea, as far as it concerns a network that it shares with others.

    Args:
        config: a resolved config.
        task: what the network is asked.
        settings: fields of `config.method`; those of the part's paper are among them.

    Attributes:
        name: in a schedule, and in `config.method.parts`.
        loss_name: of its term in what is logged.
        collections: of the network that it reads, beside 'batch_stats'.
        records: names in `Variables.stats` that are its own, no statistics of the network.
        draws: whether its term needs random numbers.
        method: whose network it shares.
    """

    name: str = ""
    loss_name: str = "loss_cls"
    collections: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    draws: bool = False

    def __init__(self, config, task, settings):
        self.config, self.task, self.settings = config, task, settings
        self.method: Composed

    def fields(self) -> dict[str, Any]:
        """Fields of the backbone that no config can hold, see `building.build_backbone`."""
        return {}

    def bind(self, method: Composed) -> None:
        """Called once, when the network is built."""
        self.method = method

    def init(self, variables: base.Variables, rng, clip_shape) -> base.Variables:
        """The variables with the part's own; `clip_shape` as for `Method.init`."""
        del rng, clip_shape
        return variables

    def check_split(self, split) -> None:
        """See `Method.check_split`."""

    def prepare(self, split):
        """See `Method.prepare`."""
        return split

    @property
    def batch_fields(self) -> Mapping[str, Any]:
        """See `Method.batch_fields`: what `prepare` adds to the task's."""
        return {}

    @abc.abstractmethod
    def term(self, seen: Pass) -> Term:
        """What is added to the loss. Traced."""


class Answers(Part):
    """The task's loss on the answer: CE(logits, y), mean over the batch."""

    def term(self, seen):
        """See `Part.term`."""
        value = weighted_mean(self.task.loss(seen.logits, seen.batch), seen.batch["mask"])
        return Term(value, self.task.batch_scalars(seen.logits, seen.batch))


class Composed(base.Method):
    """A method that is made of parts; a subclass names them.

    Attributes:
        parts: whose terms are summed, in this order.
        model: the network that they share.
    """

    def __init__(self, config, task):
        super().__init__(config, task)
        self.parts: Sequence[Part] = self.make_parts()
        self.model = self.make_network()
        for part in self.parts:
            part.bind(self)

    @abc.abstractmethod
    def make_parts(self) -> Sequence[Part]:
        """The parts, made anew."""

    def make_network(self):
        """The module of `config.model`, with what the parts change of it."""
        return building.build_network(self.config.model, self.task, **self._fields())

    def _fields(self) -> dict:
        """Fields of the backbone that no config can hold, see `building.build_backbone`."""
        return {name: field for part in self.parts for name, field in part.fields().items()}

    def init(self, rng, clip_shape):
        """See `Method.init`; every part adds its own.

        Raises:
            UserError: what a part finds that does not fit.
        """
        params, stats = building.init_backbone(self.model, rng, self.seen_shape(clip_shape))
        variables = base.Variables(params, stats)
        for part in self.parts:
            variables = part.init(variables, rng, clip_shape)
        return variables

    def check_split(self, split):
        """See `Method.check_split`; every part's."""
        for part in self.parts:
            part.check_split(split)

    def prepare(self, split):
        """See `Method.prepare`; every part's."""
        for part in self.parts:
            split = part.prepare(split)
        return split

    @property
    def batch_fields(self):
        """See `Method.batch_fields`."""
        return {**super().batch_fields, **{name: field for part in self.parts
                                           for name, field in part.batch_fields.items()}}

    def seen_shape(self, clip_shape) -> tuple[int, ...]:
        """(B, T, side, side, 3) of what the network sees of clips (B, T, H, W, 3)."""
        side = self.resolution
        return (*clip_shape[:2], side, side, clip_shape[-1]) if side else tuple(clip_shape)

    def loss(self, params, variables, batch, rng):
        """See `Method.loss`; the sum of the parts' terms."""
        drawing = [part for part in self.parts if part.draws]
        own, *others = jax.random.split(rng, 1 + len(drawing)) if drawing else (rng,)
        weights = {"params": {name: x for name, x in params.items() if name != checkpoint.TRAINING_ONLY},
                   "batch_stats": self.network_stats(variables.stats)}
        collections = [name for part in self.parts for name in part.collections]
        clips = self._clips(batch)
        shares = self.shares(variables.stats)
        with self.tracing(shares):
            (logits, out), updated = self.model.apply(
                weights, clips, train=True, rngs={"dropout": own}, mutable=["batch_stats", *collections])
        seen = Pass(params, weights, variables, batch, clips, logits, out, updated, None, shares)
        total, scalars, stats = None, {}, self.recorded(variables.stats)
        for part in self.parts:
            key = others[drawing.index(part)] if part.draws else None
            term = part.term(seen._replace(rng=key))
            total = term.value if total is None else total + term.value
            scalars |= term.scalars | ({part.loss_name: term.value} if len(self.parts) > 1 else {})
            stats |= term.stats
        return total, ({**updated.get("batch_stats", {}), **stats}, {**scalars, "loss": total})

    @property
    def records(self) -> tuple[str, ...]:
        """Names in `Variables.stats` that are no statistics of the network."""
        return tuple(name for part in self.parts for name in part.records)

    def network_stats(self, stats) -> dict[str, Any]:
        """Those of the network alone."""
        return {name: x for name, x in stats.items() if name not in self.records}

    def recorded(self, stats) -> dict[str, Any]:
        """The others, as they are before a step."""
        return {name: x for name, x in stats.items() if name in self.records}

    def network(self, variables) -> dict[str, Any]:
        """What `apply` of the network takes."""
        return {"params": variables.params, "batch_stats": self.network_stats(variables.stats)}

    def shares(self, stats) -> Mapping[str, Any]:
        """How far parts have come in, by name; {}: all of them have, and none waits for a step. Traced."""
        del stats
        return {}

    def tracing(self, shares):
        """The context in which the network is traced."""
        del shares
        return contextlib.nullcontext()

    def predict(self, variables, batch):
        """See `Method.predict`; of a network that computes everything for every clip."""
        return base.predict_views(self.model, self.task, self.sight, variables.network, batch,
                                  self.views_per_pass)
