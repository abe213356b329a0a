"""Subsets of frames and their probability, against enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.policies import policy_gradient, subset

P = np.random.default_rng(0).dirichlet(np.ones(5), 2).astype(np.float32)


def test_probabilities_of_all_sets_sum_to_one_and_are_those_of_all_orders():
    probability = jax.jit(subset.set_probability)
    for n in (1, 3, 5):
        sets = list(itertools.combinations(range(5), n))
        found = probability(np.repeat(P, len(sets), axis=0), np.tile(sets, (2, 1))).reshape(2, -1)
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
        orders = [sum(np.prod([p[i] / (1 - p[list(order[:k])].sum()) for k, i in enumerate(order)])
                      for order in itertools.permutations(sets[-1])) for p in P.astype(np.float64)]
        np.testing.assert_allclose(found[:, -1], orders, rtol=1e-5)


def test_draws_have_these_probabilities():
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(jax.vmap(lambda key: subset.draw_frames(key, P, 2))(keys))
    assert (np.diff(drawn, axis=-1) > 0).all()
    sets = list(itertools.combinations(range(5), 2))
    for p, found in zip(P, drawn.swapaxes(0, 1)):
        shares = [(found == s).all(axis=-1).mean() for s in sets]
        expected = [p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) for i, j in sets]
        np.testing.assert_allclose(shares, expected, atol=0.03)


def test_choices_without_chance():
    scores = jnp.array([[0.1, 0.9, 0.3, 0.9], [4.0, 3.0, 2.0, 1.0]])
    assert subset.top_frames(scores, 2).tolist() == [[1, 3], [0, 1]]
    assert subset.even_frames(10, 4) == (1, 3, 6, 8) and subset.even_frames(4, 4) == (0, 1, 2, 3)


def test_policy_loss_pushes_towards_what_was_rewarded():
    logits, chosen = jnp.log(jnp.asarray(P)), np.array([[0, 1], [2, 4]])

    @jax.jit
    @jax.grad
    def gradient(logits, reward):
        p = jax.nn.softmax(logits)
        return policy_gradient.policy_loss(subset.set_probability(p, chosen), reward, p, 1e-3).sum()

    found = np.asarray(gradient(logits, jnp.array([1.0, -2.0])))
    assert (found[0, [0, 1]] < 0).all() and (found[1, [2, 4]] > 0).all()
    moved = logits - 50 * gradient(logits, jnp.zeros(2))  # nothing but the entropy
    before, after = (np.asarray(policy_gradient.entropy(jax.nn.softmax(x))) for x in (logits, moved))
    assert (after > before).all()
