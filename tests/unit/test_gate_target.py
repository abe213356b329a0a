"""A cost to reach: the controller on a model of gates, what it reads and pushes, what it refuses."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax import cli, stored
from effvid_jax.gating import decisions, target, variants
from tests.made import made
from tests.methods.test_va_red2 import NAMES, tiny_config


def simulate(strength, wanted=0.7, steps=400, lr=0.01, spread=0.1, pull=0.3, layers=12, seed=0):
    """The cost at the end of a run: gates of a bias each that the weight pushes and the accuracy pulls at.

    SGD with momentum 0.9 and a cosine; the gates of a clip differ by `spread`; 0.25 of the cost is fixed.
    """
    r = np.random.default_rng(seed)
    part = r.uniform(0.5, 2, layers)
    part *= 0.75 / part.sum()
    spread = spread * r.uniform(0.5, 2, layers)
    pull = pull * 2 * part * r.uniform(0.3, 2, layers)
    beta, speed, state = np.ones(layers), np.zeros(layers), target.begin()
    weigh = jax.jit(lambda state: target.weight(state, wanted, strength))
    update = jax.jit(lambda state, share: target.update(state, share, wanted))

    def cost(clips):
        y = beta + spread * r.normal(size=(clips, layers))
        return y, 1 - part @ (y <= 0).T

    for step in range(steps):
        y, share = cost(32)
        weight, open_ = float(weigh(state)), y > 0
        pushed = weight * 1.6 * share[:, None] * part * (open_ | (weight < 0))
        pulled = pull * np.where(open_, 1, 0.1) * r.normal(1, 1, y.shape)
        speed = 0.9 * speed + ((pushed - pulled) * (1 - np.tanh(y)**2)).mean(0)
        beta = beta - lr * 0.5 * (1 + np.cos(np.pi * step / steps)) * speed
        state = update(state, share.mean())
    return cost(4000)[1].mean()


@pytest.mark.parametrize("changes", [
    dict(strength=5), dict(strength=5, seed=1), dict(strength=1.5, spread=0.3), dict(strength=3, wanted=0.5),
    dict(strength=3, wanted=0.9), dict(strength=5, pull=0.0), dict(strength=1.5, pull=1.0, steps=1000),
    dict(strength=0.5, steps=3000, lr=0.003), dict(strength=5, pull=4.0, steps=300)])
def test_a_model_of_gates_reaches_the_target_within_a_percent(changes):
    found, wanted = simulate(**changes), changes.get("wanted", 0.7)
    print(f"{changes}: {found:.4f}")
    assert abs(found - wanted) < 0.01


def test_the_weight_is_the_strength_far_away_and_negative_below():
    state = target.begin()
    np.testing.assert_allclose(target.weight(state, 0.7, 2.0), 2.0)
    for _ in range(50):
        state = target.update(state, 1.0, 0.7)
    np.testing.assert_allclose(target.weight(state, 0.7, 2.0), 2 * (1 + 50 * 0.02), rtol=1e-5)
    for _ in range(100):
        state = target.update(state, 0.5, 0.7)
    assert target.weight(state, 0.7, 2.0) < 0
    for _ in range(2000):
        state = target.update(state, 1.0, 0.7)
    np.testing.assert_allclose(state["integral"], target.LIMIT)


def test_what_is_closed_opens_as_what_is_open_closes():
    V_c, V_t = jnp.array([[0.5, 0.3], [0.0, 0.3]]), jnp.array([[0.0, 0.2, 0.4], [0.6, 0.2, 0.4]])

    def found(V_c, V_t):
        return decisions.opening([variants.Decision(V_c, V_t, 1.0, 0.0, 30),
                                  variants.Decision(V_c, jnp.ones((2, 1)), 1.0, 0.0, 10)], leak=0.1)

    np.testing.assert_array_equal(found(V_c, V_t), 0)
    gradient = jax.grad(lambda c, t: found(c, t).sum(), argnums=(0, 1))(V_c, V_t)
    np.testing.assert_allclose(gradient[0], [[0, 0], [(0.75 + 0.25) / 2 / 0.1, 0]], rtol=1e-6)
    np.testing.assert_allclose(gradient[1], [[0.75 / 2 / 0.1, 0, 0], [0, 0, 0]], rtol=1e-6)


def batch_and(**changes):
    method = made(tiny_config(**changes), NAMES)
    variables = method.init(jax.random.key(0), (4, 4, 16, 16, 3))
    r = np.random.default_rng(0)
    batch = {"video": jnp.asarray(r.integers(0, 256, (4, 4, 16, 16, 3), dtype=np.uint8)),
             "label": jnp.arange(4), "mask": jnp.ones(4)}
    return method, variables, batch


def test_a_step_moves_the_weight_and_pushes_the_gates_both_ways():
    method, variables, batch = batch_and(target=0.7, efficiency_weight=2.0, discrete=True)
    step = jax.jit(jax.value_and_grad(method.loss, has_aux=True))

    def after(**state):
        stats = {**variables.stats, target.RECORD: {**variables.stats[target.RECORD], **state}}
        return step(variables.params, variables.replace(stats=stats), batch, jax.random.key(0))

    (value, (stats, told)), _ = after()
    video = {"video": batch["video"][:, None]}
    gmacs, extra = (lambda p: (p.gmacs, p.extra))(jax.jit(method.predict)(variables, video))
    np.testing.assert_allclose(told["gates/efficiency_weight"], 2.0)
    np.testing.assert_allclose(value, told["loss_cls"] + told["loss_efficiency"], rtol=1e-6)
    static = float(extra["gmacs_plain_ops"].max())  # everything is computed at first
    np.testing.assert_allclose(told["gates/cost"], np.mean(gmacs) / static, rtol=1e-5)
    wanted = target.update(variables.stats[target.RECORD], told["gates/cost"], 0.7)
    for name, x in wanted.items():
        np.testing.assert_allclose(stats[target.RECORD][name], x, atol=1e-6)
    assert jax.tree.structure(stats) == jax.tree.structure(variables.stats)
    (_, (_, told)), _ = after(share=jnp.float32(0.3), integral=jnp.float32(-0.5))
    np.testing.assert_allclose(told["gates/efficiency_weight"], -3.0)


def test_without_a_target_nothing_is_kept():
    _, variables, _ = batch_and()
    assert target.RECORD not in variables.stats


def test_targets_that_cannot_be_reached_are_refused():
    with pytest.raises(ValueError, match="efficiency_weight=0.0: nothing moves the cost to.*target=0.7"):
        made(tiny_config(target=0.7, efficiency_weight=0.0), NAMES)
    with pytest.raises(ValueError, match="config.method.target=1.5: expected at most 1"):
        made(tiny_config(target=1.5), NAMES)
    method = made(tiny_config(target=0.1), NAMES)
    with pytest.raises(ValueError, match="config.method.target=0.1.*search_space=2.*still costs 0.*larger"):
        jax.eval_shape(lambda: method.init(jax.random.key(0), (4, 4, 16, 16, 3)))


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, benchmark_root):
    config = tiny_config(target=0.8, efficiency_weight=2.0)
    config.run = ""
    config.data.root = benchmark_root
    config.train.update(dict(num_steps=4, checkpoint_every_steps=2))
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    cli.train(config, whole)
    shutil.copytree(whole, cut)
    shutil.rmtree(f"{cut}/checkpoints/4")
    cli.train(config, cut)
    ours, theirs = (stored.flatten(stored.read(f"{folder}/checkpoints", 4)[0]) for folder in (whole, cut))
    names = [name for name in ours if target.RECORD in str(name)]
    assert len(names) == 3 and any(ours[name] != 1 for name in names)
    assert ours.keys() == theirs.keys() and all(ours[k].tobytes() == theirs[k].tobytes() for k in ours)
