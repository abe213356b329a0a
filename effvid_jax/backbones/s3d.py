"""S3D: I3D with every 3-D kernel split into a spatial and a temporal one (arXiv 1712.04851).

Source: torchvision `models/video/s3d.py`. Against I3D: padding by half the kernel, batch norm and ReLU
after both halves, and a batch norm that keeps 99.9 % of its running statistics per step. Flow, features
and module names are those of `i3d.py`.
"""

from __future__ import annotations

import flax.linen as nn

from effvid_jax.backbones import blocks, i3d


class Separable(nn.Module):
    """(1,k,k) and (k,1,1) convolutions, each with norm and ReLU; a single one for 1x1x1 kernels.

    Fields as `blocks.ConvBN`.
    """

    features: int
    kernel_size: i3d.Axes
    strides: i3d.Axes = (1, 1, 1)
    padding: i3d.Axes = (0, 0, 0)
    conv_type: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm

    def setup(self):
        k, s, p = self.kernel_size, self.strides, self.padding
        self.conv = self.conv_type(self.features, (1, *k[1:]), (1, *s[1:]), (0, *p[1:]))
        self.bn = self.norm()
        if k[0] > 1:
            self.conv_t = self.conv_type(self.features, (k[0], 1, 1), (s[0], 1, 1), (p[0], 0, 0))
            self.bn_t = self.norm()

    def __call__(self, x, train: bool = False):
        x = blocks.relu(self.bn(self.conv(x, train), train))
        if self.kernel_size[0] > 1:
            x = blocks.relu(self.bn_t(self.conv_t(x, train), train))
        return x


def s3d(**options) -> i3d.Inception3D:
    """S3D as torchvision builds it; its window of 2x7x7 needs 16 frames of 224x224, smaller is clipped."""
    return i3d.Inception3D(**{
        "unit": Separable, "same": False, "norm_momentum": 0.999, "dropout": 0.2, **options})
