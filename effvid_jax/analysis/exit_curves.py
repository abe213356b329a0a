"""Accuracy over cost of several networks with early exits in one figure, as with and without shift.

    python -m effvid_jax.analysis.exit_curves --config=configs/dynamic_k400.py:demo --workdir=runs/shift
    python -m effvid_jax.analysis.exit_curves --workdir=RUN,OTHER --out=DIR        # networks that are trained

Dynamic Inference (arXiv 2002.03342), the figure of MSDNet with and without the online temporal shift.
With --config every combination of --shift and --scheme is trained (a finished one is not trained again) in
WORKDIR/<scheme>_<shift>; without it the networks are those of the folders. What is drawn is what each run's
last evaluation wrote into `exits_<split>.csv`: thresholds from held-out training videos, swept over the split
(lines, by the search of its config), full inference (the last head alone) and the chosen thresholds (marks).

Writes `exit_curves_<split>.csv`, a line a point, `.png` and `.svg`.
"""

from __future__ import annotations

import itertools
import json
import os
import sys

from effvid_jax import plots, writers
from effvid_jax.analysis import drawing, opening, overlay, variants
from effvid_jax.errors import UserError
from effvid_jax.exits import curve, stopping
from effvid_jax.start import runs
from effvid_jax.tasks import make_task

WORDS = {"online": "online shift", "offline": "two-sided shift", "none": "no shift"}


def points(folder: str, split: str) -> list[dict]:
    """The rows of a run's `exits_<split>.csv` that are drawn, with its name.

    Raises:
        UserError: the run has none.
    """
    config, path = _config(folder), os.path.join(folder, f"exits_{split}.csv")
    if not config.model.get("exits"):
        raise UserError(f"--workdir={folder}: a network without early exits has no curve.")
    if not os.path.exists(path):
        raise UserError(f"{path} is missing: python main.py --mode=eval --workdir={folder} writes it, with "
                        f"thresholds that were calibrated.")
    exits = config.model.exits
    name = f"{exits.scheme}, {WORDS.get(exits.shift, exits.shift)}"
    wanted = {stopping.family(config.method.search): "thresholds swept", curve.FULL: curve.FULL,
              "chosen": "chosen"}
    return [{"network": name, "folder": os.path.basename(folder), **row, "what": wanted[row["what"]]}
            for row in writers.read_csv(path) if row["what"] in wanted]


def _config(folder: str):
    path = os.path.join(folder, "config.json")
    if not os.path.exists(path):
        raise UserError(f"{path} is missing: --workdir names folders of training runs.")
    return runs.read_config(path)


def draw(found: dict[str, list[dict]], task):
    """A line a network; a filled mark for the chosen thresholds, an open one for full inference."""
    figure = drawing.figure(6.4, 4.2)
    axes = figure.subplots()
    drawing.frame(axes)
    for i, (name, rows) in enumerate(found.items()):
        def series(what, rows=rows):
            some = sorted((float(row["gmacs"]), task.scale * float(row[task.watched])) for row in rows
                          if row["what"] == what)
            return ([x for x, _ in some], [y for _, y in some])

        colour, marker = drawing.colour(i), plots.MARKERS[i % len(plots.MARKERS)]
        axes.plot(*series("thresholds swept"), ("-", "--", "-.", ":")[i % 4], color=colour,
                  label=overlay.plain(name))
        axes.plot(*series("chosen"), marker, color=colour, markersize=8)
        axes.plot(*series(curve.FULL), marker, color=colour, markersize=9, fillstyle="none",
                  markeredgewidth=1.6)
    axes.plot([], [], "o", color="#555555", label="chosen thresholds")
    axes.plot([], [], "o", color="#555555", fillstyle="none", markeredgewidth=1.6, label=curve.FULL)
    axes.set_xlim(left=0)
    axes.set_xlabel("mean GMACs per video")
    axes.set_ylabel(task.watched_label)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0))
    return figure


def analyse(args, changes) -> None:
    """The command; see the module docstring."""
    if not args.workdir:
        raise UserError("--workdir=DIR is missing.")
    folders = [os.path.abspath(folder) for folder in args.workdir.split(",") if folder]
    if args.config:
        if len(folders) > 1:
            raise UserError("--config trains in one --workdir; without it --workdir may name several.")
        shifts, schemes = (text.split(",") for text in (args.shift, args.scheme))
        wanted = {f"{scheme}_{shift}": variants.config_of(args.config, changes, scheme=scheme, shift=shift)
                  for scheme, shift in itertools.product(schemes, shifts)}
        trained = variants.Variants(folders[0])
        folders = [trained.train(config, name) for name, config in wanted.items()]
    found: dict[str, list[dict]] = {}
    for folder in folders:
        rows = points(folder, args.split)
        name = rows[0]["network"]
        found[name if name not in found else f"{name} ({os.path.basename(folder)})"] = rows
    out = os.path.abspath(args.out or args.workdir.split(",")[0])
    os.makedirs(out, exist_ok=True)
    path = os.path.join(out, f"exit_curves_{args.split}")
    writers.write_csv(f"{path}.csv", [{**row, "network": name} for name, rows in found.items()
                                      for row in rows])
    task = make_task(_config(folders[0]), ["some class", "another"])
    drawing.write(draw(found, task), path)
    chosen = {name: next(row for row in rows if row["what"] == "chosen") for name, rows in found.items()}
    print(json.dumps({"exit_curves": f"{path}.csv", **{
        f"{name}/{key}": float(row[key]) for name, row in chosen.items()
        for key in ("gmacs", task.watched)}}))


def main(argv=None) -> int:
    """The command line."""
    parser = opening.parser("exit_curves", __doc__)
    parser.add_argument("--shift", default="online,none", help="with --config: online, none, offline")
    parser.add_argument("--scheme", default="unified", help="with --config: depth, input, permuted, unified, "
                        "unified6")

    return opening.command(parser, analyse, argv)


if __name__ == "__main__":
    sys.exit(main())
