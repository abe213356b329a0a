"""Everything a GPU has to show, in one command of at most nine minutes.

    python benchmarks/gpu_suite.py --out runs/gpu                      # again: goes on with what is missing
    python benchmarks/gpu_suite.py --out runs/gpu --rows 'train|reskd' --minutes 5
    python benchmarks/gpu_suite.py --out runs/gpu --rows none --results docs/results.csv    # writes rows only
    python benchmarks/gpu_suite.py --out runs/dry --dry-run            # tiny, on any machine

    peaks        a large matrix product (bfloat16) and a large copy: what shares refer to
    golden       cases of tests/parity in float32 at the highest precision, and what bfloat16 does to logits
    inference    forward pass beside PyTorch: bfloat16, channels-last, eager, compiled,
                 and compiled with recorded graphs of kernels (mode="reduce-overhead")
    train        train step beside PyTorch (autocast), and the whole ResKD step; memory of both
    sweep        throughput by resolution, ResKD's Table 4
    exits        R of early exits (compact), as early_exit.py
    gates        realised share of the multiply-adds that gates save, as va_red2_speed.py
    forms        3-D networks in the forms that are chosen, against XLA's own convolutions

Rows are ordered by worth, so that what is cut at the end is worth least. Each adds a line to
`gpu_suite.jsonl` in `--out` when it ends; rows that are there as 'ok' are not measured again. It needs
jax, flax, optax and ml-collections, and for rows beside PyTorch torch and torchvision; no decoder, no data.
Share of the matrix peak: 2 x multiply-adds x clips/s over the measured product; a train step counts three
forward passes (ResKD: and one of the teacher). Share of the copy rate: the bytes that XLA counts in its
program over what the measured copy would move in that time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
import time
import traceback
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.55")  # PyTorch has the rest

import jax
import tabulate

from benchmarks import gpu_rows
from effvid_jax import writers
from effvid_jax.reports import results

FILE = "gpu_suite.jsonl"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the suite.

    Attributes:
        kind: names its table, the function of `gpu_rows` where `function` is empty.
        name: of the row within its kind.
        seconds: that it takes about, compiling included; it begins only if most of that is left.
        options: of the function.
    """

    kind: str
    name: str
    seconds: float
    options: dict[str, Any]
    function: str = ""

    @property
    def key(self) -> str:
        """What `--rows` is matched against."""
        return f"{self.kind}/{self.name}"


def beside(kind: str, name: str, backbone: str, frames: int, side: int, batch: int, seconds: float = 45,
           **more) -> Row:
    """A row with the arguments of `gpu_rows.inference` and `gpu_rows.train`."""
    function = {"forms": "inference", "reskd": "train"}.get(kind, kind)
    return Row(kind, f"{name}, {frames} x {side}², batch {batch}", seconds, dict(
        backbone=backbone, frames=frames, resolution=side, batch=batch, **more), function)


def _exits(name: str, backbone: str, seconds: float) -> Row:
    return Row("exits", f"{name}, 16 x 224², batch 64", seconds, dict(
        backbone=backbone, frames=16, resolution=224, batch=64, batches=4, sizes=(32, 16, 8)))


def _golden(name: str, pattern: str, seconds: float) -> Row:
    return Row("golden", name, seconds, dict(names=pattern, processes=12, seconds=seconds / 2))


def _gates(batch: int, seconds: float) -> Row:
    return Row("gates", f"R(2+1)D-18, 8 x 112², batch {batch}", seconds, dict(
        backbone="r2plus1d_18_vared", frames=8, resolution=112, batch=batch, clips=8))


ROWS = (
    Row("peaks", "device", 10, dict(side=8192, gbytes=4.0)),
    beside("inference", "TSN-R50", "resnet50", 16, 224, 32),
    beside("train", "TSN-R50", "resnet50", 8, 224, 32, 70),
    beside("reskd", "R152 at 224² teaches R50", "resnet50", 8, 112, 16, 150, teacher="resnet152",
            teacher_resolution=224),
    Row("sweep", "TSN-R50, 16 frames, batch 64", 75, dict(
        backbone="resnet50", frames=16, batch=64, resolutions=(224, 144, 112, 96, 72, 56))),
    _exits("ResNet-50", "resnet50", 75),
    _gates(1, 55),
    beside("inference", "R(2+1)D-18", "r2plus1d_18", 16, 112, 64),
    beside("train", "R(2+1)D-18", "r2plus1d_18", 16, 112, 32, 60),
    _golden("train steps", "^step_", 60),
    beside("inference", "Video Swin-T", "swin3d_t", 32, 224, 8, 85),
    _gates(32, 120),
    beside("train", "Video Swin-T", "swin3d_t", 32, 224, 4, 120),
    beside("inference", "MViTv2-S", "mvit_v2_s", 16, 224, 16),
    beside("inference", "S3D", "s3d", 16, 224, 32),
    beside("inference", "X3D-M", "x3d_m", 16, 224, 32),
    beside("inference", "TSM-R50", "tsm_resnet50", 8, 224, 64),
    beside("inference", "SlowOnly-50", "slowonly_resnet50", 8, 224, 32),
    beside("inference", "MobileNetV2", "mobilenet_v2", 8, 224, 64),
    beside("inference", "TSN-R50", "resnet50", 8, 112, 64),
    _golden("2-D networks", "^(mm_ts|mm_rkd|tv_res)", 60),
    _golden("3-D networks", "^(corr|i3d|sf_|mm_(i3d|r2|slow|tpn|x3d)|tv_(r3d|mc3|r2|s3d))", 90),
    _golden("transformers", "^(mm|tv)_(swin|mvit)", 120),
    _golden("MSDNet", "^msdnet", 90),
    _exits("MSDNet-38", "msdnet_38", 400),
    beside("forms", "R(2+1)D-18", "r2plus1d_18", 16, 112, 64, plain=True),
    beside("forms", "X3D-M", "x3d_m", 16, 224, 32, plain=True),
    beside("forms", "SlowOnly-50", "slowonly_resnet50", 8, 224, 32, plain=True),
    beside("forms", "S3D", "s3d", 16, 224, 32, plain=True),
)

DRY = (
    Row("peaks", "device", 1, dict(side=256, gbytes=0.01)),
    beside("inference", "TSN-R18", "resnet18", 2, 32, 2, 1),
    beside("train", "TSN-R18", "resnet18", 2, 32, 2, 1),
    beside("reskd", "R18 at 64² teaches R18", "resnet18", 2, 32, 2, 1, teacher="resnet18",
            teacher_resolution=64),
    Row("sweep", "TSN-R18", 1, dict(backbone="resnet18", frames=1, batch=2, resolutions=(64, 32))),
    Row("golden", "tests/parity", 1, dict(names="^mm_tsn_r18", processes=1, seconds=60.0)),
    Row("exits", "ResNet-18", 1, dict(backbone="resnet18", frames=4, resolution=32, batch=2, batches=1,
                                      sizes=(1,))),
    Row("gates", "ResNet-18", 1, dict(backbone="resnet18", frames=4, resolution=32, batch=1, clips=2)),
    beside("forms", "R3D-18", "r3d_18", 4, 32, 1, 1, plain=True),
)


# ----------------------------------------------------------------------------------------- running
def read(path: str) -> dict[str, dict]:
    """Lines of an earlier run by row; the newest of each counts."""
    if not os.path.exists(path):
        return {}
    with open(path) as f:
        lines = [json.loads(line) for line in f if line.endswith("}\n")]
    return {line["row"]: line for line in lines}


def environment(commit: str) -> dict[str, str]:
    """What a number needs to be quoted."""
    found = results.make_row("", "", dataset="", config="", command="", seeds=())
    versions = found["versions"]
    if "benchmarks.torch_networks" in sys.modules:
        versions += f", torch {gpu_rows.torch_side().torch.__version__}"
    return {"hardware": found["hardware"], "versions": versions, "commit": commit or found["commit"]}


def run_row(row: Row, setup: gpu_rows.Setup) -> dict[str, Any]:
    """Measures a row; whatever goes wrong becomes part of its line."""
    began = time.monotonic()
    try:
        values = getattr(gpu_rows, row.function or row.kind)(setup, **row.options)
        found = {"status": "ok", "values": values}
    except gpu_rows.Refused as reason:
        found = {"status": "refused", "reason": str(reason)}
    except Exception as error:
        traceback.print_exc(limit=-6)
        found = {"status": "error", "reason": f"{type(error).__name__}: {error}"[:2000]}
    gpu_rows.free()
    return found | {"seconds": round(time.monotonic() - began, 1)}


def run(rows, path: str, minutes: float, setup: gpu_rows.Setup, commit: str) -> dict[str, dict]:
    """Measures what is missing, in order and as long as there is time; returns all lines by row."""
    lines, start = read(path), time.monotonic()
    todo = [row for row in rows if lines.get(row.key, {}).get("status") != "ok"]
    # What ended the process, or was cut off, shall not keep the others from being measured.
    todo.sort(key=lambda row: lines.get(row.key, {}).get("status") == "begun")
    for number, row in enumerate(todo, 1):
        if "peaks/device" in lines and lines["peaks/device"]["status"] == "ok":
            setup.peaks = {key: lines["peaks/device"]["values"][key] for key in ("tflops", "gbytes")}
        left = 60 * minutes - (time.monotonic() - start)
        print(f"[{number}/{len(todo)}] {row.key} (about {row.seconds:.0f} s; {left:.0f} s left, all of the "
              f"rest about {sum(r.seconds for r in todo[number - 1:]):.0f} s)", flush=True)
        if left < 0.8 * row.seconds:
            print("  not enough time left", flush=True)
            continue
        line = {"row": row.key, "kind": row.kind}
        _write(path, line | {"status": "begun", "reason": "its process ended in it"})
        line |= run_row(row, setup) | {"options": row.options, "dtype": setup.dtype, **environment(commit)}
        lines[row.key] = line
        _write(path, line)
        print(f"  {line['status']} after {line['seconds']} s: {line.get('reason') or summary(line)}",
              flush=True)
    return lines


def _write(path: str, line: dict) -> None:
    with open(path, "a") as f:
        f.write(json.dumps(line, default=float) + "\n")


# ----------------------------------------------------------------------------------------- showing
def cells(line: dict) -> list[tuple[str, str, str, str]]:
    """(row, column, value, spread) of a line's table, as text."""
    values, name = line["values"], line["row"].partition("/")[2]
    if line["kind"] == "peaks":
        product = f"{line.get('dtype', 'bfloat16')} matrix product (TFLOP/s)"
        return [(name, product, _short(values["tflops"]), ""),
                (name, "copy, read + written (GB/s)", _short(values["gbytes"]), "")]
    if line["kind"] in ("inference", "train", "reskd", "forms"):
        return _cells_beside(name, values)
    if line["kind"] == "sweep":
        return [(f"{one['resolution']}²", column, value, "") for one in values["rows"] for column, value in (
            ("GMACs", f"{one['gmacs']:.2f}"), ("clips/s", _short(one["clips_per_second"])),
            ("GMACs ÷", f"{one['gmacs_divided_by']:.1f}"), ("clips/s ×", f"{one['ratio']:.2f}"),
            ("paper, V100, ×", f"{one['paper_ratio']:.2f}" if "paper_ratio" in one else "–"))]
    if line["kind"] == "exits":
        return [(name, column, f"{values[key]:.2f}", "") for column, key in (
            ("speed-up, measured", "speedup"), ("speed-up, multiply-adds", "flops_speedup"), ("R", "r"),
            ("R of the segments alone", "of_segments"), ("rows computed in vain", "waste"))]
    if line["kind"] == "gates":
        best = min((one for one in values["rows"] if one["realised"] is not None),
                   key=lambda one: one["ms per clip"])
        return [(name, column, value, "") for column, value in (
            ("GMACs ratio", f"{values['gmacs_ratio']:.3f}"), ("time ratio", f"{best['time ratio']:.3f}"),
            ("realised", f"{values['realised']:.2f}"), ("ms per clip", f"{best['ms per clip']:.2f}"))]
    return [(case["name"], column, value, "") for case in values["cases"] if case["status"] != "left out"
            for column, value in (
                ("float32", "passes" if case["status"] == "PASS" else case["status"].lower()),
                ("largest error", "–" if case["error"] is None else f"{case['error']:.1e}"),
                ("bfloat16, logits", f"{case['bfloat16']:.4f}" if case.get("bfloat16") else "–"))]


def _cells_beside(name: str, values: dict) -> list[tuple[str, str, str, str]]:
    rates, spread = values["clips_per_second"], values["spread"]
    found = [(name, f"{side} (clips/s)", _short(rate), f"{rate * spread[side]:.1f}")
             for side, rate in sorted(rates.items())]
    if values["ratio"] is not None:
        found.append((name, "ours ÷ best PyTorch", f"{values['ratio']:.2f}", ""))
    for side in ("ours", values["best_torch"]):
        if side and "share_of_peak" in values:
            title = "ours" if side == "ours" else "PyTorch"
            found.append((name, f"of the matrix peak, {title} (%)",
                          f"{100 * values['share_of_peak'][side]:.0f}", ""))
    if values.get("share_of_copy"):
        found.append((name, "of the copy rate, ours (%)", f"{100 * values['share_of_copy']:.0f}", ""))
    for side, gbytes in values.get("memory_gbytes", {}).items():
        found.append((name, f"memory, {side} (GB)", f"{gbytes:.1f}", ""))
    return found


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def summary(line: dict) -> str:
    """One line of what a row found."""
    if line["kind"] == "golden":
        return "{passed} of {of} pass, {left_out} left out, largest error {worst}".format(**line["values"])
    return ", ".join(f"{column} {value}" for _, column, value, _ in cells(line))


def result_rows(lines: dict[str, dict], prefix: str = "gpu",
                command: str = "python benchmarks/gpu_suite.py") -> list[dict[str, str]]:
    """Rows of `docs/results.csv`, a table a kind: gpu_inference, gpu_train, ..."""
    rows = []
    for line in lines.values():
        if line["status"] == "ok":
            options = line["options"]
            config = f"{options.get('backbone', line['kind'])}, " + (
                "float32" if line["kind"] == "golden" else line.get("dtype", "bfloat16"))
            rows += [results.make_row(f"{prefix}_{line['kind']}: {row}: {column}", value,
                                      dataset="random clips", config=config, command=command, seeds=[0],
                                      spread=spread)
                     | {key: line[key] for key in ("hardware", "versions", "commit")}
                     for row, column, value, spread in cells(line)]
    return rows


def tables(lines: dict[str, dict]) -> str:
    """All that was found, and what was not."""
    parts = []
    for kind in dict.fromkeys(line["kind"] for line in lines.values()):
        found: dict[str, dict[str, str]] = {}
        for line in lines.values():
            if line["kind"] == kind and line["status"] == "ok":
                for row, column, value, spread in cells(line):
                    text = value + (f" ± {spread}" if spread else "")
                    found.setdefault(row, {kind: row})[column] = text
        parts.append(tabulate.tabulate(list(found.values()), "keys", "github", disable_numparse=True))
    parts += [f"{key}: {line['status']}, {line['reason']}" for key, line in lines.items()
              if line["status"] != "ok"]
    return "\n\n".join(part for part in parts if part)


def main(argv=None) -> None:
    """Runs rows, then prints tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", required=True, help=f"folder of {FILE}")
    parser.add_argument("--minutes", type=float, default=9.0, help="to take at most, about")
    parser.add_argument("--rows", default="", help="regular expression of rows (kind/name) to measure")
    parser.add_argument("--seconds", type=float, default=4.0, help="to spend on measuring a row")
    parser.add_argument("--dry-run", action="store_true", help="a tiny row of every kind")
    parser.add_argument("--forms", default=",".join(gpu_rows.FORMS), help="of PyTorch, with commas")
    parser.add_argument("--commit", default="", help="to note, where git cannot tell")
    parser.add_argument("--results", default="", help="csv file to write rows to (docs/results.csv)")
    args = parser.parse_args(argv)
    forms = tuple(args.forms.split(","))
    if unknown := set(forms) - set(gpu_rows.FORMS):
        parser.error(f"--forms={args.forms}: {', '.join(sorted(unknown))} is not among "
                     f"{', '.join(gpu_rows.FORMS)}.")
    os.makedirs(args.out, exist_ok=True)
    rows = [row for row in (DRY if args.dry_run else ROWS) if re.search(args.rows, row.key)]
    setup = gpu_rows.Setup(*(0.2, ("eager",)) if args.dry_run else (args.seconds, forms))
    print(f"{jax.devices()[0].device_kind}, {writers.environment()['versions']}", flush=True)
    lines = run(rows, os.path.join(args.out, FILE), args.minutes, setup, args.commit)
    print(f"\n{tables(lines)}", flush=True)
    if args.results:
        results.replace_measured(args.results, result_rows(lines), together=True)


if __name__ == "__main__":
    main()
