"""Promises about early exits: how often they are broken, what they save, and when nothing can be promised."""

import types

import numpy as np
import pytest
from scipy import stats

from effvid_jax.errors import UserError
from effvid_jax.exits import risk, stopping

COSTS = np.array([0.4, 0.6, 0.8, 1.0])
DELTA = 0.1


def videos(count, rng, sharpness=(1, 1, 1, 1), forgets=0.0, values=0):
    """Confidence at four checkpoints that see more and more of the same noise, and whether they are right."""
    ease = np.exp(rng.normal(0.9, 0.7, count))
    shared, scores, hits = rng.normal(size=(count, 16)), [], []
    for k in range(4):
        logits = 0.8 * shared + 0.6 * rng.normal(size=(count, 16))
        logits[:, 0] += ease * (1.2 + 0.35 * k)
        p = np.exp(1.5 * sharpness[k] * logits)
        scores.append((p / p.sum(axis=1, keepdims=True)).max(axis=1))
        hits.append(p.argmax(axis=1) == 0)
    scores, hits = np.stack(scores, axis=1).astype(np.float32), np.stack(hits, axis=1)
    hits[rng.uniform(size=count) < forgets, -1] = False  # exits win: the end has forgotten
    scores = np.round(scores * values) / values if values else scores  # ties
    return scores, hits


def extra_error_and_cost(scores, hits, thresholds):
    taken = np.asarray(stopping.exits_taken(scores, thresholds))
    found = hits[np.arange(len(hits)), taken]
    return hits[:, -1].mean() - found.mean(), COSTS[taken].mean()


def best_saving(scores, hits, epsilon):
    """Of thresholds that are chosen knowing all videos."""
    found = []
    for price in np.geomspace(1e-3, 1e2, 40):
        error, cost = extra_error_and_cost(scores, hits, stopping.best_thresholds(scores, hits, COSTS, price))
        if error <= epsilon:
            found.append(1 - cost)
    return max(found)


def resampled(trials, epsilon, **kind):
    rng = np.random.default_rng(0)
    scores, hits = videos(40_000, rng, **kind)
    broken, dearer, saved = 0, 0, []
    for _ in range(trials):
        drawn = rng.choice(len(scores), 1600, replace=False)
        found = risk.thresholds_for_risk(scores[drawn], hits[drawn], COSTS, epsilon, DELTA)
        error, cost = extra_error_and_cost(scores, hits, found.thresholds)
        broken, dearer = broken + (error > epsilon), dearer + (cost > found.most_gmacs)
        saved.append(1 - cost)
    share = np.mean(saved) / best_saving(scores, hits, epsilon)
    print(f"{kind or 'plain'}, epsilon {epsilon}: of {trials} promises {broken} broken, {dearer} bounds on "
          f"the cost exceeded; {share:.0%} of the best saving kept")
    most = DELTA + 2 * np.sqrt(DELTA * (1 - DELTA) / trials)
    assert broken / trials <= most and dearer / trials <= most and share >= 0.5


@pytest.mark.parametrize("kind", [{}, {"sharpness": (2, 1, 0.7, 1)}, {"forgets": 0.03}],
                         ids=["plain", "sharpness differs", "exits win"])
def test_promises_are_kept_and_save(kind):
    resampled(25, 0.02, **kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind,epsilon", [
    ({}, 0.01), ({"sharpness": (2, 1, 0.7, 1)}, 0.02), ({"forgets": 0.03}, 0.01), ({"values": 8}, 0.02)],
    ids=["plain", "sharpness differs", "exits win", "ties"])
def test_a_thousand_promises(kind, epsilon):
    resampled(1000, epsilon, **kind)


@pytest.mark.parametrize("wins", [0.0, 0.01, 0.1])
def test_the_tests_reject_a_true_risk_no_more_often_than_they_say(wins):
    """Straight at the border, extra error = epsilon: both tests, 4,000 draws."""
    rng, n, epsilon = np.random.default_rng(1), 600, 0.02
    draws = rng.multinomial(n, [wins + epsilon, wins, 1 - 2 * wins - epsilon], size=4000)
    p_net = {pair: risk._p_net(*pair, n, epsilon, DELTA / risk.SIDE)
             for pair in {(int(lost), int(won)) for lost, won, _ in draws}}
    share = np.mean([p_net[int(lost), int(won)] <= DELTA for lost, won, _ in draws])
    losses = np.mean([risk._p_losses(lost, n, epsilon) <= DELTA for lost, *_ in draws])
    print(f"wins {wins}: of draws at the border net rejects {share:.3f}, losses {losses:.3f}, delta {DELTA}")
    assert max(share, losses) <= DELTA + 2 * np.sqrt(DELTA * (1 - DELTA) / len(draws))


def test_the_net_test_is_a_sum_over_all_that_may_be_drawn():
    """Few videos and many wins too: P(lost - won is at most as seen), of the worst rate of wins."""
    side, epsilon, cases, largest = 0.002, 0.02, 0, 0.0
    for n in (1, 2, 3, 7, 20):
        drawn = np.array([(i, j) for i in range(n + 1) for j in range(n + 1 - i)])
        for lost, won in [(0, 0), (0, 1), (0, n), (n // 3, n // 2), (1, 0), (n, 0)]:
            most = min(stats.beta.ppf(1 - side, won + 1, n - won) if won < n else 1.0, (1 - epsilon) / 2)
            worst = 0.0
            for rate in np.linspace(0, most, 8):
                p = [rate + epsilon, rate, max(1 - 2 * rate - epsilon, 0.0)]
                every = np.column_stack([drawn, n - drawn.sum(axis=1)])
                share = stats.multinomial.pmf(every, n, p)
                worst = max(worst, share[drawn[:, 0] - drawn[:, 1] <= lost - won].sum())
            found = risk._p_net(lost, won, n, epsilon, side)
            largest, cases = max(largest, abs(found - min(worst + side, 1.0))), cases + 1
    print(f"{cases} cases: at most {largest:.1e} from the sum")
    assert largest < 1e-8


def test_a_budget_holds_on_other_videos():
    rng = np.random.default_rng(0)
    scores, hits = videos(20_000, rng)
    plain = over = 0
    for _ in range(10):
        drawn = rng.choice(len(scores), 400, replace=False)
        known = scores[drawn], hits[drawn], COSTS, 0.6, "accuracy"
        over += extra_error_and_cost(scores, hits, risk.thresholds_for_budget(*known, DELTA))[1] > 0.6
        plain += extra_error_and_cost(scores, hits, stopping.thresholds_for_budget(*known))[1] > 0.6
    print(f"a budget of 0.6 is exceeded on other videos: {over} of 10 with a promise, {plain} without")
    assert over <= 2
    with pytest.raises(UserError, match="less than stopping every video"):
        risk.thresholds_for_budget(scores[:400], hits[:400], COSTS, 0.3, "accuracy", DELTA)


def test_what_cannot_be_promised():
    scores, hits = videos(2000, np.random.default_rng(0))
    few = risk.thresholds_for_risk(scores[:200], hits[:200], COSTS, 0.01, DELTA)
    assert not few.kept and few.gmacs == 1.0 and (few.thresholds[:-1] == stopping.NEVER).all()
    assert "takes 307 calibration videos (there are 200)" in few.told(0.01, DELTA)
    assert risk.least_videos(0.01, DELTA) == 307  # 0.99^230 < 0.1, a quarter is learned from
    for count in (0, 1, 2, 5):  # nothing to learn from, nothing to test on
        assert not risk.thresholds_for_risk(scores[:count], hits[:count], COSTS, 0.01, DELTA).kept
        found = risk.thresholds_for_budget(scores[:count], hits[:count], COSTS, 0.5, "accuracy", DELTA)
        assert extra_error_and_cost(scores, hits, found)[1] == pytest.approx(COSTS[0])
    useless = hits.copy()
    useless[:, :-1] = False  # exits are never right
    assert not risk.thresholds_for_risk(scores, useless, COSTS, 0.01, DELTA).kept
    with pytest.raises(UserError, match="not finite"):
        risk.thresholds_for_risk(np.where(scores > 0.9, np.nan, scores), hits, COSTS, 0.01, DELTA)


def test_ties_and_a_single_class():
    rng = np.random.default_rng(0)
    scores, hits = videos(1600, rng)
    tied = np.round(scores * 4) / 4  # five values
    found = risk.thresholds_for_risk(tied, hits, COSTS, 0.02, DELTA)
    assert extra_error_and_cost(tied, hits, found.thresholds)[0] <= 0.03
    for only in (1.0, 0.0, 0.25):  # a single class: always sure, by no margin; all agree
        alike, right = np.full((1600, 4), only), np.ones((1600, 4), bool)
        certain = risk.thresholds_for_risk(alike, right, COSTS, 0.02, DELTA)
        assert certain.kept and certain.gmacs == COSTS[0] and certain.extra_error == 0
    lost = np.ones((1600, 4), bool)
    lost[:800, :3] = False  # alike in their scores, half of them wrong
    assert not risk.thresholds_for_risk(np.ones((1600, 4)), lost, COSTS, 0.02, DELTA).kept
    perverse = risk.thresholds_for_risk(1 - scores, hits, COSTS, 0.02, DELTA)  # surer where it is wrong
    assert extra_error_and_cost(1 - scores, hits, perverse.thresholds)[0] <= 0.03


def test_the_search_of_a_config(capsys):
    scores, hits = videos(1600, np.random.default_rng(0))
    settings = types.SimpleNamespace(search="risk", epsilon=0.02, delta=DELTA, budget_delta=0.0)
    found = risk.search(settings, scores, hits, COSTS, 0.5)
    said = capsys.readouterr().err
    assert "an extra error of at most 0.02 with probability 0.9" in said and "GMACs a view" in said
    promised = risk.thresholds_for_risk(scores, hits, COSTS, 0.02, DELTA)
    np.testing.assert_array_equal(found, promised.thresholds)
    costs = {}
    for settings.search, settings.budget_delta in (("accuracy", 0.0), ("accuracy", DELTA)):
        found = risk.search(settings, scores, hits, COSTS, 0.6)
        costs[settings.budget_delta] = extra_error_and_cost(scores, hits, found)[1]
    assert costs[DELTA] < costs[0.0] <= 0.6
    assert "promise no budget" not in capsys.readouterr().err
    risk.search(settings, scores[:5], hits[:5], COSTS, 0.6)
    assert "5 calibration videos promise no budget of 0.6 GMACs" in capsys.readouterr().err
