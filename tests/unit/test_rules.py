"""Stop rules: scores by hand, the head of 'learned', thresholds for scores mostly equal, old records."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.errors import UserError
from effvid_jax.exits import judge, record, risk, rules, stopping

COSTS = np.array([0.3, 0.5, 0.8, 1.0])
ANSWERS = np.array([[2, 2, 2, 2], [0, 1, 1, 2], [1, 1, 0, 0], [0, 1, 2, 0]])
ROWS = np.array([[1, 2, 3, 4], [1, 1, 2, 1], [1, 2, 1, 2], [1, 1, 1, 1]])


def test_patience_counts_agreeing_checkpoints():
    logits = jnp.asarray(np.eye(3)[ANSWERS], jnp.float32)
    scores = np.asarray(rules.all_scores(logits))
    np.testing.assert_array_equal(scores[..., 3], ROWS / 4)
    assert (scores[..., 4] == rules.UNKNOWN).all() and scores.shape == (4, 4, len(rules.RULES))
    np.testing.assert_array_equal(scores[..., :3], rules.scores(logits))
    settings = types.SimpleNamespace(patience=2, thresholds=())
    taken = stopping.exits_taken(scores[..., 3], np.float32(stopping.by_hand(settings, 4)))
    assert taken.tolist() == [1, 2, 1, 3], "the second of two in a row answers"
    hurt = np.asarray(rules.all_scores(logits.at[0, 1].set(jnp.nan)))[0, :, 3] * 4
    np.testing.assert_array_equal(hurt, [1, np.nan, 1, 2])
    assert [float(rules.of_row(m, m)) for m in (1, 2, 4, 5)] == [1, 1, 1, 0.625], "exact, and 1 at most"
    assert stopping.by_hand(types.SimpleNamespace(patience=0, thresholds=[1, 2]), 2) == (1, 2)


def test_patience_in_a_state_is_that_of_all_logits():
    logits, state = jnp.asarray(np.random.default_rng(0).standard_normal((50, 6, 3)), jnp.float32), {}
    for k in range(6):
        state = rules.remember("patience", state, {"sure": jnp.full(50, float(k))}, logits[:, k])
        found = rules.of_state("patience", 6, state, logits[:, k])
        np.testing.assert_array_equal(found, rules.all_scores(logits)[:, k, 3])
        np.testing.assert_array_equal(rules.of_state("learned", 6, state, None), jax.nn.sigmoid(float(k)))
    plain = {"total": jnp.ones(50)}
    assert rules.remember("margin", {}, plain, logits[:, 0]) is plain
    found = rules.of_state("margin", 6, plain, logits[:, 0])
    np.testing.assert_array_equal(found, rules.scores(logits[:, 0])[:, 1])


def test_the_head_learns_and_moves_nothing_else():
    rng = np.random.default_rng(0)
    merged, logits = rng.standard_normal((6, 4, 8)), 3 * rng.standard_normal((6, 4, 5))
    model = judge.Judge(7)
    params = jax.jit(model.init)(jax.random.key(0), merged[:, 0], logits[:, 0])

    def loss(params, merged, logits):
        sure = jnp.stack([model.apply(params, merged[:, k], logits[:, k]) for k in range(4)], axis=1)
        return judge.loss(sure, logits).sum(), sure

    gradients, sure = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(params, merged, logits)
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(gradients[0]))
    assert not np.asarray(gradients[1]).any() and not np.asarray(gradients[2]).any()
    alike = logits[:, :-1].argmax(axis=-1) == logits[:, -1:].argmax(axis=-1)
    p = 1 / (1 + np.exp(-np.asarray(sure, np.float64)[:, :-1]))
    expected = -np.log(np.where(alike, p, 1 - p)).sum(axis=1)
    np.testing.assert_allclose(judge.loss(sure, logits), expected, rtol=1e-5)


@pytest.fixture(scope="module")
def tied():
    """Scores of 'patience' of videos that are alike in groups, and whether answers are right."""
    rng = np.random.default_rng(0)
    hard = rng.uniform(size=(4000, 1))
    wrong = rng.uniform(size=(4000, 4)) < hard * [0.9, 0.5, 0.15, 0.1]
    answers = np.where(wrong, rng.integers(1, 6, (4000, 4)), 0)
    scores = np.asarray(rules.all_scores(jnp.asarray(np.eye(6, dtype=np.float32)[answers])))[..., 3]
    return scores, answers == 0


@pytest.mark.parametrize("search", stopping.SEARCHES)
def test_a_budget_is_kept_by_scores_with_four_values(tied, search):
    scores, hits = tied
    for budget in (0.3, 0.45, 0.6, 0.9):
        found = stopping.thresholds_for_budget(scores, hits, COSTS, budget, search)
        point = stopping.operating_point(scores, hits, COSTS, found)
        print(f"{search}: budget {budget}, cost {point.gmacs:.3f}, accuracy {point.accuracy:.3f}")
        assert point.gmacs <= budget + 1e-9
    assert point.accuracy > hits[:, 0].mean() + 0.1 and point.gmacs > 0.4, "what is left is used"


def test_a_promise_by_scores_with_four_values(tied):
    scores, hits = tied
    found = risk.thresholds_for_risk(scores[:1600], hits[:1600], COSTS, 0.03, 0.1)
    point = stopping.operating_point(scores, hits, COSTS, found.thresholds)
    print(found.told(0.03, 0.1))
    assert found.kept and hits[:, -1].mean() - point.accuracy <= 0.03 and point.gmacs < 0.95


def test_records_and_what_older_ones_lack():
    rng = np.random.default_rng(0)
    scores, hits = rng.uniform(size=(30, 4, 5)).astype(np.float32), rng.uniform(size=(30, 4)) < 0.5
    begun = record.begin(8, 4)
    assert record.known(begun, "margin") is None
    kept = {**begun, **record.of_videos(scores, hits, 8)}
    assert {name: x.shape for name, x in kept.items()} == {name: x.shape for name, x in begun.items()}
    chosen = np.linspace(0, 29, 8).round().astype(int)
    for i, rule in enumerate(rules.RULES):
        found = record.known(kept, rule)
        np.testing.assert_array_equal(found[0], scores[chosen, :, i])
        np.testing.assert_array_equal(found[1], hits[chosen])
    older = {name: x for name, x in kept.items() if name != "more_scores"}
    for some in (older, {**begun, **record.of_videos(scores[:5, :, :3], hits[:5], 8)}):
        assert record.known(some, "entropy") is not None and record.known(some, "patience") is None
    with pytest.raises(UserError, match="the 8 calibration videos.*or give config.method.patience"):
        raise record.unknown(kept, "patience")
