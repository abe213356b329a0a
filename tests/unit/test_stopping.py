"""Stop rules and thresholds: the reference's search, budgets, and their limits."""

import numpy as np
import pytest

from effvid_jax.exits import stopping

COSTS = np.array([0.6157, 1.4364, 2.2832, 2.9674, 3.2538])  # MSDNet-38, one frame


@pytest.fixture(scope="module")
def confident():
    """Scores that grow along the checkpoints, and whether the answers are right."""
    rng = np.random.default_rng(0)
    ease = rng.uniform(0, 1, 4000)
    values = np.clip(ease[:, None] + 0.1 * np.arange(5) + 0.1 * rng.standard_normal((4000, 5)), 0.01, 1)
    return values.astype(np.float32), rng.uniform(size=(4000, 5)) < values


def test_scores():
    p = np.array([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]])
    found = np.asarray(stopping.scores(np.log(p)))
    np.testing.assert_allclose(found[0], [0.7, 0.5, 1 + (p[0] * np.log(p[0])).sum() / np.log(3)],
                               rtol=1e-5)
    np.testing.assert_allclose(found[1], [1 / 3, 0, 0], atol=1e-6)


def test_thresholds_by_hand():
    """Ten videos, two checkpoints: three tenths stop at the first."""
    values = np.linspace(0.1, 1.0, 10)[:, None].repeat(2, axis=1)
    thresholds = stopping.find_thresholds(values, [0.3, 0.7])
    assert thresholds[0] == np.float32(0.8) and thresholds[1] == -stopping.NEVER
    taken = np.asarray(stopping.exits_taken(values.astype(np.float32), thresholds))
    assert (taken == 0).sum() == 3


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0, 1.95])
def test_shares_are_met_on_the_calibration_set(confident, ratio):
    values, _ = confident
    shares = stopping.geometric_shares(5, ratio)
    thresholds = stopping.find_thresholds(values, shares)
    taken = np.asarray(stopping.exits_taken(values, thresholds))
    found = np.bincount(taken, minlength=5) / len(values)
    print(f"ratio {ratio}: wanted {shares.round(3)}, found {found.round(3)}")
    # Scores are clipped at 1: equal ones leave together, so a checkpoint may take more than its share.
    assert np.all(np.cumsum(found)[:-1] >= np.cumsum(shares)[:-1] - 2e-3)
    distinct = stopping.find_thresholds(values - 1e-6 * np.arange(len(values))[:, None], shares)
    taken = np.asarray(stopping.exits_taken(values - 1e-6 * np.arange(len(values))[:, None], distinct))
    np.testing.assert_allclose(np.bincount(taken, minlength=5) / len(values), shares, atol=2e-3)


def test_cost_grows_with_the_ratio_from_first_to_last(confident):
    values, hits = confident
    points = stopping.sweep(values, hits, values, hits, COSTS, "msdnet")
    costs = [p.gmacs for p in points]
    assert len(points) == 39 and costs == sorted(costs)
    ends = [stopping.operating_point(values, hits, COSTS, stopping.find_thresholds(
        values, stopping.geometric_shares(5, ratio))) for ratio in (1e-9, 1e9)]
    np.testing.assert_allclose([p.gmacs for p in ends], [COSTS[0], COSTS[-1]], rtol=1e-6)
    assert ends[1].accuracy == pytest.approx(hits[:, -1].mean())


@pytest.mark.parametrize("search", stopping.SEARCHES)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 1.0, 2.0])
def test_budget_is_kept_and_used(confident, share, search):
    values, hits = confident
    budget = share * COSTS[-1]
    thresholds = stopping.thresholds_for_budget(values, hits, COSTS, budget, search)
    found = stopping.operating_point(values, hits, COSTS, thresholds)
    print(f"{search}, budget {budget:.3f}: cost {found.gmacs:.3f}, accuracy {found.accuracy:.3f}")
    assert found.gmacs <= budget + 1e-9
    if search == "msdnet":
        assert found.gmacs >= min(budget, COSTS[-1]) * 0.97
    else:  # at least as many right answers as the other family, and as full inference allows
        other = stopping.operating_point(values, hits, COSTS, stopping.thresholds_for_budget(
            values, hits, COSTS, budget, "msdnet"))
        assert found.accuracy >= other.accuracy - 2e-3


def test_the_accuracy_search_passes_a_bad_checkpoint_by(confident):
    values, hits = confident
    hits = hits.copy()
    hits[:, 1] = False  # confident, and always wrong
    thresholds = stopping.thresholds_for_budget(values, hits, COSTS, 2.0, "accuracy")
    taken = np.asarray(stopping.exits_taken(values, thresholds))
    assert (taken == 1).mean() < 0.01


def test_best_thresholds_are_the_best_of_all():
    """Against trying everything, for two checkpoints before the last."""
    rng = np.random.default_rng(1)
    values = rng.uniform(size=(40, 3)).round(1).astype(np.float32)  # with ties
    hits = rng.uniform(size=(40, 3)) < values
    costs, price = np.array([1.0, 2.0, 3.0]), 0.1

    def earned(thresholds):
        point = stopping.operating_point(values, hits, costs, np.array(thresholds, np.float32))
        return point.accuracy - price * point.gmacs

    grid = [*np.unique(values), stopping.NEVER]
    best = max(earned([a, b, -stopping.NEVER]) for a in grid for b in grid)
    found = earned(stopping.best_thresholds(values, hits, costs, price))
    print(f"found {found:.4f}, best of all {best:.4f}")
    assert found >= best - 0.01


def test_mistakes_are_named(confident):
    values, hits = confident
    for budget in (0.3, float("nan")):
        with pytest.raises(ValueError, match="less than stopping every video"):
            stopping.thresholds_for_budget(values, hits, COSTS, budget)
    with pytest.raises(ValueError, match="expected one of"):
        stopping.thresholds_for_budget(values, hits, COSTS, 2.0, "greedy")


@pytest.mark.parametrize("search", stopping.SEARCHES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_choose_no_threshold(confident, value, search):
    """Sorted by NaN, the best of the videos had a threshold that is no number."""
    values, hits = confident
    values = values.copy()
    values[[3, 5], 1] = value
    with pytest.raises(ValueError, match=r"^2 of \d+ scores .*not finite, at checkpoint\(s\) 2 of "):
        stopping.thresholds_for_budget(values, hits, COSTS, 2.0, search)


def test_a_score_that_is_no_number_reaches_no_threshold():
    scores = np.array([[np.nan, 0.9, 0.1], [np.nan] * 3, [np.inf, 0.1, 0.1], [-np.inf, 0.1, 0.9]])
    assert stopping.exits_taken(scores, np.array([0.5, 0.5, np.nan])).tolist() == [1, 2, 0, 2]
    assert np.isnan(stopping.scores(np.array([[1.0, np.nan], [np.inf, 0.0]]))).all()
