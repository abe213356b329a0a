"""Video Swin: windows, shifts, position indices, stochastic depth, inflation (not parity)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax import cost
from effvid_jax.backbones import blocks, forms, make_backbone, swin3d
from effvid_jax.torch_import import convert


def tiny(**options):
    """Two stages of two blocks; windows of 2x4x4 tokens."""
    return make_backbone("swin3d_t", num_classes=5, **{
        "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": (2, 4, 4), **options})


def variables_of(model, shape, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    return jax.tree.map(
        lambda a: jnp.asarray(0.3 * rng.standard_normal(a.shape), jnp.float32), shapes)


def run(model, variables, x, **kwargs):
    return jax.jit(lambda v, x: model.apply(v, x, **kwargs))(variables, x)


def clip(shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


# ----------------------------------------------------------------------------------------- geometry
def test_position_index_of_the_full_window():
    """Numbers of the reference's 392x392 buffer."""
    index = swin3d.position_index((8, 7, 7), (8, 7, 7))
    assert index.shape == (392, 392)
    assert (index[0, 0], index[0, 391], index.max(), index.min()) == (1267, 0, 2534, 0)
    np.testing.assert_array_equal(index, swin3d.position_index((8, 7, 7), (8, 7, 7), "exact"))


def test_position_index_of_a_clipped_window():
    """A 4x4 map (112-pixel clips, stage 4): the reference takes the corner of the full index."""
    full = swin3d.position_index((8, 7, 7), (8, 7, 7))
    sliced, exact = (swin3d.position_index((8, 4, 4), (8, 7, 7), mode)
                     for mode in ("slice", "exact"))
    np.testing.assert_array_equal(sliced, full[:128, :128])
    assert len(np.unique(sliced)) == 783 and len(np.unique(exact)) == 735  # 15 * 7 * 7
    assert (sliced == exact).mean() == pytest.approx(0.026, abs=5e-4)
    for i, j in ((0, 127), (5, 90), (127, 3)):  # token -> its own (t, h, w) in a 8x4x4 window
        t, h, w = np.subtract(np.unravel_index(i, (8, 4, 4)), np.unravel_index(j, (8, 4, 4)))
        assert exact[i, j] == (t + 7) * 169 + (h + 6) * 13 + w + 6


def test_clipping_in_time_alone_is_exact():
    np.testing.assert_array_equal(swin3d.position_index((4, 7, 7), (8, 7, 7), "slice"),
                                  swin3d.position_index((4, 7, 7), (8, 7, 7), "exact"))


def test_window_index_matters_where_the_map_is_small():
    shape = (1, 4, 32, 32, 3)  # 8x8 tokens, then 4x4: whole windows
    variables, x = variables_of(tiny(), shape), clip(shape)
    same = [run(tiny(window_index=mode), variables, x)[1] for mode in ("slice", "exact")]
    np.testing.assert_allclose(same[0]["features"], same[1]["features"], atol=1e-5)
    x = x[:, :, :20, :20]  # 5x5, then 3x3: clipped in stage 2
    clipped = [run(tiny(window_index=mode), variables, x)[1] for mode in ("slice", "exact")]
    np.testing.assert_allclose(clipped[0]["stage1"], clipped[1]["stage1"], atol=1e-5)
    assert np.abs(clipped[0]["stage2"] - clipped[1]["stage2"]).max() > 1e-3
    with pytest.raises(ValueError, match="window_index='typo'"):
        tiny(window_index="typo").apply(variables, x)


@pytest.mark.parametrize("size,window,shift", [
    ((8, 8, 12), (2, 4, 4), (1, 2, 2)), ((4, 7, 8), (4, 7, 4), (0, 0, 2)),
    ((6, 4, 4), (2, 4, 4), (1, 0, 0))])
def test_regions_separate_what_the_roll_brought_together(size, window, shift):
    """Two tokens of a window may see each other unless one of them has wrapped around an axis."""
    labels = swin3d.region_labels(size, window, shift)
    places = np.moveaxis(np.indices(size), 0, -1)  # (T, H, W, 3)
    wrapped = places >= np.array(size) - np.array(shift)
    flags = swin3d.partition(wrapped[None], window)
    for tokens, label in zip(flags, labels):
        together = (tokens[:, None] == tokens[None]).all(-1)
        np.testing.assert_array_equal(label[:, None] == label[None], together)


def test_partition_is_undone():
    x = np.arange(2 * 4 * 6 * 8 * 3).reshape(2, 4, 6, 8, 3)
    windows = swin3d.partition(x, (2, 3, 4))
    assert windows.shape == (2 * 2 * 2 * 2, 24, 3)
    np.testing.assert_array_equal(windows[0].reshape(2, 3, 4, 3), x[0, :2, :3, :4])
    np.testing.assert_array_equal(swin3d.merge_windows(windows, (2, 3, 4), (4, 6, 8)), x)


def test_merging_takes_neighbours_in_the_references_order():
    x = clip((1, 1, 3, 2, 4))  # an odd height is padded with zeros
    model = swin3d.PatchMerging(8)
    variables = model.init(jax.random.key(0), x)
    tokens = np.zeros((2, 1, 16), np.float32)
    for row, part in itertools.product(range(2), range(4)):
        h, w = 2 * row + part % 2, part // 2  # (even, even), (odd, even), (even, odd), (odd, odd)
        if h < 3:
            tokens[row, 0, 4 * part:4 * part + 4] = x[0, 0, h, w]
    tokens = tokens - tokens.mean(-1, keepdims=True)
    tokens = tokens / np.sqrt(tokens.var(-1, keepdims=True) + 1e-5)
    expected = tokens @ variables["params"]["reduction"]["kernel"]
    np.testing.assert_allclose(model.apply(variables, x)[0, 0], expected, atol=1e-5)


# ------------------------------------------------------------------------------------------ network
def test_stages_add_up_to_the_whole():
    model, shape = tiny(), (2, 5, 36, 28, 3)  # nothing divides: all steps pad
    variables, x = variables_of(model, shape), clip(shape)
    logits, features = run(model, variables, x)
    assert set(features) == {"stem", "stage1", "merge1", "stage2", "features", "pooled"}
    assert features["stem"].shape == (2, 3, 9, 7, 8)
    assert features["features"].shape == (2, 3, 5, 4, 16)

    @jax.jit
    def one_by_one(variables, x):
        bound = model.bind(variables)
        y = bound.run_stem(x)
        for s in (1, 2):
            y = bound.run_stage(s, y)
        return y, *bound.run_head(y), bound.classify(y)

    y, head, pooled, per_position = one_by_one(variables, x)
    np.testing.assert_allclose(y, features["features"], atol=1e-5)
    np.testing.assert_allclose(head, logits, atol=1e-5)
    np.testing.assert_allclose(pooled, features["pooled"], atol=1e-5)
    np.testing.assert_allclose(per_position.mean((1, 2, 3)), logits, atol=1e-5)


def test_stochastic_depth():
    branch = blocks.DropPath(0.25)
    x = jnp.ones((400, 3, 2))
    y = np.asarray(branch.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}))
    assert set(np.unique(y.reshape(400, -1).std(1))) == {0}  # whole examples
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    assert y.mean() == pytest.approx(1, abs=0.1)
    np.testing.assert_array_equal(branch.apply({}, x), x)

    rates = [block.drop_path for s in range(1, 5)
             for block in getattr(make_backbone("swin3d_s", num_classes=2).bind({}), f"layer{s}")]
    np.testing.assert_allclose(rates, np.linspace(0, 0.1, 24))


def test_training_is_evaluation_without_stochastic_parts():
    shape = (2, 4, 32, 32, 3)
    variables, x = variables_of(tiny(), shape), clip(shape)
    expected, _ = run(tiny(), variables, x)
    still, _ = run(tiny(drop_path=0.0, dropout=0.0), variables, x, train=True)
    np.testing.assert_allclose(still, expected, atol=1e-5)
    noisy, _ = run(tiny(drop_path=0.9, dropout=0.0), variables, x, train=True,
                   rngs={"dropout": jax.random.key(0)})
    assert np.abs(noisy - expected).max() > 1e-3


def test_mmcv_counter_gives_the_published_costs():
    """Exact totals of mmcv 1.4's counter behind 1639 and 421 GFLOPs (12 views), ResKD table 3."""
    model = make_backbone("swin3d_s", num_classes=400)
    for size, macs, published in ((224, 136_597_241_856, 1639), (112, 35_070_357_504, 421)):
        found = cost.count(model, (32, size, size, 3), "mmcv", views=12)
        print(f"{size}: {found.gmacs:.1f}")
        assert found.macs == 12 * macs and round(found.gmacs) == published


# ---------------------------------------------------------------------------------------- inflation
def test_position_tables_are_repeated_in_time():
    table = np.random.default_rng(0).standard_normal((169, 3))
    inflated = swin3d.inflate_position_table(table, 2535)
    np.testing.assert_array_equal(inflated.reshape(15, 169, 3),
                                  np.broadcast_to(table, (15, 169, 3)))


@pytest.mark.parametrize("side,expected", [
    (3, [[-0.904704, -0.874016, -0.44, 1.074016, 2.216704],
         [1.269984, 2.319136, 4.444, 7.648864, 9.810016],
         [8.328, 11.068, 16.0, 22.012, 25.864],
         [25.106016, 29.536864, 37.276, 46.095136, 51.637984],
         [37.288704, 42.738016, 52.168, 62.677984, 69.239296]]),
    (7, [[22.206447188, 50.351851852, 90.312071331],
         [465.462962963, 576.0, 698.351851852],
         [1487.645404664, 1680.574074074, 1885.317558299]])])
def test_position_tables_of_another_window_are_resized_as_torch_does(side, expected):
    """Expected: torch.nn.functional.interpolate(mode='bicubic') of 0, 1, 4, 9, ... row by row."""
    table, new = np.arange(side * side, dtype=float)[:, None] ** 2, len(expected)
    resized = swin3d.inflate_position_table(table, 3 * new * new).reshape(3, new, new)
    np.testing.assert_allclose(resized, np.broadcast_to(expected, resized.shape), atol=1e-8)
    with pytest.raises(ValueError, match="square number"):
        swin3d.inflate_position_table(table[1:], 75)


def test_two_dimensional_weights_make_a_network_for_still_clips():
    """Inflated patches see a still clip as the 2-D network sees its frame."""
    shape = (1, 4, 28, 28, 3)
    model = tiny(window_size=(2, 7, 7))
    template = variables_of(model, shape)
    rng, state = np.random.default_rng(3), {}
    params = template["params"]
    state["patch_embed.proj.weight"] = rng.standard_normal((8, 3, 4, 4))
    for key in ("proj.bias", "norm.weight", "norm.bias"):
        state[f"patch_embed.{key}"] = rng.standard_normal(8)
    for s in range(2):
        for b in range(2):
            ours, prefix = params[f"layer{s + 1}_{b}"], f"layers.{s}.blocks.{b}"
            for path in ("norm1", "norm2"):
                state[f"{prefix}.{path}.weight"] = state[f"{prefix}.{path}.bias"] = np.ones(8 << s)
            for path in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
                module, leaf = path.split(".")
                kernel = ours[module][leaf]["kernel"]
                state[f"{prefix}.{path}.weight"] = rng.standard_normal(kernel.shape[::-1])
                state[f"{prefix}.{path}.bias"] = rng.standard_normal(kernel.shape[1])
            attention = f"{prefix}.attn.relative_position"
            state[f"{attention}_bias_table"] = rng.standard_normal((169, 1 << s))
            state[f"{attention}_index"] = np.zeros((49, 49), np.int64)
    state["layers.0.downsample.reduction.weight"] = rng.standard_normal((16, 32))
    for key in ("weight", "bias"):
        state[f"layers.0.downsample.norm.{key}"] = rng.standard_normal(32)
        state[f"norm.{key}"] = rng.standard_normal(16)
    state["head.weight"], state["head.bias"] = rng.standard_normal((1000, 16)), np.zeros(1000)

    variables = convert("swin3d_t", state, template, inflate=True, skip=("fc/.*", "head/.*"))
    table = variables["params"]["layer1_0"]["attn"]["relative_position_bias_table"]
    assert table.shape == (3 * 169, 1)
    still = jnp.broadcast_to(clip(shape)[:, :1], shape)
    found = model.bind(variables).patch_embed.proj(still)
    kernel = jnp.asarray(state["patch_embed.proj.weight"], jnp.float32).transpose(2, 3, 1, 0)
    expected = forms.convolve(still[:, 0], kernel, (4, 4), (0, 0))
    expected = expected + state["patch_embed.proj.bias"].astype(np.float32)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-4)
