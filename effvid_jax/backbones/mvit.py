"""MViTv2-S: a transformer that pools its tokens inside attention.

Sources: MViTv2, arXiv 2112.01526; torchvision's `models/video/mvit.py` (`mvit_v2_s`), whose module
names are kept.

    clip (B,T,H,W,3) ─ conv 3x7x7, stride 2x4x4 ─ + class token ─ 16 blocks in 4 stages
                     ─ LayerNorm = features (B,T/2,H/32,W/32,768) ─ class token ─ logits

A block is shortcut(x) + attention(LN(x)), then x + MLP(LN(x)). Attention projects to q, k, v, pools
each with a depthwise 3x3x3 convolution (not the class token) and a LayerNorm, adds biases made of q
and of tables of relative positions along T, H and W, and adds the pooled q to its result. Where q
is pooled with a stride (stages 2 to 4), so is the shortcut, by a max-pool; where a block widens,
the shortcut is a linear map of LN(x).

The tables belong to 16 frames of 224 pixels (`table_frames`, `table_size`); for other clips they
are interpolated linearly, as the reference does for clips that differ from its tables.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import blocks

PATCH_STRIDE = (2, 4, 4)
_normal = nn.initializers.normal(0.02)


class BlockSpec(NamedTuple):
    """Heads, channels of the output, and spatial strides of q and of k and v."""

    heads: int
    features: int
    stride_q: int
    stride_kv: int


STAGES_V2_S = (  # the blocks of each stage
    (BlockSpec(1, 96, 1, 8),),
    (BlockSpec(2, 192, 2, 4), BlockSpec(2, 192, 1, 4)),
    (BlockSpec(4, 384, 2, 2),) + (BlockSpec(4, 384, 1, 2),) * 10,
    (BlockSpec(8, 768, 2, 1), BlockSpec(8, 768, 1, 1)),
)


def relative_index(num_q: int, num_k: int) -> np.ndarray:
    """Row of a table of 2 max(q, k) - 1 distances for each pair along one axis, (num_q, num_k).

    Coordinates are scaled to the finer of the two grids, in float32, rounded down as in torch.
    """
    scale_q, scale_k = np.float32(max(num_k / num_q, 1)), np.float32(max(num_q / num_k, 1))
    q, k = (np.arange(n, dtype=np.float32) for n in (num_q, num_k))
    return (q[:, None] * scale_q - (k[None] + np.float32(1 - num_k)) * scale_k).astype(np.int32)


def fit_table(table, rows: int):
    """(N, C) -> (rows, C), linear interpolation at half-pixel positions with repeated borders."""
    n = table.shape[0]
    if n == rows:
        return table
    at = np.clip((np.arange(rows) + 0.5) * n / rows - 0.5, 0, n - 1)
    low = np.floor(at).astype(np.int32)
    high = np.minimum(low + 1, n - 1)
    weight = jnp.asarray(at - low, table.dtype)[:, None]
    return table[low] * (1 - weight) + table[high] * weight


class Attention(nn.Module):
    """Pooling attention on a class token and a map of tokens.

    Attributes:
        heads, features: number of heads, channels of q, k, v and of the output.
        stride_q, stride_kv: spatial strides of the pooling convolutions (1 along time).
        table_size: (T, H) of the input map that the position tables are made for.
        conv, norm, dense: module classes.
    """

    heads: int
    features: int
    stride_q: int
    stride_kv: int
    table_size: tuple[int, int]
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.LayerNorm
    dense: blocks.ModuleDef = blocks.Dense

    @nn.compact
    def __call__(self, tokens_BNC, size, train: bool = False):
        """Tokens (B, 1 + T*H*W, C), class token first, of a map (T, H, W); returns both, new."""
        b, n, _ = tokens_BNC.shape
        width = self.features // self.heads
        qkv = self.dense(3 * self.features, name="qkv")(tokens_BNC)
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, self.heads, width), (2, 3), (0, 2))

        def pool(x, name, stride):
            conv = self.conv(width, (3, 3, 3), (1, stride, stride), 1, groups=width,
                             name=f"pool_{name}")
            tokens, new_size = _pool_tokens(x, size, lambda grid: conv(grid, train))
            return self.norm(name=f"norm_{name}")(tokens), new_size

        k, size_k = pool(k, "k", self.stride_kv)
        v, _ = pool(v, "v", self.stride_kv)
        q, size_q = pool(q, "q", self.stride_q)

        scores = blocks.einsum("bhqc,bhkc->bhqk", q * width**-0.5, k)
        scores = scores + jnp.pad(self._position_scores(q[:, :, 1:], size_q, size_k),
                                  ((0, 0), (0, 0), (1, 0), (1, 0)))
        x = blocks.einsum("bhqk,bhkc->bhqc", blocks.softmax(scores), v)
        x = x.at[:, :, 1:].add(q[:, :, 1:])
        x = x.transpose(0, 2, 1, 3).reshape(b, -1, self.features)
        return self.dense(self.features, name="project")(x), size_q

    def _position_scores(self, q, size_q, size_k):
        """Biases of all pairs but the class token's: (B, heads, Nq, Nk)."""
        b, heads, _, c = q.shape
        frames, side = self.table_size
        rows = {"t": 2 * frames - 1,
                "h": 2 * max(side // self.stride_q, side // self.stride_kv) - 1}
        rows["w"] = rows["h"]
        grid = q.reshape(b, heads, *size_q, c)
        total = 0
        for axis, name, num_q, num_k in zip(range(3), "thw", size_q, size_k):
            table = self.param(f"rel_pos_{name}", _normal, (rows[name], c)).astype(q.dtype)
            table = fit_table(table, 2 * max(num_q, num_k) - 1)[relative_index(num_q, num_k)]
            # One product per axis: 'bnthwc,tkc->bnthwk' for t, and so on.
            bias = blocks.einsum(f"bnthwc,{name}kc->bnthwk", grid, table)
            total = total + jnp.expand_dims(bias, [a + 5 for a in range(3) if a != axis])
        return total.reshape(b, heads, math.prod(size_q), math.prod(size_k))


def _pool_tokens(tokens, size, pool):
    """Applies `pool`, made for (..., T, H, W, C), to all but the first of (..., 1 + THW, C)."""
    lead, c = tokens.shape[:-2], tokens.shape[-1]
    grid = pool(tokens[..., 1:, :].reshape(*lead, *size, c))
    size = grid.shape[-4:-1]
    return jnp.concatenate([tokens[..., :1, :], grid.reshape(*lead, -1, c)], axis=-2), size


class Block(nn.Module):
    """Pooling attention and MLP; tokens (B, N, C) of a map in, tokens of a (smaller) map out."""

    spec: BlockSpec
    in_features: int
    table_size: tuple[int, int]
    drop_path: float = 0.0
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.LayerNorm
    dense: blocks.ModuleDef = blocks.Dense

    def setup(self):
        heads, features, stride_q, stride_kv = self.spec
        self.norm1 = self.norm()
        self.attn = Attention(heads, features, stride_q, stride_kv, self.table_size, self.conv,
                              self.norm, self.dense)
        self.norm2 = self.norm()
        self.mlp = blocks.Mlp(4 * features, features, self.dense)
        if features != self.in_features:
            self.project = self.dense(features)
        self.drop = blocks.DropPath(self.drop_path)

    def __call__(self, x, size, train: bool = False):
        y = self.norm1(x)
        attended, new_size = self.attn(y, size, train)
        if self.spec.features != self.in_features:
            x = self.project(y)
        if (stride := self.spec.stride_q) > 1:
            window, padding = (1, stride + 1, stride + 1), (0, (stride + 1) // 2, (stride + 1) // 2)
            x, _ = _pool_tokens(
                x, size, lambda grid: blocks.max_pool(grid, window, (1, stride, stride), padding))
        x = blocks.once(x + self.drop(attended, train))
        return blocks.once(x + self.drop(self.mlp(self.norm2(x)), train)), new_size


class MViT(nn.Module):
    """MViTv2; see the module docstring for the flow.

    Attributes:
        num_classes: K.
        stages: blocks of each stage.
        table_frames, table_size: frames and side in pixels of the clips that the position tables
            are made for; a checkpoint's.
        drop_path: stochastic depth of the last block; it rises linearly from 0 at the first.
        dropout: rate before the classifier.
        conv: class of the convolutions, with the contract of `blocks.Conv`.
        norm: class of the normalisations, as `blocks.LayerNorm`.
        bn_groups: taken because every backbone takes it; there are no batch statistics here.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    stages: tuple[tuple[BlockSpec, ...], ...] = STAGES_V2_S
    table_frames: int = 16
    table_size: int = 224
    drop_path: float = 0.2
    dropout: float = 0.5
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.LayerNorm
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        conv = partial(self.conv, dtype=self.dtype)
        norm = partial(self.norm, eps=1e-6, dtype=self.dtype)
        dense = partial(blocks.Dense, dtype=self.dtype, kernel_init=_normal)
        channels = self.stages[0][0].features
        self.conv_proj = conv(channels, (3, 7, 7), PATCH_STRIDE, (1, 3, 3), use_bias=True)
        self.class_token = self.param("class_token", _normal, (channels,))
        rates = iter(np.linspace(0, self.drop_path, sum(map(len, self.stages))).tolist())
        table = [self.table_frames // PATCH_STRIDE[0], self.table_size // PATCH_STRIDE[1]]
        modules = []
        for stage in self.stages:
            for spec in stage:
                modules.append(Block(spec, channels, tuple(table), next(rates), conv, norm, dense))
                channels = spec.features
                table[1] //= spec.stride_q
        self.blocks = modules
        self.norm_layer = norm(name="norm")
        self.drop = nn.Dropout(self.dropout)
        self.fc = dense(self.num_classes)

    @property
    def num_stages(self) -> int:
        """Number of stages that `run_stage` accepts, 1-based."""
        return len(self.stages)

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> (class token (B,C), map (B,T/2,H/4,W/4,C))."""
        x = self.conv_proj(x_BTHWC, train)
        return jnp.broadcast_to(self.class_token.astype(x.dtype), (x.shape[0], x.shape[-1])), x

    def _blocks(self, stage: int, state, train: bool):
        """State -> (state after the blocks of a stage, {'block0': tokens after it, ...})."""
        token, grid = state
        size = grid.shape[1:4]
        b, c = token.shape
        tokens = jnp.concatenate([token[:, None], grid.reshape(b, -1, c)], axis=1)
        first, out = sum(map(len, self.stages[:stage - 1])), {}
        for number in range(first, first + len(self.stages[stage - 1])):
            tokens, size = self.blocks[number](tokens, size, train)
            out[f"block{number}"] = tokens
        return (tokens[:, 0], tokens[:, 1:].reshape(b, *size, -1)), out

    def _normalise(self, state):
        return tuple(self.norm_layer(x) for x in state)

    def run_stage(self, stage: int, state, train: bool = False):
        """Runs stage `stage` (1-based) on (class token, map), with the norm after the last one."""
        state, _ = self._blocks(stage, state, train)
        return self._normalise(state) if stage == self.num_stages else state

    def run_head(self, state, train: bool = False):
        """Normalised (class token, map) -> (logits (B,K), class token (B,C))."""
        return self.fc(self.drop(state[0], deterministic=not train)), state[0]

    def classify(self, features):
        """The classifier alone, on any (..., C): for logits per position."""
        return self.fc(features)

    def __call__(self, x_BTHWC, train: bool = False):
        """Forward pass.

        Args:
            x_BTHWC: normalised clip (B, T, H, W, 3).
            train: stochastic depth and dropout on; needs the 'dropout' rng.

        Returns:
            logits (B, K), and a dict: 'stem', 'stage1'...'stage4' and 'features' (normalised) are
            maps (B, T', h, w, C) without the class token; 'block0'...'block15' tokens
            (B, 1 + T'hw, C) with it; 'pooled' (B, C) the normalised class token.
        """
        state = self.run_stem(x_BTHWC, train)
        out = {"stem": state[1]}
        for s in range(1, self.num_stages + 1):
            state, tokens = self._blocks(s, state, train)
            out.update(tokens)
            out[f"stage{s}"] = state[1]
        state = self._normalise(state)
        out["features"] = state[1]
        logits, out["pooled"] = self.run_head(state, train)
        return logits, out


def mvit_v2_s(**options):
    """MViTv2-S: 16 blocks, 96 to 768 channels."""
    return MViT(**options)
