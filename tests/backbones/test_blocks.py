"""The layers against definitions written out in numpy or XLA's own operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.backbones import batch_statistics, blocks, shifts, trace


def conv_by_hand(x, kernel, strides, padding, groups=1):
    """Correlation of (T,H,W,C) with (kT,kH,kW,I,O), position by position, in float64."""
    x = np.pad(x.astype(np.float64), [(p, p) for p in padding] + [(0, 0)])
    kt, kh, kw, per_group, out = kernel.shape
    size = [(n - k) // s + 1 for n, k, s in zip(x.shape, (kt, kh, kw), strides)]
    y = np.zeros((*size, out))
    for t, h, w in np.ndindex(*size):
        a, b, c = t * strides[0], h * strides[1], w * strides[2]
        patch = x[a:a + kt, b:b + kh, c:c + kw]
        for o in range(out):
            g = o // (out // groups)
            y[t, h, w, o] = (patch[..., g * per_group:(g + 1) * per_group] * kernel[..., o]).sum()
    return y


@pytest.mark.parametrize("kernel,strides,padding,groups,channels", [
    ((1, 3, 3), (1, 2, 2), (0, 1, 1), 1, 4), ((3, 1, 1), (1, 1, 1), (1, 0, 0), 1, 4),
    ((3, 1, 1), (2, 1, 1), (1, 0, 0), 1, 4), ((3, 3, 3), (2, 2, 1), (1, 1, 0), 2, 4),
    ((1, 1, 1), (1, 2, 2), (0, 0, 0), 1, 4), ((1, 3, 3), (1, 1, 1), (0, 1, 1), 6, 6),
])
def test_conv_and_its_factors_on_a_cpu(rng, kernel, strides, padding, groups, channels):
    x = rng.standard_normal((5, 7, 6, channels)).astype(np.float32)
    weight = rng.standard_normal((*kernel, channels // groups, 6)).astype(np.float32)
    expected = conv_by_hand(x, weight, strides, padding, groups)
    for plain in (False, True):
        module = blocks.Conv(6, kernel, strides, padding, groups, plain=plain)
        y = module.apply({"params": {"kernel": weight}}, jnp.asarray(x)[None])
        np.testing.assert_allclose(y[0], expected, atol=1e-5)


def test_conv_per_frame_with_bias(rng):
    x = rng.standard_normal((2, 3, 9, 8, 3)).astype(np.float32)
    weight = rng.standard_normal((7, 7, 3, 4)).astype(np.float32)
    bias = rng.standard_normal(4).astype(np.float32)
    module = blocks.Conv(4, (7, 7), 2, 3, use_bias=True)
    y = module.apply({"params": {"kernel": weight, "bias": bias}}, jnp.asarray(x))
    expected = [conv_by_hand(clip, weight[None], (1, 2, 2), (0, 3, 3)) for clip in x]
    np.testing.assert_allclose(y, np.stack(expected) + bias, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_training(rng, groups):
    x = (3 + 2 * rng.standard_normal((4, 2, 3, 3, 5))).astype(np.float32)
    scale, bias = rng.standard_normal((2, 5)).astype(np.float32)
    mean0, var0 = rng.standard_normal(5).astype(np.float32), np.full(5, 2, np.float32)
    y, updated = blocks.BatchNorm(groups=groups).apply(
        {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean0, "var": var0}},
        jnp.asarray(x), train=True, mutable=["batch_stats"])

    parts = x.astype(np.float64).reshape(groups, -1, 5)
    mean, var = parts.mean(axis=1), parts.var(axis=1)
    expected = (parts - mean[:, None]) / np.sqrt(var[:, None] + 1e-5) * scale + bias
    np.testing.assert_allclose(y, expected.reshape(x.shape), atol=2e-5)
    stats = updated["batch_stats"]
    unbiased = parts.var(axis=1, ddof=1).mean(axis=0)
    np.testing.assert_allclose(stats["mean"], 0.9 * mean0 + 0.1 * mean.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 * var0 + 0.1 * unbiased, rtol=1e-5)
    assert groups == 1 or np.abs(mean[0] - mean[1]).max() > 0.01  # the groups are told apart


@pytest.mark.parametrize("shape", [(1, 6, 3, 2, 5), (3, 2, 4), (2, 2, 3, 1, 4, 6)])
def test_gradient_of_batch_norm_is_that_of_its_formula(rng, shape):
    """Of the statistics that are returned, too."""
    c, axes = shape[-1], tuple(range(1, len(shape) - 1))
    args = [jnp.asarray(rng.normal(2, 3, size), jnp.float32) for size in (shape, c, c)]
    sizes = shape, (shape[0], c), (shape[0], c)
    weights = [jnp.asarray(rng.normal(size=size), jnp.float32) for size in sizes]

    def formula(x, scale, bias):
        mean = x.mean(axes, keepdims=True)
        var = jnp.square(x - mean).mean(axes, keepdims=True)
        y = (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias
        return y, mean.reshape(-1, c), var.reshape(-1, c)

    def gradient(function):
        def weighed(*args):
            return sum((a * w).sum() for a, w in zip(function(*args), weights))
        return jax.jit(jax.grad(weighed, (0, 1, 2)))(*args)

    found = gradient(lambda *args: batch_statistics.normalise(*args, 1e-5))
    for a, b in zip(found, gradient(formula)):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_batch_norm_inference_reads_running_statistics(rng):
    x = rng.standard_normal((2, 1, 3, 3, 5)).astype(np.float32)
    stats = {"mean": rng.standard_normal(5), "var": 0.5 + rng.random(5)}
    params = {"scale": rng.random(5), "bias": rng.random(5)}
    y = blocks.BatchNorm().apply({"params": params, "batch_stats": stats}, jnp.asarray(x))
    expected = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_batch_norm_keeps_digits_when_the_mean_is_large(rng):
    x = (1000 + rng.standard_normal((8, 1, 4, 4, 2))).astype(np.float32)
    module = blocks.BatchNorm()
    variables = module.init(jax.random.key(0), x)
    y, _ = module.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(np.asarray(y).std(axis=(0, 1, 2, 3)), 1, atol=1e-3)


def test_batch_norm_groups_must_divide_the_batch():
    module = blocks.BatchNorm(groups=2)
    x = jnp.zeros((3, 1, 2, 2, 4))
    variables = blocks.BatchNorm().init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="groups=2 do not divide the batch of 3"):
        module.apply(variables, x, train=True, mutable=["batch_stats"])


def test_half_precision_keeps_wide_statistics(rng):
    x = jnp.asarray(300 + rng.standard_normal((4, 2, 8, 8, 3)), jnp.bfloat16)
    norm = blocks.BatchNorm(dtype=jnp.bfloat16)
    variables = norm.init(jax.random.key(0), x)
    y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16 and updated["batch_stats"]["mean"].dtype == jnp.float32
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 30, rtol=1e-2)
    conv = blocks.Conv(4, (3, 3), 1, 1, dtype=jnp.bfloat16)
    variables = conv.init(jax.random.key(0), x)
    assert variables["params"]["kernel"].dtype == jnp.float32
    assert conv.apply(variables, x.astype(jnp.float32)).dtype == jnp.bfloat16
    assert blocks.global_avg_pool(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(blocks.global_avg_pool(x).astype(np.float32), 300, atol=2)


def test_double_precision_is_double_everywhere(rng):
    with jax.enable_x64(True):
        x = jnp.asarray(rng.standard_normal((2, 2, 4, 4, 3)))
        kernel = jnp.asarray(rng.standard_normal((3, 3, 3, 3)))
        five = jnp.asarray(np.full(3, 1 / 3))
        y = blocks.Conv(3, (3, 3), 1, 1).apply({"params": {"kernel": kernel}}, x)
        y, updated = blocks.BatchNorm().apply(
            {"params": {"scale": five, "bias": five}, "batch_stats": {"mean": five, "var": five}}, y,
            train=True, mutable=["batch_stats"])
        z = blocks.max_pool(blocks.relu(y), (3, 3), (2, 2), (1, 1))
        assert {a.dtype for a in (y, z, *updated["batch_stats"].values())} == {np.dtype(np.float64)}
        reference = np.asarray(y).std(axis=(0, 1, 2, 3))
        np.testing.assert_allclose(reference, 1 / 3, rtol=1e-4)


def test_max_pool_pads_with_minus_infinity(rng):
    x = (-5 - rng.random((2, 3, 5, 5, 2))).astype(np.float32)  # zeros as padding would win
    y = blocks.max_pool(jnp.asarray(x), (3, 3), (2, 2), (1, 1))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    expected = np.stack([[padded[:, :, i:i + 3, j:j + 3].max(axis=(2, 3)) for j in (0, 2, 4)]
                         for i in (0, 2, 4)])
    np.testing.assert_array_equal(y, np.moveaxis(expected, (0, 1), (2, 3)))
    gradient = jax.jit(jax.grad(lambda x: blocks.max_pool(x, (3, 3), (2, 2), (1, 1)).sum()))(x)
    assert gradient.sum() == pytest.approx(y.size)


def test_temporal_shift_moves_channels_between_frames():
    x = jnp.arange(1, 5.0)[None, :, None, None, None] * jnp.ones((1, 4, 1, 1, 8))
    y = shifts.temporal_shift(x, div=4)[0, :, 0, 0]
    expected = np.array([[2, 2, 0, 0], [3, 3, 1, 1], [4, 4, 2, 2], [0, 0, 3, 3]])
    np.testing.assert_array_equal(y[:, :4], expected)  # 2 channels from the next, 2 from the last frame
    np.testing.assert_array_equal(y[:, 4:], np.broadcast_to([[1], [2], [3], [4]], (4, 4)))


def test_relu6_and_dense(rng):
    np.testing.assert_array_equal(blocks.relu6(jnp.array([-1.0, 3.0, 7.0])), [0, 3, 6])
    x, kernel, bias = rng.standard_normal((2, 3)), rng.standard_normal((3, 4)), rng.standard_normal(4)
    y = blocks.Dense(4).apply({"params": {"kernel": kernel, "bias": bias}}, jnp.asarray(x))
    np.testing.assert_allclose(y, x @ kernel + bias, rtol=1e-5)


def test_tape_records_only_inside_the_context():
    x = jnp.zeros((1, 2, 4, 4, 3))
    module = blocks.Conv(6, (3, 3), 2, 1, use_bias=True)
    with trace.recording() as tape:
        variables = module.init(jax.random.key(0), x)
    module.apply(variables, x)
    (op,) = tape
    assert (op.kind, op.in_shape, op.out_shape) == ("conv", (1, 2, 4, 4, 3), (1, 2, 2, 2, 6))
    assert (op.macs, op.bias, op.kernel, op.strides) == (2 * 2 * 2 * 6 * 27, True, (3, 3), (2, 2))


def test_a_tape_inside_another_one_ends_alone():
    with trace.recording(shapes_only=True) as outer:
        with trace.recording() as inner:
            assert not trace.shapes_only()
        assert trace.shapes_only() and outer == inner == []
        trace.note("relu", (), jnp.zeros(2), jnp.zeros(2))
    assert len(outer) == 1 and not inner and not trace.shapes_only()
