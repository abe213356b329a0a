"""MViTv2: position tables and segments on a two-stage network. Parity is in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import make_backbone, mvit

SHAPE = (2, 4, 32, 48, 3)


def tiny(**options):
    return make_backbone("mvit_v2_s", num_classes=5, **{
        "stages": ((mvit.BlockSpec(1, 8, 1, 2),), (mvit.BlockSpec(2, 16, 2, 1),)),
        "table_frames": 4, "table_size": 32, **options})


def variables_of(model, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(SHAPE))
    return jax.tree.map(
        lambda a: jnp.asarray(0.3 * rng.standard_normal(a.shape), jnp.float32), shapes)


def clip(seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(SHAPE), jnp.float32)


def test_relative_index():
    np.testing.assert_array_equal(mvit.relative_index(3, 3), [[2, 1, 0], [3, 2, 1], [4, 3, 2]])
    # Four queries over two keys: a key stands for two queries, distances are in queries.
    np.testing.assert_array_equal(mvit.relative_index(4, 2), [[2, 0], [3, 1], [4, 2], [5, 3]])
    np.testing.assert_array_equal(mvit.relative_index(2, 4), [[3, 2, 1, 0], [5, 4, 3, 2]])
    index = mvit.relative_index(56, 7)
    assert index.min() == 0 and index.max() == 48 + 55


def test_tables_are_interpolated_as_torch_does():
    """Half-pixel positions, repeated borders: a table of 3 rows for 5 distances and back."""
    table = jnp.asarray([[0.0, 1.0], [10.0, 3.0], [30.0, 4.0]])
    np.testing.assert_allclose(mvit.fit_table(table, 5)[:, 0], [0, 4, 10, 22, 30], atol=1e-5)
    np.testing.assert_allclose(mvit.fit_table(mvit.fit_table(table, 9), 3), table, atol=1e-5)
    assert mvit.fit_table(table, 3) is table


def test_stages_add_up_to_the_whole():
    model, x = tiny(), clip()
    variables = variables_of(model)

    @jax.jit
    def both(variables, x):
        bound = model.bind(variables)
        state = bound.run_stem(x)
        for s in (1, 2):
            state = bound.run_stage(s, state)
        return model.apply(variables, x), state, bound.run_head(state), bound.classify(state[0])

    (logits, features), (token, grid), (head, pooled), classified = both(variables, x)
    assert set(features) == {"stem", "stage1", "stage2", "block0", "block1", "features", "pooled"}
    assert features["stem"].shape == features["stage1"].shape == (2, 2, 8, 12, 8)
    assert features["features"].shape == (2, 2, 4, 6, 16)
    assert features["block1"].shape == (2, 49, 16)
    for found, expected in ((grid, features["features"]), (token, features["pooled"]),
                            (head, logits), (pooled, features["pooled"]), (classified, logits),
                            (features["stage2"].reshape(2, 48, 16), features["block1"][:, 1:])):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_tables_of_another_size_serve_any_clip():
    """A checkpoint's tables stay as they are: no parameter's shape follows the clip."""
    model = tiny(table_frames=16, table_size=64)
    variables = variables_of(model)
    assert variables["params"]["blocks_0"]["attn"]["rel_pos_h"].shape == (31, 8)
    assert variables["params"]["blocks_1"]["attn"]["rel_pos_t"].shape == (15, 8)
    logits, _ = jax.jit(model.apply)(variables, clip())
    assert np.isfinite(logits).all()
