"""Mean of the final metrics of several runs, such as the three official splits of UCF-101 and HMDB-51.

    python -m effvid_jax.reports.mean_of_splits runs/ucf101_1 runs/ucf101_2 runs/ucf101_3

Prints a line a metric, with the values of the runs, then one JSON object of the means.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence

from effvid_jax import writers
from effvid_jax.errors import UserError
from effvid_jax.signals import told


def read(workdirs: Sequence[str]) -> list[dict]:
    """`metrics.json` of every run.

    Raises:
        UserError: a run is given twice, or has no final metrics.
    """
    if len(set(map(os.path.abspath, workdirs))) < len(workdirs):
        raise UserError(f"a workdir is given twice: {', '.join(workdirs)}.")
    found = []
    for workdir in workdirs:
        path = os.path.join(workdir, "metrics.json")
        if not os.path.exists(path):
            raise UserError(f"{path} is missing: give workdirs of finished runs.")
        found.append(writers.read_json(path))
    return found


def mean(results: Sequence[dict]) -> dict[str, float]:
    """Means of the numbers that all runs have; `step`s and counts included."""
    names = [name for name, value in results[0].items()
             if all(isinstance(r.get(name), (int, float)) for r in results)]
    return {name: statistics.fmean(r[name] for r in results) for name in names}


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module docstring."""
    parser = argparse.ArgumentParser(prog="python -m effvid_jax.reports.mean_of_splits", description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("workdir", nargs="+")
    args = parser.parse_args(argv)
    try:
        results = read(args.workdir)
    except ValueError as error:
        sys.exit(f"effvid_jax.reports.mean_of_splits: {error}")
    means = mean(results)
    for name, value in means.items():
        print(f"{name:28} {value:10.6g}   ({', '.join(f'{r[name]:.6g}' for r in results)})")
    print(json.dumps(means))


if __name__ == "__main__":
    sys.exit(told(main))
