"""What a gate sees: each input against numpy, what it tells apart and costs, both forms, bad words."""

from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.gating import gates, inputs
from tests.drawn import draw

CONV = dict(features=7, kernel_size=(1, 3, 3), padding=(0, 1, 1), layers=".*")
ALL = "mean+difference+deviation"


def clips(batch=5):
    r = np.random.default_rng(0)
    return (r.normal(size=(batch, 4, 6, 5, 3)) * r.uniform(0.2, 3, (batch, 1, 1, 1, 1))).astype(np.float32)


def wide_awake(variables):
    """Gates near their threshold that listen to what they see."""
    gate = variables["params"]["gate"]
    kernel = np.random.default_rng(3).normal(size=gate["fc2"]["kernel"].shape).astype(np.float32)
    new = {**gate, "beta": np.full_like(gate["beta"], 0.1), "fc2": {"kernel": kernel}}
    return {**variables, "params": {**variables["params"], "gate": new}}


def decide(module, variables, x):
    y, state = jax.jit(partial(module.apply, mutable=["gates"]))(variables, x)
    return y, state["gates"]["decision"]


def test_inputs_are_what_numpy_says():
    x = clips()
    B, T, H, W, C = x.shape
    moved = np.zeros((B, C))
    deviation = np.zeros((B, C))
    for b in range(B):
        for c in range(C):
            moved[b, c] = np.mean([abs(x[b, t + 1, :, :, c] - x[b, t, :, :, c]) for t in range(T - 1)])
            deviation[b, c] = np.mean([x[b, t, :, :, c].std() for t in range(T)])
    found = inputs.seen(jnp.asarray(x), inputs.parse("deviation+difference+mean"))
    np.testing.assert_allclose(found, np.concatenate([x.mean((1, 2, 3)), moved, deviation], 1), rtol=1e-4,
                               atol=1e-6)
    image = inputs.seen(jnp.asarray(x[:, 0]), ("deviation",))
    np.testing.assert_allclose(image, x[:, 0].std((1, 2)), rtol=1e-5)
    frames = inputs.seen(jnp.asarray(x[:, :, 0, 0]), ("difference",))
    np.testing.assert_allclose(frames, abs(np.diff(x[:, :, 0, 0], axis=1)).mean(1), rtol=1e-5)
    assert not inputs.seen(jnp.asarray(x[:, :1]), ("difference",)).any(), "a single frame does not move"
    half = inputs.seen(jnp.asarray(x, jnp.bfloat16), inputs.INPUTS)
    assert half.dtype == jnp.float32


def test_gradients_stay_finite_where_nothing_varies():
    gradient = jax.grad(lambda x: inputs.seen(x, inputs.INPUTS).sum())(jnp.ones((2, 3, 4, 4, 2)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("sees", inputs.INPUTS)
def test_each_input_tells_apart_what_it_is_for(sees):
    """Clips of one mean: flat, textured and still, textured and moving."""
    texture = np.where(np.indices((6, 6)).sum(0) % 2, 1.0, -1.0)
    still = np.broadcast_to(texture[None, :, :, None], (4, 6, 6, 3))
    moving = np.stack([np.roll(frame, t, axis=0) for t, frame in enumerate(still)])
    x = np.stack([np.zeros_like(still), still, moving]).astype(np.float32) + 0.5
    module = gates.GatedConv(**CONV, gate_inputs=sees)
    V = decide(module, wide_awake(draw(module, x)), x)[1].V_c
    differs = [not np.allclose(V[a], V[b], atol=1e-5) for a, b in ((0, 1), (1, 2))]
    assert differs == {"mean": [False, False], "difference": [False, True], "deviation": [True, False]}[sees]


@pytest.mark.parametrize("sees", ["mean", ALL])
@pytest.mark.parametrize("normalise", [False, True])
def test_cost_counts_what_is_seen(sees, normalise):
    x = clips()
    module = gates.GatedConv(**CONV, gate_inputs=sees, gate_normalise=normalise)
    variables = draw(module, x)
    variables["params"]["gate"]["beta"] = np.float32([20, -20, 20, -20])  # everything, no cheap operation
    variables["params"]["gate"]["fc2"]["kernel"] *= 0
    numbers = 3 if sees == "mean" else 9
    wanted = numbers * 16 + 16 * 4 + numbers * normalise
    if sees == ALL:
        wanted += 3 * 6 * 5 * 3 + 4 * 6 * 5 * 3  # differences of neighbours; every number squared
    np.testing.assert_allclose(decide(module, variables, x)[1].overhead, wanted, rtol=1e-6)


@pytest.mark.parametrize("changes", [dict(gate_inputs=ALL), dict(gate_inputs="difference"),
                                     dict(gate_inputs="mean+deviation", gate_normalise=True)])
def test_both_forms_and_an_exported_program_agree(changes):
    x = clips()
    mixed = gates.GatedConv(**CONV, **changes)
    compact = mixed.clone(form="compact", positions=40)
    variables = wide_awake(draw(mixed, x))
    _, seen = mixed.apply(variables, x, mutable=["intermediates"],
                          capture_intermediates=lambda module, _: module.name == "fc2")
    (scores,) = seen["intermediates"]["gate"]["fc2"]["__call__"]
    variables["params"]["gate"]["beta"] = -np.median(scores, axis=0)  # half of the clips, for every variant
    wanted, decision = decide(mixed, variables, x)
    assert np.ptp(decision.ratio) > 0, "clips decide differently"
    np.testing.assert_allclose(jax.jit(compact.apply)(variables, x), wanted, atol=2e-5)
    (b,) = jax.export.symbolic_shape("b")
    program = jax.export.export(jax.jit(compact.apply))(
        variables, jax.ShapeDtypeStruct((b, *x.shape[1:]), np.float32))
    for n in (1, 4):
        np.testing.assert_allclose(program.call(variables, x[:n]), wanted[:n], atol=2e-5)


def test_the_papers_gate_is_the_default():
    """Its formula, by numpy, and no further array."""
    x = clips()
    module = gates.GatedConv(**CONV)
    variables = wide_awake(draw(module, x))
    gate, stats = variables["params"]["gate"], variables["batch_stats"]["gate"]
    assert set(gate) == {"fc1", "bn", "fc2", "beta"} and set(stats) == {"bn"}
    y = x.mean((1, 2, 3)) @ gate["fc1"]["kernel"] + gate["fc1"]["bias"]
    y = (y - stats["bn"]["mean"]) / np.sqrt(stats["bn"]["var"] + 1e-5)
    y = y * gate["bn"]["scale"] + gate["bn"]["bias"]
    y = np.tanh(np.tanh(y) @ gate["fc2"]["kernel"] + gate["beta"])
    decision = decide(module, variables, x)[1]
    np.testing.assert_allclose(np.concatenate([decision.V_c, decision.V_t], 1), np.maximum(y, 0), atol=1e-5)


def test_initial_scale_is_that_of_the_last_layer():
    x = clips()
    params = [jax.jit(gates.GatedConv(**CONV, **scale).init)(jax.random.key(0), x)["params"]
              for scale in ({}, dict(gate_scale=0.01), dict(gate_scale=0.5))]
    kernels = [found["gate"]["fc2"]["kernel"] for found in params]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    np.testing.assert_allclose(kernels[2], 50 * kernels[0], rtol=1e-5)


def test_running_norm_sees_a_clip_alike_in_any_batch():
    x = np.random.default_rng(0).normal(3, 2, (6, 4)).astype(np.float32)
    norm = inputs.RunningNorm()
    start = norm.init(jax.random.key(0), x, True)
    np.testing.assert_array_equal(start["batch_stats"]["mean"], 0)
    y, new = norm.apply(start, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-5), rtol=1e-6)
    np.testing.assert_allclose(norm.apply(start, x[:2], True, mutable=["batch_stats"])[0], y[:2])
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 + 0.1 * x.var(0), rtol=1e-5)
    for _ in range(100):
        new = norm.apply(new, x, True, mutable=["batch_stats"])[1]
    y = np.asarray(norm.apply(new, x, False))
    np.testing.assert_allclose([y.mean(0), y.std(0)], [np.zeros(4), np.ones(4)], atol=1e-3)


@pytest.mark.parametrize("text", ["", "mean+", "motion", "mean+mean", "mean,difference"])
def test_other_words_are_refused(text):
    with pytest.raises(ValueError, match="gate_inputs=.*expected one of mean, difference, deviation"):
        inputs.parse(text)


def test_inputs_that_a_map_does_not_have_are_refused():
    with pytest.raises(ValueError, match="gate_inputs='difference': maps of shape .6, 5, 3. have no frames"):
        inputs.seen(jnp.ones((2, 6, 5, 3)), ("difference",))
    with pytest.raises(ValueError, match="have no positions to take the deviation over"):
        inputs.seen(jnp.ones((2, 6, 3)), ("deviation",))
