"""Gated convolutions: both forms against the plain convolution and each other, costs, and failing gates."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.backbones import blocks
from effvid_jax.gating import decisions, gates, variants
from tests.drawn import OPEN, SHUT, draw

RATIO = {2: (1, 0.5), 3: (1, 0.5, 0.25)}
KINDS = {  # name: (input shape without the batch, fields)
    "2-D": ((5, 6, 6, 4), dict(features=9, kernel_size=(3, 3), padding=1)),
    "2-D strided": ((4, 7, 7, 4), dict(features=8, kernel_size=(3, 3), strides=2, padding=1,
                                       use_bias=True)),
    "image": ((6, 6, 4), dict(features=9, kernel_size=(3, 3), padding=1)),
    "3-D": ((5, 6, 6, 4), dict(features=9, kernel_size=(3, 3, 3), padding=1)),
    "3-D strided": ((7, 6, 6, 4), dict(features=8, kernel_size=(3, 3, 3), strides=(2, 2, 2), padding=1)),
    "1x3x3": ((3, 6, 6, 4), dict(features=7, kernel_size=(1, 3, 3), padding=(0, 1, 1))),
    "3x1x1": ((4, 3, 3, 4), dict(features=7, kernel_size=(3, 1, 1), padding=(1, 0, 0))),
    "depthwise": ((4, 6, 6, 7), dict(features=7, kernel_size=(3, 3, 3), padding=1, groups=7)),
    "grouped": ((4, 6, 6, 6), dict(features=12, kernel_size=(1, 3, 3), padding=(0, 1, 1), groups=3)),
    "1-D": ((6, 4), dict(features=5, kernel_size=(3,), padding=1)),
    "one frame": ((1, 6, 6, 4), dict(features=9, kernel_size=(1, 3, 3), padding=(0, 1, 1))),
    "one channel": ((4, 6, 6, 4), dict(features=1, kernel_size=(1, 3, 3), padding=(0, 1, 1))),
}


def make(kind, S=2, form="mixed", batch=5, **fields):
    """(module, plain module, variables, input)."""
    shape, conv = KINDS[kind]
    r = np.random.default_rng(0)
    x = r.normal(size=(batch, *shape)) + 2 * r.normal(size=(batch, *[1] * (len(shape) - 1), shape[-1]))
    x = x.astype(np.float32)
    module = gates.GatedConv(**conv, layers=".*", search_space=S, form=form, positions=40, **fields)
    return module, blocks.Conv(**conv), draw(module, x), x


def set_beta(variables, values):
    """The same weights tanh(values) for every clip."""
    gate = variables["params"]["gate"]
    new = {**gate, "beta": jnp.asarray(values, jnp.float32), "fc2": jax.tree.map(np.zeros_like, gate["fc2"])}
    return {**variables, "params": {**variables["params"], "gate": new}}


def vary(variables, seed=0):
    """Gates whose decisions differ from clip to clip."""
    gate = variables["params"]["gate"]
    kernel = np.random.default_rng(seed).normal(size=gate["fc2"]["kernel"].shape).astype(np.float32)
    new = {**gate, "beta": np.full_like(gate["beta"], 0.2), "fc2": {"kernel": kernel}}
    return {**variables, "params": {**variables["params"], "gate": new}}


def run(module, variables, x):
    """(output, decision)."""
    y, state = jax.jit(partial(module.apply, mutable=["gates"]))(variables, x)
    return y, state["gates"]["decision"]


def one_hot(outputs, *on):
    return [OPEN if i in on else SHUT for i in range(outputs)]


def num_gates(variables):
    return len(variables["params"]["gate"]["beta"])


@pytest.mark.parametrize("kind", KINDS)
def test_full_variant_with_unit_weight_is_the_plain_convolution(kind):
    module, plain, variables, x = make(kind)
    n = num_gates(variables)
    y, decision = run(module, set_beta(variables, one_hot(n, 0, n - 2 if n > 2 else 0)), x)
    params = {k: v for k, v in variables["params"].items() if k in ("kernel", "bias")}
    np.testing.assert_allclose(y, plain.apply({"params": params}, x), atol=1e-6)
    assert (decision.ratio == 1).all()


@pytest.mark.parametrize(("kind", "S"), [(kind, 2) for kind in KINDS if kind not in ("2-D", "3-D")] + [
    ("2-D", 3), ("3-D", 3)])
def test_compact_equals_mixed_for_every_decision(kind, S):
    mixed, _, variables, x = make(kind, S)
    compact = mixed.clone(form="compact")
    n = num_gates(variables)
    patterns = [one_hot(n, i, S + j) for i in range(S) for j in range(S)] if n > S else [
        one_hot(n, i) for i in range(S)]
    mixed_fn = jax.jit(partial(mixed.apply, mutable=["gates"]))
    batch_fn, single_fn = jax.jit(compact.apply), jax.jit(compact.apply)
    for v in [set_beta(variables, weights) for weights in patterns] + [vary(variables, s) for s in range(3)]:
        y, state = mixed_fn(v, x)
        np.testing.assert_allclose(batch_fn(v, x), y, atol=2e-5, rtol=1e-5)
        for b in range(0, len(x), 2):
            np.testing.assert_allclose(single_fn(v, x[b:b + 1]), y[b:b + 1], atol=2e-5, rtol=1e-5)
        shares_c, shares_t = (np.unique([1, *shares(kind, S, axis)]) for axis in (0, 1))
        ratio = np.asarray(state["gates"]["decision"].ratio)
        assert (abs(ratio[:, None] - np.outer(shares_c, shares_t).ravel()).min(axis=1) < 1e-6).all()


def shares(kind, S, axis):
    """Shares of channels (axis 0) or frames (axis 1) that the ratios compute."""
    shape, conv = KINDS[kind]
    full = conv["groups"] if conv.get("groups", 1) > 1 else conv["features"]
    if axis:
        full = -(-shape[0] // (2 if kind == "3-D strided" else 1)) if len(shape) != 3 else 1
    return [np.ceil(full * r) / full for r in RATIO[S]]


@pytest.mark.parametrize("kind", ["2-D", "3-D", "3-D strided", "1-D", "3x1x1", "depthwise"])
def test_kept_frames_are_those_of_the_full_convolution(kind):
    module, plain, variables, x = make(kind, S=3, channel=False)
    full = plain.apply({"params": {"kernel": variables["params"]["kernel"]}}, x)
    for form in ("mixed", "compact"):
        for j, stride in enumerate((1, 2, 4)):
            y, _ = run(module.clone(form=form), set_beta(variables, one_hot(3, j)), x)
            np.testing.assert_allclose(y[:, ::stride], full[:, ::stride], atol=1e-5)
            for t in range(y.shape[1]):  # the others are made of the frame before them alone
                base_frame, offset = t // stride * stride, t % stride
                if offset:
                    factor = variables["params"][f"cheap_t{j}"][offset - 1]
                    np.testing.assert_allclose(y[:, t], full[:, base_frame] * factor, atol=1e-4)


@pytest.mark.parametrize("S", [2, 3])
def test_channels_beyond_the_first_come_from_the_cheap_operation(S):
    module, plain, variables, x = make("1x3x3", S, temporal=False)
    full = np.asarray(plain.apply({"params": {"kernel": variables["params"]["kernel"]}}, x))
    for i, k in enumerate([7, 4, 2][:S]):
        y, _ = run(module, set_beta(variables, one_hot(S, i)), x)
        np.testing.assert_allclose(y[..., :k], full[..., :k], atol=1e-5)
        for c in range(k, 7):
            kernel = np.asarray(variables["params"][f"cheap_c{i}"])[:, :, 0, c - k]
            source = np.pad(full[..., c % k], ((0, 0), (0, 0), (1, 1), (1, 1)))
            wanted = sum(kernel[a, b] * source[:, :, a:a + 6, b:b + 6] for a in range(3) for b in range(3))
            np.testing.assert_allclose(y[..., c], wanted, atol=1e-5)


@pytest.mark.parametrize("form", ["mixed", "compact"])
def test_weights_stay_soft(form):
    """Two open variants: their sum, weighted; what is kept at inference is the weight, not 0 or 1."""
    module, plain, variables, x = make("2-D", form=form, temporal=False)
    full, half = (run(module, set_beta(variables, one_hot(2, i)), x)[0] for i in (0, 1))
    y, decision = run(module, set_beta(variables, np.arctanh([0.25, 0.5])), x)
    np.testing.assert_allclose(y, 0.25 * full + 0.5 * half, atol=1e-5)
    assert (decision.ratio == 1).all(), "the largest variant in use is what has to be computed"


@pytest.mark.parametrize("form", ["mixed", "compact"])
def test_no_weight_left_gives_zeros_at_the_cheapest_cost(form):
    module, _, variables, x = make("1x3x3", form=form)
    y, decision = run(module, set_beta(variables, [SHUT] * 4), x)
    assert not y.any()
    np.testing.assert_allclose(decision.ratio, 4 / 7 * 2 / 3, rtol=1e-6)
    assert decisions.is_dead(decision).all()


@pytest.mark.parametrize(("kind", "S", "loops"), [
    ("2-D strided", 2, 4), ("2-D strided", 3, 9), ("grouped", 2, 4), ("one channel", 2, 2),
    ("2-D", 2, 0), ("2-D strided", 4, 0), ("3x1x1", 2, 0), ("depthwise", 2, 0), ("image", 2, 0)])
def test_large_maps_go_a_few_frames_at_a_time_on_cpus(kind, S, loops, monkeypatch):
    """Where kernels see one frame and the clip is a multiple of the largest stride: the same outputs."""
    mixed, _, variables, x = make(kind, S)
    v = vary(variables)
    expected = mixed.apply(v, x)
    monkeypatch.setattr(variants, "LARGE", 0)
    compact = jax.jit(mixed.clone(form="compact").apply)
    np.testing.assert_allclose(compact(v, x), expected, atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(compact(v, x[:1]), expected[:1], atol=2e-5, rtol=1e-5)
    found = {platform: compact.trace(v, x[:1]).lower(lowering_platforms=(platform,)).as_text().count(
        "stablehlo.while") for platform in ("cpu", "cuda", "tpu")}
    assert found == {"cpu": loops, "cuda": 0, "tpu": 0}


def test_grouped_dispatch_does_not_depend_on_the_order_of_the_batch():
    module, _, variables, x = make("2-D", 3, "compact", batch=9)
    v = vary(variables)
    y, decision = run(module, v, x)
    assert len(set(np.asarray(decision.ratio).round(3))) > 2, "the clips ask for different things"
    order = np.random.default_rng(0).permutation(9)
    np.testing.assert_allclose(run(module, v, x[order])[0], y[order], atol=1e-4)
    np.testing.assert_allclose(run(module, v, x[:4])[0], y[:4], atol=1e-4)


def test_overhead_is_cheap_operations_and_gate():
    module, _, variables, x = make("1x3x3")  # 3 frames of 6x6, 4 to 7 channels, 4 of them computed
    gate = 4 * 16 + 16 * 4
    for (i, j), cheap in {(0, 0): 0, (1, 0): 9 * 3 * 36 * 3, (0, 1): 36 * 7,
                          (1, 1): 9 * 3 * 36 * 2 + 36 * 7}.items():
        _, decision = run(module, set_beta(variables, one_hot(4, i, 2 + j)), x)
        np.testing.assert_allclose(decision.overhead, gate + cheap, rtol=1e-6)
    assert decision.macs == 3 * 36 * 9 * 4 * 7


def test_gradient_of_the_ratio_reaches_the_larger_variants_only():
    V = jnp.array([[0.5, 0.3, 0.2], [0.0, 0.3, 0.2], [0.0, 0.0, 0.2], [0.0, 0.0, 0.0]])
    value, gradient = variants.share(V, [8, 4, 2]), jax.jacobian(variants.share)(V, [8, 4, 2])
    np.testing.assert_allclose(value, [1, 0.5, 0.25, 0.25])
    per_clip = np.einsum("bbs->bs", gradient)
    assert (per_clip[:, 2] == 0).all(), "nothing pushes the last variant down"
    np.testing.assert_allclose(per_clip[:2, :2], [[0.75, 0], [0, 0.25]])
    assert not per_clip[2:].any()


@pytest.mark.parametrize("leak", [0.0, 0.1])
def test_a_closed_variant_opens_again_only_with_a_leak(leak):
    module, _, variables, x = make("2-D", leak=leak)
    v = set_beta(variables, [-0.5] * 4)

    def loss(gate):
        out, _ = module.apply({**v, "params": {**v["params"], "gate": gate}}, x, mutable=["gates"])
        return jnp.square(out - 1).sum()

    wanted = set_beta(variables, [0.5, -0.5, 0.5, 0.5])["params"]["gate"]
    gradient_of = jax.jit(jax.grad(loss))
    for gate in (v["params"]["gate"], wanted):
        gradient = gradient_of(gate)["beta"]
        assert (gradient[1] != 0) == (leak > 0 and gate is wanted)
        assert np.isfinite(gradient).all()


# ------------------------------------------------------------------------------------ the discrete form
@pytest.mark.parametrize("form", ["mixed", "compact"])
def test_a_discrete_gate_computes_one_variant_and_keeps_its_size(form):
    soft, plain, variables, x = make("1x3x3", form=form)
    module = soft.clone(discrete=True)
    full = plain.apply({"params": {"kernel": variables["params"]["kernel"]}}, x)
    y, decision = run(module, set_beta(variables, [0.3, 0.2, -1.0, -1.0]), x)  # of equals the first
    np.testing.assert_allclose(y, full, atol=1e-5)
    assert (decision.ratio == 1).all()
    for i, j in ((1, 0), (0, 1), (1, 1)):
        y, decision = run(module, set_beta(variables, one_hot(4, i, 2 + j)), x)
        wanted, same = run(soft, set_beta(variables, one_hot(4, i, 2 + j)), x)
        np.testing.assert_allclose(y, wanted, atol=1e-5)
        for field in ("V_c", "V_t", "ratio", "overhead"):
            np.testing.assert_allclose(getattr(decision, field), getattr(same, field), rtol=1e-6)


def test_discrete_decisions_differ_between_clips_and_both_forms_agree():
    module, _, variables, x = make("2-D", 3, discrete=True, batch=9)
    variables = vary(variables)
    wanted, decision = run(module, variables, x)
    assert len(set(np.asarray(decision.ratio).round(3))) > 2
    assert set(np.asarray(decision.V_c).ravel()) == {0.0, 1.0} and not decisions.is_dead(decision).any()
    np.testing.assert_array_equal(np.asarray(decision.V_t).sum(axis=1), 1)
    compact = module.clone(form="compact")
    np.testing.assert_allclose(jax.jit(compact.apply)(variables, x), wanted, atol=2e-5)
    np.testing.assert_allclose(jax.jit(compact.apply)(variables, x[:1]), wanted[:1], atol=2e-5)


def test_a_discrete_gate_learns_from_both_losses():
    """The cost pushes what is computed; the output pulls at what is not, too."""
    module, _, variables, x = make("2-D", discrete=True, temporal=False)

    def gradient(loss, beta):
        v = set_beta(variables, beta)

        def run_loss(gate):
            out, state = module.apply({**v, "params": {**v["params"], "gate": gate}}, x, mutable=["gates"])
            return loss(out, state["gates"]["decision"])

        return jax.grad(run_loss)(v["params"]["gate"])["beta"]

    def cost(_, decision):
        return decision.ratio.sum()

    assert gradient(cost, [0.5, 0.0])[0] > 0 > gradient(cost, [0.5, 0.0])[1]
    np.testing.assert_array_equal(gradient(cost, [0.0, 0.5]), 0)
    assert gradient(lambda out, _: jnp.square(out).sum(), [0.0, 0.5])[0] != 0
    y, decision = run(module, set_beta(variables, [np.nan, 0.0]), x)
    assert np.isnan(y).any() and np.isnan(decision.ratio).all()


def test_initial_gates_and_operations_are_those_asked_for():
    x = jnp.ones((1, 4, 6, 6, 4))
    module = gates.GatedConv(8, (3, 3), padding=1, layers=".*", search_space=3, beta=0.9, beta_reduced=0.1,
                             cheap_scale=0.0)
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]
    np.testing.assert_allclose(params["gate"]["beta"], [0.9, 0.1, 0.1] * 2)
    assert not params["cheap_c1"].any() and not params["cheap_c2"].any() and (params["cheap_t1"] == 1).all()


# ---------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(("field", "value"), [("search_space", 1), ("search_space", 7), ("form", "fast"),
                                              ("cheap_kernel", 2)])
def test_wrong_fields_are_named(field, value):
    with pytest.raises(ValueError, match=f"{field}={value!r}: expected"):
        make("2-D", **({"S": value} if field == "search_space" else {field: value}))


@pytest.mark.parametrize("form", ["mixed", "compact"])
def test_more_ratios_than_channels_and_strides_than_frames(form):
    """At least one channel and one frame are computed; the cost says so."""
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
    module = gates.GatedConv(2, (1, 3, 3), padding=(0, 1, 1), layers=".*", search_space=4, form=form)
    v = set_beta(draw(module, x), one_hot(8, 3, 7))  # 1/8 of 2 channels, stride 8 of 3
    y, decision = run(module, v, x)
    assert np.isfinite(y).all() and y.any()
    np.testing.assert_allclose(decision.ratio, 1 / 2 * 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("form", ["mixed", "compact"])
def test_gates_that_are_not_finite_show(form):
    module, _, variables, x = make("2-D", form=form)
    y, decision = run(module, set_beta(variables, [np.nan] * 4), x)
    assert np.isnan(y).any() and np.isnan(decision.ratio).all()
