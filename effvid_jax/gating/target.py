"""A cost to reach: the weight of the efficiency term, moved in every step until the cost is as it should be.

    weight = strength * (clip((share + 10 trend - target) / 0.03, -1, 1) + integral)

share: what a batch costs, in multiply-adds of the static network, smoothed; trend: its change in a step;
integral: what it takes to hold the target, at most ten times the strength. Far above the target the weight
is the strength (`config.method.efficiency_weight`), and grows where that is not enough. Gates of all layers
start alike and close at about the same time: looking 10 steps ahead, and a weight that is negative below the
target, keep the cost from falling through. As the learning rate falls, it settles. All constants are ours,
found on a model of gates as integrators with momentum, which `tests/unit/test_gate_target.py` has.

The state is in `Variables.stats`, so it is saved with a run, which goes on bit for bit.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

RECORD = "gate_target"  # in `Variables.stats`
BAND = 0.03  # distance to the target from which the strength is used in full
AHEAD = 10  # steps
KEEP = 0.8  # of the smoothed share, per step
RATE = 0.02  # of the integral, per step
LIMIT = 10.0
UNWIND = 0.9  # of a positive integral, per step, where the cost is too low by more than half a band


def begin() -> dict[str, Any]:
    """The state before the first step: everything is computed."""
    return {"share": jnp.ones(()), "trend": jnp.zeros(()), "integral": jnp.zeros(())}


def weight(state, target: float, strength: float):
    """The weight for the next step; negative where the cost is to rise."""
    return strength * (_error(state, target) + state["integral"])


def update(state, share, target: float) -> dict[str, Any]:
    """The state after a step whose batch had the cost `share`, in multiply-adds of the static network."""
    smooth = KEEP * state["share"] + (1 - KEEP) * share
    trend = KEEP * state["trend"] + (1 - KEEP) * (smooth - state["share"])
    new = {"share": smooth, "trend": trend}
    integral = jnp.clip(state["integral"] + RATE * _error(new, target), -1.0, LIMIT)
    fallen = (smooth < target - BAND / 2) & (integral > 0)
    return new | {"integral": jnp.where(fallen, UNWIND * integral, integral)}


def _error(state, target):
    return jnp.clip((state["share"] + AHEAD * state["trend"] - target) / BAND, -1.0, 1.0)
