"""Networks of `torch_networks.py` that torchvision does not have, in PyTorch's usual terms.

X3D-M (arXiv 2004.04730), I3D as Inception-v1 (arXiv 1705.07750) and MSDNet-38 (arXiv 1703.09844), for time
alone: the layers and their shapes are those of `effvid_jax.backbones`, which has the sources; weights are
random. Each function gives (features: (B,C,T,H,W) or (B*T,C,H,W) to maps, head: maps to logits).
"""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from effvid_jax.backbones import i3d as ours_i3d
from effvid_jax.backbones import msdnet as ours_msdnet


def unit(inputs: int, outputs: int, size: Any, last: nn.Module | None = None, **options) -> nn.Sequential:
    """Convolution, batch norm and maybe an activation; the padding keeps the size."""
    size = (size,) * 3 if isinstance(size, int) else size
    conv = nn.Conv3d(inputs, outputs, size, padding=[k // 2 for k in size], bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm3d(outputs), *[last] * (last is not None))


# --------------------------------------------------------------------------------------------- X3D
class X3DBlock(nn.Module):
    """1x1x1, depthwise 3x3x3, squeeze-excitation in every other block, Swish, 1x1x1; shortcut."""

    def __init__(self, inputs: int, outputs: int, hidden: int, stride: int, squeeze: int):
        super().__init__()
        self.conv1 = unit(inputs, hidden, 1, nn.ReLU())
        self.conv2 = unit(hidden, hidden, 3, stride=(1, stride, stride), groups=hidden)
        self.squeeze = torchvision.ops.SqueezeExcitation(hidden, squeeze) if squeeze else nn.Identity()
        if squeeze:
            self.squeeze.avgpool = nn.AdaptiveAvgPool3d(1)
            self.squeeze.fc1, self.squeeze.fc2 = nn.Conv3d(hidden, squeeze, 1), nn.Conv3d(squeeze, hidden, 1)
        self.conv3 = unit(hidden, outputs, 1)
        project = stride > 1 or inputs != outputs
        self.project = unit(inputs, outputs, 1, stride=(1, stride, stride)) if project else nn.Identity()

    def forward(self, x):
        y = self.conv3(F.silu(self.squeeze(self.conv2(self.conv1(x)))))
        return F.relu(self.project(x) + y)


def x3d_m(classes: int) -> tuple[nn.Module, nn.Module]:
    """X3D-M with mmaction2's head (the mean over the whole map)."""
    layers = [nn.Conv3d(3, 24, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False),
              unit(24, 24, (5, 1, 1), nn.ReLU(), groups=24)]
    inputs = 24
    for size, width in zip((3, 5, 11, 7), (24, 48, 96, 192)):
        hidden = int(width * 2.25)
        for b in range(size):
            squeeze = torchvision.models._utils._make_divisible(hidden / 16, 8) if b % 2 == 0 else 0
            layers.append(X3DBlock(inputs, width, hidden, 2 if b == 0 else 1, squeeze))
            inputs = width
    layers.append(unit(192, 432, 1, nn.ReLU()))
    head = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(432, 2048, bias=False), nn.ReLU(),
                         nn.Linear(2048, classes))
    return nn.Sequential(*layers), head


# --------------------------------------------------------------------------------------------- I3D
class Mixed(nn.Module):
    """Inception block: four branches over the same input, concatenated."""

    def __init__(self, inputs: int, widths: tuple[int, ...]):
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3 = widths
        self.branches = nn.ModuleList([
            unit(inputs, b0, 1, nn.ReLU()),
            nn.Sequential(unit(inputs, b1a, 1, nn.ReLU()), unit(b1a, b1b, 3, nn.ReLU())),
            nn.Sequential(unit(inputs, b2a, 1, nn.ReLU()), unit(b2a, b2b, 3, nn.ReLU())),
            nn.Sequential(nn.MaxPool3d(3, 1, 1), unit(inputs, b3, 1, nn.ReLU()))])

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def i3d(classes: int) -> tuple[nn.Module, nn.Module]:
    """The original strides; padding is symmetric, which changes no shape for sizes divisible by 32."""
    layers = [unit(3, 64, 7, nn.ReLU(), stride=2), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
              unit(64, 64, 1, nn.ReLU()), unit(64, 192, 3, nn.ReLU())]
    inputs = 192
    pools = (((1, 3, 3), (1, 2, 2), (0, 1, 1)), (3, 2, 1), (2, 2, 0))
    for pool, stage in zip(pools, ours_i3d.STAGES[1:]):
        layers.append(nn.MaxPool3d(*pool))
        for widths in stage.values():
            layers.append(Mixed(inputs, widths))
            inputs = widths[0] + widths[2] + widths[4] + widths[5]
    return nn.Sequential(*layers), nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(),
                                                 nn.Linear(inputs, classes))


# ------------------------------------------------------------------------------------------ MSDNet
def flat(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """2-D convolution, batch norm, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
                         nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Grid(nn.Module):
    """MSDNet-38's layers x scales, computed layer by layer; gives the coarsest map after every block."""

    FACTORS, CHANNELS, GROWTH = (1, 2, 4, 4), 32, 16

    def __init__(self, blocks: tuple[int, ...] = (7,) * 5):
        super().__init__()
        scales = len(self.FACTORS)
        self.plan = ours_msdnet.plan_layers(blocks, scales, self.CHANNELS, self.GROWTH, 0.5, "max")
        first = nn.Sequential(flat(3, self.CHANNELS, 7, 2), nn.MaxPool2d(3, 2, 1))
        widths = [self.CHANNELS * f for f in self.FACTORS]
        self.stem = nn.ModuleList([first, *(flat(a, b, 3, 2) for a, b in zip(widths, widths[1:]))])
        self.nodes, self.transitions, self.outputs = nn.ModuleDict(), nn.ModuleDict(), []
        for number, layer in enumerate(self.plan):
            for s in range(layer.finest, scales):
                down = layer.reads_finer(s)
                features = self.GROWTH * self.FACTORS[s] // (2 if down else 1)
                for kind, source in (("same", s), *((("finer", s - 1),) if down else ())):
                    wide = layer.width * self.FACTORS[source]
                    inner = min(wide, features * self.FACTORS[source])
                    self.nodes[f"{number}_{s}_{kind}"] = nn.Sequential(
                        flat(wide, inner, 1), flat(inner, features, 3, 1 if kind == "same" else 2))
                if layer.transition:
                    wide = (layer.width + self.GROWTH) * self.FACTORS[s]
                    self.transitions[f"{number}_{s}"] = flat(wide, layer.transition * self.FACTORS[s], 1)
        ends = [n for n, layer in enumerate(self.plan)
                if n + 1 == len(self.plan) or self.plan[n + 1].block > layer.block]
        self.ends = set(ends)
        self.widths = [(self.plan[n].transition or self.plan[n].width + self.GROWTH) * self.FACTORS[-1]
                       for n in ends]

    def forward(self, x):
        maps, found = [], []
        for layer in self.stem:
            x = layer(x)
            maps.append(x)
        for number, layer in enumerate(self.plan):
            new = list(maps)
            for s in range(layer.finest, len(maps)):
                parts = [maps[s]]
                if layer.reads_finer(s):
                    parts.append(self.nodes[f"{number}_{s}_finer"](maps[s - 1]))
                parts.append(self.nodes[f"{number}_{s}_same"](maps[s]))
                new[s] = torch.cat(parts, dim=1)
                if layer.transition:
                    new[s] = self.transitions[f"{number}_{s}"](new[s])
            maps = new
            if number in self.ends:
                found.append(maps[-1])
        return found


def msdnet_38(classes: int) -> tuple[nn.Module, nn.Module]:
    """All exits; each is two 3x3 convolutions of stride 2, a 2x2 mean and a linear layer."""
    grid = Grid()
    return grid, nn.ModuleList([nn.Sequential(
        flat(width, width, 3, 2), flat(width, width, 3, 2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(width, classes)) for width in grid.widths])


NETWORKS = {"x3d_m": x3d_m, "i3d": i3d, "msdnet_38": msdnet_38}
