"""What VA-RED2 is compared with: weight-level pruning and channel gating (CGNet)."""

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from configs import va_red2_minik
from effvid_jax import cost
from effvid_jax.backbones import blocks, trace
from effvid_jax.backbones.facts import facts
from effvid_jax.methods import building, cgnet, pruning
from tests.made import made

CONV = dict(features=6, kernel_size=(1, 3, 3), padding=(0, 1, 1), layers=".*")
NAMES = [str(k) for k in range(4)]


def setup(module, channels=8):
    """(input, variables): weights and statistics that are not the initial ones."""
    r = np.random.default_rng(0)
    x = jnp.asarray(r.normal(size=(3, 4, 5, 5, channels)).astype(np.float32))
    variables = module.init(jax.random.key(0), x)
    return x, jax.tree.map(lambda a: a + jnp.asarray(0.3 * abs(r.normal(size=a.shape)), a.dtype), variables)


# ------------------------------------------------------------------------------------------- pruning
@pytest.mark.parametrize("keep", [1.0, 0.5, 0.01])
def test_pruning_keeps_the_largest_weights_and_counts_only_those(keep):
    module = pruning.PrunedConv(**CONV, keep=keep)
    x, variables = setup(module)
    kernel = np.array(variables["params"]["kernel"])
    kept = round(keep * kernel.size)
    order = np.argsort(-abs(kernel), axis=None)
    kernel.flat[order[kept:]] = 0
    plain = blocks.Conv(6, (1, 3, 3), padding=(0, 1, 1))
    np.testing.assert_allclose(module.apply(variables, x), plain.apply({"params": {"kernel": kernel}}, x),
                               atol=1e-5)
    with trace.recording() as tape:
        module.apply(variables, x)
    assert [op.macs for op in tape] == [round(keep * 3 * 4 * 25 * 6 * 8 * 9)]


def test_pruned_weights_still_learn():
    module = pruning.PrunedConv(**CONV, keep=0.25)
    x, variables = setup(module)
    gradient = jax.grad(lambda p: jnp.square(module.apply({"params": p}, x)).sum())(variables["params"])
    assert (np.array(gradient["kernel"]) != 0).all()


def test_a_pruned_network_costs_what_is_kept():
    config = va_red2_minik.get_config("tiny,baseline=pruning")
    shape = (4, 16, 16, 3)
    video = jnp.zeros((2, 1, *shape), jnp.uint8)
    found = {}
    for keep in (1.0, 0.61):
        config.method.keep = keep
        method = made(config, NAMES)
        variables = jax.eval_shape(lambda m=method: m.init(jax.random.key(0), (1, *shape)))
        variables = jax.tree.map(lambda a: jnp.ones(a.shape, a.dtype), variables)
        gmacs = jax.jit(lambda v, m=method: m.predict(v, {"video": video}).gmacs)  # compiles no convolution
        found[keep] = float(gmacs(variables)[0])
    model = building.build_backbone(config.model, 4)
    layers = cost.count(model, shape).layers
    pattern = facts("r2plus1d_18_vared").gated_layers
    pruned = sum(layer.macs for layer in layers if re.fullmatch(pattern, layer.name))
    assert found[1.0] == pytest.approx(cost.gmacs(model, shape), rel=1e-6)
    assert found[1.0] - found[0.61] == pytest.approx(0.39 * pruned / 1e9, rel=1e-4)


# --------------------------------------------------------------------------------------------- CGNet
def reference(x, kernel, mean, var, threshold, first):
    """The rule of AdaFuse's port: the full sum where the normalised partial sum exceeds the threshold."""
    conv = blocks.Conv(kernel.shape[-1], (1, 3, 3), padding=(0, 1, 1))
    part = conv.apply({"params": {"kernel": kernel[..., :first, :]}}, x[..., :first])
    full = conv.apply({"params": {"kernel": kernel}}, x)
    decided = 1 / (1 + np.exp(-2.0 * ((part - mean) / np.sqrt(var + 1e-5) - threshold))) > 0.5
    return np.where(decided, full, part), decided


def test_channel_gating_is_the_rule_of_the_published_port():
    module = cgnet.ChannelGatedConv(**CONV)
    x, variables = setup(module)
    y, state = module.apply(variables, x, mutable=["gates"])
    p, stats = variables["params"], variables["batch_stats"]["gate_bn"]
    expected, decided = reference(x, p["kernel"], stats["mean"], stats["var"], p["gate_threshold"], 2)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    decision = state["gates"]["decision"]
    np.testing.assert_allclose(decision.ratio, 0.25 + 0.75 * decided.mean(axis=(1, 2, 3, 4)), rtol=1e-5)
    assert decision.macs == 4 * 25 * 6 * 8 * 9 and set(variables["batch_stats"]) == {"gate_bn"}
    print("computed", np.array(decision.ratio))


def test_thresholds_learn_from_the_answer_and_from_their_target():
    config = va_red2_minik.get_config("tiny,baseline=cgnet")
    config.model.options.update(dict(width=8, stage_sizes=(1, 1), inflate=(1, 1), time_strides=(1, 2),
                                     space_strides=(1, 2)))
    method = made(config, NAMES)
    variables = jax.jit(lambda key: method.init(key, (1, 4, 16, 16, 3)))(jax.random.key(0))
    r = np.random.default_rng(0)
    batch = {"video": jnp.asarray(r.integers(0, 255, (4, 4, 16, 16, 3)), jnp.uint8),
             "label": jnp.arange(4), "mask": jnp.ones(4)}
    (_, (_, scalars)), gradient = jax.jit(jax.value_and_grad(method.loss, has_aux=True))(
        variables.params, variables, batch, jax.random.key(0))
    thresholds = [g for path, g in jax.tree.leaves_with_path(gradient) if path[-1].key == "gate_threshold"]
    count = sum(g.size for g in thresholds)
    assert float(scalars["loss_efficiency"]) == pytest.approx(1e-4 * count)  # (1 - 0)^2 each
    pull = -2e-4  # of the target alone
    assert any(abs(np.array(g) - pull).max() > 1e-5 for g in thresholds)
    assert 0.25 < scalars["gates/computed"] < 1


@pytest.mark.parametrize("fields", [dict(channels=3), dict(groups=2)])
def test_what_cannot_be_gated_stays_plain(fields):
    module = cgnet.ChannelGatedConv(**CONV, groups=fields.get("groups", 1))
    x, variables = setup(module, fields.get("channels", 8))
    assert set(variables["params"]) == {"kernel"} and "batch_stats" not in variables


@pytest.mark.parametrize("baseline", ["pruning", "cgnet"])
def test_exports_for_any_batch_size(baseline):
    method = made(va_red2_minik.get_config(f"tiny,baseline={baseline}"), NAMES)
    shape = (4, 16, 16, 3)
    variables = jax.eval_shape(lambda: method.init(jax.random.key(0), (1, *shape)))

    def program(variables, video):
        found = method.predict(variables, {"video": video})
        return found.logits, found.gmacs

    (b,) = jax.export.symbolic_shape("b")
    exported = jax.export.export(jax.jit(program))(variables, jax.ShapeDtypeStruct((b, 1, *shape), np.uint8))
    assert [x.shape for x in exported.out_avals] == [(b, len(NAMES)), (b,)]


@pytest.mark.parametrize(("arg", "field", "value"), [
    ("pruning", "keep", 0.0), ("pruning", "keep", 1.5), ("cgnet", "partitions", 1),
    ("cgnet", "threshold_weight", -1.0)])
def test_wrong_settings_are_named(arg, field, value):
    config = va_red2_minik.get_config(f"tiny,baseline={arg}")
    config.method[field] = value
    with pytest.raises(ValueError, match=f"config.method.{field}={value}: expected"):
        made(config, NAMES)


def test_an_unknown_baseline_is_named():
    with pytest.raises(ValueError, match="baseline='lottery': expected one of pruning, cgnet"):
        va_red2_minik.get_config("baseline=lottery")
