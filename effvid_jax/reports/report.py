"""What a run has learned, side by side: a table, and `report.html` with pictures, `report.md`, `report.csv`.

Reads what training and evaluation left in the workdir (config.json, metrics.json, metrics.csv,
predictions_val.csv) and times the networks' inference against each other; nothing is evaluated again.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import html
import json
import os
import string
from typing import Any

import jax
import numpy as np
import tabulate

import data_pipelines
from effvid_jax import console, evaluate, plots, writers
from effvid_jax.errors import UserError
from effvid_jax.methods import find_method
from effvid_jax.reports import exit_strips
from effvid_jax.signals import Signals
from effvid_jax.speed import bench, timing
from effvid_jax.start import runs
from effvid_jax.tasks import Task, make_task

TIMING_SECONDS = 1.5
BATCH_SIZE = 8
NUM_EXAMPLES, FRAMES_SHOWN, FRAME_SIDE = 8, 6, 96
RESTORED = "The training command, given again, evaluates and writes it anew."


@dataclasses.dataclass
class Network:
    """One trained network of a run.

    Attributes:
        name: the stage, or the method of a run without stages.
        directory: its folder.
        config: what it was trained with.
        metrics: its `metrics.json`.
        clips_per_second: of single views, timed here.
    """

    name: str
    directory: str
    config: Any
    metrics: dict[str, float]
    clips_per_second: float = float("nan")

    @property
    def accuracy(self) -> float:
        """The headline of the network's task."""
        return self.metrics[f"val/{self.task.headline}"]

    @functools.cached_property
    def task(self) -> Task:
        """What the network was asked."""
        return make_task(self.config, self.class_names())

    @property
    def architecture(self) -> str:
        """Backbone, with the width and depth that make it another network."""
        model, size = self.config.model, []
        if "width" in model.options:
            size.append(f"width {model.options.width}")
        if "stage_sizes" in model.options:
            size.append("blocks " + "-".join(map(str, model.options.stage_sizes)))
        return f"{model.backbone} ({', '.join(size)})" if size else model.backbone

    def row(self, with_range: bool, per_clip: bool = False) -> dict[str, Any]:
        """The network's line of the table.

        Args:
            with_range: also the cost of the cheapest and of the dearest video.
            per_clip: also the cost of one view of a video, which is what papers quote.
        """
        found = self.metrics
        gmacs, one = found["val/gmacs"], found["val/gmacs"] / found["val/views"]
        limits = {name: found.get(f"val/gmacs_{name}", gmacs) for name in ("min", "max")}
        one_clip = {"GMACs/clip": one}
        if with_range:  # None: videos differ, and nobody knows how single views do
            alike = None if "val/gmacs_min" in found else one
            one_clip |= {f"{name}/clip": found.get(f"val/gmacs_per_clip_{name}", alike) for name in limits}
        return {
            "model": self.name, "backbone": self.architecture,
            "resolution": self.metrics.get("val/resolution") or self.config.data.test_crop_size,
            "frames x views": f"{self.metrics['val/frames']} x {self.metrics['val/views']}",
            "GMACs": gmacs, **(limits if with_range else {}), **(one_clip if per_clip else {}),
            "params (M)": self.metrics["params"] / 1e6,
            self.task.label: self.task.scale * self.accuracy, "clips/s": self.clips_per_second}

    def read(self, name: str) -> list[dict[str, str]]:
        """Rows of a csv file of the run; [] if it is not there."""
        path = os.path.join(self.directory, name)
        return writers.read_csv(path) if os.path.exists(path) else []

    def class_names(self) -> list[str]:
        """K names; [] if the run has none."""
        path = os.path.join(self.directory, "classes.txt")
        if not os.path.exists(path):
            return []
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as f:
            return f.read().removesuffix("\n").split("\n")  # a name may hold other separators of lines

    def check(self) -> None:
        """Raises UserError for files of the run that do not fit to each other."""
        path = os.path.join(self.directory, "metrics.json")
        for key in ("val/gmacs", "params", "val/frames", "val/views", f"val/{self.task.headline}"):
            if not isinstance(self.metrics.get(key), (int, float)):
                raise UserError(f"{path} is damaged: {key!r} is {self.metrics.get(key)!r}. {RESTORED}")
        names = set(self.class_names())
        for row in self.read("predictions_val.csv") if names else []:
            said = {writers.line_of(row.get(key) or "") for key in ("label", "predicted")}
            for name in said - names - {""}:
                path = os.path.join(self.directory, "classes.txt")
                raise UserError(f"{path} has {len(names)} names and none is {name!r}, which "
                                f"predictions_val.csv speaks of: one of them is damaged. {RESTORED}")


def report(workdir: str, timed: bool = True) -> dict:
    """Prints the table of a run and writes `report.html`, `report.md` and `report.csv` into it.

    Args:
        workdir: of a run with or without stages, evaluated.
        timed: also time inference, for which the networks are compiled again.

    Returns:
        `{"report": path, "<name>/top1 or map": ..., "<name>/gmacs": ..., "<name>/clips_per_second":
        ...}`.

    Raises:
        UserError: nothing there to report.
    """
    networks = find_networks(workdir)
    if jax.process_index() > 0:
        return {}
    if timed:
        console.say(f"report: timing {', '.join(console.one_line(n.name) for n in networks)}")
        time_inference(networks)
    with_range = any("val/gmacs_min" in network.metrics for network in networks)
    per_clip = any(network.metrics["val/views"] > 1 for network in networks)
    rows = [network.row(with_range, per_clip) for network in networks]
    if not timed:
        rows = [{key: value for key, value in row.items() if key != "clips/s"} for row in rows]
    print("\n" + table(rows, "simple"))
    sentence = " ".join(filter(None, [gap(networks), shrinking(networks) if timed else ""]))
    if sentence:
        print(f"\n{sentence}")
    path, text = os.path.join(workdir, "report.html"), _printable(page(workdir, networks, rows, sentence))
    with Signals.held():  # they show the same times
        write_table(workdir, rows, sentence)
        writers.write_text(path, text)
    print(f"\nreport: {_printable(path)}", flush=True)
    found = {"report": path}
    for network in networks:
        found |= {f"{network.name}/{networks[-1].task.headline}": network.accuracy,
                  f"{network.name}/gmacs": network.metrics["val/gmacs"]}
        if timed:
            found[f"{network.name}/clips_per_second"] = round(network.clips_per_second, 2)
    return found


def find_networks(workdir: str) -> list[Network]:
    """The evaluated networks of a run, in the order of its stages.

    Raises:
        UserError: none.
    """
    config = _config(workdir)
    names = runs.stage_names(config) if config is not None else []
    folders = {name: os.path.join(workdir, name) for name in names} or {"": workdir}
    networks = []
    for name, folder in folders.items():
        config, metrics = _config(folder), os.path.join(folder, "metrics.json")
        if config is not None and os.path.exists(metrics):
            networks.append(Network(
                name or config.method.name, folder, config, writers.read_json(metrics, RESTORED)))
    networks = [n for n in networks if "val/gmacs" in n.metrics and "params" in n.metrics]
    for network in networks:
        network.check()
    if not networks:
        raise UserError(f"--workdir={workdir}: nothing to report. It must be the folder of a run that is "
                        f"trained, or of an imported network after --mode=eval.")
    return networks


def time_inference(networks: list[Network]) -> None:
    """Sets `clips_per_second` of all networks, timed in turns on one device, one view a clip.

    Networks that can compute the same in several forms are timed in each, the fastest counts.
    """
    sides = {}
    for network in networks:
        data = network.config.data
        size = data.test_crop_size
        method, variables, _ = evaluate.restore_for_inference(network.config, network.directory)
        for form, runner in method.runners().items():
            if runner.predict is not None:
                sides[network.name, form] = bench.predict_side(
                    runner.predict, variables, (BATCH_SIZE, 1, data.num_frames, size, size, 3))
    times = timing.measure(sides, seconds=TIMING_SECONDS)
    for network in networks:
        network.clips_per_second = max(
            time.rate(BATCH_SIZE) for (name, _), time in times.items() if name == network.name)


def table(rows: list[dict], style: str) -> str:
    """Rows with the same keys as text, in one of tabulate's styles; a name like '1e5' stays a name."""
    digits = dict.fromkeys(("GMACs", "min", "max", "GMACs/clip", "min/clip", "max/clip", "params (M)",
                            "clips/s"), ".4g")
    formats = tuple(digits.get(key, ".1f" if "%" in key else "g") for key in rows[0])
    bar = "\\|" if style == "github" else "|"  # ends a cell there
    rows = [{key: console.one_line(value, 60).replace("|", bar) if isinstance(value, str) else value
             for key, value in row.items()} for row in rows]
    names = [i for i, value in enumerate(rows[0].values()) if isinstance(value, str)]
    return tabulate.tabulate(rows, headers="keys", tablefmt=style, floatfmt=formats, disable_numparse=names)


def gap(networks: list[Network]) -> str:
    """How much of what low resolution costs the student regains; '' without all three networks."""
    task = networks[-1].task
    unit = "points" if task.unit == "%" else task.unit
    found = {network.name: task.scale * network.accuracy for network in networks}
    if not {"teacher", "baseline", "student"} <= set(found):
        return ""
    lost, won = (found[name] - found["baseline"] for name in ("teacher", "student"))
    share = f": it regains {won / lost:.0%}" if lost > 0 and won > 0 else ""
    return (f"The baseline is {abs(lost):.1f} {unit} {'below' if lost >= 0 else 'above'} the teacher, the "
            f"student {abs(won):.1f} {unit} {'above' if won >= 0 else 'below'} the baseline{share}.")


def shrinking(networks: list[Network]) -> str:
    """Whose clips/s hold more than the network: two of the same network may differ by that; '' if none do."""
    found = []
    for network in networks:
        side, seen = network.config.data.test_crop_size, network.metrics.get("val/resolution", 0)
        if 0 < seen < side:
            found.append(f"{console.one_line(network.name)} (from {side} to {seen} pixels)")
    return f"The clips/s of {', '.join(found)} include shrinking the clips." if found else ""


def write_table(workdir: str, rows: list[dict], sentence: str) -> None:
    """`report.csv` and `report.md`."""
    writers.write_csv(os.path.join(workdir, "report.csv"), rows)
    writers.write_text(os.path.join(workdir, "report.md"),
                       _printable(table(rows, "github") + "\n" + (f"\n{sentence}\n" if sentence else "")))


# ---------------------------------------------------------------------------------------- the page
def page(workdir: str, networks: list[Network], rows: list[dict], sentence: str) -> str:
    """The report as one HTML document without references to other files."""
    last, title = networks[-1], _escape(os.path.basename(os.path.abspath(workdir)))
    task, names = last.task, {n.name: console.one_line(n.name) for n in networks}
    timed = any("clips/s" in row for row in rows)
    parts = [f"<p>{_escape(last.config.note)}</p>" if last.config.note else "",
             f'<div class="wide">{table(rows, "html")}</div>',
             f"<p><strong>{_escape(sentence)}</strong></p>" if sentence else "",
             '<p class="small">GMACs, min, max: 10<sup>9</sup> multiply-adds per video, all views'
             + ("; with /clip: of one view. " if any("GMACs/clip" in row for row in rows) else ". ")
             + (f"clips/s: one view a clip, from pixels as the network's data delivers them, batches of "
                f"{BATCH_SIZE}, networks timed in turns on {_escape(jax.devices()[0].device_kind)}; compare "
                f"them with each other only." if timed else
                "How many clips a second are computed, <code>--mode=report</code> measures.") + "</p>"]

    def add(title: str, png: bytes, caption: str = "", seen: str = "") -> None:
        """A picture; everything but the PNG is text that has yet to be escaped."""
        data = base64.b64encode(png).decode()
        parts.append(f'<h2>{_escape(title)}</h2>\n<img alt="{_escape(seen or f"{title}. {caption}")}" '
                     f'src="data:image/png;base64,{data}"><p class="small">{_escape(caption)}</p>')

    points = {n.name: (n.metrics["val/gmacs"], task.scale * n.accuracy) for n in networks}
    told = [f"{name} {y:.1f} {task.label} at {x:.4g} GMACs" for name, (x, y) in points.items()]
    add("Accuracy against cost", plots.accuracy_against_cost(points, task.label), "",
        f"A point a network: {', '.join(told)}.")
    histories = {n.name: found for n in networks if (found := _numbers(n))}
    if histories:
        add("Training", plots.curves(
            histories, task.watched, task.watched_label, task.scale, task.loss_title), "",
            _courses(histories, task))
    for n in networks:
        for file, (what, caption) in find_method(n.config.method.name).pictures.items():
            path = os.path.join(n.directory, f"{file}_val.png")
            if os.path.exists(path):
                with open(path, "rb") as f:
                    add(f"{what} of {names[n.name]}", f.read(), f"{caption} Numbers: {file}_val.csv.")
    predictions = {n.name: found for n in networks if (found := n.read("predictions_val.csv"))}
    for n in networks:
        if drawn := exit_strips.draw(n.directory, n.config, n.task, predictions.get(n.name, [])):
            add(f"Videos of {names[n.name]} by exit", drawn[0], "Some that left at the first, a middle and "
                "the last checkpoint; frames not seen until then are faded. File: exit_strips_val.svg.",
                drawn[1])
    if last.name in predictions:
        for picture in task.pictures(predictions):
            add(*picture)
        clips, problem = example_clips(last, predictions)
        if clips:
            add("Examples", plots.examples(clips), f"What every network says, in green where it is right. "
                f"First the clips on which the networks disagree. {problem}", _said(clips))
        elif problem:
            parts.append(f'<h2>Examples</h2><p class="small">{_escape(problem)}</p>')
    run = {"written": writers.environment(), "networks": {n.name: n.directory for n in networks}}
    parts.append(f"<h2>Run</h2><pre>{html.escape(json.dumps(run, indent=1))}</pre>")
    return _PAGE.substitute(title=title, body="\n".join(filter(None, parts)))


def _escape(text: object) -> str:
    """Text that may hold anybody's names, for HTML, attributes in quotes included."""
    return html.escape(console.one_line(text)) if text else ""


def _said(clips) -> str:
    """The examples in words."""
    told = (f"true {label}, " + ", ".join(f"{name} says {words} ({'right' if right else 'wrong'})"
                                          for name, (words, right) in said.items())
            for _, label, said in clips)
    return f"Frames of {len(clips)} clips: {'; '.join(told)}."


def _courses(histories, task: Task) -> str:
    """The curves in words: where each begins and ends."""
    told = []
    for name, rows in histories.items():
        for key, what, scale in (
                ("train/loss", "loss", 1.0),
                (f"train/{task.watched}", f"{task.watched_label} on training batches", task.scale),
                (f"val/{task.watched}", f"{task.watched_label} on validation", task.scale)):
            values = [(row["step"], scale * row[key]) for row in rows if key in row]
            if len(values) > 1:
                (a, first), (b, final) = values[0], values[-1]
                told.append(f"{what} of {name} from {first:.3g} at step {a:g} to {final:.3g} at step {b:g}")
            elif values:
                told.append(f"{what} of {name} {values[0][1]:.3g} at step {values[0][0]:g}")
    return "Curves over training steps: " + "; ".join(told) + "."


def example_clips(network: Network, predictions: dict[str, list[dict[str, str]]]):
    """A few clips for `plots.examples`, those on which networks disagree first.

    Returns:
        The clips, and a sentence about what could not be read ('' if nothing).
    """
    by_video: dict[str, dict[str, dict]] = {}
    for name, rows in predictions.items():
        for row in rows:
            by_video.setdefault(row["video"], {})[name] = row
    rows, said = predictions[network.name], network.task.said
    if not rows or said(rows[0]) is None:
        return [], ""

    def interest(i: int) -> tuple:
        right = {name: said(row)[2] for name, row in by_video[rows[i]["video"]].items()}
        return (not (right[network.name] and not all(right.values())), all(right.values()),
                any(right.values()))

    kinds: dict[tuple, list[int]] = {}
    for i in np.random.default_rng(0).permutation(len(rows)).tolist():
        kinds.setdefault(interest(i), []).append(i)
    quota = -(-NUM_EXAMPLES // len(kinds))
    chosen = [i for kind in sorted(kinds) for i in kinds[kind][:quota]][:NUM_EXAMPLES]
    try:
        split = data_pipelines.open_split(network.config.data, "val")
    except (ValueError, OSError) as error:
        return [], f"The videos are not there any more: {error}"
    clips, problem = [], ""
    for i in chosen:
        try:
            frames = _frames(split, rows[i]["video"], i)
        except (data_pipelines.VideoError, OSError) as error:
            problem = f"Not every clip could be read: {error}"
            continue
        words = {name: said(row)[1:] for name, row in by_video[rows[i]["video"]].items()}
        clips.append((frames, said(rows[i])[0], words))
    return clips, problem


def _frames(split: data_pipelines.Split, name: str, guess: int) -> np.ndarray:
    """Evenly spread frames of the clip called `name`, which is probably number `guess`."""
    order = [guess, *range(len(split))] if guess < len(split) else range(len(split))
    index = next((i for i in order if split.entry(i).name == name), None)
    if index is None:
        raise data_pipelines.VideoError(name, "not in the data set any more")
    return split.overview(index, FRAMES_SHOWN, FRAME_SIDE)


def _config(folder: str):
    path = os.path.join(folder, "config.json")
    if not os.path.exists(path) or "data" not in writers.read_json(path):
        return None
    return runs.read_config(path)


def _numbers(network: Network) -> list[dict[str, float]]:
    try:
        return [{k: float(v) for k, v in row.items() if v} for row in network.read("metrics.csv")]
    except ValueError as error:
        path = os.path.join(network.directory, "metrics.csv")
        raise UserError(f"{path} is damaged: {error}. {RESTORED}") from error


def _printable(text: str) -> str:
    """Text that is UTF-8, though file names may hold any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


_PAGE = string.Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title><style>
:root { --text: #222; --small: #595959; --line: #ddd; --box: #f6f6f6; --page: #fff }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e4e4; --small: #a8a8a8; --line: #444; --box: #242424; --page: #141414 }
  img { filter: brightness(.88) }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em;
       color: var(--text); background: var(--page); overflow-wrap: anywhere }
.wide { overflow-x: auto; overflow-wrap: normal }
table { border-collapse: collapse } th, td { padding: .3em .9em; border-bottom: 1px solid var(--line) }
th { text-align: left } img { max-width: 100%; height: auto; background: #fff }
.small { color: var(--small); font-size: .85em }
pre { background: var(--box); padding: 1em; overflow-x: auto; overflow-wrap: normal; font-size: .8em }
@media (max-width: 40em) { body { margin: 1em auto } th, td { padding: .3em .5em } }
</style></head><body>
<h1>$title</h1>
$body
</body></html>
""")
