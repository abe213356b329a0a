"""UniFormer-S and -B: convolutions while maps are large, attention over the whole clip when they are small.

Sources: UniFormer, arXiv 2201.04676; Sense-X/UniFormer `video_classification/slowfast/models/uniformer.py`,
whose module names are kept.

    clip (B,T,H,W,3) ─ embedding 3x4x4, stride 2x4x4 ─ stage 1 ─ 1x2x2 ─ stage 2 ─ 1x2x2 ─ stage 3 ─ 1x2x2
                     ─ stage 4, batch norm = features (B,T/2,H/32,W/32,512) ─ mean ─ logits

Every embedding ends with LayerNorm. A block is x + depthwise 3x3x3(x), x + mixing(norm(x)), x + MLP(norm(x)):
stages 1 and 2 mix with 1x1x1, depthwise 5x5x5, 1x1x1 after batch norm, stages 3 and 4 with attention after
LayerNorm.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import blocks
from effvid_jax.backbones.backbone import ClipBackbone
from effvid_jax.backbones.vit import attend, normal
from effvid_jax.errors import UserError

DEPTHS = {"s": (3, 4, 8, 3), "b": (5, 8, 20, 7)}  # blocks per stage
CONVOLUTIONAL = 2  # stages


class Embedding(nn.Module):
    """Strided convolution and LayerNorm; children as the reference's, `proj` and `norm`."""

    features: int
    kernel: tuple[int, int, int]
    strides: tuple[int, int, int]
    conv: blocks.ModuleDef
    dtype: Any = None

    def setup(self):
        self.proj = self.conv(self.features, self.kernel, self.strides, (self.kernel[0] // 2, 0, 0),
                              use_bias=True)
        self.norm = blocks.LayerNorm(1e-5, dtype=self.dtype)

    def __call__(self, x, train: bool = False):
        return self.norm(self.proj(x, train))


class ConvMlp(nn.Module):
    """1x1x1, exact GELU, 1x1x1: the MLP of a convolutional block."""

    hidden: int
    features: int
    conv: blocks.ModuleDef

    def setup(self):
        self.fc1 = self.conv(self.hidden, (1, 1, 1), use_bias=True)
        self.fc2 = self.conv(self.features, (1, 1, 1), use_bias=True)

    def __call__(self, x, train: bool = False):
        return self.fc2(blocks.gelu(self.fc1(x, train)), train)


class ConvBlock(nn.Module):
    """A block of stages 1 and 2; see the module docstring."""

    features: int
    hidden: int
    drop_path: float
    conv: blocks.ModuleDef
    norm: blocks.ModuleDef

    def setup(self):
        c, conv = self.features, partial(self.conv, use_bias=True)
        self.pos_embed = conv(c, (3, 3, 3), 1, 1, groups=c)
        self.norm1 = self.norm()
        self.conv1 = conv(c, (1, 1, 1))
        self.attn = conv(c, (5, 5, 5), 1, 2, groups=c)
        self.conv2 = conv(c, (1, 1, 1))
        self.norm2 = self.norm()
        self.mlp = ConvMlp(self.hidden, c, self.conv)
        self.drop = blocks.DropPath(self.drop_path)

    def __call__(self, x, train: bool = False):
        x = blocks.once(x + self.pos_embed(x, train))
        y = self.conv1(self.norm1(x, train), train)
        x = blocks.once(x + self.drop(self.conv2(self.attn(y, train), train), train))
        return blocks.once(x + self.drop(self.mlp(self.norm2(x, train), train), train))


class Attention(nn.Module):
    """Self-attention of tokens (B, N, C), with one linear layer for queries, keys and values."""

    heads: int
    qkv_bias: bool
    dense: blocks.ModuleDef

    @nn.compact
    def __call__(self, x_BNC):
        b, n, c = x_BNC.shape
        qkv = self.dense(3 * c, use_bias=self.qkv_bias, name="qkv")(x_BNC).reshape(b, n, 3, self.heads, -1)
        return self.dense(c, name="proj")(attend(*jnp.moveaxis(qkv, 2, 0)))


class AttentionBlock(nn.Module):
    """A block of stages 3 and 4; see the module docstring."""

    features: int
    heads: int
    hidden: int
    qkv_bias: bool
    drop_path: float
    conv: blocks.ModuleDef
    dense: blocks.ModuleDef
    dtype: Any = None

    def setup(self):
        c = self.features
        self.pos_embed = self.conv(c, (3, 3, 3), 1, 1, groups=c, use_bias=True)
        self.norm1, self.norm2 = (blocks.LayerNorm(1e-6, dtype=self.dtype) for _ in range(2))
        self.attn = Attention(self.heads, self.qkv_bias, self.dense)
        self.mlp = blocks.Mlp(self.hidden, c, self.dense)
        self.drop = blocks.DropPath(self.drop_path)

    def __call__(self, x, train: bool = False):
        x = blocks.once(x + self.pos_embed(x, train))
        tokens = x.reshape(len(x), math.prod(x.shape[1:4]), -1)
        tokens = blocks.once(tokens + self.drop(self.attn(self.norm1(tokens)), train))
        return blocks.once(tokens + self.drop(self.mlp(self.norm2(tokens)), train)).reshape(x.shape)


class UniFormer(ClipBackbone):
    """UniFormer; see the module docstring for the flow.

    Attributes:
        num_classes: K.
        depths, widths: blocks and channels of each stage.
        head_width: channels of a head of attention.
        mlp_ratio: channels inside an MLP against the block's.
        qkv_bias: whether queries, keys and values have a bias.
        time_embedding: whether the embeddings before stages 2 to 4 reach over 3 frames.
        drop_path: stochastic depth of the last block; it rises linearly from 0 at the first.
        dropout: rate before the classifier.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`, `norm` are batch norms.
        bn_groups: see `blocks.BatchNorm.groups`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    depths: tuple[int, ...] = DEPTHS["s"]
    widths: tuple[int, ...] = (64, 128, 320, 512)
    head_width: int = 64
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    time_embedding: bool = False
    drop_path: float = 0.1
    dropout: float = 0.0
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        if len(self.depths) != len(self.widths):
            raise UserError(f"depths={self.depths}: expected one for each of widths={self.widths}.")
        conv = partial(self.conv, dtype=self.dtype)
        norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype)
        dense = partial(blocks.Dense, dtype=self.dtype, kernel_init=normal)
        rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
        for s, (depth, width) in enumerate(zip(self.depths, self.widths), start=1):
            first = s == 1
            kernel = (3, 4, 4) if first else (3 if self.time_embedding else 1, 2, 2)
            setattr(self, f"patch_embed{s}", Embedding(
                width, kernel, (2, 4, 4) if first else (1, 2, 2), conv, self.dtype))
            hidden = int(width * self.mlp_ratio)
            setattr(self, f"blocks{s}", [
                ConvBlock(width, hidden, next(rates), conv, norm) if s <= CONVOLUTIONAL else
                AttentionBlock(width, width // self.head_width, hidden, self.qkv_bias, next(rates), conv,
                               dense, self.dtype) for _ in range(depth)])
        self.last_norm = norm(name="norm")
        self.drop = nn.Dropout(self.dropout)
        self.fc = dense(self.num_classes)

    @property
    def num_stages(self) -> int:
        """Number of stages that `run_stage` accepts, 1-based."""
        return len(self.depths)

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map after the first embedding, (B,T/2,H/4,W/4,C)."""
        return self.patch_embed1(x_BTHWC, train)

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs stage `stage` (1-based) on the map before it, with the norm after the last one."""
        if stage > 1:
            x = getattr(self, f"patch_embed{stage}")(x, train)
        for block in getattr(self, f"blocks{stage}"):
            x = block(x, train)
        return self.last_norm(x, train) if stage == self.num_stages else x


def uniformer(size: str, **options) -> UniFormer:
    """UniFormer-S or -B ('s', 'b')."""
    return UniFormer(**{"depths": DEPTHS[size], **options})
