"""When to stop: thresholds from a calibration set, accuracy against cost.

A video stops at the first checkpoint k whose score (`rules.py`) reaches its threshold; the last one always
answers. A score that is not a number (logits that are not finite) reaches no threshold: the video goes on.

Thresholds are chosen on calibration videos. The paper does not say how; there are two searches:

    'msdnet'     of the videos the share q_k ~ r^k is to stop at checkpoint k, the most confident ones of
                 those still there (`adaptive_inference.py` of MSDNet-PyTorch). Looks at scores only.
    'accuracy'   the thresholds with the most right answers minus lambda x cost (ours). It knows which
                 answers are right, so a checkpoint that answers badly is passed by.

Both are families of one number, r or lambda: sweeping it draws the accuracy-cost curve, and
`thresholds_for_budget` finds the one whose mean cost keeps a budget on these videos. What can be promised of
others is in `risk.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from effvid_jax.errors import UserError
from effvid_jax.exits import rules
from effvid_jax.exits.rules import RULES, scores  # noqa: F401 - their first home

SEARCHES = ("msdnet", "accuracy")
NEVER = 1e8  # a threshold that no score reaches, as in the reference; finite, so that it can be saved
RATIOS = tuple(s / 20 for s in range(1, 40))  # the reference's sweep


class Point(NamedTuple):
    """One operating point: mean cost and accuracy over a set of videos.

    GMACs are those of the costs that were given: of a view, or of a video with all of them.

    `parameter` is the number of its family: r or lambda.
    """

    parameter: float
    gmacs: float
    accuracy: float


def check_finite(scores_Nm, what: str) -> None:
    """Raises UserError where a score is not finite: no threshold can be chosen by it.

    Args:
        scores_Nm: at every checkpoint.
        what: whose they are.
    """
    bad = ~np.isfinite(np.asarray(scores_Nm))
    if bad.any():
        raise UserError(
            f"{bad.any(axis=1).sum()} of {len(bad)} scores of {what} are not finite, at checkpoint(s) "
            f"{', '.join(str(k + 1) for k in np.flatnonzero(bad.any(axis=0)))} of {bad.shape[1]}: these "
            f"weights are damaged or diverged; use an earlier saved step, or train with a lower "
            f"config.optim.lr.")


def exits_taken(scores_Nm, thresholds_m):
    """First checkpoint (from 0) whose score reaches its threshold; the last one takes the rest. (N,)

    NaN reaches no threshold, as in `executor`.
    """
    stop = scores_Nm >= thresholds_m
    stop = jnp.concatenate([stop[:, :-1], jnp.ones_like(stop[:, :1])], axis=1)
    return stop.argmax(axis=1)


def by_hand(settings, num_checkpoints: int) -> tuple[float, ...]:
    """Thresholds (m,) for which no calibration video is asked; () if there are none.

    Args:
        settings: a method's `CalibratedSettings`: `patience` (so many agreeing checkpoints, at all alike),
            `thresholds`.
        num_checkpoints: m.
    """
    if settings.patience:
        return (rules.of_row(settings.patience, num_checkpoints),) * (num_checkpoints - 1) + (-NEVER,)
    return tuple(settings.thresholds)


def geometric_shares(num_checkpoints: int, ratio: float) -> np.ndarray:
    """Shares proportional to ratio^k, k = 1..m; below 1 favours early checkpoints."""
    shares = np.exp(np.log(ratio) * np.arange(1, num_checkpoints + 1, dtype=np.float64))
    return shares / shares.sum()


def find_thresholds(scores_Nm, shares_m: Sequence[float]) -> np.ndarray:
    """Thresholds with which about the given share of the videos stops at each checkpoint.

    Args:
        scores_Nm: of the calibration videos at every checkpoint.
        shares_m: target shares, adding up to 1.

    Returns:
        (m,) float32: T_k is the score of the floor(N q_k)-th of the videos that are still there, best
        first; `NEVER` where that number is 0; -`NEVER` for the last.
    """
    all_scores = np.asarray(scores_Nm, np.float32)
    n, m = all_scores.shape
    there = np.ones(n, bool)
    thresholds = np.full(m, NEVER, np.float32)
    for k in range(m - 1):
        count = int(np.floor(n * shares_m[k] + 1e-9))
        left = np.sort(all_scores[there, k])[::-1]
        if count and len(left):
            thresholds[k] = left[min(count, len(left)) - 1]
            there &= all_scores[:, k] < thresholds[k]
    thresholds[-1] = -NEVER
    return thresholds


def spent(costs, taken_N) -> np.ndarray:
    """What videos cost that stop at these checkpoints, (N,).

    Args:
        costs: (m,), the same for all of them, or (N, m).
    """
    costs = np.asarray(costs, np.float64)
    return costs[taken_N] if costs.ndim == 1 else costs[np.arange(len(taken_N)), taken_N]


def mean_costs(costs) -> np.ndarray:
    """(m,) of costs (m,), or of each video (N, m)."""
    costs = np.asarray(costs, np.float64)
    return costs if costs.ndim == 1 else costs.mean(axis=0)


def operating_point(scores_Nm, hits_Nm, costs_m, thresholds_m,
                    parameter: float = float("nan")) -> Point:
    """Mean cost and accuracy of a set of videos under given thresholds."""
    taken = np.asarray(exits_taken(jnp.asarray(scores_Nm), jnp.asarray(thresholds_m)))
    rows = np.arange(len(taken))
    return Point(parameter, float(spent(costs_m, taken).mean()),
                 float(np.asarray(hits_Nm)[rows, taken].mean()))


def best_thresholds(scores_Nm, hits_Nm, costs_m, price: float, rounds: int = 4) -> np.ndarray:
    """Thresholds with the largest mean of (right answer) - price x cost on the given videos.

    One threshold after the other is set to its best value, the others fixed, from the last checkpoint to
    the first; a few rounds suffice.

    Args:
        scores_Nm, hits_Nm: of the calibration videos.
        costs_m: cumulative cost of stopping at each checkpoint; or of each video (N, m).
        price: lambda, right answers per GMAC.

    Returns:
        (m,) float32.
    """
    values = np.asarray(scores_Nm, np.float32)
    gain = np.asarray(hits_Nm, np.float64) - price * np.asarray(costs_m, np.float64)
    n, m = values.shape
    thresholds = np.array([NEVER] * (m - 1) + [-NEVER], np.float32)
    for _ in range(rounds):
        before = thresholds.copy()
        later = gain[:, -1].copy()  # what a video earns if it goes on
        for k in reversed(range(m - 1)):
            there = np.all(values[:, :k] < thresholds[:k], axis=1)
            order = np.flatnonzero(there)[np.argsort(-values[there, k], kind="stable")]
            if len(order):
                # Stopping the j most confident ones; equal scores stop together.
                earned = np.concatenate([[0.0], np.cumsum(gain[order, k] - later[order])])
                ends = np.append(values[order[:-1], k] > values[order[1:], k], True)
                allowed = np.concatenate([[True], ends])
                count = int(np.argmax(np.where(allowed, earned, -np.inf)))
                thresholds[k] = values[order[count - 1], k] if count else NEVER
            later = np.where(values[:, k] >= thresholds[k], gain[:, k], later)
        if np.array_equal(before, thresholds):
            break
    return thresholds


def check_budget(costs_m: Sequence[float], budget: float, full: float = 0.0, views: int = 1) -> None:
    """Refuses a budget that no thresholds keep.

    Args:
        costs_m: cumulative cost of stopping at each checkpoint, in GMACs of a view.
        budget: mean GMACs of a view.
        full: of full inference with a view, whose share `config.method.budget` is; 0 for a budget in GMACs.
        views: of a video, for the message.

    Raises:
        UserError: less than the first checkpoint costs.
    """
    if not budget >= costs_m[0]:
        least = costs_m[0] / full if full else views * costs_m[0]
        field, unit = "budget" if full else "budget_gmacs", f"with its {views} views " if views > 1 else ""
        raise UserError(
            f"config.method.{field} allows {views * budget:.4g} GMACs per video {unit}on average, less than "
            f"stopping every video at the first checkpoint costs ({views * costs_m[0]:.4g}); the last one "
            f"costs {views * costs_m[-1]:.4g}. Expected: {np.ceil(1e3 * least) / 1e3:g} or more.")


def thresholds_for_budget(scores_Nm, hits_Nm, costs_m: Sequence[float], budget: float,
                          search: str = "accuracy") -> np.ndarray:
    """Thresholds of a family whose mean cost on the calibration videos is at most `budget`.

    Args:
        scores_Nm, hits_Nm: of the calibration videos.
        costs_m: cumulative cost of stopping at each checkpoint, in GMACs of a view; or of each video (N, m).
        budget: mean GMACs of a view.
        search: one of `SEARCHES`.

    Raises:
        UserError: unknown search; less than the first checkpoint costs; a score that is not finite.
    """
    costs = np.asarray(costs_m, np.float64)
    check_finite(scores_Nm, "the calibration videos")
    if search not in SEARCHES:
        raise UserError(f"config.method.search={search!r}: expected one of {list(SEARCHES)}.")
    means = mean_costs(costs)
    check_budget(means, budget)

    def choose(log_parameter):
        if search == "msdnet":
            shares = geometric_shares(len(means), np.exp(log_parameter))
            return find_thresholds(scores_Nm, shares)
        return best_thresholds(scores_Nm, hits_Nm, costs, np.exp(-log_parameter) / means[-1])

    def keeps(thresholds):
        return operating_point(scores_Nm, hits_Nm, costs, thresholds).gmacs <= budget

    low, high = -12.0, 12.0  # the mean cost grows with this, up to rounding
    best = np.full(len(means), -NEVER, np.float32)
    dearer = np.array([NEVER] * (len(means) - 1) + [-NEVER], np.float32)
    for _ in range(30):
        middle = (low + high) / 2
        thresholds = choose(middle)
        if keeps(thresholds):
            low, best = middle, thresholds
        else:
            high, dearer = middle, thresholds
    # The family may jump over the budget, or see no right answer to gain beyond some cost: what is left of
    # the budget buys caution, thresholds between the ones found and the next dearer ones.
    values, near, far = np.asarray(scores_Nm, np.float32), 0.0, 1.0
    if keeps(dearer):
        return dearer
    for _ in range(12):
        middle = (near + far) / 2
        near, far = (middle, far) if keeps(_between(values, best, dearer, middle)) else (near, middle)
    return _between(values, best, dearer, near) if near else best


def _between(scores_Nm, first_m, second_m, share: float) -> np.ndarray:
    """Thresholds that stop as many videos as lies between what two others stop, checkpoint by checkpoint."""
    out = np.full(len(first_m), -NEVER, np.float32)
    for k in range(len(out) - 1):
        below = [(scores_Nm[:, k] < t).sum() for t in (first_m[k], second_m[k])]
        rank = round((1 - share) * below[0] + share * below[1])
        out[k] = np.sort(scores_Nm[:, k])[rank] if rank < len(scores_Nm) else NEVER
    return out


def family(search: str) -> str:
    """The search whose curve is shown for one of the config: its own, or that of 'accuracy'."""
    return search if search in SEARCHES else "accuracy"


def sweep(known_scores_Nm, known_hits_Nm, scores_Nm, hits_Nm, costs_m, search: str) -> list[Point]:
    """The curve of a search: thresholds from the calibration videos ("known"), applied to others.

    39 points: the reference's ratios r, or prices from 0.01 to 100 answers per cost of full inference.
    """
    costs = np.asarray(costs_m, np.float64)
    if search == "msdnet":
        chosen = {r: find_thresholds(known_scores_Nm, geometric_shares(len(costs), r)) for r in RATIOS}
    else:
        chosen = {price: best_thresholds(known_scores_Nm, known_hits_Nm, costs, price / costs[-1])
                  for price in np.geomspace(0.01, 100, len(RATIOS))}
    return [operating_point(scores_Nm, hits_Nm, costs, thresholds, parameter)
            for parameter, thresholds in chosen.items()]
