"""Early exits on the clock: the adaptive executor against full inference of the same network.

    python benchmarks/early_exit.py --dtype bfloat16 --batch 64,128         # on a GPU: MSDNet-38, 16 x 224^2
    python benchmarks/early_exit.py --backbone resnet50 --dtype bfloat16 --batch 64,128
    python benchmarks/early_exit.py --backbone resnet50 --frames 8 --resolution 64 --batch 32 --batches 6

Weights are random and thresholds are set so that counting multiply-adds promises a speed-up of
`--speedup`, with exit shares ~ r^k; the last line is one JSON object. R is the measured speed-up over the
promised one, see `effvid_jax/speed/exit_bench.py`. Published for early exits in video recognition: R = 0.93
on an RTX 3090 (Uni-AdaFocus), with exits that were simulated; MSDNet-PyTorch and AdaFocusV2 simulate too.
"""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import jax

from configs.recipes import base, dynamic_inference
from effvid_jax import console, methods, writers
from effvid_jax.exits import executor
from effvid_jax.reports import results
from effvid_jax.speed import bench, exit_bench, host_memory
from effvid_jax.tasks import make_task


def build(args):
    """(method, variables) of a network with random weights.

    Raises:
        ValueError: unknown backbone, scheme or type.
    """
    config = dynamic_inference.recipe(
        "k400", f"backbone={args.backbone},scheme={args.scheme},frames={args.frames}")
    base.pixels(config, args.resolution)
    config.model.update(dict(dtype=args.dtype, dropout=0.0))
    config.model.exits.classifier_std = 0.5  # scores that differ between clips
    config.method.calibration_videos = 1
    method = methods.make_method(config, make_task(config, [str(k) for k in range(args.classes)]))
    size = args.resolution
    return method, method.init(jax.random.key(0), (1, args.frames, size, size, 3))


def result_rows(args, found) -> list[dict[str, str]]:
    """Rows of `docs/results.csv`: one for each policy, batch size and column."""
    rows = []
    for batch, sides in found.items():
        for side in sides:
            if side["side"] in executor.POLICIES:
                what = (f"early_exit: {args.backbone}, {args.frames} x {args.resolution}², batch {batch}, "
                        f"{side['side']}")
                rows += [results.make_row(f"{what}: {column}", f"{value:.2f}", dataset="noise",
                                          config=f"{args.backbone}, {args.scheme} route, {args.dtype}",
                                          command=results.this_command(), seeds=[0])
                         for column, value in (("speed-up, measured", side["speedup"]),
                                               ("speed-up, multiply-adds", side["flops_speedup"]),
                                               ("R", side["r"]))]
    return rows


def main(argv=None) -> None:
    """Prints a table for every batch size, then one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbone", default="msdnet_38")
    parser.add_argument("--scheme", default="unified", help="depth, input, permuted or unified")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--batch", default="64", help="videos; several sizes with commas")
    parser.add_argument("--batches", type=int, default=8, help="how many are in one pass")
    parser.add_argument("--sizes", default="", help="further batch sizes to compile, with commas")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--classes", type=int, default=400)
    parser.add_argument("--speedup", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=60.0, help="to spend on measuring, per batch size")
    parser.add_argument("--results", default="", help="csv file to write rows to (docs/results.csv)")
    args = parser.parse_args(argv)
    found = {}
    try:
        method, variables = build(args)
        sizes = tuple(int(s) for s in args.sizes.split(",") if s)
        for batch in map(int, args.batch.split(",")):
            shape = (args.batches * batch, args.frames, args.resolution, args.resolution, 3)
            clips = bench.random_clips(shape, contrast=True)
            with console.bar(None, f"batch {batch}", "sample", leave=False) as progress:
                found[batch] = exit_bench.measure(
                    method.segments, variables, clips, batch, speedup=args.speedup, sizes=sizes,
                    seconds=args.seconds, progress=progress.update)
            print(f"{args.backbone}, {args.scheme}, {args.frames} x {args.resolution}^2, batch {batch}, "
                  f"{args.dtype}, {jax.devices()[0].device_kind}\n{bench.table(found[batch])}", flush=True)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if args.results:
        results.replace_measured(args.results, result_rows(args, found))
    print(json.dumps({"arguments": vars(args), "rows": found, "environment": writers.environment()}))


if __name__ == "__main__":
    host_memory.tune()
    main()
