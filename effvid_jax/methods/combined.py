"""One network with all three ideas, or some: it is distilled, stops early and computes what each clip needs.

    L = sum_k w_k CE(logits_k, y)  +  w * KD  +  lambda_e * L_e

    `parts`     term                               equations and settings
    'reskd'     w * KD, on the last maps           reskd.py
    'exits'     CE at every checkpoint             dynamic_inference.py; without it CE(logits, y)
    'gates'     lambda_e * L_e, over all pieces    va_red2.py

With one part this is that paper's method, bit for bit. They go together because distillation looks at named
features alone, exits at stages, and gates live inside of convolutions. Costs multiply: a clip pays for low
resolution, for the frames and depths up to where it stopped, and there for the channels and frames that its
gates asked for. `schedule.py` says when each part comes in; which order is best is measured, see
`docs/combined.md`.

At inference the teacher is gone. With exits and gates `predict` runs one segment after the other, and
`config.method.executor` really stops, with convolutions in their compact form.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from data_pipelines import Field
from effvid_jax.errors import UserError
from effvid_jax.gating import gates, surroundings
from effvid_jax.methods import base, dynamic_inference, early_exits, gated, reskd, stops, va_red2
from effvid_jax.methods.gated_exits import GatedExits
from effvid_jax.methods.parts import Answers, Composed
from effvid_jax.methods.schedule import PARTS, RECORD, Schedule
from effvid_jax.methods.teacher import Teacher, check_beside

PAPERS = {"reskd": reskd.Reskd, "exits": dynamic_inference.DynamicInference, "gates": va_red2.VaRed2}
_SETTINGS = tuple(paper.Settings for paper in PAPERS.values())
_SHARE = Field.number(0, 1)


class Combined(Composed):
    """The method of a config; reads `config.model`, `config.method` and the size of clips.

    Args:
        config, task: see `Method`.
        networks: see `reskd.Reskd`.

    Attributes:
        guide, exits, gates: the parts, None where they are off.

    Raises:
        UserError: what the parts refuse, or parts that the network does not have.
    """

    @dataclasses.dataclass(frozen=True)
    class Settings(*_SETTINGS):
        """Those of the three papers, and these. Those of a part that is off mean nothing."""

        workdirs: ClassVar = reskd.Reskd.Settings.workdirs
        training_only: ClassVar = (*(name for settings in _SETTINGS for name in settings.training_only),
                                   *(f"{part}_{what}" for part in PARTS for what in ("from", "ramp")))

        parts: tuple[str, ...] = PARTS  # any of: reskd | exits (with config.model.exits) | gates; ours
        reskd_from: float = 0.0  # share of the run after which the teacher's term comes in; ours
        reskd_ramp: float = 0.0  # over which share of the run its weight grows from 0; ours
        exits_from: float = 0.0  # the same of early exits; until then the end alone is trained; ours
        exits_ramp: float = 0.0
        gates_from: float = 0.0  # the same of gates; until then convolutions are plain; ours
        gates_ramp: float = 0.0

        bounds: ClassVar = {
            **{name: field for settings in _SETTINGS for name, field in settings.bounds.items()},
            **{f"{part}_{what}": _SHARE for part in PARTS for what in ("from", "ramp")}}

        def check(self, config):
            """See `MethodSettings.check`; of every part that is on."""
            if unknown := [name for name in self.parts if name not in PARTS]:
                raise UserError(f"config.method.parts={self.parts}: {unknown[0]!r} is unknown; expected some "
                                f"of {list(PARTS)}.")
            if len(set(self.parts)) < len(self.parts):
                raise UserError(f"config.method.parts={self.parts}: expected each part once.")
            if config.model.get("exits") and "exits" not in self.parts:
                raise UserError("config.model.exits is given, but config.method.parts has no 'exits': leave "
                                "it empty, or add the part.")
            for name in self.parts:
                PAPERS[name].Settings.check(self, config)
            Schedule(self, self.parts)

    def __init__(self, config, task, networks=None):
        self._networks = networks
        super().__init__(config, task)
        self._forms = {self.settings.form: self}
        self.calibrates = self.exits is not None
        self.pictures = {**(stops.PICTURES if self.exits else {}),
                         **(gated.PICTURES if self.gates else {})}
        self._num_steps = config.train.num_steps

    def make_parts(self):
        """See `Composed.make_parts`."""
        on, common = self.settings.parts, (self.config, self.task, self.settings)
        self.schedule = Schedule(self.settings, on)
        self.guide = self.exits = self.gates = None
        if "gates" in on:
            self.gates = va_red2.RedundancyGates(*common)
        if "exits" in on:
            kind = early_exits.Exits if self.gates is None else GatedExits
            self.exits = kind(*common, dynamic_inference.checkpoint_loss)
        if "reskd" in on:
            self.guide = Teacher(*common, reskd.distillation_loss,
                                 None if self._networks is None else self._networks[1:])
        return [part for part in (self.exits or Answers(*common), self.guide, self.gates) if part is not None]

    @classmethod
    def inference(cls, config, task):
        """See `Method.inference`: without the teacher."""
        config = config.copy_and_resolve_references()
        settings = cls.Settings.read(config.method)
        on = tuple(name for name in settings.parts if name != "reskd")
        config.method = dataclasses.replace(settings, parts=on).to_config()
        return cls(config, task)

    @classmethod
    def check_beside(cls, config, others):
        """See `Method.check_beside`: features that are subtracted have the same shape."""
        if "teacher" in others and "reskd" in cls.Settings.read(config.method).parts:
            check_beside(cls, config, others["teacher"])

    @property
    def references(self):
        """See `Method.references`."""
        return {} if self.guide is None else {"teacher": self.guide.predict}

    # ----------------------------------------------------------------------------------------- training
    def plan(self, num_steps):
        """See `Method.plan`."""
        self._num_steps = num_steps

    @property
    def records(self):
        """See `Composed.records`."""
        return (*super().records, RECORD)

    def init(self, rng, clip_shape):
        """See `Method.init`."""
        variables = super().init(rng, clip_shape)
        if not self.schedule.plan:
            return variables
        return variables.replace(stats={**variables.stats, RECORD: Schedule.begin(self._num_steps)})

    def loss(self, params, variables, batch, rng):
        """See `Method.loss`."""
        value, (stats, scalars) = super().loss(params, variables, batch, rng)
        if RECORD in stats:
            stats = {**stats, RECORD: Schedule.after(stats[RECORD])}
            scalars |= {f"share/{name}": x for name, x in self.shares(variables.stats).items()}
        return value, (stats, scalars)

    def shares(self, stats):
        """See `Composed.shares`."""
        return self.schedule.shares(stats[RECORD]) if RECORD in stats else {}

    def tracing(self, shares):
        """See `Composed.tracing`: gates are in use as far as they have come in."""
        return surroundings.used(shares.get("gates"))

    # ---------------------------------------------------------------------------------------- inference
    def predict(self, variables, batch):
        """See `Method.predict`; of the part that changes what an answer is, or what it costs."""
        if self.gates is not None and not self.gates.layer_names(variables.params):
            raise UserError("config.method.parts has 'gates', but these weights have none: give the config "
                            "that they were trained with, or none.")
        if self.exits is not None:
            return self.exits.predict(variables, batch)
        if self.gates is not None:
            with self.tracing(self.shares(variables.stats)):
                return self.gates.predict(variables, batch)
        return super().predict(variables, batch)

    def check_calibration(self):
        """See `Method.check_calibration`."""
        if self.exits is not None:
            self.exits.check_calibration()

    def calibrated(self, variables):
        """See `Method.calibrated`."""
        return self.exits is None or self.exits.calibrated(variables)

    def calibrate(self, variables, rows):
        """See `Method.calibrate`."""
        return variables if self.exits is None else self.exits.calibrate(variables, rows)

    def analyse(self, rows, variables, workdir, split):
        """See `Method.analyse`: what exits and gates tell."""
        told = {}
        if self.gates is not None and "ratios" in rows:  # where videos really stop, nobody knows them
            told |= self.gates.analyse(rows, variables, workdir, split)
        if self.exits is not None:
            told |= self.exits.analyse(rows, variables, workdir, split)
        return told

    def runners(self):
        """Those of exits; without them both forms of gates; without both the network as it is."""
        if self.exits is not None:
            return self.exits.runners()
        if self.gates is not None:
            return {form: base.Runner(predict=self.in_form(form).predict) for form in gates.FORMS}
        return super().runners()

    @property
    def runner(self):
        """`config.method.executor`, or without exits `config.method.form`."""
        if self.exits is not None:
            return self.exits.runner
        return self.settings.form if self.gates is not None else super().runner

    @property
    def segments(self) -> base.Adaptive:
        """The network in segments, see `Exits.segments`."""
        return self.exits.segments

    def in_form(self, form: str) -> Combined:
        """This network with gates in another form; made once, so that its functions are compiled once."""
        if form not in self._forms:
            config = self.config.copy_and_resolve_references()
            config.method = dataclasses.replace(self.settings, form=form).to_config()
            self._forms[form] = self.inference(config, self.task)
        return self._forms[form]
