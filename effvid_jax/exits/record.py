"""What the calibration videos scored: saved with a network, so that thresholds can be chosen anew."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.errors import UserError
from effvid_jax.exits import rules, stopping

NAME = "stopping"  # in `Variables.stats`


def begin(size: int, num_checkpoints: int, names=rules.RULES) -> dict:
    """The record before calibration: nothing stops early.

    Args:
        size: calibration videos, at most.
        num_checkpoints: m.
        names: of the rules, as for all functions here: `rules.RULES` or `rules.WITH_LOGIT`.

    Returns:
        'thresholds' (m,), 'count' (), 'scores' (size, m, A) of rules of an answer alone and 'more_scores'
        (size, m, 2; younger than some checkpoints) of the others, in the order of `names`, 'hits' (size, m):
        whether the answers are right.
    """
    m, alone = num_checkpoints, len(_alone(names))
    return {"thresholds": jnp.array([stopping.NEVER] * (m - 1) + [-stopping.NEVER], jnp.float32),
            "count": jnp.zeros((), jnp.int32), "scores": jnp.zeros((size, m, alone)),
            "more_scores": jnp.full((size, m, len(names) - alone), rules.UNKNOWN),
            "hits": jnp.zeros((size, m), bool)}


def of_videos(scores_NmR, hits_Nm, size: int, names=rules.RULES) -> dict:
    """Entries of the record of calibration videos, see `chosen`.

    Args:
        scores_NmR: of all `names`; of the first ones alone where no more are known.
        hits_Nm: whether the answers are right.
        size: see `begin`.
    """
    (n, m, known), alone = scores_NmR.shape, len(_alone(names))
    missing = np.full((n, m, len(names) - known), rules.UNKNOWN, np.float32)
    scores = np.concatenate([scores_NmR, missing], axis=-1)
    found = {"scores": scores[..., :alone], "more_scores": scores[..., alone:], "hits": hits_Nm}
    return {"count": jnp.asarray(min(size, n), jnp.int32),
            **{name: chosen(values, size) for name, values in found.items()}}


def chosen(values_N, size: int) -> jax.Array:
    """Values of `size` calibration videos: evenly chosen of more, repeated where there are fewer."""
    n = len(values_N)
    index = np.linspace(0, n - 1, min(size, n)).round().astype(int)
    return jnp.asarray(np.resize(values_N[index], (size, *values_N.shape[1:])))


def known(record, rule: str, names=rules.RULES) -> tuple[np.ndarray, np.ndarray] | None:
    """(scores (n, m), right answers (n, m)) of the calibration videos by a rule; None if it scored none."""
    count, column, alone = int(record["count"]), names.index(rule), len(_alone(names))
    name, column = ("scores", column) if column < alone else ("more_scores", column - alone)
    if not count or name not in record:
        return None
    found = np.asarray(record[name])[:count, :, column]
    if name == "more_scores" and (found == rules.UNKNOWN).any():  # the others may have any value
        return None
    return found, np.asarray(record["hits"])[:count]


def unknown(record, rule: str, names=rules.RULES) -> UserError:
    """The error of a search by a rule that did not score the calibration videos."""
    return UserError(
        f"config.method.rule={rule!r}: the {int(record['count'])} calibration videos of this checkpoint were "
        f"scored by older code, which did not know it: use one of {_alone(names)}, or give "
        f"{'config.method.patience' if rule == 'patience' else 'config.method.thresholds'}.")


def _alone(names) -> list[str]:
    """The rules of an answer alone; all checkpoints have their scores."""
    return [name for name in names if name in (*rules.OF_AN_ANSWER, rules.LOGIT)]
