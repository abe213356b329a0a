"""The tables of docs/scale.md: which chips the recipes fit, and a step on 8, 64 and 256 of them.

    python benchmarks/scale.py --workdir runs/scale --write docs/scale.md     # again: goes on
    python benchmarks/scale.py --workdir runs/scale --only reskd_minik_8,va_red2_minik_8

Needs libtpu and, for all rows, an hour on two cores: each is `python -m effvid_jax.ahead` in a process of its
own, whose rows are kept as json in --workdir. What does not compile, or not in time, is a row that says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import tabulate

from effvid_jax import writers
from effvid_jax.ahead import report

RESKD, SLOWONLY, SWIN = "reskd_minik.py", "reskd_k400.py", "reskd_k400.py:backbone=swin3d_s"
EXITS, GATES = "dynamic_k400.py:backbone=msdnet_38", "va_red2_k400.py:frames=16"
BFLOAT = ("--config.model.dtype=bfloat16", "--config.method.teacher_dtype=bfloat16")


def larger(chips: int, *more: str) -> tuple[str, ...]:
    """Flags for a batch of eight clips a chip, training alone."""
    return (f"--config.data.batch_size={8 * chips}", f"--config.data.eval_batch_size={chips}",
            "--steps=train", *more)


# name: config, topology, flags.
FITS = {
    "reskd_minik_8": (RESKD, "v5e:2x4", ()), "dynamic_k400_8": (EXITS, "v5e:2x4", ()),
    "va_red2_k400_8": (GATES, "v5e:2x4", ()), "reskd_minik_v6e": (RESKD, "v6e:2x4", ()),
    "dynamic_k400_v6e": (EXITS, "v6e:2x4", ()), "va_red2_k400_v6e": (GATES, "v6e:2x4", ()),
    "slowonly_8": (SLOWONLY, "v5e:2x4", ()), "slowonly_v6e": (SLOWONLY, "v6e:2x4", ()),
    "swin_v6e": (SWIN, "v6e:2x4", ()),
    "swin_v6e_fsdp": (SWIN, "v6e:2x4", ("--config.train.fsdp=8", "--config.model.remat=block")),
}
SCALES = {f"{name}_{chips}": (config, topology, larger(chips))
          for name, config in (("reskd_minik", RESKD), ("dynamic_k400", EXITS), ("va_red2_k400", GATES))
          for chips, topology in ((64, "v5e:8x8"), (256, "v5e:16x16"))}
SCALES |= {f"{name}_{chips}_bf16": (config, topology, larger(chips, *BFLOAT[:1 + (config == RESKD)]))
           for name, config in (("reskd_minik", RESKD), ("dynamic_k400", EXITS), ("va_red2_k400", GATES))
           for chips, topology in ((8, "v5e:2x4"), (256, "v5e:16x16"))}


def rows_of(workdir: str, name: str, limit: float) -> list[dict]:
    """Rows of one call, made unless they are there; a row with `problem` where there are none."""
    config, topology, more = (FITS | SCALES)[name]
    path = os.path.join(workdir, f"{name}.json")
    if not os.path.exists(path):
        command = [sys.executable, "-m", "effvid_jax.ahead", f"--config=configs/{config}", "--no_lower",
                   "--json", f"--topology={topology}", *more]
        try:
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=limit)
            rows = json.loads(done.stdout or "[]")
            problem = "" if rows else (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:200]
        except subprocess.TimeoutExpired:
            rows, problem = [], f"not compiled within {limit:.0f} s"
        rows = rows or [{"stage": name, "step": "train, eval", "topology": topology, "problem": problem,
                         "fits": None}]
        writers.write_text(path, json.dumps(rows, indent=2))
    with open(path) as f:
        return json.load(f)


def clip_bytes(row: dict) -> int:
    """Bytes of one clip as it goes to a chip, uint8."""
    frames, side = map(int, row["clip"].split(" x "))
    return frames * side * side * 3


def scaling(rows) -> list[tuple]:
    """Lines of the second table, of train steps."""
    lines = []
    for row in sorted(rows, key=lambda row: (row["backbone"], row["dtype"], row["chips"])):
        rate = row["batch"] / row["step_seconds"] / row["chips"]
        lines.append((row["stage"], row["dtype"], row["chips"], row["batch"],
                      *(f"{1e3 * row[f'{key}_seconds']:.1f}"
                        for key in ("compute", "memory", "links", "step")),
                      f"{rate:,.0f}", f"{rate * clip_bytes(row) / 1e6:,.0f}"))
    return lines


COLUMNS = ("recipe", "type", "chips", "clips a step", "compute (ms)", "memory (ms)", "links (ms)",
           "step (ms)", "clips/s a chip", "MB/s a chip")


def main(argv=None) -> int:
    """Makes what is missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="keeps rows as json")
    parser.add_argument("--only", default="", help=f"some of {', '.join(FITS | SCALES)}")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for one call")
    parser.add_argument("--write", default="", help="page whose tables are replaced")
    args = parser.parse_args(argv)
    os.makedirs(args.workdir, exist_ok=True)
    names = args.only.split(",") if args.only else list(FITS | SCALES)
    found = {}
    for name in names:
        found[name] = rows_of(args.workdir, name, args.limit)
        print(name, *map(report.told_short, found[name]), sep="\n  ", flush=True)
    fits = [row for name in names if name in FITS for row in found[name]]
    train = [row for name in names for row in found[name]
             if row["step"] == "train" and "step_seconds" in row and row["topology"].startswith("v5e")]
    tables = {"chips": report.table(fits), "steps": tabulate.tabulate(
        scaling(train), COLUMNS, tablefmt="github", disable_numparse=True)}
    print("\n\n".join(tables.values()))
    if args.write:
        with open(args.write) as f:
            page = f.read()
        for name, text in tables.items():
            first, last = f"<!-- scale: {name} -->", f"<!-- /scale: {name} -->"
            head, _, rest = page.partition(first)
            page = f"{head}{first}\n\n{text}\n\n{last}{rest.partition(last)[2]}"
        writers.write_text(args.write, page)
    return int(any(row["fits"] is None for row in fits))


if __name__ == "__main__":
    sys.exit(main())
