"""Steps that a method has made, for what changes as it learns; saved with the run, in its `stats`."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

RECORD = "steps"  # in `Variables.stats`


def begin(stats) -> dict[str, Any]:
    """Statistics of a new network with no step made."""
    return {**stats, RECORD: {"made": jnp.zeros((), jnp.int32)}}


def made(variables):
    """Steps before this one."""
    return variables.stats[RECORD]["made"]


def after(stats, variables) -> dict[str, Any]:
    """New statistics `stats` of the network's layers, with one step more."""
    return {**stats, RECORD: {"made": made(variables) + 1}}


def network(variables) -> dict[str, Any]:
    """What `apply` of the trained network takes."""
    return {"params": variables.params,
            "batch_stats": {name: x for name, x in variables.stats.items() if name != RECORD}}
