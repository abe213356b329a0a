"""Training x testing resolution: accuracy, multiply-adds and throughput of every pair, table and figure.

    python -m effvid_jax.analysis.resolutions --config=configs/reskd_actnet.py --workdir=runs/table4 \\
        --config.method.teacher=runs/actnet_teacher --train=224,144,112,96,72,56             # ResKD, Table 4
    python -m effvid_jax.analysis.resolutions --config=configs/supervised_minik.py:demo \\
        --workdir=runs/motivation --train=224,112,112to224 --test=224,112,112to224    # both experiments

ResKD (arXiv 2209.12797): Table 4, and the two experiments with which the paper asks why a network that is
trained on low resolution is worse. Their protocol is not published; these are the questions in its words:

    "quality of low-resolution frames"       112to224: clips with the detail of 112 pixels, enlarged to 224,
                                             before a network that is not changed (`config.data.quality`)
    "mismatch between network and scale"     a network that is trained at 224 and tested at 112, and the
                                             other way round

--train and --test are conditions, each a value of the config file's argument `resolution`, or `LOWtoHIGH`.
A row is a network trained in one condition (in WORKDIR/<condition>), a column the videos as another condition
tests them; without --test all pairs of equal conditions. The embedded benchmark (`:demo`, `:tiny`) has its
own pixels for them (64 for 224), which is `side` in the table.

Finished networks and cells are not made again: the command goes on where it stopped. Writes to --out (WORKDIR
by default) `resolutions.csv`, a line a cell, `resolutions.png` and `.svg`. GMACs are per video with all its
views, `gmacs_mmcv` in the counting of the paper (`effvid_jax.cost`); throughput is of clips on this device,
random weights, resolutions in turns. Throughput alone, without data: `benchmarks/resolution.py`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import NamedTuple

import jax
import numpy as np
import tabulate

import data_pipelines
from effvid_jax import checkpoint, console, cost, evaluate, plots, sharding, writers
from effvid_jax.analysis import drawing, opening, variants
from effvid_jax.errors import UserError
from effvid_jax.methods import Variables, building, make_method
from effvid_jax.speed import bench
from effvid_jax.start import bounds, workdirs
from effvid_jax.tasks import make_task

NUMBERS = ("gmacs", "gmacs_mmcv", "clips_per_second")


class Condition(NamedTuple):
    """How clips are made and seen: '112', or '112to224'.

    Attributes:
        label: as it was given.
        config: of a network that is trained so.
        side: of the network's input, in pixels.
    """

    label: str
    config: object
    side: int


def condition(label: str, config_file: str, changes=()) -> Condition:
    """A condition by its label.

    Raises:
        UserError, DataError: no resolution, or one that the config refuses.
    """
    found = re.fullmatch(r"(?:(\d+)to)?(\d+)", label)
    if not found:
        raise UserError(f"--train, --test: {label!r} is no condition: expected pixels such as 112, or "
                        f"112to224 for clips with the detail of 112 pixels, enlarged to 224.")
    config = variants.config_of(config_file, changes, resolution=found[2])
    if found[1]:
        config.data.quality = _side(variants.config_of(config_file, changes, resolution=found[1]))
    bounds.check_values(config)
    data_pipelines.check_config(config.data)
    return Condition(label, config, _side(config))


def _side(config) -> int:
    return config.model.resolution or config.data.test_crop_size


def cell(folder: str, tested: Condition, split: str) -> dict:
    """Accuracy and cost of a trained network on the videos as another condition tests them.

    Args:
        folder: of the network.
        tested: says how videos are cropped and resized.
        split: its name.
    """
    saved, loaded = checkpoint.load_variables(folder)
    config = tested.config.copy_and_resolve_references()
    resolution, config.model = config.model.resolution, saved.model
    config.model.resolution = resolution
    method = make_method(config, make_task(config, saved.class_names), inference=True)
    mesh = sharding.make_mesh()
    evaluator = evaluate.Evaluator(config, method, mesh, split)
    variables = sharding.replicate(Variables(loaded["params"], loaded["batch_stats"]), mesh)
    found = evaluator.score(evaluator.rows(variables, method.runners()[method.runner], step=saved.step),
                            method.resolution)
    clip = (config.data.num_frames, tested.side, tested.side, 3)
    task = method.task
    return {"step": saved.step, "side": tested.side, "quality": config.data.quality,
            task.headline: found[task.headline], **({} if task.watched == task.headline else {
                task.watched: found[task.watched]}),
            "gmacs": found["gmacs"],
            "gmacs_mmcv": found["views"] * cost.count(method.model, clip, "mmcv").gmacs,
            "views": found["views"], "examples": found["examples"]}


def throughput(path: str, config, sides: list[int], batch: int, seconds: float) -> dict[int, float]:
    """Clips per second by side, measured in turns unless `path` has them of the same device and network."""
    model = config.model.copy_and_resolve_references()
    model.resolution = 0
    what = {"device": jax.devices()[0].device_kind, "batch": batch, "frames": config.data.num_frames,
            "backbone": model.backbone, "options": json.dumps(checkpoint.to_json(model)["options"]),
            "dtype": model.dtype, "sides": ",".join(map(str, sides))}
    if os.path.exists(path) and all((old := writers.read_json(path)).get(k) == x for k, x in what.items()):
        return {side: old[f"clips_per_second_{side}"] for side in sides}
    console.say(f"throughput at {', '.join(map(str, sides))} pixels, batches of {batch}")
    task = make_task(config, [str(k) for k in range(config.data.num_classes or 16)])
    rows = bench.inference(model, task, sides, config.data.num_frames, batch, seconds=seconds)
    found = {row["resolution"]: row["clips_per_second"] for row in rows}
    writers.write_json(path, {**what, **{f"clips_per_second_{side}": x for side, x in found.items()}})
    return found


def grid(config_file: str, changes, workdir: str, out: str, train: list[str], test: list[str], split: str,
         batch: int, seconds: float) -> list[dict]:
    """All cells, those of earlier calls included; `resolutions.csv` grows by each.

    Args:
        config_file, changes: see `variants.config_of`.
        workdir: of the networks.
        out: of the table.
        train, test: labels; no `test`: the same as each of `train`.
        split: that is scored.
        batch, seconds: of the throughput; 0 seconds: not measured.
    """
    known = {label: condition(label, config_file, changes) for label in dict.fromkeys([*train, *test])}
    for tested in known.values():  # before anything trains
        shape = (tested.config.data.num_frames, tested.side, tested.side, 3)
        cost.check_resolution(building.build_backbone(tested.config.model, 2), shape,
                              f"the resolution {tested.label}")
    pairs = [(a, b) for a in train for b in (test or [a])]
    path = os.path.join(out, "resolutions.csv")
    old = writers.read_csv(path) if os.path.exists(path) else []
    done = {(row["train"], row["test"]): row for row in old}
    runs, cells = variants.Variants(workdir), {}
    for number, label in enumerate(train, 1):
        console.say(f"network {number} of {len(train)}: trained at {label}")
        folder = runs.train(known[label].config, label)
        step = workdirs.trained_step(folder)
        tests = [b for a, b in pairs if a == label]
        with console.bar(len(tests), f"tests of {label}", "cell") as progress:
            for other in tests:
                row = done.get((label, other))
                if row is None or row.get("step") != str(step):
                    tested = known[other]._replace(config=runs.placed(known[other].config))
                    row = {"train": label, "test": other, **cell(folder, tested, split)}
                cells[label, other] = row
                writers.write_csv(path, [_short(row) for row in {**done, **cells}.values()])
                progress.update()
    if seconds:
        first = known[pairs[0][1]].config
        sides = sorted({known[b].side for _, b in pairs}, reverse=True)
        rates = throughput(os.path.join(out, "resolutions_speed.json"), first, sides, batch, seconds)
        for (_, b), row in cells.items():
            row["clips_per_second"] = rates[known[b].side]
    writers.write_csv(path, [_short(row) for row in {**done, **cells}.values()])
    return [{key: _number(x) if key not in ("train", "test") else x for key, x in row.items()}
            for row in cells.values()]


def _short(row: dict) -> dict:
    return {key: f"{x:.6g}" if isinstance(x, float) else x for key, x in row.items()}


def _number(x):
    return float(x) if x not in ("", None) else float("nan")


def draw(rows: list[dict], task):
    """All pairs as a map of accuracies, and accuracy over cost of networks tested as trained.

    Where every network was tested as it was trained there is no map.
    """
    pairs = any(row["train"] != row["test"] for row in rows)
    sides = {row["test"]: row["side"] for row in rows}
    if not pairs:
        figure = drawing.figure(5.2, 3.8)
        _draw_costs(figure.subplots(), rows, sides, task)
        return figure
    trained, tested = (list(dict.fromkeys(row[key] for row in rows)) for key in ("train", "test"))
    figure = drawing.figure(5.2 + 0.75 * len(tested), max(3.6, 0.55 * len(trained) + 2.2))
    left, right = figure.subplots(1, 2, width_ratios=(0.75 * len(tested) + 1, 3.6))
    values = np.full((len(trained), len(tested)), np.nan)
    for row in rows:
        values[trained.index(row["train"]), tested.index(row["test"])] = task.scale * row[task.headline]
    low, high = np.nanmin(values), np.nanmax(values)
    left.imshow(values, cmap="Blues", vmin=low - 0.1 * (high - low) - 1e-9, vmax=high + 1e-9, aspect="auto")
    for i, j in np.argwhere(np.isfinite(values)):
        left.text(j, i, f"{values[i, j]:.1f}", ha="center", va="center", fontsize=9,
                  color="white" if values[i, j] > (low + high) / 2 else "black")
    left.set_xticks(range(len(tested)), [_worded(x, sides) for x in tested], fontsize=9)
    left.set_yticks(range(len(trained)), [_worded(x, sides) for x in trained], fontsize=9)
    left.set_xlabel("tested at (pixels)")
    left.set_ylabel("trained at (pixels)")
    left.set_title(task.label, fontsize=10)
    _draw_costs(right, [row for row in rows if row["train"] == row["test"]], sides, task)
    return figure


def _draw_costs(axes, same: list[dict], sides: dict, task) -> None:
    """Accuracy over cost of networks that are tested as trained."""
    from matplotlib.patheffects import withStroke

    drawing.frame(axes)
    plain = sorted((row for row in same if "to" not in row["train"]), key=lambda row: row["gmacs"])
    other = [row for row in same if "to" in row["train"]]
    axes.plot([row["gmacs"] for row in plain], [task.scale * row[task.headline] for row in plain], "-o",
              color=drawing.colour(0), label="clips as they are")
    if other:
        axes.plot([row["gmacs"] for row in other], [task.scale * row[task.headline] for row in other], "s",
                  color=drawing.colour(1), label="enlarged from fewer pixels")
        axes.legend(frameon=False, fontsize=8, loc="lower left", ncols=2, bbox_to_anchor=(0, 1.0))
    for row in same:
        speed = row.get("clips_per_second", float("nan"))
        rate = f"\n{speed:,.{0 if speed >= 10 else 2}f} clips/s" if np.isfinite(speed) else ""
        label = _worded(row["train"], sides if row in plain else {}).replace("\n", " ")
        axes.annotate(f"{label}{rate}", (row["gmacs"], task.scale * row[task.headline]), (-5, 3),
                      textcoords="offset points", ha="right", fontsize=8, zorder=3,  # where no line passes
                      path_effects=[withStroke(linewidth=2, foreground="white")])
    plots.in_ratios(axes)
    axes.margins(x=0.1, y=0.2)
    least, most = axes.get_xlim()
    axes.set_xlim(least * (least / most) ** 0.35, most)  # room for the labels at the left
    axes.set_xlabel("GMACs per video, tested as trained")
    axes.set_ylabel(task.label)


def _worded(label: str, sides: dict) -> str:
    """A condition for an axis; with the pixels that it really has, where those are others."""
    low, _, high = label.rpartition("to")
    here = f"\n({sides[label]:.0f} here)" if sides.get(label) not in (None, int(high)) else ""
    return f"{high}\nfrom {low}{here}" if low else f"{high}{here}"


def analyse(args, changes) -> None:
    """The command; see the module docstring."""
    if not args.workdir:
        raise UserError("--workdir=DIR is missing: the folder for the networks and the table.")
    workdir = os.path.abspath(args.workdir)
    out = os.path.abspath(args.out or workdir)
    os.makedirs(out, exist_ok=True)
    train, test = ([x.strip() for x in text.split(",") if x.strip()] for text in (args.train, args.test))
    if not train:
        raise UserError("--train is empty: expected resolutions such as 224,112,112to224.")
    batch = args.batch or (8 if jax.default_backend() == "cpu" else 64)
    rows = grid(args.config, changes, workdir, out, train, test, args.split, batch, args.seconds)
    config = condition(train[0], args.config, changes).config
    task = make_task(config, ["some class", "another"])
    drawing.write(draw(rows, task), os.path.join(out, "resolutions"))
    shown = [{"train": row["train"], "test": row["test"], "side": int(row["side"]),
              task.label: task.scale * row[task.headline],
              **{key: row[key] for key in NUMBERS if key in row}} for row in rows]
    print(tabulate.tabulate(shown, "keys", "github", floatfmt=("", "", ".0f", ".1f", ".4g", ".4g", ".4g"),
                            disable_numparse=[0, 1]))
    print(json.dumps({"resolutions": os.path.join(out, "resolutions.csv"), **{
        f"{row['train']}/{row['test']}/{task.headline}": row[task.headline] for row in rows}}))


def main(argv=None) -> int:
    """The command line."""
    parser = opening.parser("resolutions", __doc__)
    parser.add_argument("--train", default="224,112", help="conditions that networks are trained in")
    parser.add_argument("--test", default="", help="conditions that each is tested in; the same by default")
    parser.add_argument("--batch", type=int, default=0, help="clips a batch for throughput; 0: 64, CPU 8")
    parser.add_argument("--seconds", type=float, default=20.0, help="to spend on throughput; 0: not measured")

    return opening.command(parser, analyse, argv)


if __name__ == "__main__":
    sys.exit(main())
