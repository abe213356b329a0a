"""Dynamic Inference on the embedded benchmark: the four schemes, with and without online shift.

    python benchmarks/dynamic_embedded.py --workdir runs/dynamic_embedded --seeds 0,1,2

A network of the ResNet family with three exits, 8 frames of 64 pixels, 500 steps. Thresholds are chosen on
held-out training clips for a mean cost of 53 % of full inference (the last head alone on all frames), and
applied to the validation split. A run that is finished is not trained again; `--collect` trains nothing and
reports the rows of which all seeds are finished. Rows go to `docs/results.csv`.
"""

from __future__ import annotations

import embedded

SCHEMES = {"unified": "unified", "depth": "depth", "permuted": "input, permuted order",
           "input": "input, natural order"}
SHIFTS = {"online": "online shift", "none": "no shift"}
CONFIG = "dynamic_k400.py:demo"
COMMAND = "python benchmarks/dynamic_embedded.py"
FLAGS = ["--config.method.budget=0.53"]


def main() -> None:
    """Trains what is missing, prints the table, replaces its rows in the results."""
    args, extra = embedded.arguments(__doc__, "runs/dynamic_embedded")
    grid = [(scheme, shift) for shift in SHIFTS for scheme in SCHEMES]
    for scheme, shift in () if args.collect else grid:
        for seed in args.seeds:
            embedded.train(args.workdir, seed, f"{scheme}_{shift}",
                           f"{CONFIG},scheme={scheme},shift={shift}", [*FLAGS, *extra])
    rows = []
    for scheme, shift in grid:
        found = embedded.read(args.workdir, args.seeds, f"{scheme}_{shift}")
        if len(found) < len(args.seeds):
            print(f"{SCHEMES[scheme]}, {SHIFTS[shift]}: not finished")
            continue
        name = f"{SCHEMES[scheme]}, {SHIFTS[shift]}"
        columns = {
            "full, top-1 (%)": [100 * m["val/full_top1"] for m in found],
            "dynamic, top-1 (%)": [100 * m["val/top1"] for m in found],
            "difference (points)": [100 * (m["val/top1"] - m["val/full_top1"]) for m in found],
            "cost (% of full)": [100 * m["val/gmacs"] / m["val/full_gmacs"] for m in found]}
        rows += [embedded.row(f"dynamic: {name}: {column}", values, ".1f",
                              f"{CONFIG},scheme={scheme},shift={shift}", COMMAND, args.seeds)
                 for column, values in columns.items()]
        print(f"{name:42s}", "; ".join(f"{c} {r['value']} +- {r['spread'] or 0}" for c, r in zip(
            columns, rows[-len(columns):])))
    embedded.replace_table(args.results, "dynamic", rows)


if __name__ == "__main__":
    main()
