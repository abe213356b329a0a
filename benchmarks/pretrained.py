"""Few clips of one's own: published weights that are fine-tuned, that stay as they are, and none.

    python benchmarks/pretrained.py --workdir runs/pretrained --seeds 0,1,2

Per seed the embedded writer makes other clips: 6 classes (3 textures that move up or down) with 25 to train
on and 20 to be scored each, in a folder as a user has them. Then, on the same clips at 64 pixels:

* a linear classifier (L2-regularised; how much is found by cross-validation on the training clips) on what
  frozen EfficientNet-Lite0 sees: the mean over 8 frames of the 1280 numbers before its classifier;
* the same for its form with a temporal shift, whose weights were trained without one;
* `configs/supervised_folder.py:pretrained,small` with and without the temporal shift: fine-tuning, which
  begins with such a classifier;
* `configs/supervised_folder.py:small`, the recipe for a CPU without published weights.

`--parts` names some of them. A part that is finished is not done again. Rows go to `docs/results.csv`, with
the processor seconds that each took, and what fine-tuning gains over each linear classifier on equal clips.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import embedded
import numpy as np

import data_pipelines
import effvid_jax
from configs import supervised_folder
from effvid_jax import probe, sharding, writers
from effvid_jax.methods import Variables
from effvid_jax.reports import results
from effvid_jax.tasks import make_task

CLIPS = dict(num_textures=3, num_motions=2, train_clips=150, val_clips=120)
DATASET = "embedded writer's clips (6 classes, 25 train, 20 val clips each)"
BACKBONES = ("efficientnet_lite0", "tsm_efficientnet_lite0")
PARTS = {  # folder: (row, config)
    **{f"{kind}_{name}": (f"{what} {name}", f"supervised_folder.py:pretrained,small,backbone={name}")
       for kind, what in (("probe", "linear classifier on frozen"), ("tuned", "fine-tuned"))
       for name in BACKBONES},
    "scratch": ("small network from random weights", "supervised_folder.py:small"),
}
PROBES = tuple(part for part in PARTS if part.startswith("probe_"))


def make_clips(folder: str, seed: int) -> str:
    """`train/<class>/` and `val/<class>/`, written unless they are there; the folder."""
    root = os.path.join(folder, "my_videos")
    if os.path.isdir(root):
        return root
    built = data_pipelines.write_benchmark(os.path.join(folder, "written"), {**CLIPS, "seed": seed})
    part = root + ".part"
    for split, listed in (("train", built.train_list), ("val", built.val_list)):
        with open(listed, encoding="utf-8") as lines:
            for path in (line.split()[0] for line in lines):
                of_class = os.path.join(part, split, os.path.basename(os.path.dirname(path)))
                os.makedirs(of_class, exist_ok=True)
                shutil.copy(os.path.join(built.root, path), of_class)
    os.rename(part, root)
    return root


def score_probe(root: str, config_name: str, backbone: str) -> dict:
    """Accuracy of a linear classifier on what frozen weights see: the mean over 8 frames of 1280 numbers."""
    config = supervised_folder.get_config(config_name.partition(":")[2])
    config.data.root = root
    names = data_pipelines.open_split(config.data, "train").class_names
    arrays = effvid_jax.pretrained(backbone, num_classes=len(names))
    variables, mesh = Variables(arrays["params"], arrays["batch_stats"]), sharding.make_mesh()
    (x, y), (x_val, y_val) = (probe.features(config, make_task(config, names), variables, mesh, split)
                              for split in ("train", "val"))
    decay, share = probe.choose(x, y, len(names))
    return {"val/top1": probe.fit(x, y, decay, len(names)).right(x_val, y_val), "decay": decay,
            "held_out/top1": share}


def do(part: str, folder: str, root: str, seed: int, extra) -> None:
    """One part, unless it is finished; leaves `seconds.json`, of processors, beside its `metrics.json`."""
    out = os.path.join(folder, part)
    if os.path.exists(os.path.join(out, "seconds.json")):
        return
    config, start = PARTS[part][1], processor_seconds()
    if part.startswith("probe_"):
        metrics = score_probe(root, config, part.removeprefix("probe_"))
        os.makedirs(out, exist_ok=True)
        writers.write_text(os.path.join(out, "metrics.json"), json.dumps(metrics))
    else:
        subprocess.run([sys.executable, "main.py", f"--config=configs/{config}", f"--workdir={out}",
                        f"--config.data.root={root}", f"--config.seed={seed}", f"--config.data.seed={seed}",
                        *extra], cwd=embedded.ROOT, check=True)
    writers.write_text(os.path.join(out, "seconds.json"), json.dumps(
        {"seconds": processor_seconds() - start}))


def processor_seconds() -> float:
    """Of this process and those it has waited for: what a part costs, whatever else the machine does."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def rows_of(workdir: str, seeds) -> list[dict[str, str]]:
    """Rows of the results, of the parts that all seeds have; prints them."""
    rows, found = [], {}
    for part, (what, config) in PARTS.items():
        folders = [os.path.join(workdir, f"seed{seed}", part) for seed in seeds]
        if not all(os.path.exists(os.path.join(folder, "seconds.json")) for folder in folders):
            print(f"{what}: not finished")
            continue
        top1, seconds = ([writers.read_json(os.path.join(folder, name))[key] for folder in folders]
                         for name, key in (("metrics.json", "val/top1"), ("seconds.json", "seconds")))
        top1 = found[part] = [100 * value for value in top1]
        for column, values, form in (("top-1 (%)", top1, ".1f"), ("processor seconds", seconds, ".0f")):
            rows.append(row(f"pretrained: {what}: {column}", values, form, config, seeds))
        print(f"{what:52s} {rows[-2]['value']} % +- {rows[-2]['spread']}, {rows[-1]['value']} s")
    for tuned, probed in ((a, b) for a in found if a.startswith("tuned_") for b in found if b in PROBES):
        gains = np.subtract(found[tuned], found[probed])
        what = f"{PARTS[tuned][0]} over {PARTS[probed][0]}"
        rows.append(row(f"pretrained_gain: {what}", gains, "+.1f", PARTS[tuned][1], seeds))
        print(f"{what}: {rows[-1]['value']} +- {rows[-1]['spread']} points")
    return rows


def row(what: str, values, form: str, config: str, seeds) -> dict[str, str]:
    """A row of the results: mean and standard deviation over the seeds."""
    spread = format(np.std(values, ddof=1), form.lstrip("+")) if len(values) > 1 else ""
    return results.make_row(
        what, format(np.mean(values), form), dataset=DATASET, config=config,
        command=f"python benchmarks/pretrained.py --seeds {','.join(map(str, seeds))}", seeds=seeds,
        spread=spread)


def main() -> None:
    """Does what is missing, prints the table, replaces its rows in the results."""
    args, extra = embedded.arguments(__doc__, "runs/pretrained", lambda parser: parser.add_argument(
        "--parts", default=",".join(PARTS), help="default: all of %(default)s"))
    for seed in () if args.collect else args.seeds:
        folder = os.path.join(args.workdir, f"seed{seed}")
        root = make_clips(folder, seed)
        for part in args.parts.split(","):
            do(part, folder, root, seed, extra)
    if rows := rows_of(args.workdir, args.seeds):
        for table in ("pretrained", "pretrained_gain"):
            of_table = [one for one in rows if one["what"].startswith(f"{table}: ")]
            embedded.replace_table(args.results, table, of_table)


if __name__ == "__main__":
    main()
