"""Dilated ResNet-18: the segmentation encoder of VA-RED2 (arXiv 2102.07887), output stride 8.

Sources: `mit_semseg/models/resnet.py` and `ResnetDilated` (dilate_scale=8) in `models.py` of
CSAILVision/semantic-segmentation-pytorch. Against torchvision's ResNet-18: a stem of three 3x3
convolutions (64, 64, 128 channels), and stages 3 and 4 dilated instead of strided. Which encoder
VA-RED2 used is not published; this one's cost at 224 pixels is the paper's 10.6.

    clip (B,T,H,W,3) ─ stem (1/4) ─ stage 1 (1/4) ─ 2 (1/8) ─ 3, 4 dilated (1/8) = features (512)

Frames are independent. Logits come from the mean over space and frames, as for the classifier that
the encoder is pretrained with; `classify(features)` gives logits per position.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn

from effvid_jax.backbones import blocks
from effvid_jax.backbones.backbone import Backbone
from effvid_jax.errors import UserError

STAGES = (  # channels over the width; of the first block its stride and first dilation; all other dilations
    (1, 1, 1, 1),
    (2, 2, 1, 1),
    (4, 1, 1, 2),
    (8, 1, 2, 4),
)


class DilatedBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; `(B,T,H,W,C)` in and out.

    Attributes:
        width: channels of the output.
        stride: of the first convolution.
        dilations: of the first and of the second convolution.
        project: whether the shortcut is a 1x1 convolution.
        conv, norm: module classes.
    """

    width: int
    stride: int = 1
    dilations: tuple[int, int] = (1, 1)
    project: bool = False
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm

    def setup(self):
        first, second = self.dilations
        self.conv1 = self.conv(self.width, (3, 3), self.stride, first, dilation=first)
        self.bn1 = self.norm()
        self.conv2 = self.conv(self.width, (3, 3), 1, second, dilation=second)
        self.bn2 = self.norm()
        if self.project:
            self.downsample_conv = self.conv(self.width, (1, 1), self.stride)
            self.downsample_bn = self.norm()

    def __call__(self, x, train: bool = False):
        y = blocks.relu(self.bn1(self.conv1(x, train), train))
        y = self.bn2(self.conv2(y, train), train)
        if self.project:
            x = self.downsample_bn(self.downsample_conv(x, train), train)
        return blocks.once(blocks.relu(x + y))


class DilatedResNet18(Backbone):
    """See the module docstring for the flow.

    Attributes:
        num_classes: K.
        dropout: rate before the classifier.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        bn_groups: see `blocks.BatchNorm.groups`.
        dtype: computation type (parameters stay float32).
        width: channels of the first stage and of the first convolutions; the published one has 64.
        stage_sizes: blocks of each of the four stages; the published one has 2.
        stem_pool: stride of the stem's max-pool: 2, or 1 for small images, whose maps are then twice as
        large.
    """

    num_classes: int
    dropout: float = 0.5
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    bn_groups: int = 1
    dtype: Any = None
    width: int = 64
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    stem_pool: int = 2

    def setup(self):
        conv = partial(self.conv, dtype=self.dtype)
        norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype)
        if len(self.stage_sizes) != len(STAGES) or min(self.stage_sizes) < 1:
            raise UserError(f"config.model.options.stage_sizes={tuple(self.stage_sizes)}: expected "
                            f"{len(STAGES)} numbers of blocks, each at least 1.")
        self.conv1, self.bn1 = conv(self.width, (3, 3), 2, 1), norm()
        self.conv2, self.bn2 = conv(self.width, (3, 3), 1, 1), norm()
        self.conv3, self.bn3 = conv(2 * self.width, (3, 3), 1, 1), norm()
        for s, (size, (widths, stride, first, others)) in enumerate(zip(self.stage_sizes, STAGES), start=1):
            width = widths * self.width
            setattr(self, f"layer{s}", [  # stage 1 projects too: the stem has twice its channels
                DilatedBlock(width, stride, (first, others), True, conv, norm),
                *(DilatedBlock(width, 1, (others, others), False, conv, norm) for _ in range(size - 1))])
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype,
                               kernel_init=nn.initializers.normal(0.001))

    @property
    def num_stages(self) -> int:
        """Number of stages that `run_stage` accepts, 1-based."""
        return len(STAGES)

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map after the stem, at 1/4 of the resolution."""
        x = blocks.relu(self.bn1(self.conv1(x_BTHWC, train), train))
        x = blocks.relu(self.bn2(self.conv2(x, train), train))
        x = blocks.relu(self.bn3(self.conv3(x, train), train))
        return blocks.max_pool(x, (3, 3), (self.stem_pool,) * 2, (1, 1))

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs residual stage `stage` (1-based) on the map before it."""
        for block in getattr(self, f"layer{stage}"):
            x = block(x, train)
        return x

    def run_head(self, features_BTHWC, train: bool = False):
        """Last map -> (logits (B,K), frame features (B,T,C))."""
        pooled_BTC = blocks.global_avg_pool(features_BTHWC)
        return self.fc(self.drop(pooled_BTC.mean(axis=1), deterministic=not train)), pooled_BTC


def dilated_resnet18(**options):
    """Dilated ResNet-18 with output stride 8."""
    return DilatedResNet18(**options)
