"""VA-RED2: networks of gated convolutions, their costs and loss, checkpoints, analysis, configs, folding."""

from functools import partial

import flax
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from configs import va_red2_k400, va_red2_minik, va_red2_mit
from configs.recipes.va_red2 import RATES
from effvid_jax import cost
from effvid_jax.backbones import make_backbone, trace
from effvid_jax.gating import decisions, folding, gates, ratios, variants
from effvid_jax.methods import base, building, supervised, va_red2
from effvid_jax.tasks import make_task
from tests.drawn import OPEN, SHUT, draw, shapes_of
from tests.made import made

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
    conv = partial(gates.GatedConv, layers=gates.layers_of(name), **fields)
    return (make_backbone(name, num_classes=5, **SMALL[name]),
            make_backbone(name, num_classes=5, conv=conv, **SMALL[name]))


@pytest.mark.parametrize("name", SMALL)
def test_a_gated_network_costs_what_the_plain_one_does_and_adds_only_gates(name):
    plain, gated = networks(name)
    for convention in cost.CONVENTIONS:
        if convention != "macs_attn":
            assert cost.count(gated, CLIP, convention).macs == cost.count(plain, CLIP, convention).macs
    clip = np.zeros((1, *CLIP), np.float32)
    shapes = [flax.traverse_util.flatten_dict(shapes_of(m, clip)["params"], sep="/") for m in (plain, gated)]
    added = shapes[1].keys() - shapes[0].keys()
    assert {k: shapes[0][k].shape for k in shapes[0]} == {k: shapes[1][k].shape for k in shapes[0]}
    assert all("/gate/" in k or "/cheap_" in k for k in added)
    layers = decisions.layer_names(flax.traverse_util.unflatten_dict(shapes[1], sep="/"))
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


def plain_config():
    config = tiny_config()
    config.method = supervised.Supervised.Settings().to_config()
    return config


NAMES = [str(i) for i in range(4)]


@pytest.fixture(scope="module")
def trained():
    """(method, variables, batch) of a network with a handful of layers."""
    config = tiny_config()
    method = made(config, NAMES)
    model = method.model
    drawn = draw(model, np.zeros((1, 4, 16, 16, 3), np.float32))
    params = flax.traverse_util.path_aware_map(
        lambda path, a: np.ones_like(a) if path[-1] == "beta" else a / 9 if "fc2" in path else a,
        drawn["params"])
    variables = base.Variables(params, drawn["batch_stats"])
    method.predict = jax.jit(method.predict)
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
        ratio = variants.share(V, [4, 2]) * variants.share(V, [8, 4])
        decision = variants.Decision(V, V, ratio, 0.0, 10)
        return va_red2.efficiency_loss([decision], logits.argmax(axis=-1) == labels)

    V = jnp.full((2, 2), 0.5)
    np.testing.assert_array_equal(loss(V), [1, 0])
    gradient = jax.grad(lambda V: loss(V).sum())(V)
    assert gradient[0, 0] > 0 and not gradient[1].any()


def test_efficiency_weight_zero_leaves_the_gates_to_the_accuracy(trained):
    _, variables, batch = trained
    method = made(tiny_config(efficiency_weight=0.0), NAMES)
    _, (_, scalars) = jax.jit(method.loss)(variables.params, variables, batch, jax.random.key(0))
    assert scalars["loss_efficiency"] == 0


def test_cost_of_a_clip_is_the_plain_networks_less_what_is_not_computed(trained):
    method, variables, batch = trained
    config = tiny_config()
    static = cost.gmacs(building.build_backbone(config.model, 4), (4, 16, 16, 3))
    video = {"video": jnp.stack([batch["video"]] * 2, axis=1)}
    full = method.predict(variables, video)
    np.testing.assert_allclose(full.extra["gmacs_plain_ops"], 2 * static, rtol=1e-6)
    assert (full.gmacs > 2 * static).all() and full.extra["clip_answers"].shape == (4, 2)
    assert full.extra["clip_gmacs"].shape == (4, 2), "of every view alone"
    np.testing.assert_allclose(full.extra["clip_gmacs"].sum(axis=1), full.gmacs, rtol=1e-6)

    half = flax.traverse_util.path_aware_map(
        lambda path, a: jnp.array([SHUT, OPEN, SHUT, OPEN]) if path[-1] == "beta" else a,
        variables.params)
    reduced = method.predict(base.Variables(half, variables.stats), video)
    gated = cost.count(building.build_backbone(config.model, 4), (4, 16, 16, 3))
    macs = {layer.name: layer for layer in gated.layers}
    saved = 0
    for name in decisions.layer_names(variables.params):
        channels = macs[name].out_shape[-1]
        saved += macs[name].macs * (1 - np.ceil(channels / 2) / channels / 2)
    np.testing.assert_allclose(reduced.extra["gmacs_plain_ops"], 2 * (static - saved / 1e9), rtol=1e-5)
    assert (reduced.extra["ratios"] < 0.3).all() and (reduced.extra["dead"] == 0).all()


def test_a_static_checkpoint_fits_and_gives_the_same_answers(trained):
    method, variables, batch = trained
    static = made(plain_config(), NAMES)
    drawn = draw(building.build_backbone(tiny_config().model, 4), np.zeros((1, 4, 16, 16, 3), np.float32))
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
    video = batch["video"][:, None]
    look = jax.jit(partial(method.model.apply, mutable=["intermediates"],
                           capture_intermediates=lambda module, _: module.name == "fc2"))
    _, seen = look(dict(params=variables.params, batch_stats=variables.stats), method.sight(batch["video"]))
    middle = {path[:-2]: -np.median(x[0], axis=0) for path, x in
              flax.traverse_util.flatten_dict(seen["intermediates"]).items()}
    variables = base.Variables(flax.traverse_util.path_aware_map(
        lambda path, a: middle[path[:-1]] if path[-1] == "beta" else a, variables.params), variables.stats)
    wanted = method.predict(variables, {"video": video})
    assert np.ptp(wanted.gmacs) > 0, "clips decide differently"

    predict = made(tiny_config(form=form, positions=positions), NAMES).predict

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
    L = len(decisions.layer_names(variables.params))
    names, task = decisions.layer_names(variables.params), make_task(tiny_config(), ["a", "b", "c"])
    found = ratios.analyse(rows(np.linspace(0.2, 1, 6)[:, None].repeat(L, 1)), names, task, str(tmp_path),
                           "val")
    assert found["varying_layers"] == 1 and found["dead"] == 0
    np.testing.assert_allclose(found["gmacs_plain_ops"], 1.4)
    lines = (tmp_path / "gate_ratios_val.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[1].startswith("a,0.5200"), "mean of clips 0, 2, 4; no row for c"
    clips = (tmp_path / "gate_clips_val.csv").read_text().splitlines()
    assert clips[1] == "a,v4,1.8,v0,1"
    assert (tmp_path / "gate_ratios_val.png").stat().st_size > 1000
    ratios.analyse(rows(np.full((4, L), 0.5)), names, task, "", "val")
    assert "collapsed" in capsys.readouterr().err


def test_analysis_refuses_gates_that_are_not_finite(trained):
    variables = trained[1]
    names = decisions.layer_names(variables.params)
    bad = np.ones((3, len(names)))
    bad[1, 0] = np.nan
    with pytest.raises(ValueError, match=f"gate of {names[0]} is not finite for video v1.*1 of 3 videos"):
        trained[0].analyse(rows(bad), variables, "", "val")


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="config.method.efficiency_weight=-1.0: expected at least 0"):
        made(tiny_config(efficiency_weight=-1.0), NAMES)
    config = tiny_config()
    config.model.backbone = "mvit_v2_s"
    with pytest.raises(ValueError, match="'mvit_v2_s' has no list of gated convolutions"):
        made(config, NAMES)
    method = made(tiny_config(layers="nothing"), NAMES)
    with pytest.raises(ValueError, match="'nothing' matches no convolution"):
        method.init(jax.random.key(0), (4, 4, 16, 16, 3))


@pytest.mark.parametrize("configs", [va_red2_minik, va_red2_k400, va_red2_mit])
@pytest.mark.parametrize("backbone", SMALL)
def test_configs_build_on_every_backbone_of_the_paper(configs, backbone):
    for arg in ("", "static,", "tiny,", "demo,"):
        config = configs.get_config(f"{arg}backbone={backbone},frames=16,search_space=3")
        assert config.data.num_frames == 16
        assert config.method.name == ("supervised" if "static" in arg else "va_red2")
        model = building.build_backbone(config.model, 200)
        side = config.data.test_crop_size
        assert cost.gmacs(model, (16, side, side, 3)) > 0
    started = configs.get_config(f"from_static,backbone={backbone}")
    assert not started.run and started.optim.groups == "gates" and started.method.cheap_scale == 0
    with pytest.raises(ValueError, match="backbone='resnet51': expected one of"):
        configs.get_config("backbone=resnet51")


def test_the_hard_benchmark_is_an_argument_of_the_embedded_one():
    plain, hard = va_red2_minik.get_config("demo"), va_red2_minik.get_config("demo,hard")
    assert hard.data.synthetic.difficulty == 1 and hard.data.synthetic.held_share == 0.5
    assert "held_share" not in plain.data.synthetic, "runs of older code go on"
    with pytest.raises(ValueError, match="hard=True.*expected beside demo or tiny"):
        va_red2_minik.get_config("hard")


# GMACs of convolutions and linear layers of one clip in the paper's tables; those of TPN and CorrNet are of
# networks that it does not describe.
PAPER = {("r2plus1d_18_vared", 8): 27.7, ("r2plus1d_18_vared", 16): 55.2, ("r2plus1d_18_vared", 32): 110.5,
         ("i3d_tp", 16): 56.0, ("i3d_tp", 32): 112.0, ("x3d_m", 16): 6.20, ("resnet50", 16): 65.4,
         ("tpn_r2plus1d_18", 16): None, ("corrnet_r2plus1d_18", 16): None}


def test_every_recipe_evaluates_at_the_papers_pixels():
    """The cost of a static network, as its recipe evaluates it, is that of the paper's row."""
    assert {name for name, _ in PAPER} == set(RATES)
    for (backbone, frames), gmacs in PAPER.items():
        config = va_red2_minik.get_config(f"static,backbone={backbone},frames={frames}")
        side = config.data.test_crop_size
        assert side == {"resnet50": 224, "i3d_tp": 256, "x3d_m": 256}.get(backbone, 128), backbone
        assert config.data.crop == {"resnet50": 224, "i3d_tp": 224, "x3d_m": 224}.get(backbone, 112)
        if gmacs:
            found = cost.gmacs(building.build_backbone(config.model, 200), (frames, side, side, 3))
            assert found == pytest.approx(gmacs, rel=0.01), (backbone, frames)


@pytest.mark.parametrize("arg", [
    *(pytest.param(f"backbone={name}", marks=[pytest.mark.slow] if name in ("x3d_m", "i3d_tp") else [])
      for name in SMALL), "baseline=cgnet", "baseline=pruning"])
def test_full_size_networks_train_and_predict(arg):
    """Traced, not run: a layer of R(2+1)D-18 has more multiply-adds than 32 bits hold."""
    config = va_red2_minik.get_config(f"{arg},frames=16")
    data, method = config.data, made(config, NAMES)
    shape = (2, 16, data.crop, data.crop, 3)
    views = (2, 3, 16, data.test_crop_size, data.test_crop_size, 3)
    batch = {"label": jnp.zeros(2, jnp.int32), "mask": jnp.ones(2, bool)}
    with trace.recording(shapes_only=True), cost.parameters_without_values():
        variables = jax.eval_shape(lambda: method.init(jax.random.key(0), shape))
        loss, _ = jax.eval_shape(
            lambda v, video: method.loss(v.params, v, batch | {"video": video}, jax.random.key(0)),
            variables, jax.ShapeDtypeStruct(shape, jnp.uint8))
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
