"""The ResKD comparison on the embedded benchmark: three seeds, every row of the paper's Table 6.

    python benchmarks/reskd_embedded.py --workdir runs/reskd_embedded --seeds 0,1,2

Per seed: a deep teacher at 64 pixels, the plain network at 32, the ResKD student at 32 (deep teacher, high
resolution), model distillation (deep teacher at 32) and resolution distillation (a teacher like the
student, at 64). Seeds share the clips; a seed sets weights, batches and augmentation. A stage that is
finished is not trained again, so the command can be stopped and repeated. Rows go to `docs/results.csv`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from effvid_jax import results, writers  # noqa: E402

RUNS = {  # folder: (config, further flags)
    "reskd": ("reskd_minik.py:demo", ["--config.run=teacher,baseline,student"]),
    "resolution": ("reskd_minik.py:demo,distill=resolution", ["--config.run=teacher,student"]),
    "model": ("reskd_minik.py:demo,distill=model", ["--config.run=teacher,student"]),
    # The released baselines crop and resize at low resolution; students crop at high resolution and
    # shrink inside the model, which keeps more detail of small crops. This is the plain network with
    # the students' input, so that distillation is not credited with it.
    "control": ("supervised_minik.py:demo", ["--config.model.resolution=32"]),
}
ROWS = {  # row of the table: stage
    "deep teacher, 64 px": "reskd/teacher",
    "teacher like the student, 64 px": "resolution/teacher",
    "deep teacher, 32 px": "model/teacher",
    "plain network, 32 px": "reskd/baseline",
    "plain network, 32 px shrunk from 64 as the student's": "control",
    "model distillation, 32 px": "model/student",
    "resolution distillation, 32 px": "resolution/student",
    "ResKD, 32 px": "reskd/student",
}


def train(workdir: str, seed: int, extra: list[str]) -> None:
    """All runs of one seed that are not finished yet, as a user would start them."""
    for run, (config, flags) in RUNS.items():
        folder = os.path.join(workdir, f"seed{seed}", run)
        command = [
            sys.executable, "main.py", f"--config=configs/{config}", f"--workdir={folder}",
            f"--config.seed={seed}", f"--config.data.seed={seed}",
            f"--config.data.root={workdir}/benchmark", *flags, *extra]
        if not os.path.exists(os.path.join(folder, "metrics.json")):
            print("$", " ".join(command[1:]), flush=True)
            subprocess.run(command, cwd=ROOT, check=True)


def collect(workdir: str, seeds: list[int]) -> list[dict[str, str]]:
    """Rows of `docs/results.csv`: mean and standard deviation over the seeds, and the cost."""
    here = writers.environment()
    common = {
        "dataset": "embedded benchmark (3000 train, 800 val clips)", "config": "reskd_minik.py:demo",
        "command": "python benchmarks/reskd_embedded.py --seeds " + ",".join(map(str, seeds)),
        "seeds": ",".join(map(str, seeds)), "paper": "", "hardware": f"{here['cpus']} CPU cores",
        "versions": f"python {here['versions']['python']}, jax {here['versions']['jax']}",
        "commit": here["commit"]}
    rows = []
    for row, stage in ROWS.items():
        found = []
        for seed in seeds:
            with open(os.path.join(workdir, f"seed{seed}", stage, "metrics.json")) as f:
                found.append(json.load(f))
        top1 = [100 * metrics["val/top1"] for metrics in found]
        rows += [
            {"what": f"reskd: {row}: top-1 (%)", "value": f"{statistics.mean(top1):.1f}",
             "spread": f"{statistics.stdev(top1):.1f}" if len(top1) > 1 else ""} | common,
            {"what": f"reskd: {row}: GMACs", "value": f"{found[0]['val/gmacs']:.3f}",
             "spread": ""} | common,
            {"what": f"reskd: {row}: params", "value": f"{found[0]['params']:,}", "spread": ""} | common]
        print(f"{row:52s} {rows[-3]['value']:>5s} % +- {rows[-3]['spread']}, {rows[-2]['value']} GMACs")
    return rows


def main() -> None:
    """Trains what is missing, prints the table, replaces its rows in the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", default="runs/reskd_embedded")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--results", default=os.path.join(ROOT, "docs", "results.csv"))
    args, extra = parser.parse_known_args()
    workdir = os.path.abspath(args.workdir)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    for seed in seeds:
        train(workdir, seed, extra)
    rows = collect(workdir, seeds)
    old = results.read_rows(args.results) if os.path.exists(args.results) else []
    kept = [row for row in old if not row["what"].startswith("reskd: ")]
    with open(args.results, "w", newline="") as f:
        table = csv.DictWriter(f, results.COLUMNS)
        table.writeheader()
        table.writerows(kept + rows)


if __name__ == "__main__":
    main()
