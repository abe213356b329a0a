"""Channel-separated networks: 3-D ResNets whose convolutions over space and time see one channel each.

Sources: CSN, arXiv 1904.02811; mmaction2's `mmaction/models/backbones/resnet3d_csn.py` with `i3d_head.py`.

    ir ('interaction-reduced')    1x1x1, depthwise 3x3x3, 1x1x1
    ip ('interaction-preserved')  1x1x1, 1x1x1, depthwise 3x3x3, 1x1x1

Between the two convolutions that stand for the 3x3x3 of ip there is batch norm, but no ReLU.
"""

from __future__ import annotations

import flax.linen as nn

from effvid_jax.backbones import blocks, resnet
from effvid_jax.backbones.resnet3d import Axes, Maker, ResNet3D
from effvid_jax.errors import UserError

SEPARATIONS = ("ir", "ip")


class Bottleneck(nn.Module):
    """See the module docstring; `(B,T,H,W,C)` in and out, strides are the depthwise convolution's."""

    in_features: int
    width: int
    strides: Axes
    separation: str
    conv: blocks.ModuleDef
    norm: blocks.ModuleDef

    def setup(self):
        width, features = self.width, 4 * self.width
        self.conv1 = self.conv(width, (1, 1, 1))
        self.bn1 = self.norm()
        depthwise = self.conv(width, (3, 3, 3), self.strides, (1, 1, 1), groups=width)
        self.conv2 = [*([self.conv(width, (1, 1, 1))] if self.separation == "ip" else []), depthwise]
        self.bn2 = [self.norm() for _ in self.conv2]
        self.conv3 = self.conv(features, (1, 1, 1))
        self.bn3 = self.norm()
        self.project = self.strides != (1, 1, 1) or self.in_features != features
        if self.project:
            self.downsample_conv = self.conv(features, (1, 1, 1), self.strides)
            self.downsample_bn = self.norm()

    def __call__(self, x, train: bool = False):
        y = blocks.relu(self.bn1(self.conv1(x, train), train))
        for conv, norm in zip(self.conv2, self.bn2):
            y = norm(conv(y, train), train)
        y = self.bn3(self.conv3(blocks.relu(y), train), train)
        if self.project:
            x = self.downsample_bn(self.downsample_conv(x, train), train)
        return blocks.once(blocks.relu(x + y))


class CSN(ResNet3D):
    """CSN; fields as `ResNet3D`, whose kernel choices and factorings have no meaning here.

    Attributes:
        separation: 'ir' or 'ip', see the module docstring.
    """

    stem_kernel: Axes = (3, 7, 7)
    time_strides: tuple[int, ...] = (1, 2, 2, 2)
    norm_eps: float = 1e-3
    separation: str = "ir"

    def setup(self):
        if self.separation not in SEPARATIONS:
            raise UserError(f"separation={self.separation!r}: expected 'ir' or 'ip'.")
        super().setup()

    def make_block(self, s: int, b: int, channels: int, make: Maker, norm: blocks.ModuleDef):
        """See `ResNet3D.make_block`."""
        space = self.space_strides[s]
        strides = (self.time_strides[s], space, space) if b == 0 else (1, 1, 1)
        return Bottleneck(channels, self.width * 2**s, strides, self.separation, make.conv, norm)


def csn(kind: str, depth: int, **options) -> CSN:
    """ir- or ip-CSN ('ir', 'ip') of a depth of 50, 101 or 152."""
    return CSN(**{"separation": kind, "stage_sizes": resnet.DEPTHS[depth][0], **options})
