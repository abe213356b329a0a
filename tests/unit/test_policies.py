"""Subsets of frames and their probability, against enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.policies import policy_gradient, subset

P = np.random.default_rng(0).dirichlet(np.ones(5), 2).astype(np.float32)


def test_probabilities_of_all_sets_sum_to_one_and_are_those_of_all_orders():
    for n in (1, 2, 3, 5):
        sets = list(itertools.combinations(range(5), n))
        found = np.stack([subset.set_probability(P, np.tile(s, (2, 1))) for s in sets], axis=1)
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
        orders = [sum(np.prod([p[i] / (1 - p[list(order[:k])].sum()) for k, i in enumerate(order)])
                      for order in itertools.permutations(sets[-1])) for p in P.astype(np.float64)]
        np.testing.assert_allclose(found[:, -1], orders, rtol=1e-5)


def test_draws_have_these_probabilities():
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(jax.vmap(lambda key: subset.draw_frames(key, P, 2))(keys))
    assert (np.diff(drawn, axis=-1) > 0).all()
    sets = list(itertools.combinations(range(5), 2))
    for b in range(2):
        shares = np.array([(drawn[:, b] == s).all(axis=-1).mean() for s in sets])
        expected = [subset.set_probability(P[b:b + 1], np.array([s]))[0] for s in sets]
        np.testing.assert_allclose(shares, expected, atol=0.03)


def test_choices_without_chance():
    scores = jnp.array([[0.1, 0.9, 0.3, 0.9], [4.0, 3.0, 2.0, 1.0]])
    assert subset.top_frames(scores, 2).tolist() == [[1, 3], [0, 1]]
    assert subset.even_frames(10, 4) == (1, 3, 6, 8) and subset.even_frames(4, 4) == (0, 1, 2, 3)


def test_policy_loss_pushes_towards_what_was_rewarded():
    logits, chosen = jnp.log(jnp.asarray(P)), np.array([[0, 1], [2, 4]])

    def loss(logits, reward, exploration=0.0):
        p = jax.nn.softmax(logits)
        return policy_gradient.policy_loss(subset.set_probability(p, chosen), reward, p, exploration).sum()

    gradient = np.asarray(jax.grad(loss)(logits, jnp.array([1.0, -2.0])))
    assert (gradient[0, [0, 1]] < 0).all() and (gradient[1, [2, 4]] > 0).all()
    flat = np.asarray(jax.grad(loss)(logits, jnp.zeros(2), 1.0))
    assert (np.argmin(flat, axis=1) == np.argmin(P, axis=1)).all()  # the entropy raises what is rare
