"""Optimizer and schedules against numbers written down by hand or by a few lines of numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.recipes import base
from effvid_jax import optim


def settings(**changes):
    config = base.defaults().optim
    config.update(changes)
    return config


def test_whole_numbers_of_more_than_32_bits_are_numbers():
    """A limit so high that it clips nothing may be written as an integer: up to 1e30 the bounds allow."""
    params = {"w": jnp.ones(3)}
    tx = optim.make_optimizer(settings(lr=1.0, momentum=0.0, weight_decay=0.0, schedule="constant"), 1, 1)
    with_limit = settings(lr=1.0, momentum=0.0, weight_decay=0.0, schedule="constant")
    with with_limit.ignore_type():
        with_limit.clip_norm = 103061550232271347167
    found = [jax.jit(t.update)(params, t.init(params), params)[0]["w"]
             for t in (tx, optim.make_optimizer(with_limit, 1, 1))]
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_cosine_is_constant_inside_an_epoch_and_equals_mmcv():
    rate = optim.make_schedule(settings(), steps_per_epoch=10, num_steps=2000)
    wanted = {0: 0.01, 1: 0.00999938, 50: 0.00853553, 100: 0.005, 199: 6.2e-7}  # mmcv, E = 200
    for epoch, value in wanted.items():
        np.testing.assert_allclose([rate(10 * epoch), rate(10 * epoch + 9)], value, rtol=6e-3, atol=1e-8)


def test_step_schedule_with_warmup():
    config = settings(schedule="step", milestones=(90, 130), warmup_epochs=10.0)
    rate = optim.make_schedule(config, steps_per_epoch=4, num_steps=600)
    np.testing.assert_allclose(rate(0), 0.001, rtol=1e-6)  # 1 - 0.9 * (1 - 0 / 40)
    np.testing.assert_allclose(rate(20), 0.01 * (1 - 0.9 * 0.5), rtol=1e-6)
    np.testing.assert_allclose([rate(359), rate(360), rate(520)], [0.01, 0.001, 0.0001], rtol=1e-5)


def numpy_sgd(param, grads, lr, momentum, decay, max_norm):
    """torch's SGD with clipping, one parameter."""
    buffer = np.zeros_like(param)
    for g in grads:
        g = g * min(1.0, max_norm / (np.linalg.norm(g) + 1e-6)) + decay * param
        buffer = momentum * buffer + g
        param = param - lr * buffer
    return param


@pytest.mark.parametrize("num_steps", [0, 2**31])
def test_a_number_of_steps_that_cannot_be_trained(num_steps):
    """As `config.train.num_epochs=0.01` or 1e9 give them."""
    with pytest.raises(ValueError, match=f"ask for {num_steps} steps, with 10 steps per epoch"):
        optim.make_optimizer(settings(), 10, num_steps)


def test_sgd_equals_torch_order(rng):
    param, grads = rng.normal(size=(3, 4)), 30 * rng.normal(size=(5, 3, 4))
    tx = optim.make_optimizer(settings(schedule="constant"), 10, 100)
    params = {"conv": {"kernel": jnp.asarray(param, jnp.float32)}}
    state = tx.init(params)
    for g in grads:
        updates, state = tx.update({"conv": {"kernel": jnp.asarray(g, jnp.float32)}}, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    wanted = numpy_sgd(param, grads, 0.01, 0.9, 1e-4, 20.0)
    np.testing.assert_allclose(params["conv"]["kernel"], wanted, rtol=1e-5)


def test_accumulated_micro_steps_equal_one_step_of_their_mean(rng):
    grads = rng.normal(size=(4, 3)).astype(np.float32)
    results = []
    for every, parts in ((1, [grads.mean(axis=0)]), (4, list(grads))):
        tx = optim.make_optimizer(settings(schedule="constant", accumulate=every), 10, 100)
        params = {"fc": {"kernel": jnp.ones(3)}}
        state = tx.init(params)
        for g in parts:
            updates, state = tx.update({"fc": {"kernel": jnp.asarray(g)}}, state, params)
            params = jax.tree.map(jnp.add, params, updates)
        results.append(params["fc"]["kernel"])
    np.testing.assert_allclose(*results, rtol=1e-6)


def test_groups():
    params = {"layer1_0": {"bn1": {"scale": 1.0, "bias": 0.0}, "conv1": {"kernel": 1.0},
                           "attn": {"relative_position_bias_table": 1.0}},
              "fc": {"kernel": 1.0, "bias": 0.0}}
    lr, decay = optim.group_factors(params, "tsm")
    assert lr["fc"] == {"kernel": 1.0, "bias": 2.0} and decay["fc"] == {"kernel": 1.0, "bias": 0.0}
    assert lr["layer1_0"]["bn1"] == {"scale": 1.0, "bias": 1.0}
    assert decay["layer1_0"]["bn1"] == {"scale": 0.0, "bias": 0.0}
    lr, decay = optim.group_factors(params, "single")
    assert set(jax.tree.leaves(lr)) == set(jax.tree.leaves(decay)) == {1.0}
    lr, decay = optim.group_factors(params, "swin")
    assert lr["layer1_0"]["bn1"]["scale"] == 0.1 and decay["layer1_0"]["bn1"]["scale"] == 1.0
    assert lr["layer1_0"]["attn"]["relative_position_bias_table"] == 1.0
    assert decay["layer1_0"]["attn"]["relative_position_bias_table"] == 0.0
    assert lr["fc"]["kernel"] == 1.0
    gated = {"conv": {"kernel": 1.0, "cheap_t1": 1.0, "gate": {"beta": 1.0, "fc1": {"kernel": 1.0}}}}
    lr, decay = optim.group_factors(gated, "gates")
    assert lr["conv"] == {"kernel": 1.0, "cheap_t1": 1.0, "gate": {"beta": 0.1, "fc1": {"kernel": 0.1}}}
    assert decay["conv"]["gate"]["beta"] == 0.0 and decay["conv"]["kernel"] == 1.0
    lr, decay = optim.group_factors(gated, "calm_gates")
    assert lr["conv"] == {"kernel": 1.0, "cheap_t1": 1.0, "gate": {"beta": 1.0, "fc1": {"kernel": 0.1}}}
    assert decay["conv"]["gate"]["beta"] == 0.0 and decay["conv"]["kernel"] == 1.0


@pytest.mark.parametrize("field", ["name", "groups", "schedule"])
def test_unknown_values_are_named(field):
    with pytest.raises(ValueError, match=f"config.optim.{field}='nonsense'.*expected one of"):
        optim.make_optimizer(settings(**{field: "nonsense"}), 10, 100)
