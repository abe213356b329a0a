"""VA-RED2: gated convolutions in both forms against the plain one, their costs, loss, and failing gates."""

from functools import partial

import flax
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from configs import va_red2_k400, va_red2_minik, va_red2_mit
from effvid_jax import cost, folding, gate_variants, gates
from effvid_jax.backbones import blocks, make_backbone
from effvid_jax.methods import base, make_method, supervised, va_red2

OPEN, SHUT = 20.0, -20.0  # values of beta whose weight is exactly 1 and 0
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


def draw(module, x):
    """Random variables of a module; its own initialisers take seconds to compile."""
    r = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.asarray(x)))

    def value(path, leaf):
        scale = 1 / np.sqrt(max(1, np.prod(leaf.shape[:-1]))) if path[-1].key == "kernel" else 0.3
        offset = 0.0 if path[-1].key == "kernel" else 1.0
        return (offset + scale * r.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree.map_with_path(lambda path, leaf: abs(value(path, leaf)) if path[-1].key == "var"
                                  else value(path, leaf), shapes)


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
    assert va_red2.is_dead(decision).all()


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
    value, gradient = gate_variants.share(V, [8, 4, 2]), jax.jacobian(gate_variants.share)(V, [8, 4, 2])
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


def test_initial_gates_and_operations_are_those_asked_for():
    x = jnp.ones((1, 4, 6, 6, 4))
    module = gates.GatedConv(8, (3, 3), padding=1, layers=".*", search_space=3, beta=0.9, beta_reduced=0.1,
                             cheap_scale=0.0)
    params = module.init(jax.random.key(0), x)["params"]
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


# ------------------------------------------------------------------------------------------ networks
SMALL = {  # backbone: options
    "r2plus1d_18_vared": dict(width=8, stage_sizes=(1, 1), inflate=(1, 1), time_strides=(1, 2),
                              space_strides=(1, 2)),
    "i3d_tp": dict(width_mult=0.125),
    "x3d_m": dict(stage_sizes=(1,), widths=(8,)),
    "tpn_r2plus1d_18": dict(width=32, stage_sizes=(1, 1), inflate=(1, 1), time_strides=(1, 2),
                            space_strides=(1, 2), levels=(1, 2), time_scales=(2, 1)),
    "corrnet_r2plus1d_18": dict(width=8, stage_sizes=(2, 1), correlations=((1,), ()), inflate=(1, 1),
                                time_strides=(1, 2), space_strides=(1, 2)),
    "resnet50": dict(width=8, stage_sizes=(1, 1)),
}
GATED = {"r2plus1d_18_vared": 4, "i3d_tp": 57, "x3d_m": 3, "tpn_r2plus1d_18": 4,
         "corrnet_r2plus1d_18": 4, "resnet50": 6}
CLIP = (4, 32, 32, 3)


def networks(name, **fields):
    conv = partial(gates.GatedConv, layers=gates.GATED_LAYERS[name], **fields)
    return (make_backbone(name, num_classes=5, **SMALL[name]),
            make_backbone(name, num_classes=5, conv=conv, **SMALL[name]))


@pytest.mark.parametrize("name", SMALL)
def test_a_gated_network_costs_what_the_plain_one_does_and_adds_only_gates(name):
    plain, gated = networks(name)
    for convention in cost.CONVENTIONS:
        if convention != "macs_attn":
            assert cost.count(gated, CLIP, convention).macs == cost.count(plain, CLIP, convention).macs
    shapes = [flax.traverse_util.flatten_dict(jax.eval_shape(
        lambda m=m: m.init(jax.random.key(0), jnp.zeros((1, *CLIP))))["params"], sep="/")
        for m in (plain, gated)]
    added = shapes[1].keys() - shapes[0].keys()
    assert {k: shapes[0][k].shape for k in shapes[0]} == {k: shapes[1][k].shape for k in shapes[0]}
    assert all("/gate/" in k or "/cheap_" in k for k in added)
    layers = va_red2.layer_names(flax.traverse_util.unflatten_dict(shapes[1], sep="/"))
    assert len(layers) == GATED[name], layers


@pytest.mark.parametrize("name", ["r2plus1d_18_vared", "x3d_m"])
def test_networks_agree_in_both_forms(name):
    _, gated = networks(name)
    compact = networks(name, form="compact")[1]
    r = np.random.default_rng(0)
    x = (r.normal(size=(5, *CLIP)) + 3 * r.normal(size=(5, 1, 1, 1, 3))).astype(np.float32)
    variables = draw(gated, x)
    params = flax.traverse_util.path_aware_map(
        lambda path, a: a * 0 if path[-1] == "beta" else a * 3 if "gate" in path else a,
        variables["params"])
    variables = {"params": params, "batch_stats": variables["batch_stats"]}
    (wanted, _), state = jax.jit(partial(gated.apply, mutable=["gates"]))(variables, x)
    ratios = np.stack([d.ratio for d in gates.collect(state["gates"]).values()])
    assert (np.ptp(ratios, axis=1) > 0).any(), "clips decide differently somewhere"
    np.testing.assert_allclose(jax.jit(compact.apply)(variables, x)[0], wanted, atol=1e-4)


# -------------------------------------------------------------------------------------- the method
def tiny_config(**changes):
    config = va_red2_minik.get_config("tiny")
    config.model.options.update(dict(width=8, stage_sizes=(1,), inflate=(1,), time_strides=(1,),
                                     space_strides=(1,)))
    config.method.update(changes)
    return config


NAMES = [str(i) for i in range(4)]


@pytest.fixture(scope="module")
def trained():
    """(method, variables, batch) of a network with a handful of layers."""
    config = tiny_config()
    method = va_red2.make(config, NAMES)
    model = base.build_backbone(config.model, 4, conv=va_red2.gated_conv(config))
    drawn = draw(model, np.zeros((1, 4, 16, 16, 3), np.float32))
    params = flax.traverse_util.path_aware_map(
        lambda path, a: np.ones_like(a) if path[-1] == "beta" else a / 9 if "fc2" in path else a,
        drawn["params"])
    variables = base.Variables(params, drawn["batch_stats"])
    method = method._replace(predict=jax.jit(method.predict))
    r = np.random.default_rng(0)
    batch = {"video": jnp.asarray(r.integers(0, 256, (4, 4, 16, 16, 3), dtype=np.uint8)),
             "label": jnp.arange(4), "mask": jnp.ones(4)}
    return method, variables, batch


def test_loss_is_the_sum_of_its_terms_and_trains_the_gates(trained):
    method, variables, batch = trained
    step = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    logits = method.predict(variables, {"video": batch["video"][:, None]}).logits
    assert logits.shape == (4, 4)
    (value, (stats, scalars)), gradient = step(variables.params, variables, batch, jax.random.key(0))
    np.testing.assert_allclose(value, scalars["loss_cls"] + scalars["loss_efficiency"], rtol=1e-6)
    np.testing.assert_allclose(  # everything is computed at the start: L_e is the share of right clips
        scalars["loss_efficiency"], tiny_config().method.efficiency_weight * scalars["top1"],
        rtol=1e-6)
    assert scalars["gates/computed"] == 1 and scalars["gates/dead"] == 0
    for path, g in jax.tree.leaves_with_path(gradient):
        assert np.isfinite(g).all(), path
    assert jax.tree.structure(stats) == jax.tree.structure(variables.stats)


def test_efficiency_loss_counts_right_clips_only_and_reaches_the_gates():
    labels, logits = jnp.array([0, 1]), jnp.array([[5.0, 0.0], [5.0, 0.0]])  # right, wrong

    def loss(V):
        ratio = gate_variants.share(V, [4, 2]) * gate_variants.share(V, [8, 4])
        decision = gate_variants.Decision(V, V, ratio, 0.0, 10)
        return va_red2.efficiency_loss([decision], logits, labels)

    V = jnp.full((2, 2), 0.5)
    np.testing.assert_array_equal(loss(V), [1, 0])
    gradient = jax.grad(lambda V: loss(V).sum())(V)
    assert gradient[0, 0] > 0 and not gradient[1].any()


def test_efficiency_weight_zero_leaves_the_gates_to_the_accuracy(trained):
    _, variables, batch = trained
    method = va_red2.make(tiny_config(efficiency_weight=0.0), NAMES)
    _, (_, scalars) = jax.jit(method.loss)(variables.params, variables, batch, jax.random.key(0))
    assert scalars["loss_efficiency"] == 0


def test_cost_of_a_clip_is_the_plain_networks_less_what_is_not_computed(trained):
    method, variables, batch = trained
    config = tiny_config()
    static = cost.gmacs(base.build_backbone(config.model, 4), (4, 16, 16, 3))
    video = {"video": jnp.stack([batch["video"]] * 2, axis=1)}
    full = method.predict(variables, video)
    np.testing.assert_allclose(full.extra["gmacs_plain_ops"], 2 * static, rtol=1e-6)
    assert (full.gmacs > 2 * static).all() and full.extra["clip_answers"].shape == (4, 2)

    half = flax.traverse_util.path_aware_map(
        lambda path, a: jnp.array([SHUT, OPEN, SHUT, OPEN]) if path[-1] == "beta" else a,
        variables.params)
    reduced = method.predict(base.Variables(half, variables.stats), video)
    gated = cost.count(base.build_backbone(config.model, 4), (4, 16, 16, 3))
    macs = {layer.name: layer for layer in gated.layers}
    saved = 0
    for name in va_red2.layer_names(variables.params):
        channels = macs[name].out_shape[-1]
        saved += macs[name].macs * (1 - np.ceil(channels / 2) / channels / 2)
    np.testing.assert_allclose(reduced.extra["gmacs_plain_ops"], 2 * (static - saved / 1e9), rtol=1e-5)
    assert (reduced.extra["ratios"] < 0.3).all() and (reduced.extra["dead"] == 0).all()


def test_a_static_checkpoint_fits_and_gives_the_same_answers(trained):
    method, variables, batch = trained
    static = supervised.make(tiny_config(), NAMES)
    drawn = draw(base.build_backbone(tiny_config().model, 4), np.zeros((1, 4, 16, 16, 3), np.float32))
    plain = base.Variables(drawn["params"], drawn["batch_stats"])
    params, stats = (flax.traverse_util.unflatten_dict({
        **flax.traverse_util.flatten_dict(ours), **flax.traverse_util.flatten_dict(theirs)})
        for ours, theirs in ((variables.params, plain.params), (variables.stats, plain.stats)))
    params = flax.traverse_util.path_aware_map(
        lambda path, a: jnp.array([OPEN, SHUT, OPEN, SHUT]) if path[-1] == "beta" else a, params)
    video = {"video": batch["video"][:, None]}
    np.testing.assert_allclose(method.predict(base.Variables(params, stats), video).logits,
                               static.predict(plain, video).logits, atol=1e-5)


@pytest.mark.parametrize(("form", "positions"), [("mixed", 0), ("compact", 0), ("compact", 4096)])
def test_exports_for_any_batch_size(trained, form, positions):
    method, variables, batch = trained
    video, config = batch["video"][:, None], tiny_config()
    model = base.build_backbone(config.model, 4, conv=va_red2.gated_conv(config))
    look = jax.jit(partial(model.apply, mutable=["intermediates"],
                           capture_intermediates=lambda module, _: module.name == "fc2"))
    _, seen = look(dict(params=variables.params, batch_stats=variables.stats), base.normalise(batch["video"]))
    middle = {path[:-2]: -np.median(x[0], axis=0) for path, x in
              flax.traverse_util.flatten_dict(seen["intermediates"]).items()}
    variables = base.Variables(flax.traverse_util.path_aware_map(
        lambda path, a: middle[path[:-1]] if path[-1] == "beta" else a, variables.params), variables.stats)
    wanted = method.predict(variables, {"video": video})
    assert np.ptp(wanted.gmacs) > 0, "clips decide differently"

    predict = va_red2.make(tiny_config(form=form, positions=positions), NAMES).predict

    def program(variables, video):
        found = predict(variables, {"video": video})
        return found.logits, found.gmacs

    (b,) = jax.export.symbolic_shape("b")
    exported = jax.export.export(jax.jit(program), platforms=["cpu", "cuda"])(
        variables, jax.ShapeDtypeStruct((b, *video.shape[1:]), np.uint8))
    for n in (1, 4):
        logits, gmacs = exported.call(variables, video[:n])
        np.testing.assert_allclose(logits, wanted.logits[:n], atol=1e-5)
        np.testing.assert_allclose(gmacs, wanted.gmacs[:n], rtol=1e-6)


def rows(ratios):
    n = len(ratios)
    return {"ratios": np.asarray(ratios), "dead": np.zeros_like(ratios), "label": np.arange(n) % 2,
            "name": np.array([f"v{i}" for i in range(n)]), "gmacs": np.linspace(1, 2, n),
            "gmacs_plain_ops": np.linspace(1, 2, n) - 0.1, "computed": np.asarray(ratios).mean(axis=1)}


def test_analysis_writes_ratios_per_class_and_the_extreme_clips(trained, tmp_path, capsys):
    variables = trained[1]
    L = len(va_red2.layer_names(variables.params))
    found = va_red2.analyse(rows(np.linspace(0.2, 1, 6)[:, None].repeat(L, 1)), variables, str(tmp_path),
                            "val", ["a", "b", "c"])
    assert found["varying_layers"] == 1 and found["dead"] == 0
    np.testing.assert_allclose(found["gmacs_plain_ops"], 1.4)
    ratios = (tmp_path / "gate_ratios_val.csv").read_text().splitlines()
    assert len(ratios) == 3 and ratios[1].startswith("a,0.5200"), "mean of clips 0, 2, 4; no row for c"
    clips = (tmp_path / "gate_clips_val.csv").read_text().splitlines()
    assert clips[1] == "a,v4,1.8,v0,1"
    assert (tmp_path / "gate_ratios_val.png").stat().st_size > 1000
    va_red2.analyse(rows(np.full((4, L), 0.5)), variables, "", "val", ["a", "b"])
    assert "collapsed" in capsys.readouterr().err


def test_analysis_refuses_gates_that_are_not_finite(trained):
    variables = trained[1]
    names = va_red2.layer_names(variables.params)
    bad = np.ones((3, len(names)))
    bad[1, 0] = np.nan
    with pytest.raises(ValueError, match=f"gate of {names[0]} is not finite for video v1.*1 of 3 videos"):
        va_red2.analyse(rows(bad), variables, "", "val", ["a", "b"])


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="config.method.efficiency_weight=-1.0: expected 0 or more"):
        va_red2.make(tiny_config(efficiency_weight=-1.0), NAMES)
    config = tiny_config()
    config.model.backbone = "mvit_v2_s"
    with pytest.raises(ValueError, match="'mvit_v2_s' has no list of gated convolutions"):
        va_red2.make(config, NAMES)
    method = va_red2.make(tiny_config(layers="nothing"), NAMES)
    with pytest.raises(ValueError, match="'nothing' matches no convolution"):
        method.init(jax.random.key(0), (4, 4, 16, 16, 3))


@pytest.mark.parametrize("configs", [va_red2_minik, va_red2_k400, va_red2_mit])
@pytest.mark.parametrize("backbone", SMALL)
def test_configs_build_on_every_backbone_of_the_paper(configs, backbone):
    for arg in ("", "static,", "tiny,", "demo,"):
        config = configs.get_config(f"{arg}backbone={backbone},frames=16,search_space=3")
        assert config.data.num_frames == 16
        assert config.method.name == ("supervised" if "static" in arg else "va_red2")
        model = base.build_backbone(config.model, 200)
        side = config.data.test_crop_size
        assert cost.gmacs(model, (16, side, side, 3)) > 0
    started = configs.get_config(f"from_static,backbone={backbone}")
    assert not started.run and started.optim.groups == "gates" and started.method.cheap_scale == 0
    with pytest.raises(ValueError, match="backbone='resnet51': expected one of"):
        configs.get_config("backbone=resnet51")


@pytest.mark.parametrize(
    "arg", [*(f"backbone={name}" for name in SMALL), "baseline=cgnet", "baseline=pruning"])
def test_full_size_networks_train_and_predict(arg):
    """Traced, not run: a layer of R(2+1)D-18 has more multiply-adds than 32 bits hold."""
    config = va_red2_minik.get_config(f"{arg},frames=16")
    data, method = config.data, make_method(config, NAMES)
    shape = (2, 16, data.crop, data.crop, 3)
    variables = jax.eval_shape(lambda: method.init(jax.random.key(0), shape))
    batch = {"label": jnp.zeros(2, jnp.int32), "mask": jnp.ones(2, bool)}
    loss, _ = jax.eval_shape(
        lambda v, video: method.loss(v.params, v, batch | {"video": video}, jax.random.key(0)),
        variables, jax.ShapeDtypeStruct(shape, jnp.uint8))
    views = (2, 3, 16, data.test_crop_size, data.test_crop_size, 3)
    found = jax.eval_shape(lambda v, video: method.predict(v, {"video": video}), variables,
                           jax.ShapeDtypeStruct(views, jnp.uint8))
    assert loss.shape == () and found.gmacs.shape == (2,) and found.logits.shape == (2, len(NAMES))


@pytest.mark.parametrize("name", ["r2plus1d_18_vared", "x3d_m", "tpn_r2plus1d_18"])
@pytest.mark.parametrize("gated", [False, True])
def test_folded_networks_say_the_same(name, gated):
    model = networks(name)[gated]
    x = np.random.default_rng(0).normal(size=(2, *CLIP)).astype(np.float32)
    variables = draw(model, x)
    wanted = jax.jit(model.apply)(variables, x)[0]
    folded, less = folding.fold(model, variables, CLIP)
    np.testing.assert_allclose(jax.jit(folded.apply)(less, x)[0], wanted, atol=1e-4 * abs(wanted).max())
    names = flax.traverse_util.flatten_dict(less["params"], sep="/")
    kept = {k for k in names if k.endswith("/scale")}
    assert all("/gate/" in k for k in kept) and len(names) < len(jax.tree.leaves(variables["params"]))


def test_a_folded_network_does_not_train():
    model = networks("x3d_m")[0]
    x = np.zeros((1, *CLIP), np.float32)
    folded, variables = folding.fold(model, draw(model, x), CLIP)
    with pytest.raises(ValueError, match="a folded network only predicts"):
        jax.eval_shape(lambda: folded.apply(variables, x, train=True, mutable=["batch_stats"]))
