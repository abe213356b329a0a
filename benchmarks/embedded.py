"""What comparisons on the embedded benchmark share: training runs that can be repeated, rows of results."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from effvid_jax.reports import results

DATASET = "embedded benchmark (3000 train, 800 val clips)"


def arguments(doc: str, workdir: str, more: Callable = lambda parser: None):
    """(parsed arguments, further flags for `main.py`) of a comparison's command line.

    Args:
        doc: docstring of the comparison.
        workdir: the default one.
        more: adds further arguments to a parser.
    """
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--workdir", default=workdir)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--results", default=os.path.join(ROOT, "docs", "results.csv"))
    parser.add_argument("--collect", action="store_true", help="only report what is finished")
    more(parser)
    args, extra = parser.parse_known_args()
    args.workdir = os.path.abspath(args.workdir)
    args.seeds = [int(seed) for seed in args.seeds.split(",")]
    return args, extra


def train(workdir: str, seed: int, run: str, config: str, flags: Sequence[str],
          configs: str = "configs/") -> None:
    """One run as a user would start it, unless it is finished. Seeds share the clips.

    Args:
        workdir: of the comparison; the run's is `seed<seed>/<run>` in it.
        seed: of weights, batches and augmentation.
        run: name of the folder.
        config: file in `configs/`, with arguments.
        flags: further ones of `main.py`.
        configs: what stands before `config` in place of that folder.
    """
    folder = os.path.join(workdir, f"seed{seed}", run)
    if os.path.exists(os.path.join(folder, "metrics.json")):
        return
    command = [sys.executable, "main.py", f"--config={configs}{config}", f"--workdir={folder}",
               f"--config.seed={seed}", f"--config.data.seed={seed}",
               f"--config.data.root={workdir}/benchmark", *flags]
    print("$", " ".join(command[1:]), flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


def read(workdir: str, seeds: Sequence[int], stage: str) -> list[dict]:
    """Final metrics of a run (or of one stage of it, `run/stage`), one a seed that is finished."""
    found = []
    for seed in seeds:
        path = os.path.join(workdir, f"seed{seed}", stage, "metrics.json")
        if os.path.exists(path):
            with open(path) as f:
                found.append(json.load(f))
    return found


def row(what: str, values: Sequence[float], form: str, config: str, command: str,
        seeds: Sequence[int], dataset: str = DATASET) -> dict[str, str]:
    """A row of `docs/results.csv`: mean and standard deviation over the seeds, and how it was made."""
    spread = format(statistics.stdev(values), form.lstrip("+")) if len(values) > 1 else ""
    return results.make_row(
        what, format(statistics.mean(values), form), dataset=dataset, config=config,
        command=f"{command} --seeds {','.join(map(str, seeds))}", seeds=seeds,
        spread=spread if float(spread.replace(",", "") or 0) else "")


def replace_table(path: str, table: str, rows: Sequence[dict[str, str]]) -> None:
    """Writes the rows of one table (`what` begins with its name) in place of its old ones."""
    results.replace_rows(path, rows, lambda row: row["what"].startswith(f"{table}: "))
