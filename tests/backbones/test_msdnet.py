"""MSDNet: the grid, its published sizes, segments and lazy evaluation (not parity)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax import cost
from effvid_jax.backbones import make_backbone, msdnet, shifts, trace
from tests.drawn import shapes_of

SHAPE = (2, 2, 72, 72, 3)


def tiny(**options):
    """Three exits, 2 layers each, 3 scales (72 pixels leave 5x5 on the coarsest)."""
    return make_backbone("msdnet_38", num_classes=5, **{
        "num_blocks": 3, "base": 2, "step": 2, "channels": 8, "growth": 4,
        "scale_factors": (1, 2, 4), "bottleneck_factors": (1, 2, 4), **options})


@functools.cache
def variables_and_clip():
    rng = np.random.default_rng(0)
    shapes = shapes_of(tiny(), np.zeros(SHAPE, np.float32))
    variables = jax.tree.map(
        lambda a: jnp.asarray(np.abs(rng.standard_normal(a.shape)) if a.ndim == 1 else
                              rng.standard_normal(a.shape) * np.sqrt(2 / np.prod(a.shape[:-1])),
                              jnp.float32), shapes)
    return variables, jnp.asarray(rng.standard_normal(SHAPE), jnp.float32)


@functools.cache
def forward(**options):
    variables, x = variables_and_clip()
    return jax.jit(tiny(**options).apply)(variables, x)


# -------------------------------------------------------------------------------------------- grid
def test_grid_of_msdnet_38():
    model = make_backbone("msdnet_38", num_classes=400).bind({})
    plan = model.plan
    assert len(plan) == 35
    drops = [number for number, layer in enumerate(plan, 1) if layer.drops]
    transitions = [number for number, layer in enumerate(plan, 1) if layer.transition]
    assert drops == transitions == [10, 19, 28]
    before_and_after = [(plan[n - 1].width + 16, plan[n - 1].transition) for n in drops]
    assert before_and_after == [(192, 96), (240, 120), (264, 132)]
    indices = [layer.index for layer in plan if layer.block == 1]
    assert indices == [0, 1, 2, 4, 5, 6, 7]  # 3 is the transition


@pytest.mark.parametrize("prune,finest", [
    ("max", [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]), ("min", [0, 0, 0, 0, 0, 0, 0, 1, 2, 3])])
def test_scales_are_dropped_evenly_or_at_the_end(prune, finest):
    plan = msdnet.plan_layers((4, 3, 3), 4, 8, 4, 0.5, prune)
    assert [layer.finest for layer in plan] == finest
    transitions = [number for number, layer in enumerate(plan, 1) if layer.transition]
    assert transitions == ([4, 7, 10] if prune == "max" else [3, 6])


def test_maps_have_the_published_sizes():
    """Channels at side 56, 28, 14, 7 after each block (finest to coarsest)."""
    model = make_backbone("msdnet_38", num_classes=400)
    with trace.recording(shapes_only=True), cost.parameters_without_values():
        _, features = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0],
                                     jnp.zeros((1, 2, 224, 224, 3)))
    expected = [[(144, 56), (288, 28), (576, 14), (576, 7)], [(320, 28), (640, 14), (640, 7)],
                [(608, 14), (608, 7)], [(528, 7)], [(976, 7)]]
    for block, maps in enumerate(expected, 1):
        names = [name for name in features if name.startswith(f"stage{block}_")]
        assert [(features[n].shape[-1], features[n].shape[-2]) for n in names] == maps
        assert features[f"stage{block}"].shape == features[names[-1]].shape
        assert features[f"exit{block}"].shape == (1, 2, 400)


@functools.cache
def segment_tapes(lazy):
    """Operations of one 224-pixel frame: (those of block k, those of exit k) for each k."""
    model = make_backbone("msdnet_38", num_classes=1000, lazy=lazy)
    clip = jax.ShapeDtypeStruct((1, 1, 224, 224, 3), jnp.float32)
    with cost.parameters_without_values():
        variables = jax.eval_shape(model.init, jax.random.key(0), clip)

    def traced(method, *args):
        with trace.recording(shapes_only=True) as tape:
            out = jax.eval_shape(lambda v, x: model.apply(v, *args[:-1], x, method=method),
                                 variables, args[-1])
        return out, tape

    state, stem = traced("run_stem", clip)
    tapes = []
    for k in range(1, 6):
        state, tape = traced("run_stage", k, state)
        tapes.append((stem + tape if k == 1 else tape, traced("run_exit", k, state)[1]))
    return tapes


def costs_up_to_exits(lazy, convention, heads):
    """Cumulative cost of the blocks, and of the exits' heads if wanted."""
    rule = cost.CONVENTIONS[convention]
    return np.cumsum([sum(map(rule, block)) + heads * sum(map(rule, head))
                      for block, head in segment_tapes(lazy)])


def test_costs_up_to_each_exit_are_the_published_ones():
    """The op counter's figures for the released step-7 network, in 10^6."""
    costs = costs_up_to_exits(False, "msdnet", heads=True)
    published = [615.69, 1436.39, 2283.21, 2967.42, 3253.79]
    np.testing.assert_allclose(costs / 1e6, published, atol=0.005)


def test_lazy_evaluation_saves_what_the_grid_allows():
    full, lazy = (costs_up_to_exits(lazy, "macs", heads=False) for lazy in (False, True))
    print("up to each exit, in 10^6, all nodes and lazily:", full / 1e6, lazy / 1e6)
    np.testing.assert_allclose(full / 1e6, [551.7, 1296.1, 2074.6, 2707.4, 2821.2], atol=0.06)
    np.testing.assert_allclose(lazy / 1e6, [441.7, 1200.2, 2018.4, 2707.4, 2821.2], atol=0.06)


# ------------------------------------------------------------------------------------------ network
def test_lazy_evaluation_changes_no_number():
    logits, features = forward()
    lazy_logits, lazy_features = forward(lazy=True)
    np.testing.assert_allclose(lazy_logits, logits, rtol=1e-5, atol=1e-5)
    assert set(lazy_features) == {name for name in features if "_scale" not in name}
    for name, value in lazy_features.items():
        np.testing.assert_allclose(value, features[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("prune", ["max", "min"])
def test_lazy_segments_visit_what_their_exit_needs(prune):
    plan = msdnet.plan_layers((3, 2, 2, 2), 4, 8, 4, 0.5, prune)
    full, lazy = (msdnet.plan_segments(plan, 4, lazy) for lazy in (False, True))
    visited = [node for segment in full for node in segment.nodes]
    assert len(set(visited)) == len(visited) == sum(4 - layer.finest for layer in plan)

    def ancestors(number, scale):
        if number:
            yield number, scale
            yield from ancestors(number - 1, scale)
            if plan[number - 1].reads_finer(scale):
                yield from ancestors(number - 1, scale - 1)

    visited = []
    for segment, last in zip(lazy, (3, 5, 7, 9)):  # exits read the coarsest scale
        visited += segment.nodes
        assert set(visited) == set(ancestors(last, 3))
    assert len(set(visited)) == len(visited)


def test_a_lazy_network_has_the_parameters_of_a_full_one():
    shapes = [jax.eval_shape(tiny(lazy=lazy).init, jax.random.key(0), jnp.zeros(SHAPE))
              for lazy in (False, True)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("lazy", [False, True])
def test_segments_add_up_to_the_whole(lazy):
    variables, x = variables_and_clip()
    model = tiny(lazy=lazy)
    logits, features = forward(lazy=lazy)

    @jax.jit
    def segment_by_segment(variables, x):
        bound, exits = model.bind(variables), []
        state = bound.run_stem(x)
        for k in range(1, model.num_stages + 1):
            state = bound.run_stage(k, state)
            exits.append(bound.run_exit(k, state)[0])
        return exits, *bound.run_head(state), bound.classify(features["pooled"])

    exits, head, pooled, classified = segment_by_segment(variables, x)
    for k, exit_logits in enumerate(exits, 1):
        np.testing.assert_allclose(exit_logits, features[f"exit{k}"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(head, logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(pooled, features["pooled"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(classified, features["exit3"], rtol=1e-5, atol=1e-5)


def test_frames_are_independent_and_averaged():
    variables, x = variables_and_clip()
    logits, features = forward()
    np.testing.assert_allclose(features["exit3"].mean(axis=1), logits, rtol=1e-6)
    _, one = jax.jit(tiny().apply)(variables, x[:, 1:])
    for k in (1, 2, 3):
        error = np.abs(one[f"exit{k}"][:, 0] - features[f"exit{k}"][:, 1]).max()
        assert error < 1e-5 * np.std(features[f"exit{k}"])


def test_shift_reaches_convolutions_but_not_the_channels_passed_on():
    _, features = forward()
    _, shifted = forward(shift=shifts.temporal_shift)
    own = features["stem_scale0"].shape[-1]
    np.testing.assert_array_equal(shifted["stem_scale0"], features["stem_scale0"])
    np.testing.assert_array_equal(shifted["stage1_scale0"][..., :own],
                                  features["stage1_scale0"][..., :own])
    assert np.abs(shifted["stage1_scale0"] - features["stage1_scale0"]).max() > 1e-3


def test_clip_sizes():
    variables, _ = variables_and_clip()
    with pytest.raises(ValueError, match="4x4 and needs 5x5"):
        jax.eval_shape(tiny().init, jax.random.key(0), jnp.zeros((1, 1, 64, 64, 3)))
    logits, _ = jax.eval_shape(tiny().apply, variables, jnp.zeros((1, 1, 320, 200, 3)))
    assert logits.shape == (1, 5)  # 20x13 on the coarsest scale: the mean over what remains


def test_small_images_and_growing_blocks():
    """The repository's CIFAR networks: 3x3 stem of stride 1, 128 channels in the exits."""
    model = tiny(stem="cifar", head_channels=128, step_mode="lin_grow", step=1, base=1)
    (_, features), variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x), jnp.zeros((1, 1, 32, 32, 3)))
    assert features["stem_scale0"].shape[2:4] == (32, 32) and features["pooled"].shape[-1] == 128
    layers = [name for name in variables["params"] if name.startswith("blocks_2")]
    assert len([n for n in layers if "m_0" not in variables["params"][n]]) == 3  # 1, 2, 3 layers
    for field in ("stem", "prune", "step_mode"):
        with pytest.raises(ValueError, match=f"{field}='typo'"):
            tiny(**{field: "typo"}).init(jax.random.key(0), jnp.zeros(SHAPE))
    with pytest.raises(ValueError, match="one entry per scale"):
        tiny(scale_factors=(1, 2)).init(jax.random.key(0), jnp.zeros(SHAPE))
