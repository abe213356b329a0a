"""Pieces of policies against numpy: choices, cells, skips, costs, fused channels, the router."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.errors import UserError
from effvid_jax.exits.router import Router
from effvid_jax.policies import actions, channels, choice, heads, losses, two_cells
from tests.drawn import draw


@pytest.fixture(autouse=True)
def double():
    """Everything in double precision: what is compared is exact but for rounding."""
    with jax.enable_x64(True):
        yield


def normal(rng, model, *inputs):
    """Normal variables, which make actions of all kinds."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return jax.tree.map_with_path(lambda path, leaf: rng.uniform(0.5, 2, leaf.shape) if path[-1].key == "var"
                                  else rng.normal(size=leaf.shape), shapes)


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# ------------------------------------------------------------------------------------------- choices
def test_a_choice_is_one_hot_with_the_gradient_of_the_softmax(rng):
    z, weights, tau = rng.normal(size=(3, 5)), rng.normal(size=(3, 5)), 0.7
    noise = rng.gumbel(size=(3, 5))

    def value(z):
        return (choice.choose(z, tau, noise) * weights).sum()

    taken = np.asarray(choice.choose(z, tau, noise))
    assert (taken == np.eye(5)[(z + noise).argmax(axis=-1)]).all(), "exactly: no rounding of a soft part"
    assert (choice.choose(z).argmax(axis=-1) == z.argmax(axis=-1)).all(), "without noise the largest"
    p = softmax((z + noise) / tau)
    wanted = p * (weights - (p * weights).sum(axis=-1, keepdims=True)) / tau
    np.testing.assert_allclose(jax.grad(value)(z), wanted, atol=1e-12)


def test_drawn_actions_have_their_probabilities_and_those_of_a_clip_are_its_own():
    z = jnp.log(jnp.array([0.6, 0.3, 0.1]))
    noise = choice.gumbel(jax.random.key(0), (20_000, 3))
    shares = np.asarray(choice.choose(jnp.broadcast_to(z, noise.shape), 1.0, noise)).mean(axis=0)
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=0.02)
    assert choice.gumbel(None, (2, 3)) is None
    clips = jax.random.normal(jax.random.key(1), (3, 2, 4))
    alone, together = (choice.gumbel(choice.keys_of(x), (len(x), 5)) for x in (clips[1:2], clips))
    assert (alone[0] == together[1]).all() and (together[0] != together[1]).any()
    np.testing.assert_allclose(choice.falling(5.0, 0.1, 10, jnp.int32(29)), 5 * np.exp(-0.2), rtol=1e-6)


# --------------------------------------------------------------------------------------------- cells
def step(cell, state, x, kernel, bias):
    """PyTorch's formulas."""
    y = state[0] @ kernel + bias
    if cell == "lstm":
        i, f, g, o = np.split(x + y, 4, axis=-1)
        c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    (xr, xz, xn), (hr, hz, hn) = np.split(x, 3, axis=-1), np.split(y, 3, axis=-1)
    z = sigmoid(xz + hz)
    return ((1 - z) * np.tanh(xn + sigmoid(xr + hr) * hn) + z * state[0],)


@pytest.mark.parametrize("cell", heads.CELLS)
def test_cells_are_pytorchs(rng, cell):
    x, model = rng.normal(size=(2, 4, 3)), heads.Recurrent(5, cell)
    variables = draw(model, x)
    p = variables["params"]
    state, wanted = (np.zeros((2, 5)),) * heads.CELLS[cell][2], []
    for t in range(4):
        inputs = x[:, t] @ p["input"]["kernel"] + p["input"]["bias"]
        state = step(cell, state, inputs, p["hidden"]["kernel"], p["hidden"]["bias"])
        wanted.append(state[0])
    first, between = model.apply(variables, x[:, :1])
    later, last = model.apply(variables, x[:, 1:], between)
    np.testing.assert_allclose(np.concatenate([first, later], axis=1), np.stack(wanted, axis=1), atol=1e-12)
    np.testing.assert_allclose(last, state, atol=1e-12)
    with pytest.raises(UserError, match="cell='rnn': expected one of"):
        heads.Recurrent(5, "rnn").init(jax.random.key(0), x)


@pytest.mark.parametrize("hold_cell", [False, True])
def test_a_skip_holds_action_and_state(hold_cell):
    rng = np.random.default_rng(2)  # one that makes all actions
    skips, x = (1, 3), rng.normal(size=(6, 9, 3))
    model = actions.SkippingPolicy(4, 4, skips, hold_cell)
    p = normal(rng, model, x)["params"]
    p["scores"]["bias"] = np.zeros(4)
    logits, hidden, taken = model.apply({"params": p}, x)
    wanted, seen = np.zeros((6, 9), int), np.zeros((6, 9, 4))
    for b in range(6):
        h, c, left, action = np.zeros(4), np.zeros(4), 0, None
        for t in range(9):
            inputs = x[b, t] @ p["cell"]["input"]["kernel"] + p["cell"]["input"]["bias"]
            new, memory = step("lstm", (h, c), inputs, *(p["cell"]["hidden"][k] for k in ("kernel", "bias")))
            z = new @ p["scores"]["kernel"] + p["scores"]["bias"]
            np.testing.assert_allclose(logits[b, t], z, atol=1e-12)
            seen[b, t] = new
            if left:
                left, c = left - 1, c if hold_cell else memory
            else:
                h, c, action = new, memory, z.argmax()
                left = skips[action - 2] - 1 if action >= 2 else 0
            wanted[b, t] = action
    assert set(wanted.ravel()) == {0, 1, 2, 3}, "a fair test has all actions"
    assert (taken.argmax(axis=-1) == wanted).all() and (taken.sum(axis=-1) == 1).all()
    np.testing.assert_allclose(hidden, seen, atol=1e-12)


def test_answers_are_means_over_the_frames_that_are_looked_at(rng):
    chosen, logits = np.eye(4)[rng.integers(0, 4, (5, 6))], rng.normal(size=(5, 6, 3, 7))
    chosen[0] = np.eye(4)[3]  # nothing but skips
    found = actions.combine(chosen[..., :3], logits)
    for b in range(5):
        seen = [logits[b, t, chosen[b, t].argmax()] for t in range(6) if chosen[b, t].argmax() < 3]
        np.testing.assert_allclose(found[b], np.mean(seen, axis=0) if seen else np.zeros(7), atol=1e-12)


# -------------------------------------------------------------------------------------------- losses
def test_losses_of_policies(rng):
    taken, cost = np.eye(3)[rng.integers(0, 3, (4, 5))], np.array([4.0, 1.0, 0.0])
    mask = np.array([1, 1, 0, 1.0])
    shares = taken[mask > 0].mean(axis=(0, 1))
    np.testing.assert_allclose(losses.usage(taken, mask), shares)
    np.testing.assert_allclose(losses.expected_cost(taken, cost, mask), (shares * cost).sum())
    far = np.linalg.norm(shares - 1 / 3)
    np.testing.assert_allclose(losses.usage_balance(taken, mask), far)
    np.testing.assert_allclose(losses.usage_balance(taken, mask, squares=True), far**2)
    equal = np.broadcast_to(np.eye(3), (4, 3, 3))
    assert np.isfinite(jax.grad(losses.usage_balance)(jnp.asarray(equal), mask)).all(), "a root at 0"
    np.testing.assert_allclose(losses.share_target(np.array([0.2, 0.6, 9, 0.4]), 0.5, mask), 0.01)


# ------------------------------------------------------------------------------------------- channels
def test_channels_come_from_this_frame_or_the_one_before(rng):
    y, taken = rng.normal(size=(2, 4, 3, 3, 5)), np.eye(3)[rng.integers(0, 3, (2, 4, 5))]
    found = channels.fuse(y, taken)
    first, second = (np.asarray(x) for x in channels.computed(taken))
    slip = np.asarray(channels.computed(taken, slip=True)[0])
    for b, t, c in np.ndindex(2, 4, 5):
        before = y[b, t - 1, ..., c] if t else 0 * y[b, 0, ..., c]  # as it was computed, not as it was fused
        wanted = (0 * before, before, y[b, t, ..., c])[taken[b, t, c].argmax()]
        np.testing.assert_array_equal(found[b, t, ..., c], wanted)
    for b, t in np.ndindex(2, 4):
        keep = taken[b, t, :, channels.KEEP] > 0
        reused = taken[b, t + 1, :, channels.REUSE] > 0 if t < 3 else False
        np.testing.assert_allclose(first[b, t], (keep | reused).mean())
        np.testing.assert_allclose(second[b, t], 1 - taken[b, t, :, channels.SKIP].mean())
    np.testing.assert_allclose(slip[:, :3], first[:, :3])
    np.testing.assert_allclose(slip[:, 3], taken[:, 2, :, channels.KEEP].mean(axis=-1))


# ------------------------------------------------------------------------------------------ two cells
def test_frame_by_frame_the_cells_say_what_they_say_at_once():
    rng = np.random.default_rng(8)  # one that makes both actions
    model = two_cells.TwoCells(5, large=6, small=4, width=3)
    fine, coarse = rng.normal(size=(3, 7, 8)), rng.normal(size=(3, 7, 9))
    variables = normal(rng, model, fine, coarse)
    variables["params"]["gate"]["bias"] = np.zeros(2)
    logits, _, taken, _ = model.apply(variables, fine, coarse)
    assert 0 < taken[..., two_cells.USE].mean() < 1, "a fair test has both"
    b, states = model.apply(variables, coarse, method="start")
    state = (jnp.zeros((3, 6)),) * 2
    for t in range(7):
        action = model.apply(variables, state, b[:, t], method="asked")
        assert (action == taken[:, t]).all()
        used = action[:, two_cells.USE, None]  # of skipped frames nothing is known
        a = used * model.apply(variables, fine[:, t:t + 1], method="fine")[:, 0]
        small = [x[:, t] for x in states]
        old, state = state, model.apply(variables, state, action, a, b[:, t], small, method="advance")
        for before, now, rough in zip(old, state, small):
            skipped = np.asarray(used[:, 0] == 0)
            np.testing.assert_array_equal(now[skipped, :4], rough[skipped])
            np.testing.assert_array_equal(now[skipped, 4:], before[skipped, 4:])
    np.testing.assert_allclose(model.apply(variables, state[0], method="classify"), logits, atol=1e-12)


# --------------------------------------------------------------------------------------------- router
@pytest.mark.parametrize("kind", ["mixed", "none", "all", "one"])
def test_routed_rows_are_masked_dense_ones(rng, kind):
    n, rows = 37, rng.normal(size=(37, 3))
    taken = {"mixed": rng.integers(0, 4, n), "none": np.full(n, 3), "all": np.zeros(n, int),
             "one": np.where(np.arange(n) == 36, 1, 3)}[kind]
    weights, given = rng.normal(size=(2, 3, 5)), rng.normal(size=(n, 5))

    def branch(i, variables, rows):
        return jnp.tanh(rows @ variables[i])

    router = Router([lambda v, r: branch(0, v, r), lambda v, r: branch(1, v, r), None], 8, (4, 1))
    found = router.run(weights, jnp.asarray(rows), taken, jnp.asarray(given))
    dense = [np.tanh(rows @ weights[i]) for i in range(2)]
    for i in range(n):
        np.testing.assert_allclose(found[i], dense[taken[i]][i] if taken[i] < 2 else given[i], atol=1e-9)
    computed = sum(size * count for (_, size), count in router.runs.items())
    assert computed == (taken < 2).sum(), "with a size of 1 nothing is computed in vain"
    with pytest.raises(UserError, match="not between 1 and batch_size=8"):
        Router([None], 8, (16,))
