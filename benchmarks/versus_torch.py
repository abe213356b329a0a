"""Ours beside PyTorch on a CPU: inference and training steps of the same networks, in one run.

    python benchmarks/versus_torch.py --out runs/torch                 # again: goes on with what is missing
    python benchmarks/versus_torch.py --out runs/torch --rows 'train/TSN'
    python benchmarks/versus_torch.py --out runs/torch --rows none --results docs/results.csv    # writes only
    python benchmarks/versus_torch.py --check                 # minutes: are the stored ratios still reached?
    python benchmarks/versus_torch.py --profile 'train/TSN-R50, 8 x 112'           # where our time goes

float32. All sides of a row run warm, on random uint8 clips that are normalised in the program, with the same
threads, in turns; the value is the median of at least five samples. PyTorch in earnest: `inference_mode`,
channels-last and channels-first, eager and through `torch.compile`, which fuses what it can (ours folds no
batch norm). The ratio is to the best of them, and all are printed. It needs torch and torchvision.

The limit: operations by our own count and by XLA's, bytes by XLA's, and their shares of a large matrix
product and a large copy measured in the same run (`peaks`), as in `gpu_suite.py`, whose functions it uses.
"""

from __future__ import annotations

import argparse
import collections
import glob
import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from effvid_jax.speed import host_memory

if __name__ == "__main__":
    host_memory.tune()

import jax
import tabulate

from benchmarks import gpu_rows, gpu_suite
from benchmarks.gpu_suite import Row, beside
from effvid_jax import writers
from effvid_jax.reports import results

FILE = "versus_torch.jsonl"
COMMAND = "python benchmarks/versus_torch.py"
RESULTS = os.path.join(results.ROOT, "docs", "results.csv")
LOSS = 0.15  # of a stored ratio that `--check` lets pass
ROWS = (
    Row("peaks", "device", 10, dict(side=4096, gbytes=0.5)),
    beside("inference", "TSN-R50", "resnet50", 8, 112, 4, 60),
    beside("train", "TSN-R50", "resnet50", 8, 112, 4, 150),
    beside("inference", "TSN-R50", "resnet50", 8, 64, 4, 60),
    beside("train", "TSN-R50", "resnet50", 8, 64, 4, 150),
    beside("inference", "R(2+1)D-18", "r2plus1d_18", 16, 112, 2, 60),
    beside("train", "R(2+1)D-18", "r2plus1d_18", 16, 112, 2, 150),
    beside("inference", "Video Swin-T", "swin3d_t", 16, 112, 1, 90),
    beside("train", "Video Swin-T", "swin3d_t", 16, 112, 1, 180),
    beside("inference", "X3D-M", "x3d_m", 16, 112, 2, 60),
    beside("train", "X3D-M", "x3d_m", 16, 112, 2, 180),
    beside("reskd", "R152 at 224² teaches R50", "resnet50", 8, 112, 1, 300, teacher="resnet152",
           teacher_resolution=224),
    beside("inference", "TSN-R50", "resnet50", 16, 224, 1, 60),
    beside("inference", "TSM-R50", "tsm_resnet50", 8, 112, 4, 60),
    beside("inference", "SlowOnly-50", "slowonly_resnet50", 8, 112, 4, 60),
    beside("inference", "MobileNetV2", "mobilenet_v2", 8, 112, 4, 60),
    beside("inference", "S3D", "s3d", 16, 224, 1, 60),
    beside("inference", "I3D", "i3d", 16, 112, 2, 60),
    beside("inference", "MViTv2-S", "mvit_v2_s", 16, 224, 1, 90),
    beside("inference", "Video Swin-S", "swin3d_s", 16, 112, 1, 90),
    beside("inference", "MSDNet-38", "msdnet_38", 4, 224, 1, 90),
    beside("train", "SlowOnly-50", "slowonly_resnet50", 8, 112, 2, 150),
    beside("train", "MobileNetV2", "mobilenet_v2", 8, 112, 2, 150),
    beside("train", "TSM-R50", "tsm_resnet50", 8, 112, 2, 150),
    beside("train", "S3D", "s3d", 16, 224, 1, 200),
    beside("train", "I3D", "i3d", 16, 112, 2, 200),
    beside("train", "MViTv2-S", "mvit_v2_s", 16, 224, 1, 240),
    beside("train", "Video Swin-S", "swin3d_s", 16, 112, 1, 240),
    beside("train", "MSDNet-38", "msdnet_38", 2, 224, 1, 240),
)
QUICK = r"^(peaks|(inference|train)/(TSN-R50, 8 x (64|112)|R\(2))"


def stored(rows: list[dict[str, str]]) -> dict[str, float]:
    """{row of this script: ratio to the best of PyTorch} of `docs/results.csv`."""
    found = {}
    for row in rows:
        kind, *name = row["what"].split(": ")
        if kind.startswith("cpu_") and name[-1] == "ours ÷ best PyTorch":
            found[f"{kind.removeprefix('cpu_')}/{name[0]}"] = float(row["value"])
    return found


def losses(lines: dict[str, dict], before: dict[str, float]) -> list[str]:
    """A sentence for every row that lost more than `LOSS` of its stored ratio."""
    found = []
    for key, line in lines.items():
        ratio = line.get("values", {}).get("ratio")
        if ratio and key in before and ratio < (1 - LOSS) * before[key]:
            found.append(f"{key}: {ratio:.2f} of PyTorch's speed, stored is {before[key]:.2f} "
                         f"({100 * (ratio / before[key] - 1):+.0f} %)")
    return found


def profile(function, top: int = 12) -> str:
    """Where the time of one call goes, by kind of operation in XLA's compiled program."""
    jax.block_until_ready(function())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(function())
        file, = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        kinds: collections.Counter = collections.Counter()
        for plane in jax.profiler.ProfileData.from_file(file).planes:
            for event in (event for line in plane.lines for event in line.events):
                if "hlo_op" in dict(event.stats):
                    kinds[re.sub(r"[.\d]+$", "", event.name)] += event.duration_ns
    whole = sum(kinds.values()) or 1
    rows = [{"operations": kind, "ms": ns / 1e6, "%": 100 * ns / whole}
            for kind, ns in kinds.most_common(top)]
    return tabulate.tabulate(rows, "keys", "github", floatfmt=".1f")


def main(argv=None) -> None:
    """Runs rows, then prints tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", default="", help=f"folder of {FILE}")
    parser.add_argument("--minutes", type=float, default=120.0, help="to take at most, about")
    parser.add_argument("--rows", default="", help="regular expression of rows (kind/name) to measure")
    parser.add_argument("--seconds", type=float, default=10.0, help="to spend on measuring a row")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True,
                        help="measure PyTorch compiled too")
    parser.add_argument("--check", action="store_true",
                        help=f"measure a few rows; fail if one lost over {LOSS:.0%}% of its ratio")
    parser.add_argument("--profile", default="", help="rows to profile instead (regular expression)")
    parser.add_argument("--results", default="", help="csv file to write rows to (docs/results.csv)")
    args = parser.parse_args(argv)
    if not (args.out or args.check or args.profile):
        parser.error("--out is missing: the folder for what is measured")
    forms = ("eager", "compiled") if args.compile else ("eager",)
    setup = gpu_rows.Setup(args.seconds, forms, dtype="float32", layouts=True)
    print(f"{os.cpu_count()} CPU cores, {writers.environment()['versions']}", flush=True)
    if args.profile:
        setup.profile = lambda function: print(profile(function), flush=True)
    wanted = args.profile or args.rows or (QUICK if args.check else "")
    rows = [row for row in ROWS if re.search(wanted, row.key)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.out if args.out and not args.profile else scratch
        os.makedirs(folder, exist_ok=True)
        lines = gpu_suite.run(rows, os.path.join(folder, FILE), args.minutes, setup, "")
    print(f"\n{gpu_suite.tables(lines)}", flush=True)
    if args.results:
        results.replace_measured(args.results, gpu_suite.result_rows(lines, "cpu", COMMAND), together=True)
    if args.check:
        lost = losses(lines, stored(results.read_rows(RESULTS)))
        print("\n".join(lost) or f"no ratio lost more than {LOSS:.0%}")
        sys.exit(bool(lost))


if __name__ == "__main__":
    main()
