"""What the gates of a trained network do on its clips, and what that costs and saves.

    python -m effvid_jax.analysis.gates --workdir=RUN                      # files in RUN/analysis
    python -m effvid_jax.analysis.gates --workdir=RUN --seconds=0          # without the clock

VA-RED2 (arXiv 2102.07887) says that clips differ in what they need; its tables have the mean, the largest and
the smallest cost. Here are all of them, for any method with gated convolutions:

    gates_<split>.json          cost per clip and per video (mean, extremes, 5 to 95 %), different decision
                                patterns, layers that never vary, correlation of a video's cost with its
                                difficulty (of the embedded benchmark), loss, confidence and with being right
                                (Spearman, 95 % interval), clips per second of the compact form against the
                                static network, realised share
    gates_<split>.csv           a line a gated convolution: what is computed of it, which decisions are taken
    gates_<split>_videos.csv    a line a video: cost and what it is held against
    gates_<split>.png           the same drawn; every picture is there as .svg too
    gate_blocks_<split>.csv, .png    what each block computes for each class (the paper's Fig. 3)
    gate_clips_<split>.png           frames of the dearest and the cheapest clip of classes (its Fig. 4)

Clips are timed as `benchmarks/va_red2_speed.py` times random ones (`effvid_jax/speed/gated_bench.py`).
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import data_pipelines
from effvid_jax import console, cost, evaluate, sharding, writers
from effvid_jax.analysis import drawing, gate_pictures, gate_statistics, opening
from effvid_jax.errors import UserError
from effvid_jax.methods import building
from effvid_jax.methods.gated import Gated
from effvid_jax.methods.va_red2 import VaRed2
from effvid_jax.speed import gated_bench

FRAMES = 6  # of a clip in the strips


def facts(opened: opening.Opened, rows) -> dict[str, np.ndarray]:
    """What the cost of a video may go with, (N,) each: 'difficulty', 'loss', 'confidence', 'right'.

    Args:
        opened: network and clips.
        rows: of an evaluation, see `evaluate.Rows`.

    Returns:
        Those that are known: the difficulty of the embedded benchmark alone, the others of tasks whose
        outputs are scores of classes.
    """
    task, found = opened.method.task, {}
    made = data_pipelines.made_clips(opened.config.data, opened.split.name)
    if made and all(name in made for name in rows["name"]):
        found["difficulty"] = np.array([float(made[name]["difficulty"]) for name in rows["name"]])
    if task.class_scores and "label" in rows:
        scores = rows["scores"]
        p = scores[np.arange(len(scores)), rows["label"]]
        found |= {"loss": -np.log(np.maximum(p, 1e-30)), "confidence": scores.max(axis=1),
                  "right": task.right(task.answers(scores), rows).astype(float)}
    return found


def macs_of(opened: opening.Opened) -> list[int]:
    """Multiply-adds of every gated convolution for one clip, in the order of `Gated.layer_names`."""
    _, frames, side = opened.split.clip_shape
    side = opened.method.resolution or side
    shape = jax.ShapeDtypeStruct((1, frames, side, side, 3), jnp.float32)
    return [d.macs for d in jax.eval_shape(opened.method.decisions, opened.variables.network, shape)]


def speed(opened: opening.Opened, clips: int, batch: int, seconds: float) -> dict:
    """Clips per second of the network's compact form and of the static network on clips of the split.

    Raises:
        UserError: a batch that is larger than the number of clips.
    """
    method = opened.method
    videos = [view for _, view in opening.some_clips(opened, clips, "clips to time")]
    videos = videos[:len(videos) // batch * batch]
    if not videos:
        raise UserError(f"--batch={batch} with --clips={clips} of a split of {len(opened.split)}: expected "
                        f"at least as many clips as a batch has.")
    x = jnp.concatenate([method.sight(view[None]) for view in videos])
    forms = {name: method.in_form(name).model for name in ("mixed", "compact")}
    plain = building.build_network(opened.config.model, method.task)
    with console.bar(0, "timing", "sample") as progress:
        found = gated_bench.costs(plain, forms["mixed"], opened.variables.network, x)
        rows, deviation, times = gated_bench.measure(
            plain, forms["mixed"], forms["compact"], opened.variables.network, x, found, batch, seconds,
            progress.update)
    names = {kind: gated_bench.best_of(times, kind) for kind in ("static", "compact")}
    best = {kind: next(row for row in rows if row["form"] == name) for kind, name in names.items()}
    return {"clips": len(videos), "batch": batch, "static_form": names["static"],
            "static_clips_per_second": best["static"]["clips/s"], "compact_form": names["compact"],
            "compact_clips_per_second": best["compact"]["clips/s"],
            "time_ratio": best["compact"]["time ratio"],
            "gmacs_ratio": best["compact"]["GMACs"] / best["static"]["GMACs"],
            "realised": best["compact"]["realised"], "spread": best["compact"]["spread"],
            "largest_deviation": deviation, "device": jax.devices()[0].device_kind}


def analyse(args, opened: opening.Opened) -> None:
    """The command; see the module docstring."""
    method = opened.method
    if not isinstance(method, Gated):
        raise UserError(f"--workdir={args.workdir} was trained with method {opened.config.method.name!r}, "
                        f"which has no gates: expected a run of va_red2 or cgnet.")
    mesh = sharding.make_mesh()
    evaluator = evaluate.Evaluator(opened.config, method, mesh, opened.split.name)
    runner = method.runners()[method.runner]
    rows = evaluator.rows(sharding.replicate(opened.variables, mesh), runner, step=opened.step).arrays
    names, macs = method.layer_names(opened.variables.params), macs_of(opened)
    layers = gate_statistics.layer_table(names, macs, rows["decisions"], rows["ratios"])
    videos = {"cost": rows["clip_gmacs"].mean(axis=1, dtype=np.float64), **facts(opened, rows)}
    related = gate_statistics.correlations(videos["cost"],
                                           {name: x for name, x in videos.items() if name != "cost"})
    static = cost.gmacs(method.model, (*opened.split.clip_shape[1:2],
                                       *(method.resolution or opened.split.clip_shape[2],) * 2, 3))
    told = {
        "network": opened.config.model.backbone, "method": opened.config.method.name, "step": opened.step,
        "split": opened.split.name, "videos": len(rows["gmacs"]), "views": rows["clip_gmacs"].shape[1],
        "static_gmacs_per_clip": static,
        "saved": 1 - float(rows["clip_gmacs"].mean(dtype=np.float64)) / static,
        "gmacs_per_clip": gate_statistics.distribution(rows["clip_gmacs"]),
        "gmacs_per_video": gate_statistics.distribution(rows["gmacs"]),
        **gate_statistics.patterns(rows["decisions"]),
        "layers": len(layers), "never_vary": [row["layer"] for row in layers if not row["varies"]],
        "correlation_with_cost": related}
    if args.seconds and isinstance(method, VaRed2):
        told["speed"] = speed(opened, args.clips, args.batch, args.seconds)
    _write(args, opened, told, layers, videos, rows, macs, names)


def _write(args, opened, told, layers, videos, rows, macs, names) -> None:
    split, task = opened.split.name, opened.method.task
    path = partial(os.path.join, opened.out)
    writers.write_text(path(f"gates_{split}.json"), json.dumps(told, indent=2, default=float))
    writers.write_csv(path(f"gates_{split}.csv"), [
        {name: float(f"{x:.6g}") if isinstance(x, float) else x for name, x in row.items()}
        for row in layers])
    writers.write_lines(path(f"gates_{split}_videos.csv"), [
        ["video", "gmacs_per_clip", *(name for name in videos if name != "cost")],
        *([name, *(f"{x:.6g}" for x in values)] for name, *values in zip(rows["name"], *videos.values()))])
    drawing.write(gate_pictures.overview(
        rows["clip_gmacs"].reshape(-1), told["static_gmacs_per_clip"], layers, videos,
        told["correlation_with_cost"]), path(f"gates_{split}"))
    groups = task.groups(rows)
    everything = ("all", np.arange(len(rows["gmacs"])))
    blocks, shares = gate_statistics.block_shares(names, macs, rows["decisions"], rows["ratios"],
                                                  [*groups, everything])
    writers.write_lines(path(f"gate_blocks_{split}.csv"), [
        ["class", *(f"{block} {what}" for what in shares for block in blocks)],
        *([name, *(f"{x:.4f}" for what in shares for x in shares[what][i])]
          for i, (name, _) in enumerate([*groups, everything]))])
    shown = [*range(min(len(groups), args.classes)), len(groups)]
    drawing.write(gate_pictures.block_map([[*groups, everything][i][0] for i in shown], blocks,
                                          {what: x[shown] for what, x in shares.items()}),
                  path(f"gate_blocks_{split}"))
    drawing.write(gate_pictures.strips(_extremes(opened, groups, rows, args.strips)),
                  path(f"gate_clips_{split}"))
    clip = told["gmacs_per_clip"]
    console.say(f"{told['videos']} videos: {clip['mean']:.4g} GMACs per clip ({clip['min']:.4g} to "
                f"{clip['max']:.4g}; 5 to 95 %: {clip['p5']:.4g} to {clip['p95']:.4g}), static "
                f"{told['static_gmacs_per_clip']:.4g}; {told['patterns']} patterns of decisions, the most "
                f"frequent one for {told['commonest_pattern']:.0%} of the clips; "
                f"{len(told['never_vary'])} of {told['layers']} layers never vary")
    print(json.dumps({"gates": path(f"gates_{split}.json"), "saved": told["saved"],
                      "patterns": told["patterns"], "realised": told.get("speed", {}).get("realised")}))


def _extremes(opened, groups, rows, count: int):
    """Rows of `gate_pictures.strips`: the classes whose dearest and cheapest clip differ most."""
    computed = rows["computed"]
    widest = sorted(groups, key=lambda group: -np.ptp(computed[group[1]]))[:count]
    found = []
    for name, mine in (group for group in groups if group[0] in {kept for kept, _ in widest}):
        pair = [mine[pick(rows["gmacs"][mine])] for pick in (np.argmax, np.argmin)]
        found.append((name, [(opened.split.overview(int(rows["id"][i]), FRAMES, 112), float(computed[i]),
                              str(rows["name"][i])) for i in pair]))
    return found


def main(argv=None) -> int:
    """The command line."""
    parser = opening.parser("gates", __doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing; 0: none")
    parser.add_argument("--clips", type=int, default=32, help="that are timed, spread over the split")
    parser.add_argument("--batch", type=int, default=1, help="clips at a time, of those that are timed")
    parser.add_argument("--classes", type=int, default=25, help="in the map of blocks")
    parser.add_argument("--strips", type=int, default=8, help="classes whose extreme clips are drawn")
    return opening.run(parser, analyse, argv)


if __name__ == "__main__":
    sys.exit(main())
