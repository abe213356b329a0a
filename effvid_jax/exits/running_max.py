"""A head that answers after every frame, from the running maximum of what the frames looked like.

    phi_t = relu(norm(W x_t))     z_t = max(z_{t-1}, phi_t)     logits_t = C_t z_t

FrameExit's head (arXiv 2104.13400), which AdaFocus V2 and Uni-AdaFocus took over: what a frame showed is not
watered down by frames that show nothing, and frame t + 1 changes nothing of what was computed before.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from effvid_jax.backbones import blocks
from effvid_jax.exits.largest import largest


class RunningMaxHead(nn.Module):
    """See the module docstring.

    Attributes:
        num_classes: K.
        frames: T, with a classifier each.
        width: of phi.
        dropout: rate before the classifiers.
        bn_groups, dtype: see `blocks.BatchNorm`, `blocks.Conv`.
    """

    num_classes: int
    frames: int
    width: int = 4096
    dropout: float = 0.0
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        self.lift = blocks.Dense(self.width, dtype=self.dtype)
        self.lift_bn = blocks.BatchNorm(groups=self.bn_groups, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)
        self.classifiers = [blocks.Dense(self.num_classes, dtype=self.dtype, name=f"fc_{t + 1}")
                            for t in range(self.frames)]

    def __call__(self, x_BTC, context_BC=None, train: bool = False):
        """What frames look like (B, T, C) -> logits (B, T, K) after each, and z of the last (B, width).

        Args:
            x_BTC: frames in the order in which they are seen.
            context_BC: what the classifiers read beside z.
            train: batch statistics and dropout on.
        """
        z, logits, phi_BTC = None, [], self.lifted(x_BTC, train)
        for t in range(self.frames):
            z = self.merged(phi_BTC[:, t:t + 1], z)
            logits.append(self.classify(t, z, context_BC, train))
        return jnp.stack(logits, axis=1), z

    def lifted(self, x_BTC, train: bool = False):
        """phi of frames, (B, T, width)."""
        return blocks.relu(self.lift_bn(self.lift(x_BTC), train))

    def merged(self, phi_BTC, before_BC=None):
        """z after some more frames, (B, width)."""
        return largest(phi_BTC, before_BC)

    def classify(self, t: int, z_BC, context_BC=None, train: bool = False):
        """Logits (B, K) after frame `t` (from 0)."""
        x = z_BC if context_BC is None else jnp.concatenate([z_BC, context_BC], axis=-1)
        return self.classifiers[t](self.drop(x, deterministic=not train))
