"""The head that finds boxes in a clip's key frame: YOWO's channel fusion over a single branch, and its grid.

    maps (B, T, h, w, C) ─ mean over T ─ 1x1 ─ 3x3 ─ channel attention ─ 3x3 ─ 1x1
                         ─ 1x1 = (B, h, w, A (5 + K)) ─ boxes (B, h w A, 5 + K)

Source: YOWO (arXiv 1911.06644), wei-tim/YOWO `core/cfam.py`, `core/model.py`. VA-RED2's Table 8 gives costs
that are those of its I3D and X3D-M with this head in place of their classifiers, without YOWO's 2-D network.
Both keep several frames to the end (2 and 16 of 16), of which nothing is said; the mean is ours.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from effvid_jax.backbones import blocks
from effvid_jax.detection import boxes


class ChannelAttention(nn.Module):
    """x + scale * softmax(max - G) x with the Gram matrix G = x x^T of the channels; scale begins at 0.

    As YOWO's (from DANet, arXiv 1809.02983): a channel sees most of those that it resembles least.
    """

    @nn.compact
    def __call__(self, x_BhwC):
        b, h, w, c = x_BhwC.shape
        x = x_BhwC.reshape(b, h * w, c)
        gram = blocks.einsum("bpc,bpd->bcd", x, x)
        weights = blocks.softmax(gram.max(axis=-1, keepdims=True) - gram)
        seen = blocks.einsum("bcd,bpd->bpc", weights, x).reshape(x_BhwC.shape)
        return x_BhwC + self.param("scale", nn.initializers.zeros, ()).astype(x.dtype) * seen


class BoxHead(nn.Module):
    """See the module docstring.

    Attributes:
        num_classes: K.
        anchors: width and height of each of the A anchors, in shares of the clip; they are kept with the
            running statistics, so that a trained network has those that it was trained with.
        width: channels inside.
        dropout: rate, of whole channels, before the last but one convolution.
        bn_groups: see `blocks.BatchNorm.groups`.
        dtype: computation type; what it says is float32.
    """

    num_classes: int
    anchors: tuple[tuple[float, float], ...]
    width: int = 1024
    dropout: float = 0.1
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        conv = partial(blocks.Conv, dtype=self.dtype)
        unit = partial(blocks.ConvBN, self.width, conv_type=conv,
                       norm=partial(blocks.BatchNorm, groups=self.bn_groups, dtype=self.dtype))
        self.fuse1, self.fuse2, self.fuse3 = unit((1, 1)), unit((3, 3), 1, 1), unit((3, 3), 1, 1)
        self.attention = ChannelAttention()
        self.drop = nn.Dropout(self.dropout, broadcast_dims=(1, 2))
        self.out = conv(self.width, (1, 1), use_bias=True)
        self.grid = conv(len(self.anchors) * (5 + self.num_classes), (1, 1),
                         kernel_init=nn.initializers.normal(0.01))
        self.known = self.variable("batch_stats", "anchors",
                                   lambda: jnp.asarray(self.anchors, jnp.float32).reshape(-1, 2))

    def __call__(self, maps, train: bool = False):
        """Maps of a backbone -> boxes (B, P, 5 + K), see `detection.boxes.decode`.

        In training (these boxes, the grid they come from (B, h, w, A, 5 + K), the anchors (A, 2)).
        """
        x = blocks.global_avg_pool(maps["features"], axes=(-4,))
        x = self.attention(self.fuse2(self.fuse1(x, train), train))
        x = self.out(self.drop(self.fuse3(x, train), deterministic=not train), train)
        raw = self.grid(x, train).astype(jnp.float32)
        raw = raw.reshape(*raw.shape[:3], len(self.anchors), 5 + self.num_classes)
        found = boxes.decode(raw, self.known.value)
        return (found, raw, self.known.value) if train else found
