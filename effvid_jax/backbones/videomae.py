"""VideoMAE ViT-S and ViT-B with a classifier: a plain transformer that was pretrained on masked tubes.

Sources: VideoMAE, arXiv 2203.12602; `transformers`' `models/videomae/modeling_videomae.py`
(`VideoMAEForVideoClassification`); MCG-NJU/VideoMAE. The flow is in `vit.py`.

Positions are a fixed table of sines and cosines over the tokens' numbers, so a clip of another size gives a
token at the same place another position, as a model of the reference that is made for that size does. Keys
have no bias. The head is a mean over all tokens, LayerNorm and the classifier.
"""

from __future__ import annotations

from functools import lru_cache

import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import blocks
from effvid_jax.backbones.vit import VideoTransformer

SIZES = {"s": (384, 6), "b": (768, 12)}  # width, heads


@lru_cache(maxsize=8)
def positions(count: int, width: int) -> np.ndarray:
    """(count, width) in float32, as the reference rounds them: sines in even places, cosines in odd ones."""
    angles = np.arange(count)[:, None] / 10000 ** (2 * (np.arange(width) // 2) / width)
    angles[:, 0::2], angles[:, 1::2] = np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])
    return angles.astype(np.float32)


class VideoMAE(VideoTransformer):
    """VideoMAE with a classifier; fields as `VideoTransformer`."""

    norm_eps = 1e-12
    key_bias = False

    def setup(self):
        super().setup()
        self.fc_norm = self.normalisation()(eps=1e-5)

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map of tubes with their positions (B,T/2,H/16,W/16,C)."""
        x = super().run_stem(x_BTHWC, train)
        table = positions(int(np.prod(x.shape[1:4])), self.width)
        return x + jnp.asarray(table, x.dtype).reshape(x.shape[1:])

    def run_head(self, features_BTHWC, train: bool = False):
        """Last map -> (logits (B,K), means of the tokens of a time (B,T/2,C))."""
        frames_BTC, clip_BC = blocks.clip_avg_pool(features_BTHWC)
        return self.fc(self.drop(self.fc_norm(clip_BC), deterministic=not train)), frames_BTC

    def classify(self, features):
        """The head after the mean, on any (..., C): for logits per position or per frame."""
        return self.fc(self.fc_norm(features))


def videomae(size: str, **options) -> VideoMAE:
    """VideoMAE ViT-S or ViT-B ('s', 'b')."""
    width, heads = SIZES[size]
    return VideoMAE(**{"width": width, "heads": heads, **options})
