"""Fields of `config.model` that all modules of a network have in common, whoever makes them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from effvid_jax.errors import UserError

DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}  # None: follows the inputs


def module_fields(model) -> dict[str, Any]:
    """`dropout`, `dtype` and `bn_groups` (0 there: one a device) of a `config.model`, for modules.

    Raises:
        UserError: an unknown type.
    """
    return {"dropout": model.dropout, "dtype": compute_dtype(model.dtype),
            "bn_groups": model.bn_groups or jax.device_count()}


def compute_dtype(name: str):
    """Module dtype of a config's word, see `DTYPES`.

    Raises:
        UserError: another word.
    """
    if name not in DTYPES:
        raise UserError(f"config.model.dtype={name!r}: expected one of {sorted(DTYPES)}.")
    return DTYPES[name]
