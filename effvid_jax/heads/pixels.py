"""Decoders that give a class to every position of a map: C1 and pyramid pooling (PPM), deeply supervised.

Source: `C1DeepSup` and `PPMDeepsup` in `mit_semseg/models/models.py` of CSAILVision's
semantic-segmentation-pytorch; pyramid pooling is Zhao et al., arXiv 1612.01105. Maps are (B, T, h, w, C),
outputs (B, h, w, K) in the map's own size: whoever asks enlarges them. Of several frames the mean counts.

    c1    last map ─ 3x3 conv-bn-relu (C/4) ─ 1x1 (K)
    ppm   last map ─┬───────────────────────────────────────────┬─ 3x3 conv-bn-relu (512) ─ dropout ─ 1x1 (K)
                    └ means of 1, 4, 9, 36 parts ─ 1x1 (512) ───┘ enlarged to the map
    training: the map of the stage before ─ 3x3 conv-bn-relu (C/4) ─ 1x1 (K), the auxiliary outputs
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import blocks, trace

DECODERS = ("c1", "ppm")
PPM_WIDTH = 512  # of the reference, whatever the encoder
POOLS = (1, 2, 3, 6)

_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")  # torch's kaiming_normal_


class PixelHead(nn.Module):
    """`head(maps, train)` -> outputs (B, h, w, K); in training (outputs, auxiliary outputs).

    Attributes:
        num_classes: K.
        decoder: of `DECODERS`.
        width: channels before the classifier; 0: a quarter of the last map's (c1), `PPM_WIDTH` (ppm).
        auxiliary: whether training supervises the stage before the last one, too.
        dropout: of whole channels, before the classifiers of ppm.
        bn_groups, dtype: see `blocks.BatchNorm.groups` and `blocks.Conv.dtype`.
    """

    num_classes: int
    decoder: str = "c1"
    width: int = 0
    auxiliary: bool = True
    dropout: float = 0.1
    bn_groups: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, maps, train: bool = False):
        x = maps["features"]
        channels = x.shape[-1]
        if self.decoder == "ppm":
            width = self.width or PPM_WIDTH
            pooled = [self._pooled(x, pool, width, train) for pool in POOLS]
            y = self._unit(jnp.concatenate([x, *pooled], axis=-1), width, 3, "cbr", train)
            y = self._drop(y, train)
        else:
            y = self._unit(x, self.width or max(1, channels // 4), 3, "cbr", train)
        outputs = self._classify(y, "last")
        if not self.auxiliary or not (train or self.is_initializing()):
            return outputs
        with trace.silence():  # no part of what is computed for an answer
            width = self.width or max(1, channels // 4)
            y = self._unit(maps[_before_last(maps)], width, 3, "cbr_deepsup", train)
            y = self._drop(y, train) if self.decoder == "ppm" else y
            auxiliary = self._classify(y, "last_deepsup")
        return (outputs, auxiliary) if train else outputs

    def _unit(self, x, width: int, kernel: int, name: str, train: bool):
        """Convolution, norm, ReLU."""
        y = blocks.Conv(width, (kernel, kernel), 1, kernel // 2, dtype=self.dtype, kernel_init=_normal,
                        name=f"{name}_conv")(x, train)
        norm = blocks.BatchNorm(groups=self.bn_groups, dtype=self.dtype, name=f"{name}_bn")
        return blocks.relu(norm(y, train))

    def _classify(self, x, name: str):
        classify = blocks.Conv(self.num_classes, (1, 1), use_bias=True, dtype=self.dtype, kernel_init=_normal,
                               name=name)
        return classify(x).mean(axis=1)

    def _drop(self, x, train: bool):
        """Whole channels of an image, torch's Dropout2d."""
        return nn.Dropout(self.dropout, broadcast_dims=(-3, -2))(x, deterministic=not train)

    def _pooled(self, x, pool: int, width: int, train: bool):
        """The map seen through `pool` x `pool` means, in its own size again."""
        y = self._unit(adaptive_avg_pool(x, pool), width, 1, f"ppm{pool}", train)
        return enlarge(y, x.shape[-3:-1])


def _before_last(maps) -> str:
    """Name of the map of the stage before the last one: 'stage3' of four."""
    stages = sorted(int(name.removeprefix("stage")) for name in maps if name.startswith("stage"))
    return f"stage{stages[-2] if len(stages) > 1 else stages[-1]}"


def adaptive_avg_pool(x, size: int):
    """Means over `size` x `size` parts of (..., H, W, C), which may share rows: torch's AdaptiveAvgPool2d."""
    rows, columns = (_parts(n, size) for n in x.shape[-3:-1])
    y = jnp.einsum("ih,...hwc,jw->...ijc", rows.astype(x.dtype), x, columns.astype(x.dtype))
    trace.note("global_avg_pool", (), x, y, kernel=tuple(math.ceil(n / size) for n in x.shape[-3:-1]))
    return y


def _parts(length: int, size: int) -> np.ndarray:
    """(size, length): weights of the positions in part i, from floor(i n / s) to ceil((i+1) n / s)."""
    at = np.arange(length)
    inside = np.stack([(at >= i * length // size) & (at < -(-(i + 1) * length // size)) for i in range(size)])
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


def enlarge(x, size):
    """Bilinear, half-pixel, without antialiasing: (..., h, w, C) -> (..., *size, C)."""
    if tuple(x.shape[-3:-1]) == tuple(size):
        return x
    return jax.image.resize(x, (*x.shape[:-3], *size, x.shape[-1]), "bilinear", antialias=False)
