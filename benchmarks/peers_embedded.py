"""All systems on one embedded benchmark: accuracy, multiply-adds, time. Three seeds, one training budget.

    python benchmarks/peers_embedded.py --workdir runs/peers --seeds 0,1,2
    python benchmarks/peers_embedded.py --workdir runs/peers --only frameexit,ocsampler
    python benchmarks/peers_embedded.py --workdir runs/try --seeds 0 --only frameexit --small   # a minute

What is compared, and on what, is in `peers_config.py`. Every system makes the same number of steps on batches
of the same size, all of its stages together. Then all of a seed answer the same validation clips, in turns:
clips lie on the device, decoded; a system runs in the form that saves time where it has one (videos that
stop, frames that are sent to a network), in its best batch size. Columns:

    top-1, GMACs              of evaluation; GMACs have everything in them: glances, policies, heads, gates
    GMACs as the paper        by the system's own rule, where it has one ('gmacs_paper')
    clips/s, plain = 1        against the plain network on all frames, measured in turns
    saving on the clock (%)   of the saving in multiply-adds against the plain network

A stage that is finished is not trained again, so the command can be stopped and repeated; `--collect` trains
nothing. Rows go to `docs/results.csv`, the figure (accuracy against cost, and against time) to the workdir.
"""

from __future__ import annotations

import json
import os
import statistics

import embedded
import jax
import numpy as np
import peers_config

import data_pipelines
from effvid_jax import evaluate, plots, writers
from effvid_jax.exits import executor
from effvid_jax.reports import results
from effvid_jax.speed import timing
from effvid_jax.start import runs
from effvid_jax.writers import write_json

COMMAND = "python benchmarks/peers_embedded.py"
CONFIGS = "benchmarks/peers_config.py:"
DATASET = "embedded benchmark of long clips (1600 train, 480 val clips)"
BATCHES = (32, 8)  # sizes that a system may answer in; the faster one counts
TIMED = 96  # clips
SMALL = "steps=4,train_clips=32,val_clips=32"


def last_stage(name: str) -> str:
    """Folder of what is scored, below the seed's."""
    return "/".join(filter(None, [name, list(peers_config.SYSTEMS[name].shares)[-1]]))


def answering(workdir: str, name: str, seed: int, count: int):
    """{batch size: () -> answers to the same clips} of a trained system, compiled."""
    folder = os.path.join(workdir, f"seed{seed}", last_stage(name))
    config = runs.read_config(os.path.join(folder, "config.json"))
    method, variables, _ = evaluate.restore_for_inference(config, folder)
    variables = jax.device_put(variables)
    clips = clips_of(config.data, count)
    forms = method.runners()
    fast = next((form for form in forms.values() if form.segments or getattr(form, "routed", None)), None)
    runner = fast or forms[method.runner]
    return {size: _answer(runner, variables, clips, size) for size in BATCHES if len(clips) % size == 0}


def clips_of(data, count: int) -> np.ndarray:
    """The first validation clips, uint8 (N, T, H, W, 3)."""
    found = []
    for batch in data_pipelines.make_pipeline(data, "val"):
        found += [video[0] for video, real in zip(batch["video"], batch["mask"]) if real]
        if len(found) >= count:
            break
    return np.stack(found[:count])


def _answer(runner, variables, clips, size: int):
    """A function without arguments that answers all clips in batches."""
    if runner.segments is not None:
        segments = runner.segments
        run = executor.Executor(segments.steps, segments.score, size, policy="compact")
        thresholds = jax.device_get(segments.thresholds(variables))
        ordered = jax.device_put(clips[:, list(segments.order)])
        batches = [ordered[s:s + size] for s in range(0, len(clips), size)]
        run.warm_up(variables, np.asarray(batches[0][:1]))
        return lambda: [answer.logits for answer in run.run(variables, thresholds, (
            executor.Rows(range(size), frames) for frames in batches))]
    routed = getattr(runner, "routed", None)
    predict = routed or jax.jit(runner.predict)
    batches = [jax.device_put({"video": clips[s:s + size, None]}) for s in range(0, len(clips), size)]
    return lambda: [predict(variables, batch).logits for batch in batches]


def time_seed(workdir: str, names, seed: int, seconds: float, count: int) -> dict[str, float]:
    """{system: clips per second} of a seed, all measured in turns; kept in the workdir."""
    path = os.path.join(workdir, f"seed{seed}", "speed.json")
    if os.path.exists(path):
        with open(path) as f:
            found = json.load(f)
        if set(names) <= set(found):
            return found
    sides = {(name, size): call for name in names
             for size, call in answering(workdir, name, seed, count).items()}
    times = timing.measure(sides, seconds=seconds)
    found = {name: max(times[side].rate(count) for side in sides if side[0] == name) for name in names}
    write_json(path, found)
    return found


def columns_of(found, speeds, plain, plain_speeds) -> dict[str, tuple[list[float], str]]:
    """{column: (a value a seed, form)} of a system; `plain`: of the plain network."""
    out = {"top-1 (%)": ([100 * m["val/top1"] for m in found], ".1f"),
           "GMACs (10⁻³)": ([1e3 * m["val/gmacs"] for m in found], ".2f")}
    if all("val/gmacs_paper" in m for m in found):
        out["as the paper counts"] = ([1e3 * m["val/gmacs_paper"] for m in found], ".2f")
    if not speeds:
        return out
    out["clips/s"] = (speeds, ".0f")
    out["clips/s, plain = 1"] = ([a / b for a, b in zip(speeds, plain_speeds)], ".2f")
    saved = [1 - m["val/gmacs"] / p["val/gmacs"] for m, p in zip(found, plain)]
    if min(saved) > 0.02:
        out["saving on the clock (%)"] = ([100 * (1 - b / a) / s for a, b, s in zip(
            speeds, plain_speeds, saved)], ".0f")
    return out


def draw(path: str, points: dict[str, dict[str, float]]) -> None:
    """Accuracy against cost, and against time, side by side: `path` with .png and .svg."""
    figure = plots.two_prices({name: (p["GMACs (10⁻³)"], 1e3 / p["clips/s"], p["top-1 (%)"])
                               for name, p in points.items() if "clips/s" in p},
                              ("10⁻³ GMACs per video", "ms per video"), "top-1 (%)")
    for ending, content in plots.forms(figure).items():
        writers.write_bytes(path + ending, content)


def main() -> None:
    """Trains what is missing, times what is trained, prints the table, replaces its rows in the results."""
    def more(parser):
        parser.add_argument("--only", default="", help="systems, comma-separated; all by default")
        parser.add_argument("--small", action="store_true", help="a few steps, to see that everything runs")
        parser.add_argument("--seconds", type=float, default=60.0, help="to time a seed, beside compiling")

    args, extra = embedded.arguments(__doc__, "runs/peers", more)
    names = [name.strip() for name in args.only.split(",") if name.strip()] or list(peers_config.SYSTEMS)
    if unknown := [name for name in names if name not in peers_config.SYSTEMS]:
        raise SystemExit(f"--only={args.only}: no system {unknown[0]!r}; there are "
                         f"{', '.join(peers_config.SYSTEMS)}.")
    names = list(dict.fromkeys(["plain", *names]))
    argument = f",{SMALL}" if args.small else ""
    for seed in () if args.collect else args.seeds:
        for name in names:
            embedded.train(args.workdir, seed, name, f"{name}{argument}", extra, CONFIGS)
    done = {name: embedded.read(args.workdir, args.seeds, last_stage(name)) for name in names}
    complete = [name for name in names if len(done[name]) == len(args.seeds)]
    for name in set(names) - set(complete):
        print(f"{peers_config.SYSTEMS[name].title}: not finished")
    if "plain" not in complete:
        raise SystemExit("the plain network is not finished: everything is compared with it.")
    count = 32 if args.small else TIMED
    speeds = [time_seed(args.workdir, complete, seed, args.seconds, count) for seed in args.seeds]
    rows, points = [], {}
    for name in complete:
        mine, plain = ([s[n] for s in speeds] for n in (name, "plain"))
        columns = columns_of(done[name], mine, done["plain"], plain)
        title = peers_config.SYSTEMS[name].title
        made = [embedded.row(f"peers: {title}: {column}", values, form, f"{CONFIGS}{name}",
                             COMMAND, args.seeds, DATASET) for column, (values, form) in columns.items()]
        rows += made
        points[title] = {column: statistics.mean(values) for column, (values, _) in columns.items()}
        print(f"{title:28s} " + "; ".join(f"{column} {row['value']} +- {row['spread'] or 0}"
                                         for column, row in zip(columns, made)))
    draw(os.path.join(args.workdir, "peers"), points)
    if not args.small:
        titles = tuple(f"peers: {title}: " for title in points)
        results.replace_rows(args.results, rows, lambda row: row["what"].startswith(titles))


if __name__ == "__main__":
    main()
