"""What answers a task in place of a backbone's classifier: heads over its maps, pure Flax modules too.

A head takes the maps that a `Backbone` returns by name and gives the outputs of its task; `Headed` joins the
two. A task that needs one makes it in `Task.head`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from effvid_jax.heads.headed import Headed


def module_fields(model) -> dict[str, Any]:
    """`dropout`, `bn_groups` and `dtype` of a head's modules, from `config.model` as the backbone's."""
    return {"dropout": model.dropout, "bn_groups": model.bn_groups or jax.device_count(),
            "dtype": jnp.bfloat16 if model.dtype == "bfloat16" else None}


__all__ = ["Headed", "module_fields"]
