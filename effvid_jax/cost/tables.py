"""`docs/cost.md`: our costs beside the figures of the three papers, each in its paper's convention.

    python -m effvid_jax.cost.tables                        # prints the page
    python -m effvid_jax.cost.tables --write docs/cost.md   # rewrites it

Every row of `ROWS` is one printed figure. Where a paper leaves the network open, the row says in words
which choice makes it fit, and a figure that no reading meets within 1 % is listed as unresolved.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import tabulate

from effvid_jax import cost, writers
from effvid_jax.backbones import blocks, make_backbone
from effvid_jax.exits import network, routes
from effvid_jax.signals import told

TOLERANCE = 0.01  # of a figure that counts as met

RESKD, DYNAMIC, VARED = "ResKD", "Dynamic Inference", "VA-RED2"
MOBILENET3, MOBILENET4, MOVINET = "MobileNetV3", "MobileNetV4", "MoViNet"
CSN, UNIFORMER, VIDEOMAE = "CSN", "UniFormer", "VideoMAE"


# --------------------------------------------------------------------------- networks beyond backbones
class Localiser(nn.Module):
    """A 3-D trunk with the channel-fusion head of YOWO (arXiv 1911.06644 §3) and no 2-D branch.

    The head sees one map of the clip: 1x1 to 1024, 3x3, attention over channels (a Gram matrix, no
    convolution), 3x3, 1x1, and a 1x1 to 5 anchors x (classes + 5).

    Attributes:
        trunk: a backbone; its classifier is not used.
        classes: of actions; 21 for J-HMDB.
    """

    trunk: nn.Module
    classes: int = 21

    @nn.compact
    def __call__(self, x_BTHWC, train: bool = False):
        x = self.trunk.run_stem(x_BTHWC, train)
        for stage in range(1, self.trunk.num_stages + 1):
            x = self.trunk.run_stage(stage, x, train)
        x = x.mean(axis=1, keepdims=True)  # (B, 1, h, w, C)
        for number, kernel in enumerate((1, 3), start=1):
            x = self._unit(x, kernel, f"fusion{number}")
        x_BNC = x.reshape(x.shape[0], -1, x.shape[-1])
        gram_BCC = blocks.einsum("bnc,bnd->bcd", x_BNC, x_BNC)
        x = x + blocks.einsum("bnc,bdc->bnd", x_BNC, blocks.softmax(gram_BCC)).reshape(x.shape)
        x = self._unit(x, 3, "fusion3")
        x = blocks.Conv(1024, (1, 1), use_bias=True, name="fusion4")(x)
        return blocks.Conv(5 * (self.classes + 5), (1, 1), name="boxes")(x), {}

    def _unit(self, x, kernel: int, name: str):
        return blocks.ConvBN(1024, (kernel, kernel), 1, kernel // 2, name=name)(x)


def _localiser(backbone: str) -> nn.Module:
    return Localiser(make_backbone(backbone, num_classes=21))


def _with_three_exits(backbone: str) -> nn.Module:
    """Exits after stages 2, 3 and 4; how they look is our choice, see `effvid_jax.exits.network`."""
    route = tuple(routes.Checkpoint(frames=1, depth=depth) for depth in (1, 2, 3))
    return network.ExitNet(make_backbone(backbone, num_classes=400), 400, route, order=(0,), group=1,
                         exit_stages=(2, 3, 4))


# ------------------------------------------------------------------------------------------------ rows
@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of a paper.

    Attributes:
        paper: whose table.
        what: the row there.
        published: the figure: 10^9 multiply-adds of a clip and its views, or 10^6 parameters.
        backbone: name, or what to call `network`.
        clip: (T, H, W) of a view.
        classes, options, views, convention: see `cost.count` and `make_backbone`.
        remark: what a reader should know, such as what was chosen freely.
        network: makes the model where it is more than a backbone.
        parameters: compare these.
        unresolved: no reading is within `TOLERANCE`; this is the nearest.
    """

    paper: str
    what: str
    published: float
    backbone: str
    clip: tuple[int, int, int]
    classes: int = 400
    convention: str = "macs"
    views: int = 1
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    remark: str = ""
    network: Callable[[], nn.Module] | None = None
    parameters: bool = False
    unresolved: bool = False

    def ours(self) -> float:
        """Our figure in the unit of `published`."""
        model = (self.network() if self.network else
                 make_backbone(self.backbone, num_classes=self.classes, **self.options))
        found = cost.count(model, (*self.clip, 3), self.convention, self.views)
        return found.params / 1e6 if self.parameters else found.gmacs


def _reskd() -> list[Row]:
    rows = [Row(RESKD, f"Table 4, TSN-ResNet-50, {side}p", figure, "resnet50", (16, side, side), 200, "mmcv",
                remark="printed 17.4; the counter has 17.347" if side == 112 else "")
            for side, figure in ((224, 65.9), (144, 28.3), (112, 17.4), (96, 12.1), (72, 8.3), (56, 4.8))]
    rows.append(Row(RESKD, "Table 1, Mini-Kinetics", 8.7, "resnet50", (8, 112, 112), 200, "mmcv"))
    for name, backbone, frames, views, figures in (
            ("SlowOnly", "slowonly_resnet50", 8, 30, (1260, 332)),
            ("Swin-S", "swin3d_s", 32, 12, (1639, 421))):
        remark = "attention products are not counted; with them 1988 and 506" if views == 12 else ""
        rows += [Row(RESKD, f"Table 3, {name}, {side}p", figure, backbone, (frames, side, side), 400, "mmcv",
                     views, remark=remark) for side, figure in zip((224, 112), figures)]
    return rows


def _dynamic_inference() -> list[Row]:
    heads = ("free choice among 24 head designs that fit: three 400-way heads, after stages 2 and 3 a biased "
             "1x1 convolution to 2048 channels with batch norm before the linear layer")
    return [
        Row(DYNAMIC, "MSDNet-38 (Full), 16 frames", 52, "msdnet_38", (16, 224, 224), 400, "msdnet"),
        Row(DYNAMIC, "MSDNet-38, M parameters", 62.31, "msdnet_38", (1, 224, 224), 1000, "msdnet",
            parameters=True, remark="counted with 1000-way heads; 60.31 with Kinetics' 400 classes"),
        Row(DYNAMIC, "TSN and TSM, ResNet-50, 8 frames", 33, "tsm_resnet50", (8, 224, 224)),
        Row(DYNAMIC, "TSN and TSM, ResNet-50, 16 frames", 65, "tsm_resnet50", (16, 224, 224)),
        Row(DYNAMIC, "the same, in another table", 64, "tsm_resnet50", (16, 224, 224), unresolved=True,
            remark="the paper prints 64 and 65 for one network; twice its 8 frames is 65.4"),
        Row(DYNAMIC, "ResNet-50 with exits, M parameters", 29.12, "resnet50 + exits", (1, 224, 224),
            remark=heads, parameters=True, network=lambda: _with_three_exits("resnet50")),
        Row(DYNAMIC, "ResNet-101 with exits, M parameters", 48.12, "resnet101 + exits", (1, 224, 224),
            remark="as for ResNet-50", parameters=True, network=lambda: _with_three_exits("resnet101")),
    ]


def _va_red2() -> list[Row]:
    variant = ("free choice of the public variant that fits (every convolution factored, 83 channels in the "
               "stem); the three figures are one, cost is linear in frames")
    larger = {"head_pool": (16, 7, 7)}  # PySlowFast's head, trained at 224: 2x2 positions at 256
    rows = [Row(VARED, f"R(2+1)D-18, {frames} frames", figure, "r2plus1d_18_vared", (frames, 128, 128), 200,
                "thop", remark=variant if frames == 8 else "")
            for frames, figure in ((8, 27.7), (16, 55.2), (32, 110.5))]
    rows += [Row(VARED, f"I3D, {frames} frames", figure, "i3d_tp", (frames, 256, 256), 400, "thop",
                 remark="IBM's I3D with temporal pooling" if frames == 16 else "")
             for frames, figure in ((16, 56.0), (32, 112.0))]
    return rows + [
        Row(VARED, "X3D-M, Mini-Kinetics", 6.20, "x3d_m", (16, 256, 256), 200, options=larger,
            remark="fits without batch norms only: the paper mixes conventions"),
        Row(VARED, "X3D-M, Kinetics-400", 6.42, "x3d_m", (16, 256, 256), 400, "thop", options=larger,
            remark="fits with batch norms only"),
        Row(VARED, "J-HMDB, I3D", 43.9, "i3d_tp + YOWO head", (16, 224, 224), 21,
            network=lambda: _localiser("i3d_tp"),
            remark="free choice of the head: YOWO's channel fusion without its 2-D branch"),
        Row(VARED, "J-HMDB, X3D-M", 5.75, "x3d_m + YOWO head", (16, 224, 224), 21,
            network=lambda: _localiser("x3d_m"), remark="the same head meets both figures"),
        Row(VARED, "dilated ResNet-18", 10.6, "dilated_resnet18", (1, 224, 224), 150,
            remark="free choice: the encoder alone, of CSAILVision's semantic segmentation"),
        *(Row(VARED, f"TPN, {frames} frames", figure, "tpn_r2plus1d_18", (frames, 128, 128), 200, "thop",
              remark="free choice of backbone and levels; TPN's released network has "
                     f"{50.3 * frames / 8:.1f}") for frames, figure in ((8, 28.5), (16, 56.8))),
        Row(VARED, "CorrNet", 60.8, "corrnet_r2plus1d_18", (16, 128, 128), 200, "thop",
            remark="free choice: CorrNet's blocks on the R(2+1)D-18 above"),
    ]


def _tables_of_dynamic_inference() -> list[Row]:
    """The other networks in its tables of results."""
    return [
        Row(DYNAMIC, "TSN, BN-Inception", 500, "bninception", (25, 224, 224), views=10, unresolved=True,
            remark="250 frames at 2.0 each, a rounded 2.032; at 224 pixels, as 112 (printed) cannot run"),
        Row(DYNAMIC, "TSN, BN-Inception, M parameters", 10.7, "bninception", (1, 224, 224), parameters=True),
        Row(DYNAMIC, "TRN multiscale, BN-Inception", 33, "trn_bninception", (16, 224, 224), 174, "thop",
            remark="16 frames, which the paper does not say; without batch norms and biases 32.5. 8 frames "
                   "have 16.3, two operations each 32.5"),
        Row(DYNAMIC, "MF-Net", 11.1, "mfnet_3d", (16, 224, 224)),
        Row(DYNAMIC, "MF-Net, 50 views", 555, "mfnet_3d", (16, 224, 224), views=50),
        Row(DYNAMIC, "MF-Net, M parameters", 8.0, "mfnet_3d", (16, 224, 224), parameters=True),
        Row(DYNAMIC, "Non-local I3D, ResNet-50", 145.7, "i3d_nonlocal_resnet50", (8, 224, 224), views=4,
            convention="macs_attn", remark="as four clips of 8 frames; one of 32 has 182.0, as each position "
                                           "then sees four times as many"),
        Row(DYNAMIC, "Non-local I3D, M parameters", 35.33, "i3d_nonlocal_resnet50", (8, 224, 224),
            parameters=True),
        Row(DYNAMIC, "ARTNet-18, 250 views", 5925, "artnet_18", (16, 112, 112), views=250, unresolved=True,
            options={"shortcut_kernel": 1}, remark="23.7 a view printed, 24.5 here; the authors' file, whose "
                                                   "shortcuts are 3x3x3, has 25.7"),
        Row(DYNAMIC, "ARTNet-18, M parameters", 35.2, "artnet_18", (16, 112, 112), parameters=True,
            options={"shortcut_kernel": 1}, remark="1x1x1 shortcuts; the authors' file has 3x3x3 and 39.7"),
        Row(DYNAMIC, "ECO", 64, "eco_lite", (16, 224, 224), unresolved=True,
            remark="ours is ECO-Lite; the figure is the full ECO's, whose 2-D network goes on to its end"),
        Row(DYNAMIC, "ECO, M parameters", 47.5, "eco_lite", (16, 224, 224), parameters=True, unresolved=True,
            remark="as above"),
        *(Row(DYNAMIC, f"StNet, ResNet-{depth}", figure, f"stnet_resnet{depth}", (125, 256, 256),
              remark="free choice of the Xception's width, 1024; the public port, on SE-ResNeXt-50, has 194.1"
              if depth == 50 else "") for depth, figure in ((50, 189.29), (101, 310.50))),
        *(Row(DYNAMIC, f"StNet, ResNet-{depth}, M parameters", figure, f"stnet_resnet{depth}", (5, 256, 256),
              parameters=True, remark="the port has 42.91" if depth == 50 else "")
          for depth, figure in ((50, 33.16), (101, 52.15))),
        Row(DYNAMIC, "StNet, ResNet-50, in the table of UCF-101", 53, "stnet_resnet50", (35, 256, 256), 101,
            remark="7 images of 5 frames"),
    ]


def _mobile() -> list[Row]:
    return [
        Row(MOBILENET3, "Table 3, Large", 0.219, "mobilenet_v3_large", (1, 224, 224), 1000, unresolved=True,
            remark="timm's network, whose model card says 0.22, has 2.4 M fewer"),
        Row(MOBILENET3, "Table 3, Small", 0.056, "mobilenet_v3_small", (1, 224, 224), 1000),
        Row(MOBILENET4, "Table 5, Conv-S", 0.2, "mobilenet_v4_conv_small", (1, 224, 224), 1000,
            unresolved=True, remark="printed with one digit; timm's model card says 0.19"),
        Row(MOBILENET4, "Table 5, Conv-S, M parameters", 3.8, "mobilenet_v4_conv_small", (1, 224, 224), 1000,
            parameters=True),
    ]


def _movinet() -> list[Row]:
    remark = "the port's network; the figures are of TensorFlow's (README: 2.7, 6.0, 10), not run here"
    return [Row(MOVINET, f"Table 1, {size.upper()}", figure, f"movinet_{size}", (50, side, side), 600,
                unresolved=True, remark=remark)
            for size, side, figure in (("a0", 172, 2.71), ("a1", 172, 6.02), ("a2", 224, 10.3))]


def _teachers() -> list[Row]:
    return [
        *(Row(CSN, f"{kind}-CSN-{depth}, mmaction2's model zoo", figure, f"{kind}_csn_{depth}",
              (32, 256, 256), 400, "mmcv") for kind, depth, figure in (
                  ("ir", 50, 55.9), ("ir", 152, 97.63), ("ip", 152, 109.9))),
        Row(UNIFORMER, "UniFormer-S, 16 frames", 167, "uniformer_s", (16, 224, 224), 400, "macs_attn", 4),
        Row(VIDEOMAE, "Table 6, ViT-S", 57, "videomae_s", (16, 224, 224), 400, "macs_attn"),
        Row(VIDEOMAE, "Table 6, ViT-B", 180, "videomae_b", (16, 224, 224), 400, "macs_attn"),
    ]


ROWS: Sequence[Row] = (*_reskd(), *_dynamic_inference(), *_tables_of_dynamic_inference(), *_va_red2(),
                       *_mobile(), *_movinet(), *_teachers())


# ------------------------------------------------------------------------------------------------ page
HEADER = """# Costs beside the papers

Written by `python -m effvid_jax.cost.tables --write docs/cost.md`; a test keeps it up to date. What the
papers call GFLOPs are multiply-adds, and each counts its own selection of them: the column "convention"
names the rule (`--convention` of `python -m effvid_jax.cost`, explained in `effvid_jax/cost/counting.py`).
Figures are 10^9 per clip including its views, or millions of parameters where the row says so. "unresolved"
marks what no reading of ours meets within 1 %.
"""
PAPERS = {RESKD: "ResKD (arXiv 2209.12797)", DYNAMIC: "Dynamic Inference (arXiv 2002.03342)",
          VARED: "VA-RED2 (arXiv 2102.07887)", MOBILENET3: "MobileNetV3 (arXiv 1905.02244)",
          MOBILENET4: "MobileNetV4 (arXiv 2404.10518)", MOVINET: "MoViNet (arXiv 2103.11511)",
          CSN: "CSN (arXiv 1904.02811)", UNIFORMER: "UniFormer (arXiv 2201.04676)",
          VIDEOMAE: "VideoMAE (arXiv 2203.12602)"}
COLUMNS = ("paper", "row", "backbone", "input", "convention", "paper's", "ours", "difference", "remark")


def differences() -> list[tuple[Row, float, float]]:
    """(row, our figure, its relative difference to the paper's) of every row; traces, runs nothing."""
    found = [(row, row.ours()) for row in ROWS]
    return [(row, ours, ours / row.published - 1) for row, ours in found]


def page(found: list[tuple[Row, float, float]]) -> str:
    """The text of docs/cost.md.

    Args:
        found: from `differences`.
    """
    lines = []
    for row, ours, difference in found:
        views = f", {row.views} views" if row.views > 1 else ""
        remark = ("**unresolved**: " if row.unresolved else "") + row.remark
        digits = max(1, 4 - int(math.log10(ours)))
        lines.append((
            PAPERS[row.paper].split(" (")[0], row.what, f"`{row.backbone}`",
            f"{'x'.join(map(str, row.clip))}, {row.classes} classes{views}",
            "parameters" if row.parameters else f"`{row.convention}`", f"{row.published:g}",
            f"{ours:.{digits}f}", f"{difference:+.2%}", remark))
    sources = "; ".join(PAPERS.values())
    return f"{HEADER}\n{tabulate.tabulate(lines, COLUMNS, 'github', disable_numparse=True)}\n\n{sources}.\n"


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module docstring."""
    parser = argparse.ArgumentParser(prog="python -m effvid_jax.cost.tables",
                                     description="Our costs beside the figures of the papers.")
    parser.add_argument("--write", metavar="FILE", help="write the page here instead of printing it")
    args = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # nothing runs: do not wait for an accelerator
    text = page(differences())
    if not args.write:
        sys.stdout.write(text)
        return
    writers.write_text(args.write, text)


if __name__ == "__main__":
    sys.exit(told(main))
