"""VA-RED2 on tasks beyond classification, on their embedded forms: the shape of the paper's Tables 8 and 11.

    python benchmarks/va_red2_tasks.py --task localisation --backbone i3d_tp --seeds 0,1,2
    python benchmarks/va_red2_tasks.py --task segmentation --seeds 0,1,2

Per seed: a static network (I3D's from the weights of a classifier, one for all seeds), and from its weights,
with as many further steps each, the static network itself (the control that a fair comparison needs) and the
gated one. A run that is finished is not trained again, one that was interrupted goes on; `--collect` trains
none; what is reported are the rows of which all seeds are finished. They go to `docs/results.csv`.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import embedded

FIRST, CONTROL, GATES = "start", "static", "dynamic"
TRUNK = "trunk"


class Experiment(NamedTuple):
    """A network of a task.

    Attributes:
        config: with arguments; `static` is added for the plain network.
        steps: of the first run, and of each that starts from it.
        flags: of `main.py`, for the gated network.
        again: of `main.py`, for both networks that start from the first one.
        trunk: config of what the first one starts from, and its steps; ("", 0): from scratch.
        metrics: {column: metric of the split}, in percent; the first one is what must not be lost.
        data: what it is trained on, in words.
        encoder: whether the paper's cost is that of the backbone alone: its columns are there as well.
    """

    config: str
    steps: tuple[int, int]
    flags: tuple[str, ...]
    metrics: dict[str, str]
    data: str
    encoder: bool = False
    again: tuple[str, ...] = ()
    trunk: tuple[str, int] = ("", 0)


BOXES = "embedded benchmark of localisation (2400 train, 600 val key frames)"
_FOUND = {"frame-mAP (%)": "map", "recall (%)": "recall", "classification (%)": "classification"}
_LESS = ("--config.optim.lr=0.002",)  # half of the first run's: it is no beginning
# Every frame, as the published recipe; the first run has every other one, in half the time.
_DENSE = ("--config.data.num_frames=8", "--config.data.frame_interval=1")
SCENES = "embedded benchmark of segmentation (1500 train, 300 val images)"
EXPERIMENTS: dict[str, dict[str, Experiment]] = {
    "localisation": {
        "i3d_tp": Experiment(
            "localise_jhmdb.py:demo,backbone=i3d_tp", (3000, 1000), ("--config.method.target=0.685",), _FOUND,
            BOXES, again=(*_LESS, *_DENSE), trunk=("va_red2_minik.py:demo,backbone=i3d_tp,static", 1500)),
        "x3d_m": Experiment("localise_jhmdb.py:demo,backbone=x3d_m", (1500, 1000), (), _FOUND, BOXES,
                            again=_LESS),
    },
    "segmentation": {
        "dilated_resnet18": Experiment(
            "segment_ade20k.py:demo", (500, 1000), ("--config.method.target=0.8",),
            {"mean IoU (%)": "mean_iou", "pixel accuracy (%)": "pixel_accuracy"}, SCENES, encoder=True),
    },
}


def train(workdir: str, seed: int, experiment: Experiment, name: str, folder: str, extra) -> None:
    """One run, after the one that it starts from."""
    config = experiment.config + ("" if name == GATES else ",static")
    flags = ["--config.run=", f"--config.train.num_steps={experiment.steps[name != FIRST]}"]
    if name != FIRST:
        flags.append(f"--config.init.checkpoint={os.path.join(workdir, f'seed{seed}', folder, FIRST)}")
        flags.append(f"--config.init.skip={'gate|cheap_' if name == GATES else ''}")
        flags += experiment.again
    elif (trunk := experiment.trunk)[0]:
        embedded.train(workdir, 0, f"{folder}/{TRUNK}", trunk[0],
                       ["--config.run=", f"--config.train.num_steps={trunk[1]}", *extra])
        flags.append(f"--config.init.checkpoint={os.path.join(workdir, 'seed0', folder, TRUNK)}")
    flags += experiment.flags if name == GATES else ()
    embedded.train(workdir, seed, f"{folder}/{name}", config, [*flags, *extra])


def main() -> None:
    """Trains what is missing, prints the table, replaces its rows in the results."""
    def more(parser):
        parser.add_argument("--task", required=True, choices=EXPERIMENTS)
        parser.add_argument("--backbone", default="", help="of the task; all of them by default")

    args, extra = embedded.arguments(__doc__, "runs/va_red2_tasks", more)
    known = EXPERIMENTS[args.task]
    if args.backbone and args.backbone not in known:
        raise SystemExit(f"--backbone={args.backbone}: task {args.task} has {', '.join(known)}.")
    names = [args.backbone] if args.backbone else list(known)
    for seed in () if args.collect else args.seeds:
        for backbone in names:
            for run in (FIRST, CONTROL, GATES):
                train(args.workdir, seed, known[backbone], run, f"{args.task}/{backbone}", extra)
    for backbone in names:
        report(args, backbone, known[backbone])


def report(args, backbone: str, experiment: Experiment) -> None:
    """Prints and stores the rows of a network, if all its seeds are finished."""
    folder = f"{args.task}/{backbone}"
    static, gated = (embedded.read(args.workdir, args.seeds, f"{folder}/{name}") for name in (CONTROL, GATES))
    table = f"va_red2_{args.task}: {backbone}"
    if min(len(static), len(gated)) < len(args.seeds):
        print(f"{table}: not finished")
        return
    rows = []
    for name, found in ((CONTROL, static), (GATES, gated)):
        columns = {column: ([100 * m[f"val/{key}"] for m in found], ".1f")
                   for column, key in experiment.metrics.items()}
        first = next(iter(experiment.metrics.values()))
        columns |= {
            "against static (points)": ([100 * (m[f"val/{first}"] - s[f"val/{first}"])
                                         for m, s in zip(found, static, strict=True)], "+.1f"),
            "GMACs (10⁻³)": ([1e3 * m["val/gmacs"] for m in found], ".1f"),
            "least": ([1e3 * m.get("val/gmacs_min", m["val/gmacs"]) for m in found], ".1f"),
            "most": ([1e3 * m.get("val/gmacs_max", m["val/gmacs"]) for m in found], ".1f"),
            "saved (%)": ([100 * (1 - m["val/gmacs"] / s["val/gmacs"])
                           for m, s in zip(found, static, strict=True)], ".1f")}
        if experiment.encoder:
            columns |= {
                "encoder, GMACs (10⁻³)": ([1e3 * m["val/gmacs_backbone"] for m in found], ".1f"),
                "encoder, saved (%)": ([100 * (1 - m["val/gmacs_backbone"] / s["val/gmacs_backbone"])
                                        for m, s in zip(found, static, strict=True)], ".1f")}
        command = f"python benchmarks/va_red2_tasks.py --task {args.task} --backbone {backbone}"
        config = experiment.config + ("" if name == GATES else ",static")
        made = [{**embedded.row(f"{table} {name}: {column}", values, form, config, command, args.seeds),
                 "dataset": experiment.data} for column, (values, form) in columns.items()]
        rows += made
        print(f"{table} {name}: " + "; ".join(
            f"{column} {row['value']} +- {row['spread'] or 0}" for column, row in zip(columns, made)))
    embedded.results.replace_rows(args.results, rows, lambda row: row["what"].startswith(f"{table} "))


if __name__ == "__main__":
    main()
