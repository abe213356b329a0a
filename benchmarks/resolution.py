"""Throughput of a network against the resolution of its input: ResKD's Table 4 on any device.

    python benchmarks/resolution.py                      # as the paper: ResNet-50, 16 frames, batch 64
    python benchmarks/resolution.py --dtype bfloat16
    python benchmarks/resolution.py --batch 2 --frames 4 --resolutions 224,112 --seconds 10     # on a CPU

Weights are random (speed does not depend on them), clips lie on the device, resolutions are timed in
turns. The paper (Ma et al., arXiv 2209.12797, Table 4) measured one Tesla V100; its columns are beside
ours. Its GFLOPs count bias, normalisation and ReLU too: that is the convention 'mmcv' of
`effvid_jax.cost`, which the column gmacs_mmcv uses.
"""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import jax

from configs.recipes.base import defaults
from effvid_jax import cost, writers
from effvid_jax.methods import building
from effvid_jax.speed import bench, host_memory
from effvid_jax.tasks import make_task

PAPER = {  # resolution: (GFLOPs, videos per second) of ResNet-50, 16 frames
    224: (65.9, 78.7), 144: (28.3, 163.2), 112: (17.4, 262.8), 96: (12.1, 333.9), 72: (8.3, 434.7),
    56: (4.8, 631.5)}


def measure(backbone: str, frames: int, batch: int, resolutions: list[int], dtype: str, classes: int,
            seconds: float) -> list[dict]:
    """Rows of the table, see the module docstring.

    Raises:
        ValueError: unknown backbone or type, or a resolution too small.
    """
    config = defaults()
    task, config = make_task(config, [str(k) for k in range(classes)]), config.model
    config.update(dict(backbone=backbone, dtype=dtype))
    rows = bench.inference(config, task, resolutions, frames, batch, seconds=seconds)
    model = building.build_backbone(config, classes)
    for row in rows:
        side = row["resolution"]
        row["gmacs_mmcv"] = cost.count(model, (frames, side, side, 3), "mmcv").gmacs
        if backbone == "resnet50" and frames == 16 and side in PAPER and resolutions[0] == 224:
            row["paper_gflops"], row["paper_ratio"] = PAPER[side][0], PAPER[side][1] / PAPER[224][1]
    return rows


def main(argv=None) -> None:
    """Prints the table, then one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64, help="clips")
    parser.add_argument("--resolutions", default=",".join(map(str, PAPER)), help="the first is compared to")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0, help="to spend on measuring")
    args = parser.parse_args(argv)
    try:
        resolutions = [int(r) for r in args.resolutions.split(",")]
        rows = measure(args.backbone, args.frames, args.batch, resolutions, args.dtype, args.classes,
                       args.seconds)
    except ValueError as error:
        sys.exit(f"error: {error}")
    device = jax.devices()[0]
    print(f"{args.backbone}, {args.frames} frames, batch {args.batch}, {args.dtype}, {device.device_kind}")
    print(bench.table(rows))
    print(json.dumps({"arguments": vars(args), "rows": rows, "environment": writers.environment()}))


if __name__ == "__main__":
    host_memory.tune()
    main()
