"""A gate that decides from what a head reads, before and after the newest frames, whether to look at more.

FrameExit, arXiv 2104.13400, as its released code computes it (Qualcomm-AI-research/FrameExit, commit
fc5815f): two layers, the same for both inputs, then a linear one on their results side by side.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from effvid_jax.backbones import blocks


class ExitGate(nn.Module):
    """See the module docstring.

    Attributes:
        widths: channels after the first and the second layer.
        bn_groups, dtype: see `blocks.BatchNorm`, `blocks.Dense`.
    """

    widths: tuple[int, ...]
    bn_groups: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, before_BC, after_BC, train: bool = False):
        """Logits (B,) of going on: below 0 the gate stops.

        Args:
            before_BC: what the head before reads.
            after_BC: what this head reads.
            train: batch statistics, of both inputs together.
        """
        x = jnp.stack([after_BC, before_BC], axis=1)
        for n, width in enumerate(self.widths, 1):
            x = blocks.Dense(width, dtype=self.dtype, name=f"conv{n}")(x)
            norm = blocks.BatchNorm(groups=self.bn_groups, dtype=self.dtype, name=f"bn{n}")
            x = blocks.relu(norm(x, train))
        return blocks.Dense(1, dtype=self.dtype, name="linear")(x.reshape(len(x), -1))[:, 0]
