"""Dynamic Inference on the embedded benchmark: schemes, self-distillation between exits, stop rules.

    python benchmarks/dynamic_embedded.py --workdir runs/dynamic_embedded --seeds 0,1,2
    python benchmarks/dynamic_embedded.py --only distill

A network of the ResNet family with three exits, 8 frames of 64 pixels, 500 steps. Thresholds are chosen on
held-out training clips for a mean cost of 53 % of full inference (the last head alone on all frames), and
applied to the validation split. Three tables:

    schemes    the four schemes, with and without online shift
    distill    unified route, online shift: with and without the last checkpoint as a teacher of the others
               (`method.distill_weight`)
    rules      one such network a seed, evaluated by every stop rule for the same budget

A run that is finished is not trained again; `--collect` trains nothing and reports the rows of which all
seeds are finished. Rows go to `docs/results.csv`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import embedded

from effvid_jax import writers

SCHEMES = {"unified": "unified", "depth": "depth", "permuted": "input, permuted order",
           "input": "input, natural order"}
SHIFTS = {"online": "online shift", "none": "no shift"}
DISTILLED = {"no distillation": (0.0, 1.0), "weight 1, temperature 1": (1.0, 1.0),
             "weight 1, temperature 3": (1.0, 3.0)}
RULES = {"confidence": (), "margin": (), "entropy": (), "patience": (), "learned": (),
         "patience, two in a row": ("patience=2",)}
TABLES = ("schemes", "distill", "rules")
CONFIG = "dynamic_k400.py:demo"
UNIFIED = f"{CONFIG},scheme=unified,shift=online"
COMMAND = "python benchmarks/dynamic_embedded.py"
FLAGS = ["--config.method.budget=0.53"]


def runs(table: str) -> dict[str, tuple[str, str, list[str]]]:
    """What a table needs: name of a row -> folder of its run, config, further flags."""
    if table == "schemes":
        return {f"{SCHEMES[scheme]}, {SHIFTS[shift]}": (
            f"{scheme}_{shift}", f"{CONFIG},scheme={scheme},shift={shift}", [])
            for shift in SHIFTS for scheme in SCHEMES}
    if table == "distill":
        return {name: ("unified_online" if not weight else f"distilled_{weight:g}_{temperature:g}", UNIFIED,
                       [f"--config.method.distill_weight={weight}",
                        f"--config.method.distill_temperature={temperature}"] if weight else [])
                for name, (weight, temperature) in DISTILLED.items()}
    return {name: ("judged", UNIFIED, ["--config.model.exits.judge=32"]) for name in RULES}


def by_rule(folder: str, name: str) -> dict:
    """Metrics of a trained network by a stop rule."""
    path = os.path.join(folder, f"rule_{name.replace(', ', '_').replace(' ', '_')}.json")
    if not os.path.exists(path):
        flags = [f"rule={name.split(',')[0]}", *RULES[name]]
        command = [sys.executable, "main.py", "--mode=eval", f"--workdir={folder}",
                   *(f"--config.method.{flag}" for flag in flags)]
        print("$", " ".join(command[1:]), flush=True)
        done = subprocess.run(command, cwd=embedded.ROOT, check=True, stdout=subprocess.PIPE, text=True)
        writers.write_text(path, done.stdout.splitlines()[-1])
    with open(path) as f:
        return json.load(f)


def columns(table: str, found: list[dict]) -> dict[str, list[float]]:
    """{column: a value a seed} of a row."""
    out = {"full, top-1 (%)": [100 * m["val/full_top1"] for m in found]}
    if table == "distill":
        exits = sorted(name for name in found[0] if name.startswith("val/exit") and name.endswith("top1"))
        out |= {f"checkpoint {k}, top-1 (%)": [100 * m[name] for m in found]
                for k, name in enumerate(exits[:-1], 1)}
    return out | {
        "dynamic, top-1 (%)": [100 * m["val/top1"] for m in found],
        "difference (points)": [100 * (m["val/top1"] - m["val/full_top1"]) for m in found],
        "cost (% of full)": [100 * m["val/gmacs"] / m["val/full_gmacs"] for m in found]}


def collect(args, table: str) -> None:
    """Prints a table and replaces its rows in the results."""
    rows, title = [], "dynamic" if table == "schemes" else f"dynamic_{table}"
    command = COMMAND + ("" if table == "schemes" else f" --only {table}")
    for name, (folder, config, _) in runs(table).items():
        found = embedded.read(args.workdir, args.seeds, folder)
        if len(found) < len(args.seeds):
            print(f"{name}: not finished")
            continue
        if table == "rules":
            found = [by_rule(os.path.join(args.workdir, f"seed{seed}", folder), name) for seed in args.seeds]
        new = [embedded.row(f"{title}: {name}: {column}", values, ".1f", config, command, args.seeds)
               for column, values in columns(table, found).items()]
        print(f"{name:42s}", "; ".join(f"{row['what'].split(': ')[-1]} {row['value']} +- {row['spread'] or 0}"
                                       for row in new))
        rows += new
    embedded.replace_table(args.results, title, rows)


def main() -> None:
    """Trains what is missing, prints the tables, replaces their rows in the results."""
    def more(parser):
        parser.add_argument("--only", default=",".join(TABLES), help=f"tables, of {','.join(TABLES)}")

    args, extra = embedded.arguments(__doc__, "runs/dynamic_embedded", more)
    tables = args.only.split(",")
    if unknown := set(tables) - set(TABLES):
        sys.exit(f"--only={args.only}: {', '.join(sorted(unknown))} unknown; "
                 f"expected some of {','.join(TABLES)}.")
    for table in tables:
        for folder, config, flags in () if args.collect else runs(table).values():
            for seed in args.seeds:
                embedded.train(args.workdir, seed, folder, config, [*FLAGS, *flags, *extra])
    for table in tables:
        collect(args, table)


if __name__ == "__main__":
    main()
