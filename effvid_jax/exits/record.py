"""What the calibration videos scored: saved with a network, so that thresholds can be chosen anew."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.errors import UserError
from effvid_jax.exits import rules, stopping

NAME = "stopping"  # in `Variables.stats`
_FIRST = len(rules.OF_AN_ANSWER)


def begin(size: int, num_checkpoints: int) -> dict:
    """The record before calibration: nothing stops early.

    Args:
        size: calibration videos, at most.
        num_checkpoints: m.

    Returns:
        'thresholds' (m,), 'count' (), 'scores' (size, m, 3) and 'more_scores' (size, m, 2; younger than some
        checkpoints) in the order of `rules.RULES`, 'hits' (size, m): whether the answers are right.
    """
    m = num_checkpoints
    return {"thresholds": jnp.array([stopping.NEVER] * (m - 1) + [-stopping.NEVER], jnp.float32),
            "count": jnp.zeros((), jnp.int32), "scores": jnp.zeros((size, m, _FIRST)),
            "more_scores": jnp.full((size, m, len(rules.RULES) - _FIRST), rules.UNKNOWN),
            "hits": jnp.zeros((size, m), bool)}


def of_videos(scores_NmR, hits_Nm, size: int) -> dict:
    """Entries of the record of calibration videos, see `chosen`.

    Args:
        scores_NmR: of all `rules.RULES`; of the first ones alone where no more are known.
        hits_Nm: whether the answers are right.
        size: see `begin`.
    """
    n, m, known = scores_NmR.shape
    missing = np.full((n, m, len(rules.RULES) - known), rules.UNKNOWN, np.float32)
    scores = np.concatenate([scores_NmR, missing], axis=-1)
    found = {"scores": scores[..., :_FIRST], "more_scores": scores[..., _FIRST:], "hits": hits_Nm}
    return {"count": jnp.asarray(min(size, n), jnp.int32),
            **{name: chosen(values, size) for name, values in found.items()}}


def chosen(values_N, size: int) -> jax.Array:
    """Values of `size` calibration videos: evenly chosen of more, repeated where there are fewer."""
    n = len(values_N)
    index = np.linspace(0, n - 1, min(size, n)).round().astype(int)
    return jnp.asarray(np.resize(values_N[index], (size, *values_N.shape[1:])))


def known(record, rule: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(scores (n, m), right answers (n, m)) of the calibration videos by a rule; None if it scored none."""
    count, column = int(record["count"]), rules.RULES.index(rule)
    name, column = ("scores", column) if column < _FIRST else ("more_scores", column - _FIRST)
    if not count or name not in record:
        return None
    found = np.asarray(record[name])[:count, :, column]
    return None if (found == rules.UNKNOWN).any() else (found, np.asarray(record["hits"])[:count])


def unknown(record, rule: str) -> UserError:
    """The error of a search by a rule that did not score the calibration videos."""
    return UserError(
        f"config.method.rule={rule!r}: the {int(record['count'])} calibration videos of this checkpoint were "
        f"scored by older code, which did not know it: use one of {list(rules.OF_AN_ANSWER)}, or give "
        f"{'config.method.patience' if rule == 'patience' else 'config.method.thresholds'}.")
