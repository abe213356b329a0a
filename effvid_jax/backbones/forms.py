"""One operation, several ways to compute it: the platform that a program is compiled for decides.

    convolution by         for                                             where
    XLA's own              everything                                      TPU, the rest
    images                 kernels that are 1 in time or in space: 2-D     GPU, CPU
    a matrix product       1x1                                             CPU
    patches                kernels with more positions than the result     CPU
    less                   a kernel whose edge never meets the map         CPU
    frames as channels     other 3-D kernels: the frames that meet, in 2-D CPU
    shifted products       depthwise kernels, see `depthwise.py`           CPU
    dense ones             kernels in groups, see `grouped.py`             CPU

Gradients may have another form than values: on a CPU those of a strided kernel's map, of a kernel over time
and of kernels on large maps are a matrix product for each kernel position; of first kernels see `colours.py`.

All give the same values up to rounding. Why: XLA's 3-D convolutions are slower than 2-D ones that compute the
same (1.6 times on an H100, more on a CPU). On a CPU it has no fast convolution in groups; for the gradient
of a 1x1 kernel it turns whole maps around; and a kernel larger than its map it exchanges with the map, which
ends in a plain loop, 50 times slower. `benchmarks/conv_forms.py` measures them, docs/speed.md has the table.

The choice is made while a program is lowered (`jax.lax.platform_dependent`), not while it is traced: what is
exported on a CPU for GPUs and TPUs has their forms. Gradients exist in reverse mode only.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import colours, depthwise, grouped
from effvid_jax.backbones.once import once
from effvid_jax.backbones.windows import pad, taps, windows

SMALL = 9  # positions of a kernel whose gradients may be a product for each
LARGE = (64, 3_200_000)  # channels and values of `dy`: with more of both XLA's gradient of a kernel is slow


def convolve(x, kernel, strides, padding, groups: int = 1, dilation=None):
    """`x` (B, [T,] H, W, C) with `kernel` (kH, kW, I, O) or (kT, kH, kW, I, O), no bias.

    Args:
        strides, padding, dilation: tuples with a number per kernel axis; zeros are added on both sides.
        groups: channel groups, I = C / groups.
    """
    return _convolve(x, kernel, strides, padding, groups, dilation or (1,) * len(strides))


@functools.cache  # the same functions for the same geometry: JAX traces a function once per shape
def _forms(strides, *args):
    """{platform: (x, kernel) -> y} for `platform_dependent`, which traces them all: none that is not needed
    (2-D kernels have no form of their own on a GPU)."""
    forms = {"cpu": for_cpu, "default": plain} | ({"cuda": for_gpu} if len(strides) == 3 else {})
    return {name: lambda x, kernel, form=form: form(x, kernel, strides, *args)
            for name, form in forms.items()}


@functools.cache
def _gradients(*args):
    """{platform: (x, kernel, dy) -> their gradients} of `_forms`."""
    return {name: lambda x, kernel, dy, form=form: jax.vjp(form, x, kernel)[1](dy)
            for name, form in _forms(*args).items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _chosen(x, kernel, strides, padding, groups, dilation):
    return jax.lax.platform_dependent(x, kernel, **_forms(strides, padding, groups, dilation))


def _forward(x, kernel, *args):
    return _chosen(x, kernel, *args), (x, kernel)


def _backward(strides, padding, groups, dilation, inputs, dy):
    """Gradients of the platform's form.

    The choice is made anew here. Differentiated as it stands it would reach XLA as a condition that is known
    too late for a CPU's fast convolutions: a gradient then takes 25 times as long.
    """
    return jax.lax.platform_dependent(*inputs, dy, **_gradients(strides, padding, groups, dilation))


_chosen.defvjp(_forward, _backward)
# Traced once per shape: deep networks repeat them.
_convolve = jax.jit(_chosen, static_argnums=(2, 3, 4, 5))


def plain(x, kernel, strides, padding, groups, dilation):
    """XLA's own convolution."""
    n = len(strides)
    lead, space = x.shape[: x.ndim - n - 1], "THW"[3 - n:]
    x = x.reshape(math.prod(lead), *x.shape[len(lead):])
    y = jax.lax.conv_general_dilated(
        x, kernel, strides, [(p, p) for p in padding], rhs_dilation=dilation, feature_group_count=groups,
        dimension_numbers=("N" + space + "C", space + "IO", "N" + space + "C"))
    return y.reshape(*lead, *y.shape[1:])


def for_gpu(x, kernel, strides, padding, groups, dilation):
    """3-D kernels that are 1 in time or in space as 2-D ones, everything else plain."""
    y = _as_images(for_gpu, x, kernel, strides, padding, groups, dilation)
    return plain(x, kernel, strides, padding, groups, dilation) if y is None else y


def for_cpu(x, kernel, strides, padding, groups, dilation):
    """The form that the module's docstring names."""
    n = len(strides)
    maps = [s + 2 * p - d * (k - 1)
            for s, p, d, k in zip(x.shape[-1 - n:-1], padding, dilation, kernel.shape)]
    if min(maps) < 1:  # an empty result
        return plain(x, kernel, strides, padding, groups, dilation)
    kernel, padding = _reached(x, kernel, strides, padding, dilation)
    sizes = kernel.shape[:-2]
    if groups == x.shape[-1] == kernel.shape[-1] and max(dilation) == 1:
        return depthwise.convolve(x, kernel, strides, padding)
    if math.prod(sizes) == 1 and groups == 1:
        steps = tuple(slice(None, None, s) for s in strides)
        return _product(pad(x, padding)[(..., *steps, slice(None))], kernel.reshape(kernel.shape[-2:]))
    y = _as_images(for_cpu, x, kernel, strides, padding, groups, dilation)
    if y is not None:
        return y
    # Of the result, not of the input: the gradient's input is the result.
    out = math.prod((m - 1) // s + 1 for m, s in zip(maps, strides))
    if groups > 1:
        return grouped.convolve(for_cpu, x, kernel, strides, padding, groups, dilation, out)
    if n == 3:
        # The frames that meet in one output frame become channels of a 2-D convolution.
        x = pad(x, (padding[0], 0, 0))
        x = jnp.concatenate(taps(x, -4, sizes[0], strides[0], dilation[0]), axis=-1)
        kernel = jnp.moveaxis(kernel, 0, 2).reshape(*sizes[1:], -1, kernel.shape[-1])
        return for_cpu(x, kernel, strides[1:], padding[1:], groups, dilation[1:])
    if math.prod(sizes) > out:
        x = jnp.concatenate(windows(pad(x, padding), sizes, strides, dilation), axis=-1)
        return _product(x, kernel.reshape(-1, kernel.shape[-1]))
    if n == 2 and (math.prod(sizes) <= SMALL or x.shape[-1] <= colours.MOST):
        return _large_map(x, kernel, strides, padding, dilation)
    return plain(x, kernel, strides, padding, groups, dilation)


def _reached(x, kernel, strides, padding, dilation):
    """(kernel, padding) without the positions on both sides that meet zeros alone: 3x3 on a pixel is 1x1."""
    found = []
    for axis, (size, stride, p, d) in enumerate(zip(x.shape[-1 - len(strides):-1], strides, padding,
                                                    dilation)):
        length = kernel.shape[axis]
        last = (size + 2 * p - d * (length - 1) - 1) // stride * stride  # where the last window begins
        cut = 0
        while (length - 2 * cut > 2 and d * (cut + 1) <= p
               and last + d * cut < p <= d * (length - 1 - cut) - size):
            cut += 1
        kernel = jax.lax.slice_in_dim(kernel, cut, length - cut, axis=axis)
        found.append(p - d * cut)
    return kernel, tuple(found)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _large_map(x, kernel, strides, padding, dilation):
    """XLA's own, which nothing beats here; gradients by products, see below, where those do."""
    return plain(x, kernel, strides, padding, 1, dilation)


def _large_map_gradients(strides, padding, dilation, inputs, dy):
    # Both are read in two orders, and XLA would compute the normalisations they come of anew in each of them,
    # in one of the two against the order that they lie in.
    x, kernel, dy = once(inputs[0]), inputs[1], once(dy)
    whole = functools.partial(plain, strides=strides, padding=padding, groups=1, dilation=dilation)

    def products(x, kernel):
        found = windows(pad(x, padding), kernel.shape[:-2], strides, dilation)
        return sum(_product(tap, k) for tap, k in zip(found, kernel.reshape(-1, *kernel.shape[-2:])))

    # Of the map: with a stride XLA fills `dy` up with zeros. Of a kernel over time: it turns maps around. Of
    # others `dy` is its kernel: one that is large and wide takes it up to 4.5 times as long.
    for_x = products if max(strides) > 1 and math.prod(kernel.shape[:-2]) <= SMALL else whole
    for_kernel = products if kernel.shape[1] == 1 or (
        kernel.shape[-1] > LARGE[0] and dy.size > LARGE[1]) else whole
    dx = jax.vjp(lambda x: for_x(x, kernel), x)[1](dy)[0]
    if x.shape[-1] <= colours.MOST and kernel.shape[1] > 1 and max(dilation) == 1:
        return dx, colours.of_kernel(x, dy, kernel.shape, strides, padding)
    return dx, jax.vjp(lambda kernel: for_kernel(x, kernel), kernel)[1](dy)[0]


_large_map.defvjp(lambda x, kernel, *args: (_large_map(x, kernel, *args), (x, kernel)), _large_map_gradients)


def _as_images(form, x, kernel, strides, padding, groups, dilation):
    """By `form` of a 2-D kernel over frames, or over time and flattened space; None if neither fits."""
    if len(strides) != 3:
        return None
    if (kernel.shape[0], strides[0], padding[0]) == (1, 1, 0):
        return form(x, kernel[0], strides[1:], padding[1:], groups, dilation[1:])
    if (kernel.shape[1:3], strides[1:], padding[1:]) == ((1, 1), (1, 1), (0, 0)):
        *lead, h, w, c = x.shape
        y = form(x.reshape(*lead, h * w, c), kernel[:, 0], (strides[0], 1), (padding[0], 0), groups,
                 (dilation[0], 1))
        return y.reshape(*y.shape[:-2], h, w, y.shape[-1])
    return None


@jax.custom_vjp
def _product(x, kernel):
    """`x @ kernel` on a CPU. A single row's sums are cut into parts: XLA adds them up in order, which loses a
    digit with thousands of terms."""
    rows = x.reshape(-1, x.shape[-1])
    if rows.shape[0] != 1:  # asked this way, a batch of any size has an answer, too
        return (rows @ kernel).reshape(*x.shape[:-1], -1)
    parts = math.gcd(rows.shape[1], 16)
    y = jnp.einsum("pc,pck->pk", rows.reshape(parts, -1), kernel.reshape(parts, -1, kernel.shape[-1]))
    return y.sum(axis=0).reshape(*x.shape[:-1], -1)


def _product_gradients(inputs, dy):
    # Written out, since JAX's own gradient of the kernel makes XLA copy `dy` the other way round, position by
    # position: a third of a training step of ResNet-50.
    x, kernel = inputs
    rows, dy_rows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    dx = jax.lax.dot_general(dy_rows, kernel, (((1,), (1,)), ((), ())))
    return dx.reshape(x.shape), jax.lax.dot_general(rows, dy_rows, (((0,), (0,)), ((), ())))


_product.defvjp(lambda x, kernel: (_product(x, kernel), (x, kernel)), _product_gradients)


def product(x, kernel):
    """`x @ kernel`, with no less precision for a single row."""
    if math.prod(x.shape[:-1]) != 1:
        return x @ kernel
    return jax.lax.platform_dependent(x, kernel, cpu=_product, default=jnp.matmul)


# --------------------------------------------------------------------------------------- max-pooling
@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x, window, strides, padding):
    """Maximum over the last `len(window)` axes before the channels.

    The first of equal values in a window gets the gradient, as in PyTorch and XLA. On a CPU XLA finds it by
    a search over pairs of value and position; axis by axis a gradient takes a fifth of that time.

    Args:
        padding: pairs (before, after) of -inf.
    """
    def by_axis(x):
        for args in reversed(list(zip(_axes(x, window), window, strides, padding))):
            x = _max_along(x, *args)[0]
        return x

    whole = functools.partial(_reduce_window, window=window, strides=strides, padding=padding)
    if math.prod(window) < 27:  # few positions: XLA's own is as fast
        return whole(x)
    return jax.lax.platform_dependent(x, cpu=by_axis, default=whole)


def _reduce_window(x, window, strides, padding):
    lead = x.ndim - 1 - len(window)
    # A numpy constant: with a traced one JAX does not recognise the pooling and cannot differentiate.
    return jax.lax.reduce_window(
        x, np.asarray(-np.inf, x.dtype), jax.lax.max, (1,) * lead + (*window, 1), (1,) * lead + (*strides, 1),
        ((0, 0),) * lead + (*padding, (0, 0)))


def _max_pool_gradient(window, strides, padding, x, dy):
    def by_axis(x, dy):
        maps, args = [x], list(zip(_axes(x, window), window, strides, padding))
        for arg in reversed(args):
            maps.append(_max_along(maps[-1], *arg)[0])
        for arg in args:
            y = maps.pop()
            dy = _max_gradient_along(maps[-1], y, dy, *arg)
        return dy

    def whole(x, dy):
        return jax.vjp(lambda x: _reduce_window(x, window, strides, padding), x)[1](dy)[0]

    return (jax.lax.platform_dependent(x, dy, cpu=by_axis, default=whole),)


max_pool.defvjp(lambda x, *args: (max_pool(x, *args), x), _max_pool_gradient)


def _axes(x, window) -> range:
    return range(x.ndim - 1 - len(window), x.ndim - 1)


def _max_along(x, axis: int, size: int, stride: int, padding):
    """Maxima along one axis, and what each position of the window reads."""
    sides = [(0, 0)] * x.ndim
    sides[axis] = padding
    found = taps(jnp.pad(x, sides, constant_values=-np.inf), axis, size, stride)
    return functools.reduce(jnp.maximum, found), found


def _max_gradient_along(x, y, dy, axis: int, size: int, stride: int, padding):
    length, dx, free = x.shape[axis], 0, True
    total = length + sum(padding)
    for i, tap in enumerate(_max_along(x, axis, size, stride, padding)[1]):
        hit = free & (tap == y)
        free = free & ~hit
        end = total - i - (y.shape[axis] - 1) * stride - 1
        back = [(0, 0, 0)] * x.ndim
        back[axis] = (i - padding[0], end - padding[1], stride - 1)  # negative: cut off
        dx += jax.lax.pad(jnp.where(hit, dy, 0), jnp.zeros((), dy.dtype), back)
    return dx
