"""ECO-Lite: BN-Inception's first blocks on every frame, a 3-D ResNet-18 over their maps (arXiv 1804.09066).

    clip (B,T,H,W,3) ─ stem, stages 1, 2: BN-Inception to 3c (B,T,H/8,W/8,96)
                     ─ stages 3..5: 3x3x3, 3x3x3, residual block = features (B,T/4,H/32,W/32,512)
                     ─ mean ─ logits

Source: a third party's port, zhang-can's ECO-pytorch (`tf_model_zoo/ECO/ECO.yaml`), to which the authors
point. Their own Caffe file, which was not at hand, is said to have projected shortcuts over the first half of
stages 4 and 5; the port has none. Its head takes sides of 224 only; here any will do. The published
weights read BGR (`--bgr` at import); `pixels` in `facts.py` has their normalisation.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn

from effvid_jax.backbones import blocks
from effvid_jax.backbones.backbone import ClipBackbone
from effvid_jax.backbones.bninception import STAGES, Inception
from effvid_jax.backbones.mobilenet_v2 import round_channels


class Residual(nn.Module):
    """Two 3x3x3 convolutions, then two more around which the map before their norm is passed.

    Attributes:
        features: channels.
        stride: of the first convolution, on all axes.
        conv, norm: module classes.
    """

    features: int
    stride: int
    conv: blocks.ModuleDef
    norm: blocks.ModuleDef

    def setup(self):
        conv = partial(self.conv, self.features, (3, 3, 3))
        self.a_1, self.a_2 = conv(self.stride, 1), conv(1, 1)
        self.b_1, self.b_2 = conv(1, 1), conv(1, 1)
        self.a_1_bn, self.a_bn, self.b_1_bn, self.b_bn = self.norm(), self.norm(), self.norm(), self.norm()

    def __call__(self, x, train: bool = False):
        x = blocks.relu(self.a_1_bn(self.a_1(x, train), train))
        x = self.a_2(x, train)
        y = blocks.relu(self.a_bn(x, train))
        y = blocks.relu(self.b_1_bn(self.b_1(y, train), train))
        return blocks.relu(self.b_bn(x + self.b_2(y, train), train))


class ECOLite(ClipBackbone):
    """ECO-Lite; see the module docstring for the flow.

    Attributes:
        num_classes: K.
        width_mult: factor on all channels (rounded to multiples of 8).
        dropout: rate before the classifier.
        classifier_std: of the classifier's initial weights; 0.001, the reference's, suits fine-tuning.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        bn_groups: see `blocks.BatchNorm.groups`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    width_mult: float = 1.0
    dropout: float = 0.5
    classifier_std: float = 0.001
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        conv = partial(self.conv, dtype=self.dtype)
        norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype)
        unit = partial(blocks.ConvBN, use_bias=True, conv_type=conv, norm=norm)

        def wide(channels):
            return round_channels(self.width_mult * channels)

        self.conv1_7x7_s2 = unit(wide(64), (7, 7), 2, 3)
        self.conv2_3x3_reduce = unit(wide(64), (1, 1))
        self.conv2_3x3 = unit(wide(192), (3, 3), 1, 1)
        self.inception_3a, self.inception_3b = (
            Inception(tuple(map(wide, STAGES[1][name])), unit) for name in ("3a", "3b"))
        reduced, features = STAGES[1]["3c"][3:5]
        self.inception_3c_reduce = unit(wide(reduced), (1, 1))
        self.inception_3c = unit(wide(features), (3, 3), 1, 1)
        self.res3 = Residual(wide(128), 1, conv, norm)
        self.res4 = Residual(wide(256), 2, conv, norm)
        self.res5 = Residual(wide(512), 2, conv, norm)
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype,
                               kernel_init=nn.initializers.normal(self.classifier_std))

    num_stages = 5  # that `run_stage` accepts, 1-based

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map after the first max-pool, at a quarter of the resolution."""
        return blocks.ceil_pool(self.conv1_7x7_s2(x_BTHWC, train))

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs stage `stage` (1-based) on the map before it."""
        if stage == 1:
            return blocks.ceil_pool(self.conv2_3x3(self.conv2_3x3_reduce(x, train), train))
        if stage == 2:
            x = self.inception_3b(self.inception_3a(x, train), train)
            return self.inception_3c(self.inception_3c_reduce(x, train), train)
        return (self.res3, self.res4, self.res5)[stage - 3](x, train)
