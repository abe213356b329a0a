"""V-JEPA2 ViT-L with an attentive classifier: a transformer that was pretrained to predict its own features.

Sources: V-JEPA 2, arXiv 2506.09985; `transformers`' `models/vjepa2/modeling_vjepa2.py`
(`VJEPA2ForVideoClassification`). The flow is in `vit.py`.

Positions turn queries and keys (`vit.rotate`); there is no table. The head is a pooler of its own: blocks of
self-attention without positions, then one learned query that attends to all tokens, then the classifier. The
predictor of the pretraining, which files have too, is left out: a classifier never runs it.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from effvid_jax.backbones import blocks
from effvid_jax.backbones.vit import Block, VideoTransformer, attend, normal

SIZES = {"l": (1024, 16, (6, 6, 6, 6)), "h": (1280, 16, (8, 8, 8, 8))}  # width, heads, blocks of a stage


class CrossAttention(nn.Module):
    """One learned query attends to tokens (B, N, C), then an MLP: (B, C)."""

    width: int
    heads: int
    hidden: int
    norm: blocks.ModuleDef
    dense: blocks.ModuleDef

    def setup(self):
        self.query_tokens = self.param("query_tokens", normal, (1, 1, self.width))
        self.norm1 = self.norm()
        self.query, self.key, self.value = (self.dense(self.width) for _ in range(3))
        self.norm2 = self.norm()
        self.mlp = blocks.Mlp(self.hidden, self.width, self.dense)

    def __call__(self, x_BNC):
        b, _, c = x_BNC.shape
        y = self.norm1(x_BNC)
        x = jnp.broadcast_to(self.query_tokens.astype(y.dtype), (b, 1, c))
        q, k, v = (layer(tokens).reshape(b, -1, self.heads, c // self.heads) for layer, tokens in (
            (self.query, x), (self.key, y), (self.value, y)))
        x = x + attend(q, k, v)
        return (x + self.mlp(self.norm2(x)))[:, 0]


class VJEPA2(VideoTransformer):
    """V-JEPA2 with its attentive pooler.

    Attributes:
        pooler_blocks: blocks of self-attention in the pooler.
        others: see `VideoTransformer`.
    """

    pooler_blocks: int = 3

    rotary = True

    def setup(self):
        super().setup()
        hidden, dense, norm = 4 * self.width, self.dense(), partial(self.normalisation(), eps=1e-6)
        self.layernorm = norm()
        self.pooler = [Block(self.width, self.heads, hidden, norm=norm, dense=dense)
                       for _ in range(self.pooler_blocks)]
        self.cross = CrossAttention(self.width, self.heads, hidden, norm, dense)

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs stage `stage` (1-based) on the map before it, with the norm after the last one."""
        x = super().run_stage(stage, x, train)
        return self.layernorm(x) if stage == self.num_stages else x

    def run_head(self, features_BTHWC, train: bool = False):
        """Last map -> (logits (B,K), what the pooler makes of the clip (B,1,C))."""
        pooled_BC = self._pool(features_BTHWC.reshape(len(features_BTHWC), -1, self.width))
        return self.fc(self.drop(pooled_BC, deterministic=not train)), pooled_BC[:, None]

    def classify(self, features):
        """The head on any (..., C), each taken for a clip of one token: for logits per position or frame."""
        pooled = self._pool(features.reshape(-1, 1, self.width))
        return self.fc(pooled).reshape(*features.shape[:-1], self.num_classes)

    def _pool(self, x_BNC):
        for block in self.pooler:
            x_BNC = block(x_BNC, (1, 1, x_BNC.shape[1]))
        return self.cross(x_BNC)


def vjepa2(size: str, **options) -> VJEPA2:
    """V-JEPA2 ViT-L or ViT-H ('l', 'h')."""
    width, heads, stages = SIZES[size]
    return VJEPA2(**{"width": width, "heads": heads, "stages": stages, **options})
