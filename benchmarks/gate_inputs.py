"""VA-RED2: what a gate should see, on clips that are hard and redundant on purpose.

    python benchmarks/gate_inputs.py --workdir runs/gate_inputs --seeds 0,1,2

The clips are those of `configs/va_red2_minik.py:demo,hard`: difficulty up to 1, and half of them held, which
means that every other of their eight frames repeats the one before. Halving the frames costs a held clip
nothing, so a gate that sees what it decides about makes it cheaper than others. Per seed a static network (a
small R(2+1)D of width 8), and from its weights, with as many further steps each, the static network itself
and every form of the gate. All forms are brought to the same cost, 0.7 of the static one, by
`config.method.target`; so what differs is accuracy, and which clips the cost is spent on. A run that is
finished is not trained again; `--rows` trains some rows, `--collect` none. What is reported are the rows of
which all seeds are finished; they go to `docs/results.csv`.
"""

from __future__ import annotations

import csv
import functools
import glob
import os

import embedded
import numpy as np

CONFIG = "va_red2_minik.py:demo,hard"
COMMAND = "python benchmarks/gate_inputs.py"
DATASET = "embedded benchmark, difficulty 1, half of the clips held (1600 train, 800 val clips)"
START, CONTROL = "start", "static"
ALL = "mean+difference+deviation"
WIDE_AWAKE = ["--config.method.gate_normalise=True", "--config.method.gate_scale=0.1"]
COMMON = ["--config.run=", "--config.model.options.width=8", "--config.data.synthetic.train_clips=1600"]
GATES = ["--config.method.target=0.7", "--config.method.efficiency_weight=5.0"]
STEPS = {START: 1500}  # of the network that others start from
FURTHER = 300  # of these
ROWS = {  # name: flags; norm: by running statistics; scale: of the last layer, ten times the usual
    START: [],
    CONTROL: [],
    "mean (the paper's)": [],
    "all three + norm + scale": [f"--config.method.gate_inputs={ALL}", *WIDE_AWAKE],
    "mean and differences": ["--config.method.gate_inputs=mean+difference"],
    "mean + norm + scale": WIDE_AWAKE,
    "all three + norm + scale + discrete": [
        f"--config.method.gate_inputs={ALL}", *WIDE_AWAKE, "--config.method.discrete=True"],
    "differences of frames": ["--config.method.gate_inputs=difference"],
    "deviation over space": ["--config.method.gate_inputs=deviation"],
    "mean + scale": ["--config.method.gate_scale=0.1"],
    "mean + norm": ["--config.method.gate_normalise=True"],
    "all three": [f"--config.method.gate_inputs={ALL}"],
    "mean + discrete": ["--config.method.discrete=True"],
}


def folder(name: str) -> str:
    """Of a row's run, below the seed's."""
    return "".join(c if c.isalnum() else "_" for c in name)


def train(workdir: str, seed: int, name: str, extra) -> None:
    """One run, and the one it starts from."""
    static = name in (START, CONTROL)
    flags = [*COMMON, f"--config.train.num_steps={STEPS.get(name, FURTHER)}", *([] if static else GATES),
             *ROWS[name]]
    if name != START:
        train(workdir, seed, START, extra)
        flags.append(f"--config.init.checkpoint={os.path.join(workdir, f'seed{seed}', folder(START))}")
    embedded.train(workdir, seed, folder(name), CONFIG + ",static" * static, [*flags, *extra])


@functools.cache
def redundancy(workdir: str) -> dict[str, float]:
    """{name of a validation clip: share of its frames that repeat another one}."""
    found = {}
    for path in glob.glob(os.path.join(workdir, "benchmark", "*", "val_clips.csv")):
        with open(path, newline="", encoding="utf-8") as f:
            found |= {row["path"]: 1 - int(row["pictures"]) / int(row["frames"]) for row in csv.DictReader(f)}
    return found


def look(workdir: str, seed: int, name: str, static: float) -> dict[str, float]:
    """What the clips of a run cost: means and spread in % of the static network, correlation with redundancy.

    Args:
        workdir, seed, name: of the run.
        static: GMACs of the static network.
    """
    known = redundancy(workdir)
    with np.load(os.path.join(workdir, f"seed{seed}", folder(name), "predictions_val.npz")) as rows:
        cost = 100 * rows["gmacs"] / static
        repeated = np.array([known["/".join(str(clip).split("/")[-3:])] for clip in rows["name"]])
        right = rows["scores"].argmax(axis=1) == rows["label"]
    return {**of_clips(cost, repeated), "top-1, held (%)": 100 * right[repeated > 0].mean(),
            "top-1, others (%)": 100 * right[repeated == 0].mean()}


def of_clips(cost, repeated) -> dict[str, float]:
    """Spread and correlation of the cost of clips, both (N,); no spread is no correlation."""
    spread = cost.std()
    return {"spread (points)": spread,
            "held (%)": cost[repeated > 0].mean(), "others (%)": cost[repeated == 0].mean(),
            "correlation with redundancy":
                np.corrcoef(cost, repeated)[0, 1] if spread > 1e-6 * cost.mean() else 0.0}


def table(workdir: str, seeds) -> list[dict[str, str]]:
    """Rows of the results, of what all seeds have; prints them."""
    static = embedded.read(workdir, seeds, folder(CONTROL))
    rows = []
    for name in (name for name in ROWS if name != START):
        found = embedded.read(workdir, seeds, folder(name))
        if len(found) < len(seeds) or len(static) < len(seeds):
            print(f"{name}: not finished")
            continue
        seen = [look(workdir, seed, name, s["val/gmacs"]) for seed, s in zip(seeds, static)]
        columns = {
            "top-1 (%)": ([100 * m["val/top1"] for m in found], ".1f"),
            "against static (points)": ([100 * (m["val/top1"] - s["val/top1"])
                                         for m, s in zip(found, static)], "+.1f"),
            "cost (% of static)": ([100 * m["val/gmacs"] / s["val/gmacs"]
                                    for m, s in zip(found, static)], ".1f"),
        } | {key: ([one[key] for one in seen], "+.2f" if "corr" in key else ".1f") for key in seen[0]}
        flags = "static" if name == CONTROL else " ".join(GATES + ROWS[name])
        made = [embedded.row(f"gate_inputs: {name}: {column}", values, form, f"{CONFIG}, {flags}",
                             COMMAND, seeds) | {"dataset": DATASET}
                for column, (values, form) in columns.items()]
        rows += made
        print(f"{name}: " + "; ".join(
            f"{column} {r['value']} +- {r['spread'] or 0}" for column, r in zip(columns, made)))
    return rows


def main() -> None:
    """Trains what is missing, prints the table, replaces its rows in the results."""
    def more(parser):
        parser.add_argument("--rows", default="", help="comma-separated beginnings of names; all by default")

    args, extra = embedded.arguments(__doc__, "runs/gate_inputs", more)
    for name in (name for name in ROWS if name.startswith(tuple(args.rows.split(",")))):
        for seed in () if args.collect else args.seeds:
            train(args.workdir, seed, name, extra)
    if rows := table(args.workdir, args.seeds):
        embedded.replace_table(args.results, "gate_inputs", rows)


if __name__ == "__main__":
    main()
