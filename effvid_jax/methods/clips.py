"""Clips as a network sees them: normalised and resized on the device, a few views of a video at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones.facts import IMAGENET, Pixels, facts


class Sight(NamedTuple):
    """How a network sees clips: what their pixels mean to it, and from how many of them. Traced.

    Attributes:
        resolution: side of its input in pixels; 0: as the clips are.
        pixels: its normalisation, the one that its backbone's published weights were trained with.
    """

    resolution: int = 0
    pixels: Pixels = IMAGENET

    @classmethod
    def of(cls, model, resolution: int = 0) -> Sight:
        """That of a `config.model` (`backbone` is read) at some resolution."""
        return cls(resolution, facts(model.backbone).pixels)

    def __call__(self, video):
        """Clips (..., H, W, 3) as `normalise` and `resize` leave them."""
        return resize(normalise(video, self.pixels), self.resolution)


def normalise(video, pixels: Pixels):
    """uint8 RGB (..., 3) -> float32 (x - mean) / std per channel, on the device.

    Floating-point clips pass through: they are taken as normalised.
    """
    if jnp.issubdtype(video.dtype, jnp.floating):
        return video
    return (video.astype(jnp.float32) - jnp.asarray(pixels.mean)) / jnp.asarray(pixels.std)


def resize(x, size: int):
    """Bilinear resize of (..., H, W, C) to `size` x `size` (0: as it is), half-pixel, no antialias.

    Torch's `interpolate(mode='bilinear', align_corners=False)`, which ResKD uses for its student's
    input and for its features; `jax.image.resize` would antialias by default. Where a whole number of pixels
    becomes one, only those in their middle count: no product with a matrix that is zero elsewhere.
    """
    sides = x.shape[-3:-1]
    if not size or sides == (size, size):
        return x
    if not any(side % size for side in sides) and jnp.issubdtype(x.dtype, jnp.floating):
        return _middles(_middles(x, sides[0] // size, -3), sides[1] // size, -2)
    return jax.image.resize(x, (*x.shape[:-3], size, size, x.shape[-1]), "bilinear", antialias=False)


def _middles(x, count: int, axis: int):
    """Of every `count` neighbours along an axis the one in the middle, or the mean of the two there."""
    first = jax.lax.slice_in_dim(x, (count - 1) // 2, None, count, axis)
    return first if count % 2 else (first + jax.lax.slice_in_dim(x, count // 2, None, count, axis)) * 0.5


def resize_nearest(x, size: int):
    """As `resize`, by the pixel at floor(i * side / size): torch's `interpolate(mode='nearest')`."""
    if not size or x.shape[-3:-1] == (size, size):
        return x
    rows, columns = (np.arange(size) * side // size for side in x.shape[-3:-1])
    return x[..., rows, :, :][..., columns, :]


def clip_shape(video, resolution: int) -> tuple[int, ...]:
    """(T, side, side, 3) of what a network sees of views (B, V, T, H, W, 3)."""
    t, h, w, c = video.shape[2:]
    return (t, *((resolution, resolution) if resolution else (h, w)), c)


def over_views(look: Callable, video, sight: Sight, at_once: int = 0):
    """What a network says of every view, of all of them in one pass or of a few at a time.

    30 views of 64 videos are 1920 clips, whose maps no device holds. A loop inside the program has the maps
    of one part at a time; every view is looked at alone, so the answers are the same.

    Args:
        look: clips (N, T, side, side, 3) as a network sees them -> a tree of arrays (N, ...).
        video: views (B, V, T, H, W, 3).
        sight: of the network.
        at_once: views of a video in a pass, at most (the largest number of them that divides V); 0: all.

    Returns:
        The tree with arrays (B * V, ...), the views of a video one after the other.
    """
    def seen(views):
        return look(sight(views.reshape(-1, *views.shape[2:])))

    b, v = video.shape[:2]
    if not 0 < at_once < v:
        return seen(video)
    size = next(n for n in range(at_once, 0, -1) if v % n == 0)

    def part(first):
        found = seen(jax.lax.dynamic_slice_in_dim(video, first, size, axis=1))
        return jax.tree.map(lambda x: x.reshape(b, size, *x.shape[1:]), found)

    found = jax.lax.map(part, jnp.arange(0, v, size))  # arrays (V / size, B, size, ...)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(b * v, *x.shape[3:]), found)
