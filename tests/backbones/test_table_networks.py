"""What is special about the other networks of the papers' tables: relations, two pathways and so on."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.backbones import artnet, blocks, bninception, ghostnet, make_backbone, nonlocal_net, slowfast
from effvid_jax.errors import UserError


def shapes(name, clip, **options):
    """Named maps of a network for a clip (T, H, W), without computing anything."""
    model = make_backbone(name, num_classes=3, **options)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0][1],
                          jax.ShapeDtypeStruct((1, *clip, 3), jnp.float32))


# ------------------------------------------------------------------------------------ BN-Inception
@pytest.mark.parametrize("side", [112, 240])
def test_bn_inception_says_which_sides_it_takes(side):
    with pytest.raises(UserError, match="multiples of 32, such as 224x224"):
        shapes("bninception", (1, side, 224), width_mult=0.125)


@pytest.mark.parametrize("side", [64, 223])
def test_bn_inception_halves_its_maps(side):
    found = shapes("bninception", (1, side, side), width_mult=0.125)
    assert found["features"].shape[2] == -(-side // 32)


def test_the_fixed_relations_are_spread_over_all_and_the_same_in_every_call():
    found = bninception.tuples_of(4)
    assert found == {4: ((0, 1, 2, 3),), 3: ((0, 1, 2), (0, 2, 3), (1, 2, 3)), 2: ((0, 2), (1, 2), (2, 3))}
    assert found == bninception.tuples_of(4)
    for scale, tuples in bninception.tuples_of(8).items():
        assert len(set(tuples)) == len(tuples) == (1 if scale == 8 else 3)
        assert set(tuples) <= set(itertools.combinations(range(8), scale))
    assert bninception.tuples_of(2) == {2: ((0, 1),)}


def relations(**options):
    """Weights of relations of five frames, a clip's features, and what scores them."""
    rng = np.random.default_rng(0)
    params = {f"scale_{5 - scale}": {
        name: {"kernel": rng.standard_normal(shape), "bias": rng.standard_normal(shape[1])}
        for name, shape in (("hidden_fc", (4 * scale, 8)), ("fc", (8, 3)))} for scale in (5, 4, 3, 2)}
    model, x = bninception.Relations(3, 8, **options), rng.standard_normal((2, 5, 4))
    apply = jax.jit(model.apply, static_argnums=2)

    def scores(train=False, seed=0):
        return np.asarray(apply({"params": params}, x, train, rngs={"dropout": jax.random.key(seed)}))

    return params, x, scores


def test_relations_add_up_what_every_tuple_says():
    tuples = ((0, 1, 2, 3), (1, 4), (0, 2), (1, 2, 4))
    params, x, scores = relations(relations=tuples)
    expected = 0
    for frames in ((0, 1, 2, 3, 4), *tuples):
        hidden, last = (params[f"scale_{5 - len(frames)}"][name] for name in ("hidden_fc", "fc"))
        y = np.maximum(np.concatenate([x[:, t] for t in frames], axis=-1), 0)
        y = np.maximum(y @ hidden["kernel"] + hidden["bias"], 0)
        expected += y @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(scores(), expected, rtol=1e-4)


def test_relations_are_drawn_in_training_only_and_if_asked_for():
    _, _, fixed = relations()
    _, _, drawn = relations(drawn=True)
    np.testing.assert_array_equal(fixed(train=True, seed=1), fixed())
    np.testing.assert_array_equal(drawn(), fixed())
    assert len({drawn(train=True, seed=seed).tobytes() for seed in range(4)}) > 1


def test_relations_belong_to_one_length_of_clips():
    params, x, _ = relations()
    with pytest.raises(UserError, match="made for clips of 5 frames, the clip has 4"):
        jax.eval_shape(bninception.Relations(3, 8).apply, {"params": params}, x[:, :4])
    with pytest.raises(UserError, match="2 frames or more"):
        bninception.tuples_of(1)
    for wrong in (((0, 1), (0, 4, 2)), ((0, 1), (0, 1, 5)), ((0, 1, 2, 3, 4),), ((0, 1),)):
        with pytest.raises(UserError, match="relations=.*every length from 2 to 4"):
            bninception.tuples_of(5, wrong)
    with pytest.raises(UserError, match="no classifier of a frame"):
        jax.eval_shape(lambda: make_backbone("trn_bninception", 3).bind({}).classify(jnp.zeros((1, 1024))))


# ------------------------------------------------------------------------------------------ MF-Net
def test_mf_net_takes_clips_of_any_length_and_only_widths_that_its_fibres_divide():
    assert shapes("mfnet_3d", (5, 40, 72), stage_sizes=(1, 1), widths=(32, 64))["features"].shape == (
        1, 3, 5, 9, 64)
    with pytest.raises(UserError, match=r"not so: \[40\]"):
        shapes("mfnet_3d", (4, 32, 32), stage_sizes=(1,), widths=(40,))
    with pytest.raises(UserError, match="widths=.*expected one for each of the 4 stages"):
        shapes("mfnet_3d", (4, 32, 32), widths=(32,))


# --------------------------------------------------------------------------------------- non-local
def test_a_non_local_block_sees_every_position():
    block = nonlocal_net.NonLocal(4)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 2, 4, 4, 4)).astype(np.float32)
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32) ** 2,
                             jax.eval_shape(block.init, jax.random.key(0), x))
    p, stats = variables["params"], variables["batch_stats"]["bn"]

    def conv(name, y):
        return y @ p[name]["kernel"][0, 0, 0] + p[name]["bias"]

    pooled = x.reshape(1, 2, 2, 2, 2, 2, 4).max(axis=(3, 5))
    theta, phi, g = conv("conv_theta", x).reshape(-1, 2), *(
        conv(name, pooled).reshape(-1, 2) for name in ("conv_phi", "conv_g"))
    scores = np.exp(theta @ phi.T / np.sqrt(2))
    y = conv("conv_out", scores / scores.sum(axis=1, keepdims=True) @ g)
    y = (y - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * p["bn"]["scale"] + p["bn"]["bias"]
    found = jax.jit(block.apply)(variables, x)
    np.testing.assert_allclose(found, x + y.reshape(x.shape), rtol=1e-3, atol=1e-4)


def test_places_of_non_local_blocks():
    with pytest.raises(UserError, match="nonlocals=.*numbers of its blocks"):
        shapes("i3d_nonlocal_resnet50", (4, 32, 32), stage_sizes=(1, 1, 1, 1))


# ---------------------------------------------------------------------------------------- SlowFast
SMALL_SLOWFAST = dict(width=16, beta=4, stage_sizes=(1, 1), slow_inflate=(0, 1), space_strides=(1, 2))


def test_both_pathways_are_one_map():
    model = make_backbone("slowfast_8x8_resnet50", 3, alpha=2, **SMALL_SLOWFAST)
    rng = np.random.default_rng(0)
    slow, fast = rng.standard_normal((1, 2, 3, 3, 128)), rng.standard_normal((1, 4, 3, 3, 32))
    joined = model.join(slow, fast)
    assert joined.shape == (1, 2, 3, 3, 128 + 2 * 32)
    for ours, theirs in zip(model.part(joined, 2), (slow, fast)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    params = {"fc": {"kernel": rng.standard_normal((160, 3)), "bias": rng.standard_normal(3)}}
    pooled = np.concatenate([slow.mean(axis=(1, 2, 3)), fast.mean(axis=(1, 2, 3))], axis=-1)
    expected = pooled @ params["fc"]["kernel"] + params["fc"]["bias"]
    logits, frames = model.apply({"params": params}, joined, method="run_head")
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    classified = model.apply({"params": params}, frames.mean(axis=1), method="classify")
    np.testing.assert_allclose(classified, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("frames,slow", [(32, [0, 4, 8, 13, 17, 22, 26, 31]), (16, [0, 5, 10, 15]), (4, [0])])
def test_the_slow_pathway_sees_frames_from_the_first_to_the_last(frames, slow):
    assert list(slowfast.slow_frames(frames, 4)) == slow


def test_slowfast_says_which_lengths_it_takes():
    found = shapes("slowfast_4x16_resnet50", (8, 32, 32), **SMALL_SLOWFAST)
    assert found["stem"].shape == (1, 1, 8, 8, 16 + 8 * 4)
    assert found["features"].shape[1] == found["pooled"].shape[1] == 1
    with pytest.raises(UserError, match="multiple of 8 frames, not 12"):
        shapes("slowfast_4x16_resnet50", (12, 32, 32), **SMALL_SLOWFAST)
    with pytest.raises(UserError, match="slow_inflate=.*each of the 3 stages"):
        shapes("slowfast_8x8_resnet50", (8, 32, 32), stage_sizes=(1, 1, 1))
    with pytest.raises(UserError, match="width=12: expected a multiple of beta=8"):
        shapes("slowfast_8x8_resnet50", (8, 32, 32), width=12)


# ------------------------------------------------------------------------------------------ ARTNet
def test_a_smart_unit_adds_squared_pairs():
    unit = artnet.Smart(2, (1, 1, 1))
    x = np.random.default_rng(0).standard_normal((1, 1, 1, 3, 2)).astype(np.float32)
    same = {"kernel": np.eye(2, dtype=np.float32)[None, None, None]}
    params = {"appearance": same, "relation": same}
    params |= {f"{name}_bn": {"scale": np.ones(n, np.float32), "bias": np.zeros(n, np.float32)}
               for name, n in (("appearance", 2), ("relation", 2), ("pairs", 1))}
    params["pairs"] = {"kernel": np.full((1, 1, 1, 2, 1), 0.5, np.float32)}
    params["reduce"] = {"kernel": np.asarray([[1, 0], [10, 0], [0, 1]], np.float32)[None, None, None]}
    stats = {f"{name}_bn": {"mean": np.zeros(n, np.float32), "var": np.full(n, 1 - 1e-5, np.float32)}
             for name, n in (("appearance", 2), ("relation", 2), ("pairs", 1))}
    y = jax.jit(unit.apply)({"params": params, "batch_stats": stats}, x)
    rectified = np.maximum(x, 0)
    expected = np.stack([rectified[..., 0] + 10 * rectified[..., 1], (x**2).mean(axis=-1)], axis=-1)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_artnet_has_an_entry_for_every_stage():
    with pytest.raises(UserError, match="smart=.*each of the 3 stages"):
        shapes("artnet_18", (4, 32, 32), stage_sizes=(1, 1, 1), widths=(8, 8, 8))


# --------------------------------------------------------------------------------------------- ECO
def test_eco_takes_clips_of_any_length_and_side():
    found = shapes("eco_lite", (6, 112, 72), width_mult=0.125)
    assert found["stage2"].shape[1:4] == (6, 14, 9)  # per frame
    assert found["features"].shape[1:4] == (2, 4, 3)


# ------------------------------------------------------------------------------------------- StNet
SMALL_STNET = dict(width=8, stage_sizes=(1, 1, 1), frames_per_image=2)


def test_stnet_sees_neighbouring_frames_as_one_image():
    found = shapes("stnet_resnet50", (8, 32, 32), **SMALL_STNET)
    assert found["stem"].shape == (1, 4, 8, 8, 8)
    assert found["pooled"].shape == (1, 4, 128)
    with pytest.raises(UserError, match="multiple of 5 frames, not 8"):
        shapes("stnet_se_resnext50", (8, 32, 32))


def test_stnet_classifies_a_position_as_a_clip_of_one_image():
    model = make_backbone("stnet_se_resnext50", 3, **(SMALL_STNET | dict(groups=4)))
    rng = np.random.default_rng(0)
    shapes_of = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 32, 32, 3)))
    variables = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes_of)
    maps = rng.standard_normal((2, 1, 1, 1, 128)).astype(np.float32)
    logits, pooled = model.apply(variables, maps, method="run_head")
    np.testing.assert_allclose(model.apply(variables, pooled, method="classify")[:, 0], logits, rtol=1e-4)


# ---------------------------------------------------------------------------------------- GhostNet
def test_half_of_a_ghost_module_is_made_of_the_other_half():
    module = ghostnet.Ghost(3, False, functools.partial(blocks.ConvBN, norm=blocks.BatchNorm))
    x = np.random.default_rng(0).standard_normal((1, 1, 5, 5, 4)).astype(np.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    assert params["primary"]["conv"]["kernel"].shape == (1, 1, 4, 2)
    assert params["cheap"]["conv"]["kernel"].shape == (3, 3, 1, 2)
    assert jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), x)[0]).shape == (1, 1, 5, 5, 3)


@pytest.mark.parametrize("field", ["stem", "consensus"])
def test_ghostnet_refuses_unknown_words(field):
    with pytest.raises(UserError, match=f"{field}='typo'"):
        shapes("ghostnet", (1, 32, 32), **{field: "typo"})


def test_ghostnet_without_some_of_its_blocks():
    found = shapes("ghostnet", (1, 32, 32), stem="small", kept_blocks=(1, 1, 0, 1, 0, 0, 2, 0, 0))
    assert found["stage3"].shape == found["stage2"].shape == (1, 1, 16, 16, 24)
    assert found["stage9"].shape == (1, 1, 8, 8, 80) and found["features"].shape[-1] == 960
    with pytest.raises(UserError, match="kept_blocks=.*9 numbers of blocks"):
        shapes("ghostnet", (1, 32, 32), kept_blocks=(1, 2, 1, 1, 1, 1, 5, 1, 4))
