"""Every form of a convolution or pooling against XLA's own: values, gradients, and which platform gets it."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.backbones import blocks, forms, x3d


def geometries(count: int) -> list[dict]:
    """Drawn geometries: odd maps, one pixel, strides, groups, dilation, kernels larger than the map."""
    rng, found = np.random.default_rng(0), []
    while len(found) < count:
        n = int(rng.choice([2, 3]))
        kernel = tuple(int(rng.choice([1, 2, 3, 5])) for _ in range(n))
        if n == 3 and rng.random() < 0.5:  # those that are 2-D in truth
            kernel = (1, *kernel[1:]) if rng.random() < 0.5 else (kernel[0], 1, 1)
        groups = int(rng.choice([1, 1, 2, 4]))
        one = dict(shape=(2, *(int(rng.choice([1, 2, 3, 4, 7])) for _ in range(3)), 4), kernel=kernel,
                   strides=tuple(int(rng.choice([1, 1, 2, 3])) for _ in range(n)),
                   padding=tuple(int(rng.integers(0, k // 2 + 2)) for k in kernel), groups=groups,
                   features=4 if groups == 4 else 6,
                   dilation=tuple(int(rng.choice([1, 1, 1, 2])) for _ in range(n)))
        maps = zip(one["shape"][-1 - n:-1], one["padding"], one["dilation"], kernel)
        if all(size + 2 * p >= d * (k - 1) + 1 for size, p, d, k in maps):
            found.append(one)
    return found


def both(function, x, *others):
    """Value, and gradients for a cotangent that tells positions apart."""
    def run(*args):
        y, back = jax.vjp(function, *args)
        return y, back(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))
    return jax.jit(run)(x, *others)


@pytest.mark.parametrize("drawn", [
    slice(0, 16), *(pytest.param(slice(i, i + 40), marks=pytest.mark.slow) for i in (16, 56))])
def test_every_form_equals_the_plain_convolution(drawn):
    for one in geometries(drawn.stop)[drawn]:
        keys = jax.random.split(jax.random.key(len(one["kernel"])))
        x = jax.random.normal(keys[0], one["shape"])
        kernel = jax.random.normal(keys[1], (*one["kernel"], 4 // one["groups"], one["features"]))
        args = one["strides"], one["padding"], one["groups"], one["dilation"]
        expected, *others = (both(lambda x, w, form=form: form(x, w, *args), x, kernel)  # noqa: B023
                             for form in (forms.plain, forms.convolve, forms.for_gpu))
        for found in others:
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5, err_msg=str(one))


@pytest.mark.parametrize("shape,kernel,strides,padding", [
    ((2, 3, 9, 6, 5), (3, 3), (2, 2), (1, 1)), ((2, 3, 9, 6, 5), (3, 3, 3), (1, 2, 2), (1, 1, 1)),
    ((1, 4, 9, 8, 3), (3, 3, 3), (1, 8, 4), (1, 1, 1)), ((2, 7, 5, 5, 4), (5, 1, 1), (1, 1, 1), (2, 0, 0)),
    ((2, 2, 7, 8, 3), (1, 3, 3), (1, 3, 2), (0, 2, 0)), ((2, 5, 1, 1, 6), (3, 1, 1), (2, 1, 1), (1, 0, 0)),
    ((2, 9, 4), (3,), (2,), (1,)), ((3, 6, 7, 2), (5, 2), (3, 1), (0, 3)),
    ((1, 2, 7, 6, 11), (3, 3), (1, 2), (1, 1)),  # channels beyond whole lanes
])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_depthwise_of_every_number_of_axes(rng, shape, kernel, strides, padding, dtype):
    x = jnp.asarray(rng.normal(size=shape), dtype)
    w = jnp.asarray(rng.normal(size=(*kernel, 1, shape[-1])), dtype)
    args = strides, padding, shape[-1], (1,) * len(strides)
    found = both(lambda x, w: forms.convolve(x, w, *args).astype("float32"), x, w)
    expected = both(lambda x, w: forms.plain(x, w, *args), x.astype("float32"), w.astype("float32"))
    close = 2e-5 if dtype == "float32" else 3e-2
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a.astype("float32"), b, rtol=close, atol=close)


@pytest.mark.parametrize("size", [3, 5])
def test_a_depthwise_sum_is_computed_once_however_many_read_it(rng, size):
    """XLA takes it for something cheap: the loops of these readers computed it up to five times."""
    x = jnp.asarray(rng.normal(size=(2, 6, 7, 8)), "float32")
    w = jnp.asarray(rng.normal(size=(size, size, 1, 8)), "float32")
    excite = x3d.SqueezeExcite(8, axes=(1, 2))
    variables = jax.jit(excite.init)(jax.random.key(0), x)

    def squeezed(x, w):
        return jax.nn.silu(excite.apply(variables, 2 * convolve(x, w) + w.size))

    def normalised(x, w):
        y = convolve(x, w)
        return jax.nn.relu((y - y.mean((0, 1, 2))) * jax.lax.rsqrt(y.var((0, 1, 2)) + 1e-5))

    def convolve(x, w):
        return forms.convolve(x, w, (1, 1), (size // 2,) * 2, 8, (1, 1))

    def gradients(function):
        return jax.grad(lambda x, w: (function(x, w)**2).sum(), (0, 1))

    for program in (squeezed, gradients(squeezed), gradients(normalised)):
        text = jax.jit(program).lower(x, w).compile().as_text()
        products = re.findall(r"f32\[2,6,7,8\]\S* multiply\(%slice", text)
        print(size, len(products))
        assert len(products) in (size**2 - 1, size**2)  # the first one's operand may have another name


@pytest.mark.parametrize("shape,kernel,features,strides,padding,groups", [
    ((1, 2, 5, 6, 40), (3, 3), 80, (2, 1), (1, 1), 20),
    ((1, 4, 5, 4, 96), (3, 3, 3), 96, (1, 2, 2), (1, 1, 1), 16),
    ((1, 3, 4, 5, 34), (3, 3), 17, (1, 1), (1, 1), 17),
    ((2, 3, 3, 2, 36), (3, 3), 18, (2, 2), (1, 1), 6),
    ((1, 5, 3, 3, 96), (3, 1, 1), 32, (2, 1, 1), (1, 0, 0), 32),
    ((2, 3, 4, 4, 96), (1, 1), 48, (2, 2), (0, 0), 4),
    ((1, 3, 4, 4, 16), (1, 1, 1), 8, (1, 1, 1), (0, 0, 0), 8),
    ((1, 4, 5, 5, 8), (3, 3, 3), 24, (2, 1, 1), (1, 1, 1), 8),  # one channel a group
    ((1, 4, 6, 5, 4), (5, 5, 5), 4, (2, 1, 2), (2, 2, 2), 4),  # depthwise, too many positions for one loop
])
def test_groups_of_every_kind(rng, shape, kernel, features, strides, padding, groups):
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    w = jnp.asarray(rng.normal(size=(*kernel, shape[-1] // groups, features)), jnp.float32)
    args = strides, padding, groups, (1,) * len(kernel)
    found, expected = (both(lambda x, w, form=form: form(x, w, *args), x, w)
                       for form in (forms.convolve, forms.plain))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("size,kernel,strides,padding,channels", [
    ((9, 8), (3, 3), (2, 2), (1, 1), 3), ((7, 5), (7, 7), (2, 2), (3, 3), 3),
    ((9, 14), (7, 7), (2, 2), (3, 3), 1), ((6, 5), (3, 3), (1, 1), (1, 1), 3),
    ((8, 9), (5, 4), (1, 1), (0, 2), 4), ((12, 13), (2, 2), (3, 4), (0, 1), 2),
    ((11, 30), (3, 11), (4, 1), (1, 5), 3), ((10, 7), (1, 2), (1, 2), (0, 0), 3)])
@pytest.mark.parametrize("lead", [(2, 3), (3,), (2, 1, 3)])  # clips of frames, images, clips in several views
def test_kernels_that_read_colours(rng, size, kernel, strides, padding, channels, lead):
    x = jnp.asarray(rng.normal(size=(*lead, *size, channels)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(*kernel, channels, 5)), jnp.float32)
    found, expected = (both(lambda x, w, form=form: form(x, w, strides, padding, 1, (1, 1)), x, w)
                       for form in (forms.convolve, forms.plain))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("size,kernel,stride,padding,dilation,left", [
    (1, 3, 1, 1, 1, 1), (1, 7, 1, 3, 1, 1), (2, 5, 1, 2, 1, 3), (2, 7, 2, 3, 1, 3), (2, 3, 1, 1, 1, 3),
    (1, 3, 1, 2, 1, 3), (1, 3, 1, 2, 2, 1), (1, 3, 1, 1, 2, 3), (4, 9, 4, 4, 1, 7), (3, 9, 1, 4, 1, 5)])
def test_a_kernel_is_as_large_as_what_it_meets(rng, size, kernel, stride, padding, dilation, left):
    x = jnp.asarray(rng.normal(size=(2, size, 3, 4)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(kernel, 1, 4, 5)), jnp.float32)
    args = (stride, 1), (padding, 0), (dilation, 1)
    cut, pads = forms._reached(x, w, *args)
    if size + 2 * padding > dilation * (kernel - 1):
        assert cut.shape[0] == left and pads == (padding - dilation * (kernel - left) // 2, 0)
    found, expected = (both(lambda x, w, form=form: form(x, w, args[0], args[1], 1, args[2]), x, w)
                       for form in (forms.for_cpu, forms.plain))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("strides,dilation", [((1, 1), (1, 1)), ((2, 1), (1, 1)), ((1, 1), (2, 1))])
def test_gradients_on_large_maps(rng, monkeypatch, strides, dilation):
    monkeypatch.setattr(forms, "LARGE", (6, 100))
    x = jnp.asarray(rng.normal(size=(2, 3, 9, 8, 5)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(3, 3, 5, 7)), jnp.float32)
    found, expected = (both(lambda x, w, form=form: form(x, w, strides, (1, 1), 1, dilation), x, w)
                       for form in (forms.for_cpu, forms.plain))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5)


def test_what_a_convolution_reads_is_not_computed_again_for_its_gradient():
    def loss(x, scale, kernel):
        y = forms.convolve(jnp.maximum(x * scale, 0.1), kernel, (1, 1), (1, 1))
        return (y**3).sum()

    args = jnp.ones((2, 3, 8, 8, 16)), jnp.ones(16), jnp.ones((3, 3, 16, 16))
    text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*args).compile().as_text()
    turned = re.findall(r"f32\[(?:16,8,8,6|8,8,6,16)\]\S* fusion\(([^)]*)\)", text)
    assert turned, "XLA turns the maps for the kernel's gradient in another way"
    assert all(operands.count("%") == 1 for operands in turned), turned


def test_an_empty_result_is_the_plain_one():
    x, kernel = jnp.ones((2, 1, 2, 2, 4)), jnp.ones((3, 3, 4, 4))
    assert forms.convolve(x, kernel, (1, 1), (0, 0)).shape == (2, 1, 0, 0, 4)


@pytest.mark.parametrize("window,strides,padding", [
    ((3, 3), (2, 2), ((1, 1), (1, 1))), ((3, 3, 3), (1, 1, 1), ((1, 1),) * 3),
    ((1, 3, 3), (1, 2, 2), ((0, 0), (0, 1), (1, 0))), ((2, 2, 2), (2, 2, 2), ((0, 0),) * 3),
    ((3, 5, 2), (3, 1, 2), ((1, 0), (2, 2), (0, 1))),
])
def test_max_pool_and_who_of_equals_gets_the_gradient(rng, window, strides, padding):
    x = jnp.asarray(rng.integers(0, 4, (2, 5, 7, 6, 3)), jnp.float32)  # few values: equals in most windows
    pool = functools.partial(forms.max_pool, window=window, strides=strides, padding=padding)
    plain = functools.partial(forms._reduce_window, window=window, strides=strides, padding=padding)
    found, expected = both(pool, x), both(plain, x)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1][0], expected[1][0], atol=1e-6)


def lowered(platform: str, kernel: tuple[int, ...], gradient: bool, c: int = 8, groups: int = 1) -> list[str]:
    """Dot products and convolutions of a layer's program, with the number of a convolution's map axes."""
    conv = blocks.Conv(c, kernel, 1, tuple(k // 2 for k in kernel), groups)
    x = jax.ShapeDtypeStruct((2, 4, 2, 2, c), jnp.float32)
    w = jax.ShapeDtypeStruct((*kernel, c // groups, c), jnp.float32)

    def run(x, w):
        return (conv.apply({"params": {"kernel": w}}, x) ** 2).sum()

    program = jax.jit(jax.grad(run, (0, 1)) if gradient else run)
    text = program.trace(x, w).lower(lowering_platforms=(platform,)).as_text()
    convolutions = re.findall(r"stablehlo\.convolution\(.*: \(tensor<(.*?)>", text)
    return sorted(["dot"] * text.count("stablehlo.dot_general") + [
        f"convolution{shape.count('x') - 2}" for shape in convolutions])


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 3, 3), (3, 1, 1), (3, 3, 3), (1, 1, 1)])
@pytest.mark.parametrize("gradient", [False, True])
def test_the_form_follows_the_platform_that_is_lowered_for(kernel, gradient):
    """Nothing of a CPU's forms reaches a GPU or TPU, whatever this process runs on."""
    parts = 3 if gradient else 1
    assert lowered("tpu", kernel, gradient) == [f"convolution{len(kernel)}"] * parts
    two = len(kernel) == 2 or 1 in (kernel[0], kernel[1])
    assert lowered("cuda", kernel, gradient) == [f"convolution{2 if two else 3}"] * parts
    on_cpu = {"dot"} if kernel != (3, 1, 1) else {"convolution2", "dot"} if gradient else {"convolution2"}
    assert set(lowered("cpu", kernel, gradient)) == on_cpu  # on maps of 2 x 2


@pytest.mark.parametrize("groups,on_cpu", [(8, set()), (2, {"dot"})])
def test_kernels_in_groups_stay_convolutions_elsewhere(groups, on_cpu):
    for platform in ("tpu", "cuda"):
        assert lowered(platform, (3, 3), True, groups=groups) == ["convolution2"] * 3
    assert set(lowered("cpu", (3, 3), True, groups=groups)) == on_cpu


def test_max_pool_elsewhere_is_one_operation():
    x = jax.ShapeDtypeStruct((2, 4, 8, 8, 3), jnp.float32)
    step = jax.jit(jax.grad(lambda x: blocks.max_pool(x, (3, 3), (2, 2), (1, 1)).sum()))
    for platform, expected in (("tpu", 1), ("cuda", 1), ("cpu", 0)):
        text = step.trace(x).lower(lowering_platforms=(platform,)).as_text()
        assert text.count("select_and_scatter") == expected, platform


def test_one_program_for_several_platforms():
    """An export for CPUs and others chooses when it is called."""
    def run(x, w):
        return forms.convolve(x, w, (1, 1), (1, 1))

    x, w = (jax.random.normal(jax.random.key(0), shape) for shape in ((1, 2, 2, 3), (3, 3, 3, 4)))
    program = jax.export.export(jax.jit(run), platforms=("cpu", "cuda", "tpu"))(x, w)
    np.testing.assert_allclose(program.call(x, w), run(x, w), atol=1e-6)
    assert "dot_general" in program.mlir_module() and "stablehlo.convolution" in program.mlir_module()


def test_a_single_row_loses_no_digit():
    """XLA's own matrix-vector product loses several times as much."""
    rng = np.random.default_rng(0)
    x, kernel = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, 1024), (1024, 400)))
    exact = x.astype(np.float64) @ kernel.astype(np.float64)

    def error(function):
        return np.sqrt(np.square(jax.jit(function)(x, kernel) - exact).mean())

    assert error(forms.product) < 0.6 * error(jnp.matmul)
