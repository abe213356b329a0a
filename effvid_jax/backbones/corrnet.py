"""CorrNet: residual networks whose stages end in a correlation of neighbouring frames.

Sources: arXiv 1906.03349 (whose authors published no code); the third-party re-implementation
tefandasy/CorrNet (`corr_net/models/correlation_net/{corr_net,corr,conv_2dplus1d}.py`), which
CorrNet-26 and -50 equal. Flow, features and module names are those of `resnet3d.py`.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from effvid_jax.backbones import blocks, resnet3d, trace
from effvid_jax.errors import UserError

SIZE, DILATION = 7, 2  # positions per side of the neighbourhood, pixels between them


class Correlation(nn.Module):
    """Weighted products of every pixel with a neighbourhood in the next frame, averaged by groups.

    out[t, y, x, (i, j), g] = mean over channels c of group g of
        filter_weight[c, t, i, j] * x[t - 1, y, x, c] * x[t, y + 2i - 6, x + 2j - 6, c]

    with i, j = 0..6, zeros outside the frame, and the first frame correlated with itself. The filter
    has one slice per frame: the parameters belong to one length of clips.

    Attributes:
        groups: channel groups.
    """

    groups: int

    @nn.compact
    def __call__(self, x_BTHWC):
        b, t, h, w, c = x_BTHWC.shape
        if self.has_variable("params", "filter_weight"):
            frames = self.get_variable("params", "filter_weight").shape[1]
            if frames != t:
                raise UserError(f"this CorrNet was made for maps of {frames} frames here, the clip gives "
                                 f"{t}: its correlation filters have one slice per frame. Use clips of "
                                 f"the length that it was trained with.")
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal", in_axis=1, out_axis=0)
        filter_CTYX = self.param("filter_weight", init, (c, t, SIZE, SIZE)).astype(x_BTHWC.dtype)
        margin = (SIZE - 1) // 2 * DILATION
        before = jnp.concatenate([x_BTHWC[:, :1], x_BTHWC[:, :-1]], axis=1)
        around = jnp.pad(x_BTHWC, ((0, 0), (0, 0), (margin, margin), (margin, margin), (0, 0)))
        responses = []
        for i in range(0, SIZE * DILATION, DILATION):
            for j in range(0, SIZE * DILATION, DILATION):
                weight_T11C = filter_CTYX[:, :, i // DILATION, j // DILATION].T[:, None, None]
                product = weight_T11C * before * around[:, :, i:i + h, j:j + w]
                responses.append(product.reshape(b, t, h, w, self.groups, -1).mean(axis=-1))
        y = jnp.concatenate(responses, axis=-1)
        trace.note("correlation", self.path, x_BTHWC, y, kernel=(2, SIZE, SIZE))
        return y


class CorrelationBlock(nn.Module):
    """1x1x1 reduction, correlation, 1x1x1 expansion, added to the input; `(B,T,H,W,C)` in and out."""

    features: int
    reduced: int
    groups: int
    conv: blocks.ModuleDef
    norm: blocks.ModuleDef

    def setup(self):
        self.encode_conv = self.conv(self.reduced, (1, 1, 1))
        self.encode_bn = self.norm()
        self.correlation = Correlation(self.groups)
        self.decode_conv = self.conv(self.features, (1, 1, 1))
        self.decode_bn = self.norm()

    def __call__(self, x, train: bool = False):
        y = blocks.relu(self.encode_bn(self.encode_conv(x, train), train))
        y = self.decode_bn(self.decode_conv(self.correlation(y), train), train)
        return blocks.once(blocks.relu(x + y))


class CorrNet(resnet3d.ResNet3D):
    """3-D ResNet with correlation blocks; further fields as `resnet3d.ResNet3D`.

    Attributes:
        correlations: per stage, the positions of its blocks that are correlation blocks; they count in
            `stage_sizes`.
        groups: channel groups of the correlation; never more than its channels.
    """

    correlations: tuple[tuple[int, ...], ...] = ((2,), (2,), (2,), ())
    groups: int = 32

    def make_block(self, s, b, channels, make, norm):
        """See `ResNet3D.make_block`."""
        if b not in self.correlations[s]:
            return super().make_block(s, b, channels, make, norm)
        reduced = channels // 4
        return CorrelationBlock(channels, reduced, min(self.groups, reduced), make.conv, norm)

    def _check(self) -> None:
        super()._check()
        if len(self.correlations) != len(self.stage_sizes):
            raise UserError(f"correlations={self.correlations}: expected one tuple for each of the "
                             f"{len(self.stage_sizes)} stages of stage_sizes={self.stage_sizes}.")
        for s, (size, places) in enumerate(zip(self.stage_sizes, self.correlations), start=1):
            if any(not 0 < b < size for b in places):
                raise UserError(f"correlations={self.correlations}: stage {s} has {size} blocks, its "
                                 f"correlation blocks must be at 1 to {size - 1}.")


SIZES = {  # depth: (blocks per stage with the correlation blocks, positions of these)
    26: ((3, 3, 3, 2), ((2,), (2,), (2,), ())),
    50: ((4, 5, 7, 3), ((3,), (4,), (6,), ())),
    101: ((4, 5, 25, 3), ((3,), (4,), (12, 24), ())),
}


def corrnet(depth: int = 26, **options) -> CorrNet:
    """CorrNet-26, -50 or -101 on R(2+1)D bottlenecks; a correlation block ends stages 1 to 3."""
    sizes, correlations = SIZES[depth]
    return CorrNet(**{
        "stage_sizes": sizes, "correlations": correlations, "stem_width": 32, "stem_pool": 0,
        "inflate": (1, 1, 1, 1), "inflate_style": "3x3x3", "time_strides": (1, 1, 2, 2),
        "space_strides": (2, 2, 2, 2), "factoring": "blocks", "biases": True, **options})


def corrnet_r2plus1d_18(**options) -> CorrNet:
    """A correlation block after stages 1 to 3 of `resnet3d.r2plus1d_18_vared`: our choice of a network.

    VA-RED2 (arXiv 2102.07887, Table 4) names a CorrNet of 60.8 GFLOPs at 16 frames and nothing else.
    CorrNet's own placement on the R(2+1)D-18 of that paper has 60.5 (60.7 with batch norms).
    """
    return CorrNet(**{**resnet3d.R2PLUS1D_18_VARED, "stage_sizes": (3, 3, 3, 2), **options})
