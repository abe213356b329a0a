"""Crops whose place and size have a gradient.

A crop reads the image at positions that need not be whole pixels. Bilinear reading is linear in the image and
separable, so it is two products with small matrices, one for rows and one for columns:

    patch = R x C^T     R_ij = max(0, 1 - |pos_i - j|)     pos_i = corner + (i + 1/2) side / P - 1/2

Nothing is gathered, and the gradient to corner and side is that of the matrices. Outside the image there
are zeros. Values and gradients are those of PyTorch's `affine_grid` and `grid_sample` with their defaults;
where positions are whole pixels the crop is a slice, bit for bit, and its gradient the central difference.

Axes: N images, H W space, C channels, P pixels of a patch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def crop(images_NHWC, corners_N2, sides_N2, size: int):
    """Squares (or rectangles) out of images, each at a place of its own.

    Args:
        images_NHWC: images or maps.
        corners_N2: (y, x) of the upper left corner, in pixels, any real numbers.
        sides_N2: (height, width) in pixels, in a form that broadcasts to (N, 2).
        size: P; what is cut out is resampled to it, without antialiasing.

    Returns:
        (N, P, P, C) in the type of the images.
    """
    corners = jnp.asarray(corners_N2)
    sides = jnp.broadcast_to(jnp.asarray(sides_N2, corners.dtype), corners.shape)
    steps = jnp.arange(size, dtype=corners.dtype) + 0.5
    # The product first: with a side of P pixels it is a whole number and a half, without rounding.
    at_N2P = corners[..., None] + steps * (sides / size)[..., None] - 0.5
    return read(images_NHWC, at_N2P[:, 0], at_N2P[:, 1])


def read(images_NHWC, rows_NP, columns_NQ):
    """Images at a grid of rows and columns, in pixels: (N, P, Q, C), bilinear, zeros outside."""
    h, w = images_NHWC.shape[1:3]
    wide = jnp.promote_types(jnp.float32, images_NHWC.dtype)
    down, across = (_weights(at, n).astype(wide) for at, n in ((rows_NP, h), (columns_NQ, w)))
    exact = jax.lax.Precision.HIGHEST  # an accelerator's short cut would not give back a slice
    found = jnp.einsum("nph,nhwc->npwc", down, images_NHWC.astype(wide), precision=exact)
    found = jnp.einsum("nqw,npwc->npqc", across, found, precision=exact)
    return found.astype(images_NHWC.dtype)


def _weights(at_NP, size: int):
    """Share that each of `size` pixels has in what is read at positions (N, P): (N, P, size)."""
    return jnp.maximum(0, 1 - jnp.abs(at_NP[..., None] - jnp.arange(size, dtype=at_NP.dtype)))


def resize_aligned(images, size: int):
    """Bilinear resize of (..., H, W, C) in which the corner pixels stay the corner pixels.

    PyTorch's `interpolate(mode='bilinear', align_corners=True)`; `methods.clips.resize` is the other one.
    """
    *lead, h, w, c = images.shape
    if (h, w) == (size, size):
        return images
    dtype = jnp.promote_types(jnp.float32, images.dtype)
    rows, columns = (jnp.linspace(0, n - 1, size, dtype=dtype)[None] for n in (h, w))
    return read(images.reshape(-1, h, w, c), rows, columns).reshape(*lead, size, size, c)


def inside(actions_N2, sides_N2, image: int):
    """(y, x) in [0, 1] -> corner in pixels of a crop that lies inside an image of `image` pixels."""
    return actions_N2 * (image - sides_N2)
