"""The combination on the embedded benchmark: every set of {ResKD, exits, gates}, and orders of training.

    python benchmarks/combined_embedded.py --workdir runs/combined_embedded --seeds 0,1,2
    python benchmarks/combined_embedded.py --orders --seeds 0,1,2      # which part when, of all three

Per seed: a deep teacher at 64 pixels (500 steps), the plain network at 32 as it is usually trained, and the
network at 32 with every set of parts, none of them among these (the control: a student's input without a
teacher). All of them have as many steps, 1,000; gates and exits come in as `configs/recipes/combined.py`
says. Gates are to compute 0.7 of their network's multiply-adds. Thresholds are chosen on held-out training
clips, for a mean cost of half of full inference, of 0.35 with gates. Clips per second are measured at the
end, all networks of a seed in turns, on clips of the validation split that lie in memory: videos really stop,
and gates are in their compact form. `--seconds` of it, 0 to leave it out. At 32 pixels a network this small
waits for its programs to start, so that the speed-up is measured at `--side` pixels too, with the same
weights, and compared with what the multiply-adds promise there.

What has exits trains on 15 % fewer clips, those that are held out. A run that is finished is not trained
again, and one that was interrupted goes on, so the command can be repeated; `--collect` trains nothing. Rows
go to `docs/results.csv`, the figure to the workdir.
"""

from __future__ import annotations

import itertools
import os

import cv2
import embedded
import jax
import numpy as np

import data_pipelines
from effvid_jax import checkpoint, plots, writers
from effvid_jax.exits import executor
from effvid_jax.methods import Variables, make_method
from effvid_jax.methods.schedule import PARTS
from effvid_jax.speed import timing
from effvid_jax.start import runs
from effvid_jax.tasks import make_task

CONFIG, COMMAND = "combined_minik.py:demo", "python benchmarks/combined_embedded.py"
TEACHER, PLAIN, WORDS = "deep teacher, 64 px", "plain network, 32 px", {
    "reskd": "ResKD", "exits": "exits", "gates": "gates"}
SETS = [parts for n in range(len(PARTS) + 1) for parts in itertools.combinations(PARTS, n)]
ORDERS = {"student_first": "student, then exits, then gates", "exits_first": "exits at once, then gates",
          "together": "all at once"}
STEPS = "--config.train.num_steps=1000"
BATCH, CLIPS = 32, 128  # of a measurement


def name_of(parts) -> str:
    """A row's name."""
    return " + ".join(WORDS[part] for part in parts) + ", 32 px" if parts else f"{PLAIN} shrunk from 64"


def folder(parts, order: str = "student_first") -> str:
    """Of a run, below the seed's."""
    return ("_".join(parts) or "none") + ("" if order == "student_first" else f"_{order}")


def train(args, extra) -> None:
    """What is missing, seed by seed."""
    wanted = [(PARTS, order) for order in ORDERS] if args.orders else [
        (parts, "student_first") for parts in SETS if name_of(parts).startswith(tuple(args.rows.split(",")))]
    for seed in args.seeds:
        embedded.train(args.workdir, seed, "teacher", "reskd_minik.py:demo", ["--config.run=teacher", *extra])
        embedded.train(args.workdir, seed, "plain", "reskd_minik.py:demo",
                       ["--config.run=baseline", STEPS, *extra])
        for parts, order in wanted:
            config = f"{CONFIG},parts={'+'.join(parts)},order={order}"
            flags = ["--config.run=", STEPS]
            if "reskd" in parts:
                flags.append(f"--config.method.teacher={args.workdir}/seed{seed}/teacher/teacher")
            embedded.train(args.workdir, seed, folder(parts, order), config, [*flags, *extra])


# ------------------------------------------------------------------------------------------- the clock
def restored(workdir: str, side: int):
    """(method, variables, clips) of a trained network for clips of another side; 0: as it was trained.

    Thresholds stay those that were calibrated: what videos score, and where they stop, may differ.
    """
    config, stage = runs.trained(None, workdir)
    saved, loaded = checkpoint.load_variables(stage)
    config = config.copy_and_resolve_references()
    config.model, clips = saved.model, validation_clips(config, CLIPS)
    if side:
        config.model.resolution, config.data.test_crop_size = 0, side
        clips = np.stack([[cv2.resize(frame, (side, side)) for frame in clip] for clip in clips])
    method = make_method(config, make_task(config, saved.class_names), inference=True)
    return method, jax.device_put(Variables(loaded["params"], loaded["batch_stats"])), clips


def validation_clips(config, count: int) -> np.ndarray:
    """Clips of the validation split, uint8 (count, T, side, side, 3)."""
    split = data_pipelines.open_split(config.data, "val")
    return np.stack([split.frames(i, range(config.data.num_frames)) for i in range(count)])


def side_of(workdir: str, side: int):
    """(a function that answers `CLIPS` clips as fast as the network can, for the clock; their mean GMACs)."""
    method, variables, clips = restored(workdir, side)
    runners, starts = method.runners(), range(0, CLIPS, BATCH)
    if "compact" in runners and runners["compact"].segments:
        segments = runners["compact"].segments
        run = executor.Executor(segments.steps, segments.score, BATCH, policy="compact")
        thresholds = jax.device_get(segments.thresholds(variables))
        ordered = np.ascontiguousarray(clips[:, list(segments.order)])
        run.warm_up(variables, ordered[:1])

        def stopping():
            return list(run.run(variables, thresholds, (
                executor.Rows(range(BATCH), ordered[start:start + BATCH]) for start in starts)))

        return stopping, float(np.mean([segments.spent(answer) for answer in stopping()]))
    predict = jax.jit(runners.get("compact", runners.get("whole")).predict)

    def whole():
        return [predict(variables, {"video": clips[start:start + BATCH, None]}) for start in starts]

    return whole, float(np.mean([prediction.gmacs for prediction in whole()]))


def measure(args, seed: int, stages, side: int) -> dict[str, list[float]]:
    """{stage: (clips per second, GMACs a clip)} of the networks of a seed; kept in a file."""
    path = os.path.join(args.workdir, f"seed{seed}", f"clips_per_second_{side or 'as_trained'}.json")
    if os.path.exists(path) and set(found := writers.read_json(path, "Remove it.")) >= set(stages):
        return {stage: [found[stage], found[f"{stage}: GMACs"]] for stage in stages}
    sides = {stage: side_of(os.path.join(args.workdir, f"seed{seed}", stage), side) for stage in stages}
    times = timing.measure({stage: run for stage, (run, _) in sides.items()}, seconds=args.seconds)
    found = {stage: [times[stage].rate(CLIPS), sides[stage][1]] for stage in stages}
    writers.write_json(path, {stage: rate for stage, (rate, _) in found.items()} | {
        f"{stage}: GMACs": gmacs for stage, (_, gmacs) in found.items()})
    return found


def clock_columns(args, stages) -> dict[str, dict]:
    """{stage: columns}: clips per second as trained; and at `--side` what of the promise is kept.

    The promise of a network is the plain one's multiply-adds over its own, kept is the measured speed-up.
    """
    columns: dict[str, dict] = {stage: {} for stage in stages}
    for stage, speeds in _by_stage([measure(args, seed, stages, 0) for seed in args.seeds]).items():
        columns[stage]["clips/s"] = [rate for rate, _ in speeds], ".0f"
    plain = folder(())
    larger = [stage for stage in stages if "/" not in stage]
    if args.side and plain in larger:
        found = _by_stage([measure(args, seed, larger, args.side) for seed in args.seeds])
        for stage in larger:
            pairs = list(zip(found[stage], found[plain], strict=True))
            faster, cheaper = ([ours[0] / theirs[0] for ours, theirs in pairs],
                               [theirs[1] / ours[1] for ours, theirs in pairs])
            columns[stage] |= {
                f"{args.side} px, speed-up": (faster, ".2f"),
                f"{args.side} px, promised": (cheaper, ".2f"),
                f"{args.side} px, kept": ([a / b for a, b in zip(faster, cheaper, strict=True)], ".2f")}
    return columns


def _by_stage(seeds: list[dict]) -> dict[str, list]:
    return {stage: [found[stage] for found in seeds] for stage in seeds[0]} if seeds else {}


# -------------------------------------------------------------------------------------------- the table
def rows_of(args, stages) -> list[dict[str, str]]:
    """Rows of the results, of the stages that all seeds have; prints them."""
    command = f"{COMMAND} --orders" if args.orders else COMMAND
    table, rows = "combined_orders" if args.orders else "combined", []
    done = {name: stage for name, stage in stages.items()
            if len(embedded.read(args.workdir, args.seeds, stage)) == len(args.seeds)}
    for name in stages:
        if name not in done:
            print(f"{name}: not finished")
    clock = clock_columns(args, list(done.values())) if args.seconds and done else {}
    for name, stage in done.items():
        found = embedded.read(args.workdir, args.seeds, stage)
        columns = {"top-1 (%)": ([100 * m["val/top1"] for m in found], ".1f"),
                   "GMACs (10⁻³)": ([1e3 * m["val/gmacs"] for m in found], ".2f"),
                   "without stopping, top-1 (%)": ([100 * m.get("val/full_top1", m["val/top1"])
                                                    for m in found], ".1f")}
        columns |= clock.get(stage, {})
        rows += [embedded.row(f"{table}: {name}: {column}", values, form, CONFIG, command, args.seeds)
                 for column, (values, form) in columns.items()]
        print(f"{name:48s}", "; ".join(f"{column} {row['value']} ± {row['spread'] or 0}"
                                       for column, row in zip(columns, rows[-len(columns):])))
    draw(args, table, rows)
    return rows


def draw(args, table: str, rows) -> None:
    """`<table>.png` in the workdir: accuracy against mean cost."""
    points = {}
    for row in rows:
        _, name, column = row["what"].split(": ")
        points.setdefault(name, {})[column] = float(row["value"])
    short = {TEACHER: "teacher", PLAIN: "plain", name_of(()): "no part"}
    short |= {name_of(parts): "+".join(parts) for parts in SETS[1:-1]} | {name_of(PARTS): "all three"}
    marks = {short.get(name, name): (x["GMACs (10⁻³)"] / 1e3, x["top-1 (%)"])
             for name, x in points.items()}
    if marks:
        writers.write_bytes(os.path.join(args.workdir, f"{table}.png"),
                            plots.accuracy_against_cost(marks, "top-1 (%)"))


def main() -> None:
    """Trains what is missing, prints the table, replaces its rows in the results, draws the figure."""
    def more(parser):
        parser.add_argument("--orders", action="store_true", help="compare orders of training instead")
        parser.add_argument("--rows", default="", help="comma-separated beginnings of names; all by default")
        parser.add_argument("--seconds", type=float, default=60.0, help="of measuring, a seed and a side")
        parser.add_argument("--side", type=int, default=96, help="larger clips to measure on; 0: none")

    args, extra = embedded.arguments(__doc__, "runs/combined_embedded", more)
    if not args.collect:
        train(args, extra)
    if args.orders:
        stages = {ORDERS[order]: folder(PARTS, order) for order in ORDERS}
    else:
        stages = {TEACHER: "teacher/teacher", PLAIN: "plain/baseline"}
        stages |= {name_of(parts): folder(parts) for parts in SETS}
    if rows := rows_of(args, stages):
        embedded.replace_table(args.results, "combined_orders" if args.orders else "combined", rows)


if __name__ == "__main__":
    main()
