"""Exits along routes: progressive evaluation equals the dense pass, frame orders, parameter counts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import dynamic_k400
from effvid_jax.backbones import make_backbone, shifts
from effvid_jax.errors import UserError
from effvid_jax.exits import network, routes
from effvid_jax.methods import building
from tests.drawn import draw

NETWORKS = {
    "resnet18": (dict(width=8, stage_sizes=(1, 1, 1), stage_strides=(2, 2, 2), stem="small"), (1, 2, 3),
                 32),
    "resnet50": (dict(width=8, stage_sizes=(1, 1, 1, 1)), (2, 3, 4), 32),
    "msdnet_38": (dict(num_blocks=5, base=1, step=1, channels=8, growth=4, scale_factors=(1, 2),
                       bottleneck_factors=(1, 2), stem="small"), (1, 2, 3, 4, 5), 32),
}


def build(name, route, order, group, shift="online", stages=()):
    options, usual, side = NETWORKS[name]
    stages = stages or usual
    kinds = {"online": partial(shifts.OnlineShift, group=group), "offline": shifts.temporal_shift,
             "none": None}
    backbone = make_backbone(name, num_classes=5, shift=kinds[shift], **options)
    model = network.ExitNet(backbone, 5, tuple(route), tuple(order), group, stages, exit_width=16,
                          classifier_std=0.3)
    clip = jnp.asarray(np.random.default_rng(0).standard_normal((2, len(order), side, side, 3)),
                       jnp.float32)
    return model, draw(model, clip), clip


def progressive(model, variables, clip):
    clip = clip[:, jnp.array(model.order)]
    state, found = {}, []
    for k, segment in enumerate(routes.plan_segments(model.route, model.group)):
        state, logits = jax.jit(partial(network.run_segment, model), static_argnums=1)(
            variables, k, state, clip[:, segment.first:segment.frames])
        found.append(logits)
    return jnp.stack(found, axis=1)


@pytest.mark.parametrize("name, scheme", [
    (name, scheme) for name in NETWORKS for scheme in routes.SCHEMES
    if (name, scheme) != ("resnet18", "unified6")])  # whose stem and three stages are four depths, not five
def test_progressive_equals_dense(name, scheme):
    stages = NETWORKS[name][1]
    if scheme == "unified6" and name == "resnet50":
        stages = (0, 1, 2, 3, 4)
    route, order = routes.scheme_route(scheme, 8, len(stages)), routes.frame_order(8, scheme)
    group = 8 if scheme in ("depth", "input") else 4
    model, variables, clip = build(name, route, order, group, stages=stages)
    assert scheme != "unified6" or len(model.route) == 6
    dense = jax.jit(model.apply)(variables, clip)[1]["checkpoints"]
    found = progressive(model, variables, clip)
    print(name, scheme, "largest difference", float(jnp.abs(found - dense).max()), "of",
          float(dense.std()))
    np.testing.assert_allclose(found, dense, atol=1e-5 * float(jnp.abs(dense).max()))
    assert set(variables) == {"params", "batch_stats"}


@pytest.mark.parametrize("route", [
    ((1, 1), (3, 2), (3, 3), (8, 3)), ((2, 1), (6, 1), (7, 3), (8, 3)), ((3, 2), (5, 2), (8, 3))])
def test_progressive_equals_dense_on_odd_routes(route):
    """New frames that start inside a group, cross its end, and join earlier ones at several depths."""
    route = routes.check_route(route, 8, 3)
    model, variables, clip = build("resnet18", route, (5, 0, 3, 6, 1, 2, 4, 7), 4)
    dense = jax.jit(model.apply)(variables, clip)[1]["checkpoints"]
    np.testing.assert_allclose(progressive(model, variables, clip), dense, atol=1e-5)


@pytest.mark.parametrize("scheme", ["input", "permuted", "unified"])
def test_offline_shift_breaks_it(scheme):
    """A two-sided shift lets early checkpoints see later frames, so stopping early changes them."""
    route = routes.scheme_route(scheme, 8, 3)
    model, variables, clip = build("resnet18", route, routes.frame_order(8, scheme), 4, "offline")
    dense = jax.jit(model.apply)(variables, clip)[1]["checkpoints"]
    difference = np.abs(progressive(model, variables, clip) - dense).max(axis=(0, 2))
    print(scheme, "differences by checkpoint", difference)
    assert difference.max() > 1e-3


def test_orders():
    assert routes.frame_order(4, "unified") == (0, 3, 1, 2)
    assert routes.frame_order(8, "unified") == (0, 3, 5, 6, 1, 2, 4, 7)
    assert routes.frame_order(16, "permuted") == (0, 3, 5, 6, 9, 10, 12, 15, 1, 2, 4, 7, 8, 11, 13, 14)
    assert routes.frame_order(8, "input") == tuple(range(8))
    for n in (4, 8, 16, 32):
        first = routes.frame_order(n, "unified")[:n // 2]
        assert sorted(i // 2 for i in first) == list(range(n // 2))  # one frame of every pair


def test_routes_of_the_paper():
    assert routes.scheme_route("unified", 8, 5) == ((2, 1), (2, 2), (4, 3), (4, 4), (4, 5), (8, 5))
    assert routes.scheme_route("unified", 16, 5) == ((4, 1), (4, 2), (8, 3), (8, 4), (8, 5), (16, 5))
    assert routes.scheme_route("input", 16, 5) == ((1, 5), (2, 5), (4, 5), (8, 5), (16, 5))
    assert routes.scheme_route("depth", 16, 3) == ((16, 1), (16, 2), (16, 3))
    assert routes.scheme_route("unified", 8, 3) == ((2, 1), (4, 2), (4, 3), (8, 3))
    assert routes.scheme_route("unified6", 16, 5) == routes.scheme_route("unified", 16, 5)
    for given in (3, 6):
        with pytest.raises(UserError, match="unified6' has checkpoints at 5 depths; this network exits at"):
            routes.scheme_route("unified6", 8, given)


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101", "msdnet_38"])
@pytest.mark.parametrize("size", ["", "tiny,", "demo,"])
def test_six_checkpoints_as_the_figure_draws(backbone, size):
    """Of published networks and of their small members; ResNets exit after the stem, too."""
    config = dynamic_k400.get_config(f"{size}backbone={backbone},scheme=unified6")
    model = building.build_backbone(config.model, 16)
    t = config.data.num_frames
    assert model.route == ((t // 4, 1), (t // 4, 2), (t // 2, 3), (t // 2, 4), (t // 2, 5), (t, 5))
    assert model.exit_stages == ((1, 2, 3, 4, 5) if "msdnet" in backbone else (0, 1, 2, 3, 4))
    config = dynamic_k400.get_config(f"{size}backbone=resnet50")
    assert len(building.build_backbone(config.model, 16).route) == 4


@pytest.mark.parametrize("call, message", [
    (lambda: routes.check_route(((4, 2), (8, 1), (8, 3)), 8, 3), "steps back"),
    (lambda: routes.check_route(((4, 2), (4, 2), (8, 3)), 8, 3), "stands still"),
    (lambda: routes.check_route(((4, 2), (16, 3)), 8, 3), "a clip has 8"),
    (lambda: routes.check_route(((4, 2), (4, 3)), 8, 3), "last checkpoint always answers"),
    (lambda: routes.check_route(((0, 1), (8, 3)), 8, 3), "count from 1"),
    (lambda: routes.check_route((), 8, 3), "pairs"),
    (lambda: routes.check_order((0, 1, 1, 3), 4), "no permutation"),
    (lambda: routes.scheme_route("diagonal", 8, 3), "expected one of"),
    (lambda: routes.scheme_route("unified", 6, 3), "multiple of 4"),
])
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name, parameters", [("resnet50", 29_124_848), ("resnet101", 48_116_976)])
def test_parameters_of_the_assumed_head_design(name, parameters):
    """The paper's 29.12 M and 48.12 M, for three 400-way heads after stages 2, 3 and 4."""
    model = network.ExitNet(
        make_backbone(name, num_classes=400), 400, routes.scheme_route("depth", 16, 3),
        tuple(range(16)), 0, (2, 3, 4))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 64, 64, 3)))
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == parameters


def test_running_maximum_with_gates():
    """FrameExit's network: progressive equals dense, gates too, and a prefix is a maximum of its frames."""
    route = tuple(routes.Checkpoint(n, 3) for n in range(1, 5))
    model, variables, clip = build("resnet18", route, routes.coarse_to_fine(4), 4, "none")
    model = model.clone(merge="max", lift_last=True, gates=(8, 4), exit_stages=(1, 2, 3))
    variables = draw(model, clip)

    @jax.jit
    def both(variables, clip):
        ordered, state, found, gates = clip[:, jnp.array(model.order)], {}, [], []
        for k in range(4):
            state, logits = network.run_segment(model, variables, k, state, ordered[:, k:k + 1])
            found.append(logits)
            gates.append(state.get("gate"))
        return model.apply(variables, clip)[1], state, found, gates

    dense, state, found, gates = both(variables, clip)
    np.testing.assert_allclose(jnp.stack(found, axis=1), dense["checkpoints"], atol=1e-5)
    np.testing.assert_allclose(jnp.stack(gates[1:3], axis=1), dense["gates"][:, :2], atol=1e-5)
    assert gates[0] is None and gates[3] is None and dense["gates"].shape == (2, 3)
    np.testing.assert_allclose(dense["pooled"].max(axis=1), state["total"], atol=1e-6)


def test_orders_from_coarse_to_fine():
    assert routes.coarse_to_fine(10) == (4, 0, 9, 2, 6, 1, 3, 5, 7, 8)
    assert routes.coarse_to_fine(16) == (7, 0, 15, 3, 11, 1, 5, 9, 13, 2, 4, 6, 8, 10, 12, 14)
    for n in (1, 2, 3, 7, 48):
        assert sorted(routes.coarse_to_fine(n)) == list(range(n))
