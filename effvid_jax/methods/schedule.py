"""When the parts of a combination come in: each from a share of the run on, at once or over a further share.

    share(t) = clip((t / steps - from) / ramp, 0, 1)        steps: of the whole run; ramp 0: a step

    reskd    its term times the share
    exits    the weights of all checkpoints but the last times the share
    gates    convolutions are plain at 0, gated at 1 (`effvid_jax/gating/surroundings.py`), and so is their
             cost; their term times the share

`exits_from=0.3, gates_from=0.6` is: first a static student, then its exits, then its gates. The step is
counted in `Variables.stats`, so that a run goes on bit for bit, and what is evaluated on the way is what
trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from effvid_jax.errors import UserError

RECORD = "schedule"  # in `Variables.stats`: steps made, and of how many
PARTS = ("reskd", "exits", "gates")


class Schedule:
    """The plan of a method's settings, `<part>_from` and `<part>_ramp`.

    Attributes:
        plan: (from, ramp) of the parts that are not there from the first step on.

    Raises:
        UserError: a part that is not all there when the run ends.
    """

    def __init__(self, settings, parts):
        self.plan = {}
        for name in parts:
            start, ramp = getattr(settings, f"{name}_from"), getattr(settings, f"{name}_ramp")
            if start + ramp > 1:
                raise UserError(f"config.method.{name}_from={start} and config.method.{name}_ramp={ramp} are "
                                f"shares of the run: expected a sum of at most 1, or it ends before "
                                f"{name!r} is all there.")
            if start or ramp:
                self.plan[name] = start, ramp

    @staticmethod
    def begin(num_steps: int) -> dict[str, Any]:
        """The record before the first step."""
        return {"made": jnp.zeros((), jnp.int32), "steps": jnp.asarray(num_steps, jnp.int32)}

    @staticmethod
    def after(record) -> dict[str, Any]:
        """The record after one more step."""
        return {**record, "made": record["made"] + 1}

    def shares(self, record) -> Mapping[str, Any]:
        """How far each part of the plan has come in, 0 to 1. A run of unknown length has all of them."""
        if not self.plan:
            return {}
        steps = record["steps"].astype(jnp.float32)
        here = jnp.where(steps > 0, record["made"] / jnp.maximum(steps, 1), 1.0)
        return {name: jnp.clip((here - start) / ramp, 0, 1) if ramp else (here >= start).astype(jnp.float32)
                for name, (start, ramp) in self.plan.items()}
