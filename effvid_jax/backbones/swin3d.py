"""Video Swin Transformer T/S/B: attention inside shifted windows of a clip.

Sources: Video Swin, arXiv 2106.13230; `mmaction/models/backbones/swin_transformer.py` of
SwinTransformer/Video-Swin-Transformer and CVMI-Lab/ResKD with `i3d_head.py`; torchvision's
`models/video/swin_transformer.py` computes the same under other names.

    clip (B,T,H,W,3) ─ patches 2x4x4 ─ stage 1 ─ merge ─ stage 2 ─ merge ─ stage 3 ─ merge ─ stage 4
                     ─ LayerNorm = features (B,T/2,H/32,W/32,8C) ─ pool over T,H,W ─ logits

A block is x + attention(LN(x)), then x + MLP(LN(x)). Attention sees windows of 8x7x7 tokens; every
second block shifts them by half a window. Facts that matter for parity:

- Where a map is no larger than the window along an axis, the window shrinks to the map there and is
  not shifted along it. The reference then takes the *top left* of the index table of the full
  window, which gives tokens the positions of other tokens (`window_index='slice'`); a stage-4 map
  of 4x4, that is any clip of 112 pixels, is such a case. `'exact'` uses the true distances.
- Maps are padded to whole windows with zeros after the first norm, and padded tokens take part.
- Pairs that the cyclic shift brings together get -100 before the softmax, not -inf.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import blocks, remat
from effvid_jax.errors import UserError

VARIANTS = {  # channels of stage 1, blocks per stage, heads per stage, stochastic depth in training
    "t": (96, (2, 2, 6, 2), (3, 6, 12, 24), 0.1),
    "s": (96, (2, 2, 18, 2), (3, 6, 12, 24), 0.1),
    "b": (128, (2, 2, 18, 2), (4, 8, 16, 32), 0.2),
}

_normal = nn.initializers.normal(0.02)  # timm's trunc_normal_ cuts at +-2, which is never reached


# ---------------------------------------------------------------------------- geometry (numpy only)
def clip_window(size, window, shift):
    """Window and shift per axis for a map of `size`: no shift where the window covers an axis."""
    return (tuple(min(n, w) for n, w in zip(size, window)),
            tuple(0 if n <= w else s for n, w, s in zip(size, window, shift)))


def position_index(window, full_window, mode: str = "slice") -> np.ndarray:
    """Rows of the position table for all pairs of tokens of a window, (N, N) with N = prod(window).

    Args:
        window: (wT, wH, wW), clipped to the map.
        full_window: the window that the table was made for; its row number is
            (dT + fT-1) * (2fH-1)(2fW-1) + (dH + fH-1) * (2fW-1) + (dW + fW-1).
        mode: 'exact' distances, or 'slice': the first N rows and columns of the full window's
            index, as the references do. The same unless the window is clipped along H or W.
    """
    positions = np.indices(full_window if mode == "slice" else window).reshape(3, -1)
    positions = positions[:, :math.prod(window)]
    t, h, w = (p[:, None] - p[None] + f - 1 for p, f in zip(positions, full_window))
    _, rows_h, rows_w = (2 * f - 1 for f in full_window)
    return (t * rows_h + h) * rows_w + w


def region_labels(size, window, shift) -> np.ndarray:
    """(windows, N) region of each token of the shifted map: only equal regions were neighbours."""
    labels = np.zeros(size, np.int32)
    for axis, (n, w, s) in enumerate(zip(size, window, shift)):
        if s:  # without a shift along an axis nothing wraps around there
            along = np.where(np.arange(n) < n - w, 0, np.where(np.arange(n) < n - s, 1, 2))
            labels = labels * 3 + along.reshape([-1 if a == axis else 1 for a in range(3)])
    return np.asarray(partition(labels[None, ..., None], window))[..., 0]


def partition(x, window):
    """(B, T, H, W, C) -> (B * windows, N, C); sizes are multiples of the window's."""
    (b, t, h, w, c), (wt, wh, ww) = x.shape, window
    x = x.reshape(b, t // wt, wt, h // wh, wh, w // ww, ww, c)
    return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, wt * wh * ww, c)


def merge_windows(x, window, size):
    """Inverse of `partition` for a map of `size`: (B * windows, N, C) -> (B, T, H, W, C)."""
    (t, h, w), (wt, wh, ww) = size, window
    x = x.reshape(-1, t // wt, h // wh, w // ww, wt, wh, ww, x.shape[-1])
    return x.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, t, h, w, x.shape[-1])


def inflate_position_table(table: np.ndarray, rows: int) -> np.ndarray:
    """A 2-D Swin's position table ((2s-1)^2, heads) for a window that has a time axis.

    The Video Swin rule: the table is repeated for every distance in time. If the 2-D window has
    another side, the table is resized first (bicubic, a = -0.75, half-pixel, no antialias, as torch
    does).

    Args:
        table: (side * side, heads).
        rows: rows of the 3-D table, (2wT-1) (2wH-1) (2wW-1) with wH = wW.

    Returns:
        (rows, heads).

    Raises:
        UserError: a table that is not square, or rows that hold no square map.
    """
    side = math.isqrt(table.shape[0])
    if side * side != table.shape[0]:
        raise UserError(f"position table of {table.shape[0]} rows: expected a square number, the "
                         f"table of a 2-D Swin with square windows.")
    if rows % table.shape[0]:
        new = max(s for s in range(1, math.isqrt(rows) + 1, 2) if rows % (s * s) == 0)
        weights = _bicubic(side, new)
        table = np.einsum("yh,xw,hwc->yxc", weights, weights, table.reshape(side, side, -1))
        table = table.reshape(new * new, -1)
    return np.tile(table, (rows // table.shape[0], 1))


def _bicubic(old: int, new: int) -> np.ndarray:
    """(new, old) matrix of a bicubic resize along one axis, borders repeated."""
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    matrix, a = np.zeros((new, old)), -0.75
    for offset in range(-1, 3):
        source = np.floor(centre) + offset
        d = np.abs(centre - source)
        near, far = ((a + 2) * d - (a + 3)) * d * d + 1, a * (((d - 5) * d + 8) * d - 4)
        weight = np.where(d <= 1, near, far)
        np.add.at(matrix, (np.arange(new), np.clip(source, 0, old - 1).astype(int)), weight)
    return matrix


# ------------------------------------------------------------------------------------------- layers
class PatchEmbed(nn.Module):
    """Non-overlapping patches: (B,T,H,W,3) -> (B,T/pT,H/pH,W/pW,C), zero-padded at the ends."""

    features: int
    patch: tuple[int, int, int]
    use_norm: bool = True
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.LayerNorm

    def setup(self):
        self.proj = self.conv(self.features, self.patch, self.patch, use_bias=True)
        if self.use_norm:
            self.norm_layer = self.norm(name="norm")

    def __call__(self, x, train: bool = False):
        pad = [(0, -n % p) for n, p in zip(x.shape[1:4], self.patch)]
        x = self.proj(jnp.pad(x, [(0, 0), *pad, (0, 0)]), train)
        return self.norm_layer(x) if self.use_norm else x


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learned bias per distance and head.

    Attributes:
        heads: number of heads; channels C are head-major, q, k and v one after the other.
        window: (wT, wH, wW) before clipping.
        shift: shift per axis before clipping.
        index: see `position_index`.
        scale: factor on q; None: (C / heads)^-0.5.
        use_bias: whether qkv has a bias.
        dense: class of the linear layers.
    """

    heads: int
    window: tuple[int, int, int]
    shift: tuple[int, int, int]
    index: str = "slice"
    scale: float | None = None
    use_bias: bool = True
    dense: blocks.ModuleDef = blocks.Dense

    @nn.compact
    def __call__(self, x):
        b, *size, c = x.shape
        window, shift = clip_window(size, self.window, self.shift)
        x = jnp.pad(x, [(0, 0), *((0, -n % w) for n, w in zip(size, window)), (0, 0)])
        padded = x.shape[1:4]
        if any(shift):
            x = jnp.roll(x, [-s for s in shift], axis=(1, 2, 3))
        x = partition(x, window)  # (B * windows, N, C)

        n = x.shape[1]
        qkv = self.dense(3 * c, use_bias=self.use_bias, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(-1, n, 3, self.heads, c // self.heads), 2, 0)
        q = q * ((c // self.heads) ** -0.5 if self.scale is None else self.scale)
        scores = blocks.einsum("bqhc,bkhc->bhqk", q, k)
        scores = scores + self._position_bias(window).astype(scores.dtype)
        if any(shift):
            # Compared in the graph: as a constant the mask would have (windows, N, N) entries.
            labels = jnp.asarray(region_labels(padded, window, shift))
            mask = jnp.where(labels[:, :, None] == labels[:, None, :], 0, -100).astype(scores.dtype)
            scores = scores.reshape(b, -1, *scores.shape[1:]) + mask[:, None]
            scores = scores.reshape(-1, self.heads, n, n)
        x = blocks.einsum("bhqk,bkhc->bqhc", blocks.softmax(scores), v).reshape(-1, n, c)
        x = merge_windows(self.dense(c, name="proj")(x), window, padded)

        if any(shift):
            x = jnp.roll(x, shift, axis=(1, 2, 3))
        return x[:, :size[0], :size[1], :size[2]]

    def _position_bias(self, window):
        """(heads, N, N)."""
        rows = math.prod(2 * w - 1 for w in self.window)
        table = self.param("relative_position_bias_table", _normal, (rows, self.heads))
        index = position_index(window, self.window, self.index)
        return table[index.reshape(-1)].reshape(*index.shape, self.heads).transpose(2, 0, 1)


class Block(nn.Module):
    """Window attention and MLP, each on a normalised input and added to it; `(B,T,H,W,C)`."""

    features: int
    attention: blocks.ModuleDef
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    norm: blocks.ModuleDef = blocks.LayerNorm
    dense: blocks.ModuleDef = blocks.Dense

    def setup(self):
        self.norm1 = self.norm()
        self.attn = self.attention(dense=self.dense)
        self.norm2 = self.norm()
        self.mlp = blocks.Mlp(int(self.features * self.mlp_ratio), self.features, self.dense)
        self.drop = blocks.DropPath(self.drop_path)

    def __call__(self, x, train: bool = False):
        x = blocks.once(x + self.drop(self.attn(self.norm1(x)), train))
        return blocks.once(x + self.drop(self.mlp(self.norm2(x)), train))


class PatchMerging(nn.Module):
    """Four neighbours into one token of twice the channels: (B,T,H,W,C) -> (B,T,H/2,W/2,2C)."""

    features: int
    norm: blocks.ModuleDef = blocks.LayerNorm
    dense: blocks.ModuleDef = blocks.Dense

    @nn.compact
    def __call__(self, x):
        h, w = x.shape[2:4]
        x = jnp.pad(x, [(0, 0), (0, 0), (0, h % 2), (0, w % 2), (0, 0)])
        x = jnp.concatenate([x[:, :, i::2, j::2] for j, i in itertools.product((0, 1), (0, 1))], -1)
        x = self.norm(name="norm")(x)
        return self.dense(self.features, use_bias=False, name="reduction")(x)


class Swin3D(nn.Module):
    """Video Swin Transformer; see the module docstring for the flow.

    Attributes:
        num_classes: K.
        embed_dim: channels of stage 1; stage s has `embed_dim * 2**(s-1)`.
        depths: blocks per stage.
        num_heads: heads per stage.
        patch_size: (T, H, W) of a patch.
        window_size: (T, H, W) of an attention window, in tokens.
        window_index: 'slice' (the references, public checkpoints) or 'exact'; see the module
            docstring.
        mlp_ratio: hidden width of an MLP over its channels.
        qkv_bias: whether q, k and v have a bias.
        qk_scale: factor on q; None: (channels per head)^-0.5.
        patch_norm: LayerNorm after the patches.
        drop_path: stochastic depth of the last block; it rises linearly from 0 at the first.
        dropout: rate before the classifier.
        conv: class of the patch convolution, with the contract of `blocks.Conv`.
        norm: class of the normalisations, as `blocks.LayerNorm`.
        bn_groups: taken because every backbone takes it; there are no batch statistics here.
        remat: what is kept for gradients, see `remat.py`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    patch_size: tuple[int, int, int] = (2, 4, 4)
    window_size: tuple[int, int, int] = (8, 7, 7)
    window_index: str = "slice"
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    patch_norm: bool = True
    drop_path: float = 0.1
    dropout: float = 0.5
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.LayerNorm
    bn_groups: int = 1
    remat: str = "none"
    dtype: Any = None

    def setup(self):
        if self.window_index not in ("slice", "exact"):
            raise UserError(f"window_index={self.window_index!r}: expected 'slice' or 'exact'.")
        if len(self.depths) != len(self.num_heads):
            raise UserError(f"depths={self.depths} and num_heads={self.num_heads}: expected one "
                             f"entry per stage in both.")

        conv = partial(self.conv, dtype=self.dtype)
        norm = partial(self.norm, dtype=self.dtype)
        dense = partial(blocks.Dense, dtype=self.dtype, kernel_init=_normal)
        self.patch_embed = PatchEmbed(self.embed_dim, self.patch_size, self.patch_norm, conv, norm)
        rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
        for s, (depth, heads) in enumerate(zip(self.depths, self.num_heads)):
            channels, blocks_of_stage = self.embed_dim * 2**s, []
            for b in range(depth):
                shift = tuple(w // 2 if b % 2 else 0 for w in self.window_size)
                attention = partial(WindowAttention, heads, self.window_size, shift,
                                    self.window_index, self.qk_scale, self.qkv_bias)
                blocks_of_stage.append(
                    Block(channels, attention, self.mlp_ratio, next(rates), norm, dense))
            setattr(self, f"layer{s + 1}", blocks_of_stage)
            if s + 1 < len(self.depths):
                setattr(self, f"downsample{s + 1}", PatchMerging(2 * channels, norm, dense))
        self.norm_layer = norm(name="norm")
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype,
                               kernel_init=nn.initializers.normal(0.01))

    @property
    def num_stages(self) -> int:
        """Number of stages that `run_stage` accepts, 1-based."""
        return len(self.depths)

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> patches (B,T/2,H/4,W/4,C)."""
        return self.patch_embed(x_BTHWC, train)

    def _merge(self, stage: int, x):
        return getattr(self, f"downsample{stage}")(x)

    def _blocks(self, stage: int, x, train: bool):
        for block in getattr(self, f"layer{stage}"):
            x = remat.run(block, x, train, self.remat)
        return x

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs stage `stage` (1-based): the merging before it, blocks, the norm after the last."""
        x = self._blocks(stage, self._merge(stage - 1, x) if stage > 1 else x, train)
        return self.norm_layer(x) if stage == self.num_stages else x

    def run_head(self, features_BTHWC, train: bool = False):
        """Last map -> (logits (B,K), features averaged over T, H and W (B,C))."""
        pooled_BC = blocks.global_avg_pool(features_BTHWC, axes=(-4, -3, -2))
        return self.fc(self.drop(pooled_BC, deterministic=not train)), pooled_BC

    def classify(self, features):
        """The classifier alone, on any (..., C): for logits per position or per frame."""
        return self.fc(features)

    def __call__(self, x_BTHWC, train: bool = False):
        """Forward pass.

        Args:
            x_BTHWC: normalised clip (B, T, H, W, 3).
            train: stochastic depth and dropout on; needs the 'dropout' rng.

        Returns:
            logits (B, K), and a dict of named maps (B, T', h, w, C): 'stem', 'stage1'...'stage4'
            (after the blocks), 'merge1'...'merge3' (what the next stage begins with), 'features'
            (normalised), and 'pooled' (B, C).
        """
        x = self.run_stem(x_BTHWC, train)
        out = {"stem": x}
        for s in range(1, self.num_stages + 1):
            if s > 1:
                x = out[f"merge{s - 1}"] = self._merge(s - 1, x)
            x = out[f"stage{s}"] = self._blocks(s, x, train)
        out["features"] = self.norm_layer(x)
        logits, out["pooled"] = self.run_head(out["features"], train)
        return logits, out


def swin3d(variant: str, **options):
    """Video Swin 't' (tiny), 's' (small) or 'b' (base)."""
    dim, depths, heads, drop_path = VARIANTS[variant]
    return Swin3D(**{"embed_dim": dim, "depths": depths, "num_heads": heads, "drop_path": drop_path,
                     **options})
