"""AR-Net, SCSampler, AdaFuse and LiteEval as methods: costs, both forms, losses, what users get wrong."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from configs import adafuse_minik, arnet_actnet, liteeval_actnet, scsampler_actnet, supervised_minik
from effvid_jax.cost.parts import part_gmacs
from effvid_jax.errors import UserError
from effvid_jax.methods import Variables, scsampler
from effvid_jax.policies import actions, schedule
from effvid_jax.torch_import import naming
from tests.drawn import draw
from tests.made import made

NAMES = [str(i) for i in range(4)]
TINY = dict(stem="small", width=4, stage_sizes=(1,), stage_strides=(2,), classifier_std=0.5)


def tiny(module, **changes):
    """The `:tiny` config of a method with networks of a layer or two, on clips of 5 frames of 16 pixels."""
    config = module.get_config("tiny")
    config.data.update(dict(num_frames=5, crop=16, test_crop_size=16, short_side=16, test_short_side=16))
    config.model.update(dict(backbone="resnet18", bn_groups=1))
    config.model.options = ml_collections.ConfigDict(TINY)
    if "glance" in config.model:
        config.model.glance = ml_collections.ConfigDict(dict(backbone="resnet18", resolution=8, options=TINY))
    method = {"arnet": dict(resolutions=(12, 8), hidden=6), "scsampler": dict(keep=2),
              "adafuse": dict(stages=(1,), hidden=6), "liteeval": dict(large=8, small=4, width=6)}
    config.method.update(method[config.method.name] | changes)
    return config


def drawn(method, scale=1.0):
    """Variables that make actions of several kinds."""
    found = draw(method.model, np.zeros((1, 5, 16, 16, 3), np.float32))
    params = jax.tree.map(lambda a: scale * a, found["params"])
    return Variables(params, schedule.begin(found["batch_stats"]) if hasattr(method.settings, "objective")
                     else found["batch_stats"])


@pytest.fixture
def batch(rng):
    """Six videos, two views of each for inference."""
    video = rng.integers(0, 256, (6, 2, 5, 16, 16, 3), dtype=np.uint8)
    video[::2] //= 3  # clips differ in more than noise
    return {"video": video}


# --------------------------------------------------------------------------------------------- costs
def test_costs_are_the_published_ones():
    arnet, sampler = made(arnet_actnet.get_config(), NAMES), made(scsampler_actnet.get_config(), NAMES)
    every = 16 * arnet.paper_costs
    assert every[0] == pytest.approx(16 * (4.110 + 0.0527 + 2 * 1280**2 / 1e9), rel=3e-3)
    policy = 0.0527 + 2 * 1280**2 / 1e9
    np.testing.assert_allclose(arnet.paper_costs[-3:], policy / np.array([1, 2, 4]), rtol=6e-3)
    assert sum(sampler.costs("thop")) == pytest.approx(41.94, rel=3e-3)


@pytest.mark.slow
def test_liteeval_and_adafuse_cost_what_their_parts_do():
    method = made(liteeval_actnet.get_config(), NAMES)
    every, fine = method.costs()
    coarse = part_gmacs(method.model, method.clip_shape, "glance", (1, *method.clip_shape))
    assert coarse / 129 == pytest.approx(0.08, rel=0.02) and fine == pytest.approx(7.82, rel=5e-3)
    by_hand = 129 * (4 * 4608 * 2048 + 2048**2 + 4 * 1024 * 512 + 1280 * 512) / 1e9  # W_a on all frames
    assert every - coarse + 129 * 2048**2 / 1e9 == pytest.approx(by_hand, rel=3e-3)
    fused = made(adafuse_minik.get_config(), NAMES)
    whole, conv1, conv2 = fused.costs((8, 224, 224, 3))
    assert len(conv1) == 16 and 8 * whole == pytest.approx(8 * 4.11, rel=0.01)
    assert conv2.sum() == pytest.approx(1.8496, rel=1e-3), "3x3 convolutions of a ResNet-50"


# --------------------------------------------------------------------------------------- both forms
@pytest.fixture(scope="module")
def arnet():
    """A tiny AR-Net in double precision, with variables that make it take several actions."""
    with jax.enable_x64(True):
        method = made(tiny(arnet_actnet, skips=(1, 3)), NAMES)
        variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64) if a.dtype == np.float32 else a,
                                 drawn(method, 3.0))
    return method, variables


def test_arnet_answers_alike_in_both_forms(arnet, batch):
    method, variables = arnet
    with jax.enable_x64(True):
        batch = {"video": jnp.asarray(batch["video"], jnp.float64) / 60 - 2}
        dense, routed = jax.jit(method.predict)(variables, batch), method.routed(variables, batch)
    taken = np.asarray(dense.extra["actions"])
    assert len(set(taken.ravel())) > 1, "a fair test has several actions"
    assert (taken == routed.extra["actions"]).all()
    np.testing.assert_allclose(dense.logits, routed.logits, atol=1e-5)
    np.testing.assert_allclose(dense.gmacs, routed.gmacs, rtol=1e-6)
    wanted = 2 * method.costs()[0] + method.costs()[1][taken].sum(axis=(1, 2))
    np.testing.assert_allclose(dense.gmacs, wanted, rtol=1e-5)
    np.testing.assert_allclose(dense.extra["seen"], (taken < 4).sum(axis=(1, 2)))
    told = method.analyse({name: np.asarray(x) for name, x in dense.extra.items()}, variables, "", "val")
    assert sum(x for name, x in told.items() if name.startswith("usage_")) == pytest.approx(1)
    assert told["gmacs_paper"] == pytest.approx(method.paper_costs[taken].sum(axis=(1, 2)).mean(), rel=1e-5)


def test_routed_frames_are_masked_dense_ones_whatever_was_chosen(arnet, batch, rng):
    """Random actions, one video of skips alone among them; in double precision to 1e-9."""
    method, variables = arnet
    clips = (batch["video"][:, 0] / 60.0 - 2)
    taken = np.eye(6)[rng.integers(0, 6, (6, 5))]
    taken[2] = np.eye(6)[5]
    with jax.enable_x64(True):
        found = method.model.apply(schedule.network(variables), clips)[1]
        dense = actions.combine(taken[..., :4], found["predictors"])
        own = (found["predictors"][:, :, 3] * taken[..., 3:4]).reshape(30, 4)
        rows = method._router(30).run(variables, jnp.asarray(clips.reshape(30, 16, 16, 3)),
                                      taken.argmax(axis=-1).ravel(), own).reshape(6, 5, 4)
        routed = rows.sum(axis=1) / np.maximum(1, taken[..., :4].sum(axis=(1, 2)))[:, None]
        np.testing.assert_allclose(routed, dense, atol=1e-9)
    assert (np.asarray(routed[2]) == 0).all()
    shares = {"usage": taken.mean(axis=1), "seen": taken[..., :4].sum(axis=(1, 2))}
    told = actions.analyse(shares, method.names, method.task, "", "val")
    assert told["blind"] == pytest.approx(1 / 6), "an answer of nothing is told"


def test_liteeval_answers_alike_in_both_forms(batch):
    method = made(tiny(liteeval_actnet), NAMES)
    variables = drawn(method, 2.0)
    batch = {"video": batch["video"][:, :1]}
    dense, routed = jax.jit(method.predict)(variables, batch), method.routed(variables, batch)
    taken = np.asarray(dense.extra["actions"])
    assert set(taken.ravel()) == {0, 1}, "a fair test has both"
    assert (taken == routed.extra["actions"]).all()
    np.testing.assert_allclose(dense.logits, routed.logits, atol=1e-4)
    every, fine = method.costs()
    np.testing.assert_allclose(dense.gmacs, every + fine * (taken == 0).sum(axis=(1, 2)), rtol=1e-5)
    computed = sum(size * n for (_, size), n in method._router(6).runs.items())
    assert computed < 6 * 5, "frames that nobody asked for were not computed"


def test_scsampler_answers_by_the_most_salient_frames(batch):
    method = made(tiny(scsampler_actnet), NAMES)
    variables = drawn(method)
    batch = {"video": batch["video"][:, :1]}
    found = jax.jit(method.predict)(variables, batch)
    assert method.features(variables, batch).shape == (6, 4)
    clips = method.sight(batch["video"][:, 0])
    seen, real = (method.model.apply(variables.network, clips, method=name) for name in ("glance", "look"))
    for i in range(6):
        best = sorted(np.argsort(-np.asarray(seen[i]).max(axis=-1), kind="stable")[:2])
        assert found.extra["frames"][i, 0].tolist() == best
        np.testing.assert_allclose(found.logits[i], real[i, np.array(best)].mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(found.gmacs, sum(method.costs()), rtol=1e-6)


def test_rank_loss_is_zero_for_frames_in_order(rng):
    real, scores = rng.normal(size=(2, 3, 6))
    wanted = np.mean([[max(0, -np.sign(real[b, i] - real[b, j]) * (scores[b, i] - scores[b, j]))
                       for i in range(6) for j in range(i + 1, 6)] for b in range(3)], axis=1)
    np.testing.assert_allclose(scsampler.rank_loss(scores, real), wanted, atol=1e-6)
    np.testing.assert_allclose(scsampler.rank_loss(2 * real, real), 0)


# ---------------------------------------------------------------------------------------- training
@pytest.mark.parametrize("module, changes, parts", [
    pytest.param(arnet_actnet, {}, ("policy", "glance", "predictors_1", "fc"), id="arnet"),
    pytest.param(liteeval_actnet, {}, ("cells",), id="liteeval"),
    pytest.param(scsampler_actnet, {"sampler_loss": "rank"}, ("sampler", "classifier"), id="scsampler",
                 marks=pytest.mark.slow),  # tests/test_configs.py trains these two always
    pytest.param(adafuse_minik, {"penalty": "real"}, ("layer1_0", "fc"), id="adafuse",
                 marks=pytest.mark.slow),
])
def test_every_part_learns_and_answers_have_their_cost(module, changes, parts, batch):
    method = made(tiny(module, **changes), NAMES)
    variables = drawn(method)
    training = {"video": batch["video"][:, 0], "label": jnp.arange(6) % 4, "mask": jnp.ones(6)}
    (value, (stats, scalars)), gradient = jax.jit(jax.value_and_grad(method.loss, has_aux=True))(
        variables.params, variables, training, jax.random.key(0))
    assert np.isfinite(value) and all(np.isfinite(x).all() for x in jax.tree.leaves((gradient, scalars)))
    for part in parts:
        assert max(abs(np.asarray(x)).max() for x in jax.tree.leaves(gradient[part])) > 0, part
    assert jax.tree.structure(stats) == jax.tree.structure(variables.stats)
    assert scalars["loss"] == value
    usage = [x for name, x in scalars.items() if name.startswith("usage/")]
    assert not usage or sum(usage) == pytest.approx(1, abs=1e-5)
    if module is adafuse_minik:
        assert set(gradient["layer1_0"]["policy"]) == {"fc1", "bn", "fc2"}
        found = jax.jit(method.predict)(variables, batch)
        whole = method.costs((5, 16, 16, 3))[0] * 5 * 2
        assert (found.gmacs <= found.extra["gmacs_paper"] + 1e-9).all()
        assert (found.extra["gmacs_paper"] < whole).all() and (found.gmacs > 0).all()
        np.testing.assert_allclose(np.sum(found.extra["usage"], axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_a_heavier_weight_makes_arnet_cheaper(batch):
    """Three weights, the same start: mean GMACs fall with beta (a policy alone is trained)."""
    costs = []
    for weight in (0.0, 30.0, 300.0):
        config = tiny(arnet_actnet, efficiency_weight=weight, balance_weight=0.0, accuracy_weight=0.2)
        method = made(config, NAMES)
        variables, tx = drawn(method), optax.adam(0.02)
        training = {"video": batch["video"][:, 0], "label": jnp.arange(6) % 4, "mask": jnp.ones(6)}

        @jax.jit
        def step(params, stats, state, rng, method=method, tx=tx, training=training):
            (_, (stats, scalars)), g = jax.value_and_grad(method.loss, has_aux=True)(
                params, Variables(params, stats), training, rng)
            updates, state = tx.update(g, state, params)
            return optax.apply_updates(params, updates), stats, state, scalars["frame_gmacs"]

        params, stats, state, seen = variables.params, variables.stats, tx.init(variables.params), []
        for i in range(80):
            params, stats, state, gmacs = step(params, stats, state, jax.random.key(i))
            seen.append(float(gmacs))
        costs.append(np.mean(seen[-20:]))
    assert costs[0] > costs[1] > costs[2], costs


# ------------------------------------------------------------------------------ what users get wrong
def of_mobilenet():
    return supervised_minik.get_config("tiny,backbone=mobilenet_v2").model


@pytest.mark.parametrize("module, change, words", [
    (arnet_actnet, lambda c: c.method.update(resolutions=(12,)), "resolutions=.*expected one for each of"),
    (arnet_actnet, lambda c: c.model.update(backbone="tsm_resnet18"), "relates frames.*such as resnet50"),
    (arnet_actnet, lambda c: c.model.glance.update(backbone="efficientnet_lite0"),
     "another normalisation of pixels"),
    (arnet_actnet, lambda c: delattr(c.model, "glance"), "config.model.glance is empty"),
    (scsampler_actnet, lambda c: c.method.update(keep=6), "keep=6: expected at most .*num_frames=5"),
    (liteeval_actnet, lambda c: c.method.update(small=9), "small=9: expected at most config.method.large=8"),
    (adafuse_minik, lambda c: setattr(c, "model", of_mobilenet()), "blocks of a ResNet"),
    (arnet_actnet, lambda c: c.method.update(resolutions=(8, 8)), "two actions are alike, resnet18_8"),
    (adafuse_minik, lambda c: c.method.update(stages=(2,)), r"stages=\(2,\): expected some of the stages 1"),
    (adafuse_minik, lambda c: c.model.update(remat="block"), "remat='block'.*set it to 'none'"),
])
def test_what_does_not_fit_is_told(module, change, words):
    config = tiny(module)
    with config.unlocked(), config.ignore_type():
        change(config)
    with pytest.raises(UserError, match=words) as error:
        made(config, NAMES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("table, key, path", [
    ("AR-Net", "lite_backbone.features.1.conv.1.weight", "glance/layer1_0/project_conv/kernel"),
    ("AR-Net, old MobileNetV2", "lite_backbone.features.1.conv.4.weight", "glance/layer1_0/project_bn/scale"),
    ("AR-Net", "base_model_list.2.layer2.0.downsample.1.running_var",
     "predictors_2/layer2_0/downsample_bn/var"),
    ("AR-Net", "new_fc_list.1.bias", "predictors_1/fc/bias"),
    ("AR-Net", "rnn.weight_hh", "policy/cell/hidden/kernel"), ("AR-Net", "lite_fc.bias", "fc/bias"),
    ("AR-Net SCSampler", "base_model_list.0.layer1.0.conv1.weight", "classifier/layer1_0/conv1/kernel"),
    ("AR-Net SCSampler", "lite_fc.weight", "sampler/fc/kernel"),
    ("AdaFuse", "base_model.layer4.2.policy_net.gate_fc1.bias", "layer4_2/policy/fc2/bias"),
    ("AdaFuse", "layer1.0.downsample0.weight", "layer1_0/downsample_conv/kernel"),
    ("LiteEval", "small_proj_mlp.1.weight", "cells/coarse_input/fc/kernel"),
    ("LiteEval", "large_rnn.bias_ih", "cells/fine_cell/input/bias"),
])
def test_names_of_published_weights(table, key, path):
    """Whole files: the golden cases (tests/parity) fit without a tensor that is missing or left over."""
    assert path in naming.our_paths(key, naming.NAMING[table])


def test_starts_are_as_many_as_networks():
    method = made(tiny(arnet_actnet, starts=("a", "b")), NAMES)
    with pytest.raises(UserError, match="starts=.*expected 4 workdirs, for glance, predictors_0"):
        jax.eval_shape(lambda: method.init(jax.random.key(0), (1, 5, 16, 16, 3)))
