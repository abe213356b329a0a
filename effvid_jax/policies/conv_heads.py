"""Policies that look along a clip: convolutions over time, or an encoder of maps before a recurrence.

They read what a cheap network saw of each frame, maps or vectors, and say something of each frame. None knows
what its answers are used for.

Axes: B clips, T frames, H W space, C channels, A numbers a frame.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from effvid_jax.backbones import blocks
from effvid_jax.policies.heads import Recurrent


class PlaceOverTime(nn.Module):
    """Maps, frame after frame -> numbers in (0, 1) of each frame, which may depend on the frames before.

        map -> 1x1 convolution, norm, tanh -> all positions, linear, norm, tanh -> GRU -> linear, sigmoid

    Attributes:
        features: A.
        hidden: H, of the linear layer and the recurrence.
        width: channels of the convolution.
        bn_groups, dtype: see `blocks.BatchNorm`, `blocks.Conv`.
    """

    features: int = 2
    hidden: int = 2048
    width: int = 64
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        self.reduce = blocks.Conv(self.width, (1, 1), dtype=self.dtype)
        self.reduce_bn = blocks.BatchNorm(groups=self.bn_groups, dtype=self.dtype)
        self.encode = blocks.Dense(self.hidden, dtype=self.dtype)
        self.encode_bn = blocks.BatchNorm(groups=self.bn_groups, dtype=self.dtype)
        self.gru = Recurrent(self.hidden, "gru", self.dtype)
        self.out = blocks.Dense(self.features, dtype=self.dtype)

    def __call__(self, maps_BTHWC, state_BH=None, train: bool = False):
        """(numbers float32 (B, T, A), state (B, H) for the frames to come)."""
        x = jnp.tanh(self.reduce_bn(self.reduce(maps_BTHWC, train), train))
        x = jnp.moveaxis(x, -1, 2)  # channels before positions, as PyTorch flattens a map
        x = jnp.tanh(self.encode_bn(self.encode(x.reshape(*x.shape[:2], -1)), train))
        x, (state,) = self.gru(x, None if state_BH is None else (state_BH,))
        return jax.nn.sigmoid(_wide(self.out(x))), state


class PlaceAlongClip(nn.Module):
    """Maps of all frames at once -> numbers in (0, 1) of each frame.

        map -> 1x1x1, 3x3x3, 3x3x3 convolutions with norms and ReLU -> one over the whole map -> sigmoid

    Attributes:
        features: A.
        hidden: channels in between.
        bn_groups, dtype: see `blocks.BatchNorm`, `blocks.Conv`.
    """

    features: int = 4
    hidden: int = 128
    bn_groups: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, maps_BTHWC, train: bool = False):
        """Float32 (B, T, A)."""
        x = maps_BTHWC
        for number, kernel in enumerate((1, 3, 3), start=1):
            x = _unit(self, x, number, (kernel,) * 3, train)
        x = blocks.Conv(self.features, (1, *x.shape[2:4]), dtype=self.dtype, name="out")(x)
        return jax.nn.sigmoid(_wide(x.reshape(*x.shape[:2], -1)))


class WeightsAlongClip(nn.Module):
    """Vectors of all frames at once -> weights of the frames, which add up to 1.

        vector -> two convolutions over 3 frames with norms and ReLU -> linear -> softmax over frames

    Attributes:
        hidden: channels in between.
        temperature: the weights that frames are chosen by are those of scores divided by it.
        bn_groups, dtype: see `blocks.BatchNorm`, `blocks.Conv`.
    """

    hidden: int = 64
    temperature: float = 1.0
    bn_groups: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x_BTC, train: bool = False):
        """Float32 (B, T), and the same at the temperature."""
        x = x_BTC[:, None, :, None]  # time as the height of an image: PyTorch's kernels are (3, 1)
        for number in (1, 2):
            x = _unit(self, x, number, (3, 1), train)
        scores = _wide(blocks.Conv(1, (1, 1), dtype=self.dtype, name="out")(x)[:, 0, :, 0, 0])
        return jax.nn.softmax(scores), jax.nn.softmax(scores / self.temperature)


def _unit(module, x, number: int, kernel: tuple[int, ...], train: bool):
    """Convolution that keeps the size, norm and ReLU."""
    x = blocks.Conv(module.hidden, kernel, 1, tuple(k // 2 for k in kernel), dtype=module.dtype,
                    name=f"conv{number}")(x, train)
    return blocks.relu(blocks.BatchNorm(groups=module.bn_groups, dtype=module.dtype,
                                        name=f"bn{number}")(x, train))


def _wide(x):
    return x.astype(jnp.promote_types(jnp.float32, x.dtype))


def between_frames(values_BGA, num_frames: int):
    """Values of G frames for the T frames between and around them: linear, half-pixel, (B, T, A)."""
    b, _, a = values_BGA.shape
    return jax.image.resize(values_BGA, (b, num_frames, a), "linear", antialias=False)
