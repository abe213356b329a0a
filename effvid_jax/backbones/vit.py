"""Transformers on all tubes of a clip at once: what VideoMAE and V-JEPA2 have in common.

    clip (B,T,H,W,3) ─ tubes 2x16x16 ─ stage 1..4 = tokens of a map (B,T/2,H/16,W/16,C) ─ head

A block is x + attention(LN(x)), then x + MLP(LN(x)); attention is over all tokens of the clip. Nothing is
strided: every map has the size of the first.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import blocks
from effvid_jax.backbones.backbone import Backbone
from effvid_jax.errors import UserError

Grid = tuple[int, int, int]  # tokens along time, height, width
normal = nn.initializers.normal(0.02)


def attend(q_BNHD, k_BMHD, v_BMHD):
    """Attention of H heads of width D: queries and M keys and values -> (B, N, H * D)."""
    scale = q_BNHD.shape[-1] ** -0.5
    scores = blocks.einsum("bnhd,bmhd->bhnm", q_BNHD, k_BMHD) * jnp.asarray(scale, q_BNHD.dtype)
    found = blocks.einsum("bhnm,bmhd->bnhd", blocks.softmax(scores), v_BMHD)
    return found.reshape(*found.shape[:2], -1)


def rotate(x_BNHD, grid: Grid):
    """Turns pairs of channels by angles that grow with a token's place (V-JEPA2's three rotary axes).

    A third of the channels, rounded down to pairs, belongs to each of time, height, width; the rest stays.
    As the reference has it: neighbouring channels are the pairs, while the frequencies are those of one half
    after the other, so that the two of a pair turn by different angles.
    """
    width = 2 * (x_BNHD.shape[-1] // 3 // 2)
    omega = 10000.0 ** -(np.arange(width // 2) / (width / 2))
    parts = []
    for axis, places in enumerate(np.indices(grid).reshape(3, -1)):
        angles = np.tile(places[:, None] * omega, 2)[:, None]  # (N, 1, width)
        x = x_BNHD[..., axis * width:(axis + 1) * width]
        first, second = x[..., ::2], x[..., 1::2]
        turned = jnp.stack([-second, first], axis=-1).reshape(x.shape)
        parts.append(x * jnp.asarray(np.cos(angles), x.dtype) + turned * jnp.asarray(np.sin(angles), x.dtype))
    return jnp.concatenate([*parts, x_BNHD[..., 3 * width:]], axis=-1)


class Attention(nn.Module):
    """Self-attention of tokens (B, N, C).

    Attributes:
        heads: their number.
        key_bias: whether keys have a bias, as queries and values do.
        rotary: whether queries and keys are turned by their place in the grid.
        dense: class of the linear layers.
    """

    heads: int
    key_bias: bool = True
    rotary: bool = False
    dense: blocks.ModuleDef = blocks.Dense

    @nn.compact
    def __call__(self, x_BNC, grid: Grid):
        b, n, c = x_BNC.shape

        def split(name, **options):
            return self.dense(c, name=name, **options)(x_BNC).reshape(b, n, self.heads, -1)

        q, k, v = split("query"), split("key", use_bias=self.key_bias), split("value")
        if self.rotary:
            q, k = rotate(q, grid), rotate(k, grid)
        return self.dense(c, name="proj")(attend(q, k, v))


class Block(nn.Module):
    """Attention and MLP; tokens (B, N, C) of a grid in and out."""

    features: int
    heads: int
    hidden: int
    drop_path: float = 0.0
    key_bias: bool = True
    rotary: bool = False
    norm: blocks.ModuleDef = blocks.LayerNorm
    dense: blocks.ModuleDef = blocks.Dense

    def setup(self):
        self.norm1 = self.norm()
        self.attn = Attention(self.heads, self.key_bias, self.rotary, self.dense)
        self.norm2 = self.norm()
        self.mlp = blocks.Mlp(self.hidden, self.features, self.dense)
        self.drop = blocks.DropPath(self.drop_path)

    def __call__(self, x_BNC, grid: Grid, train: bool = False):
        x = blocks.once(x_BNC + self.drop(self.attn(self.norm1(x_BNC), grid), train))
        return blocks.once(x + self.drop(self.mlp(self.norm2(x)), train))


class VideoTransformer(Backbone):
    """Tubes and blocks; subclasses have the positions, the last norm and the head.

    Attributes:
        num_classes: K.
        width, heads: channels of a token and heads of attention.
        mlp_ratio: channels inside an MLP against `width`.
        stages: blocks of each stage.
        patch: frames and pixels of a tube (time, height, width).
        drop_path: stochastic depth of the last block; it rises linearly from 0 at the first.
        dropout: rate before the classifier.
        conv: class of the convolution, with the contract of `blocks.Conv`.
        norm: class of the normalisations, as `blocks.LayerNorm`.
        bn_groups: taken because every backbone takes it; there are no batch statistics here.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    width: int = 384
    heads: int = 6
    mlp_ratio: float = 4.0
    stages: tuple[int, ...] = (3, 3, 3, 3)
    patch: tuple[int, int, int] = (2, 16, 16)
    drop_path: float = 0.0
    dropout: float = 0.0
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.LayerNorm
    bn_groups: int = 1
    dtype: Any = None

    norm_eps = 1e-6
    key_bias = True
    rotary = False

    def setup(self):
        if self.width % self.heads:
            raise UserError(f"width={self.width} is no multiple of heads={self.heads}.")
        dense, norm = self.dense(), self.normalisation()
        self.patch_embed = self.conv(self.width, tuple(self.patch), tuple(self.patch), use_bias=True,
                                     dtype=self.dtype)
        self.blocks = [
            Block(self.width, self.heads, int(self.width * self.mlp_ratio), rate, self.key_bias, self.rotary,
                  partial(norm, eps=self.norm_eps), dense)
            for rate in np.linspace(0, self.drop_path, sum(self.stages)).tolist()]
        self.drop = nn.Dropout(self.dropout)
        self.fc = dense(self.num_classes)

    @nn.nowrap
    def dense(self):
        """Class of the linear layers."""
        return partial(blocks.Dense, dtype=self.dtype, kernel_init=normal)

    @nn.nowrap
    def normalisation(self):
        """Class of the normalisations."""
        return partial(self.norm, dtype=self.dtype)

    @property
    def num_stages(self) -> int:
        """Number of stages that `run_stage` accepts, 1-based."""
        return len(self.stages)

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map of tubes (B,T/2,H/16,W/16,C); what is left of a tube at the edges is not seen."""
        return self.patch_embed(x_BTHWC, train)

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs stage `stage` (1-based) on the map before it."""
        first, grid = sum(self.stages[:stage - 1]), x.shape[1:4]
        tokens = x.reshape(len(x), math.prod(grid), -1)
        for number in range(first, first + self.stages[stage - 1]):
            tokens = self.blocks[number](tokens, grid, train)
        return tokens.reshape(x.shape)
