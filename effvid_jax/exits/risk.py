"""Thresholds with a promise about videos not yet seen: how many errors early exits add, or what they cost.

    extra error    P(the end is right, the exit is not) - P(the exit is right, the end is not)
    promise        extra error <= epsilon, with probability 1 - delta over the draw of the calibration videos

It holds for any network and any distribution, as long as the videos to come are drawn as the calibration
videos were. Nothing is promised of a single video, nor after the data have changed. How ("learn then test",
Angelopoulos et al., arXiv 2110.01052; for early exits Jazbec et al., arXiv 2405.20915):

    learn    on a quarter of the calibration videos, at each checkpoint: P(loss | score), a logistic curve.
             One number tau then gives thresholds: stop where that is below tau x (what stopping here saves)
    test     on the others, from the smallest tau on, until a test of "the extra error is above epsilon" does
             not reject it at delta; the one before is taken. In a fixed order each may use the whole delta

Two tests, valid for any number of videos; the first quarter decides which of them a tau gets:

    losses   of n videos L were right in the end alone: P(Binomial(n, epsilon) <= L); ignores what exits win
    net      losses minus wins: P(so few | the worst distribution whose wins are not refuted at delta / 20),
             plus that delta / 20 (Berger and Boos 1994)

A budget is promised in the same way, by the bound of Hoeffding and Bentkus on a mean cost.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from effvid_jax import console
from effvid_jax.exits import stopping

SEARCH = "risk"  # in configs
LEARN = 0.25  # of the calibration videos
STEPS = 80  # values of tau
BUDGETS = 20  # of which the test is asked
SIDE = 20  # delta / SIDE of the net test is spent on how often exits win
EDGE = 1e-4  # scores nearer to 0 or 1 are alike


class Promise(NamedTuple):
    """What was found.

    Attributes:
        thresholds: (m,) float32; nothing stops where nothing can be promised.
        kept: whether any video stops early.
        gmacs: mean cost on the videos of the test, of a view as the costs are.
        most_gmacs: the mean cost of videos to come is no more, with probability 1 - delta of its own.
        extra_error: on the videos of the test.
        videos: their number.
    """

    thresholds: np.ndarray
    kept: bool
    gmacs: float
    most_gmacs: float
    extra_error: float
    videos: int

    def told(self, epsilon: float, delta: float) -> str:
        """A sentence for people."""
        if not self.kept:
            return (f"early exits: no video stops. An extra error of {epsilon:.3g} with probability "
                    f"{1 - delta:.3g} takes {least_videos(epsilon, delta)} calibration videos (there are "
                    f"{round(self.videos / (1 - LEARN))}), and exits that agree with the end")
        return (f"early exits: an extra error of at most {epsilon:.3g} with probability {1 - delta:.3g} "
                f"({self.extra_error:+.4f} on {self.videos} calibration videos), for {self.gmacs:.4g} GMACs "
                f"a view on average, at most {self.most_gmacs:.4g} with that probability")


def search(settings, scores_Nm, hits_Nm, costs_m, budget: float, span=None) -> np.ndarray:
    """Thresholds as a config's `search` asks for, with or without a promise, which is told.

    Args:
        settings: a method's `CalibratedSettings`: `search`, `epsilon`, `delta`, `budget_delta`.
        scores_Nm, hits_Nm, costs_m, span: see `thresholds_for_risk`.
        budget: mean GMACs of a view.

    Raises:
        UserError: see `stopping.thresholds_for_budget`.
    """
    if settings.search == SEARCH:
        found = thresholds_for_risk(scores_Nm, hits_Nm, costs_m, settings.epsilon, settings.delta, span)
        console.say(found.told(settings.epsilon, settings.delta))
        return found.thresholds
    known = scores_Nm, hits_Nm, costs_m, budget, settings.search
    if settings.budget_delta:
        found = thresholds_for_budget(*known, settings.budget_delta, span)
        if (found == -stopping.NEVER).all():
            console.say(f"early exits: {len(scores_Nm)} calibration videos promise no budget of {budget:.4g} "
                        f"GMACs a view with probability {1 - settings.budget_delta:.3g} but by stopping "
                        f"every video at the first checkpoint: more of them, or a larger budget, would")
        return found
    return stopping.thresholds_for_budget(*known)


def say_uncalibrated(settings) -> None:
    """Where a promise is asked for and no video was ever seen. `settings`: see `search`."""
    if settings.search == SEARCH or settings.budget_delta:
        console.say("early exits: this checkpoint has no calibration videos (its run has not ended), "
                    "so nothing can be promised and no video stops")


def least_videos(epsilon: float, delta: float) -> int:
    """Fewest calibration videos of which the test accepts thresholds without a single loss."""
    return math.ceil(math.ceil(math.log(delta) / math.log1p(-epsilon)) / (1 - LEARN))


def thresholds_for_risk(scores_Nm, hits_Nm, costs_m, epsilon: float, delta: float, span=None) -> Promise:
    """The cheapest thresholds found whose extra error is at most `epsilon` with probability 1 - `delta`.

    Args:
        scores_Nm, hits_Nm: of the calibration videos.
        costs_m: cumulative cost of stopping at each checkpoint, in GMACs of a view; or of each video (N, m).
        epsilon, delta: between 0 and 1, both excluded.
        span: GMACs that no video falls below and none exceeds; None: those of the first and last checkpoint.

    Raises:
        UserError: a score that is not finite.
    """
    stopping.check_finite(scores_Nm, "the calibration videos")
    scores, hits, costs = _arrays(scores_Nm, hits_Nm, costs_m)
    learn, test = _parts(len(scores))
    span, m, n = span or (costs[..., 0].min(), costs[..., -1].max()), scores.shape[1], len(test)
    best = np.array([stopping.NEVER] * (m - 1) + [-stopping.NEVER], np.float32)
    here, before = hits[test], None
    for thresholds in _path(scores[learn], hits[learn], stopping.mean_costs(costs)):
        taken = _taken(scores[test], thresholds)
        if before is not None and np.array_equal(taken, before):
            best = thresholds  # the same videos stop at the same places
            continue
        guess = [(x + 0.5) * n / len(learn) for x in _lost_and_won(
            hits[learn], _taken(scores[learn], thresholds))]
        if _p_of_extra_error(*_lost_and_won(here, taken), n, epsilon, delta, *guess) > delta:
            break
        best, before = thresholds, taken
    taken = _taken(scores[test], best)
    lost, won = _lost_and_won(here, taken)
    spent = stopping.spent(_of(costs, test), taken) if n else np.array([span[1]])
    return Promise(best, bool((taken < m - 1).any()), float(spent.mean()), _most(spent, span, delta),
                   (lost - won) / max(n, 1), n)


def thresholds_for_budget(scores_Nm, hits_Nm, costs_m, budget: float, search: str, delta: float,
                          span=None) -> np.ndarray:
    """Thresholds of a search whose mean cost on videos to come keeps a budget with probability 1 - `delta`.

    Args:
        scores_Nm, hits_Nm, costs_m, span: see `thresholds_for_risk`.
        budget: mean GMACs of a view.
        search: of `stopping.thresholds_for_budget`, which is given more and more until the test says no.
        delta: between 0 and 1, both excluded.

    Raises:
        UserError: see there.
    """
    scores, hits, costs = _arrays(scores_Nm, hits_Nm, costs_m)
    means, span = stopping.mean_costs(costs), span or (costs[..., 0].min(), costs[..., -1].max())
    stopping.check_budget(means, budget)
    learn, test = _parts(len(scores))
    best = np.full(len(means), -stopping.NEVER, np.float32)  # all stop at once: whatever comes, that is kept
    for share in np.linspace(0, 1, BUDGETS + 1)[1:] if len(learn) and len(test) else ():
        first = stopping.mean_costs(_of(costs, learn))[0]
        if budget < first:
            break
        found = stopping.thresholds_for_budget(scores[learn], hits[learn], _of(costs, learn),
                                               first + share * (budget - first), search)
        spent = stopping.spent(_of(costs, test), _taken(scores[test], found))
        if _p_of_cost(spent, span, budget) > delta:
            break
        best = found
    return best


# ------------------------------------------------------------------------------------- thresholds by tau
def _arrays(scores_Nm, hits_Nm, costs_m):
    return np.asarray(scores_Nm, np.float32), np.asarray(hits_Nm, bool), np.asarray(costs_m, np.float64)


def _of(costs, videos):
    """Costs (m,) or (N, m) of some of the videos."""
    return costs if costs.ndim == 1 else costs[videos]


def _parts(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Which videos are learned from, and which are tested on."""
    order = np.random.default_rng(0).permutation(count)
    return order[:int(LEARN * count)], order[int(LEARN * count):]


def _taken(scores_Nm, thresholds_m) -> np.ndarray:
    """`stopping.exits_taken` in numpy: it is asked for hundreds of thresholds."""
    stop = scores_Nm >= thresholds_m
    stop[:, -1] = True
    return stop.argmax(axis=1)


def _lost_and_won(hits_Nm, taken_N) -> tuple[int, int]:
    """How many are right in the end alone, and where they stopped alone."""
    found, end = hits_Nm[np.arange(len(hits_Nm)), taken_N], hits_Nm[:, -1]
    return int((end & ~found).sum()), int((found & ~end).sum())


def _path(scores_Nm, hits_Nm, costs_m) -> list[np.ndarray]:
    """Thresholds for growing tau; [] without videos."""
    if not len(scores_Nm):
        return []
    curves = [_curve(scores_Nm[:, k], hits_Nm[:, -1] & ~hits_Nm[:, k]) for k in range(len(costs_m) - 1)]
    saved = (costs_m[-1] - costs_m) / max(costs_m[-1] - costs_m[0], 1e-30)
    found = []
    for tau in np.geomspace(1e-4, 1, STEPS):
        thresholds = [_where(curve, min(tau * share, 1 - 1e-9)) for curve, share in zip(curves, saved)]
        found.append(np.array([*thresholds, -stopping.NEVER], np.float32))
    return found


def _curve(score_N, lost_N) -> tuple[float, float]:
    """(a, b) of P(loss | score) = sigmoid(a + b x), x the logit of the score, b <= 0.

    Logistic regression by Newton's method, with a little weight on a flat curve and on one loss and one other
    video, so that few losses or equal scores have a curve too.
    """
    x, y = _logit(score_N), np.asarray(lost_N, np.float64)
    mean, spread = x.mean(), x.std() + 1e-6
    x = np.concatenate([(x - mean) / spread, [0.0, 0.0]])
    y = np.concatenate([y, [0.0, 1.0]])
    columns, ridge, w = np.stack([np.ones_like(x), x], axis=1), np.array([0.0, 0.1]), np.zeros(2)
    for _ in range(25):
        p = special.expit(columns @ w)
        slope = columns.T @ (p - y) + ridge * w
        curvature = (columns * (p * (1 - p))[:, None]).T @ columns + np.diag(ridge + 1e-9)
        w = w - np.clip(np.linalg.solve(curvature, slope), -2, 2)
    if w[1] > 0:  # surer videos lose more: the score says nothing
        w = np.array([special.logit(y.mean()), 0.0])
    return float(w[0] - w[1] * mean / spread), float(w[1] / spread)


def _where(curve: tuple[float, float], most: float) -> float:
    """The least score at which a loss is at most so probable; `NEVER` or -`NEVER` where none or all are."""
    a, b = curve
    wanted = special.logit(most) if most > 0 else -np.inf
    if b > -1e-6:
        return -stopping.NEVER if a <= wanted else stopping.NEVER
    x = (wanted - a) / b
    if x >= _logit(1.0):
        return stopping.NEVER
    return float(special.expit(x) * (1 + 2 * EDGE) - EDGE)


def _logit(score):
    score = np.clip(np.asarray(score, np.float64), 0, 1)
    return np.log((score + EDGE) / (1 - score + EDGE))


# -------------------------------------------------------------------------------------------------- tests
def _p_of_extra_error(lost: int, won: int, n: int, epsilon: float, delta: float, likely_lost: float,
                      likely_won: float) -> float:
    """Of "the extra error is above epsilon". `likely_*`: guesses from other videos, which choose the test."""
    if not n:
        return 1.0
    if _p_losses(likely_lost, n, epsilon) <= _p_net(likely_lost, likely_won, n, epsilon, delta / SIDE):
        return _p_losses(lost, n, epsilon)
    return _p_net(lost, won, n, epsilon, delta / SIDE)


def _p_losses(lost: float, n: int, epsilon: float) -> float:
    return float(_binomial(round(lost), n, epsilon))


def _p_net(lost: float, won: float, n: int, epsilon: float, side: float) -> float:
    lost, won = min(round(lost), n), min(round(won), n)
    most = min(special.betaincinv(won + 1, n - won, 1 - side) if won < n else 1.0, (1 - epsilon) / 2)
    worst = 0.0
    for p_won in np.linspace(0, most, 8):  # smooth in between, and mostly largest at the end
        # Of all but 1e-9 of the draws; numbers of wins beyond are left out.
        wins = np.arange(min(int(n * p_won + 6.1 * np.sqrt(n * p_won) + 13), n) + 1)
        losses = _binomial(lost - won + wins, n - wins, min((p_won + epsilon) / (1 - p_won), 1.0))
        share = np.diff(_binomial(wins, n, p_won), prepend=0.0)
        worst = max(worst, float((share * losses).sum()))
    return min(worst + side + 1e-9, 1.0)


def _binomial(k, n, p: float):
    """P(at most k of n draws), arrays too: `scipy.stats.binom.cdf` without its checks, which take longer than
    the numbers do."""
    k, n = np.asarray(k, np.float64), np.asarray(n, np.float64)
    found = special.betainc(np.maximum(n - k, 1.0), np.maximum(k, 0.0) + 1, 1 - p)
    return np.where(k < 0, 0.0, np.where(k >= n, 1.0, found))


def _p_of_cost(spent_N, span, budget: float) -> float:
    """Of "the mean cost is above the budget": bounds on a mean of values in [0, 1], parts of the span."""
    n, room = len(spent_N), span[-1] - span[0]
    if budget >= span[-1] or room <= 0:
        return 0.0
    mean, most = float(np.mean((spent_N - span[0]) / room)), (budget - span[0]) / room
    if not n or mean >= most:
        return 1.0
    distance = special.rel_entr(mean, most) + special.rel_entr(1 - mean, 1 - most)
    return float(min(np.exp(-n * distance), np.e * _binomial(np.ceil(n * mean - 1e-9), n, most), 1.0))


def _most(spent_N, span, delta: float) -> float:
    """The smallest budget that `_p_of_cost` refutes at delta, by bisection."""
    low, high = float(np.mean(spent_N)), float(span[-1])
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if _p_of_cost(spent_N, span, middle) <= delta else (middle, high)
    return high
