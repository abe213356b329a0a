"""Few clips of one's own: published weights that are fine-tuned, that stay as they are, and none.

    python benchmarks/pretrained.py --workdir runs/pretrained --seeds 0,1,2

Per seed the embedded writer makes other clips: 6 classes (3 textures that move up or down) with 25 to train
on and 20 to be scored each, in a folder as a user has them. Then, on the same clips at 64 pixels:

* a linear classifier (L2-regularised; how much is found by cross-validation on the training clips) on what
  frozen EfficientNet-Lite0 sees: the mean over 8 frames of the 1280 numbers before its classifier;
* the same for its form with a temporal shift, whose weights were trained without one;
* `configs/supervised_folder.py:pretrained,small` with and without the temporal shift: fine-tuning;
* `configs/supervised_folder.py:small`, the recipe for a CPU without published weights.

A part that is finished is not done again. Rows go to `docs/results.csv`, with the seconds that each took.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import embedded
import jax
import jax.numpy as jnp
import numpy as np
import optax

import data_pipelines
import effvid_jax
from configs import supervised_folder
from effvid_jax import console, writers
from effvid_jax.methods import Variables, make_method
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
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the linear classifier


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


def features(root: str, config_name: str, backbone: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{split: (what frozen weights see of its clips (N, C), labels (N,))}."""
    config = supervised_folder.get_config(config_name.partition(":")[2])
    config.data.root = root
    found = {}
    for name in ("train", "val"):
        split = data_pipelines.open_split(config.data, name)
        method = make_method(config, make_task(config, split.class_names))
        arrays = effvid_jax.pretrained(backbone, num_classes=len(split.class_names))
        look = jax.jit(lambda video, method=method, arrays=arrays: method.features(
            Variables(arrays["params"], arrays["batch_stats"]), {"video": video}))
        rows, labels = [], []
        with console.bar(len(split), f"frozen {backbone}, {name}", "clip", leave=False) as progress:
            for number in range(len(split)):
                rows.append(np.asarray(look(split.views(number)[None]))[0])
                labels.append(split.entry(number).labels[0])
                progress.update()
        found[name] = (np.stack(rows), np.array(labels))
    return found


def fit(x_NC, y_N, decay: float, classes: int):
    """Weights (C + 1, K) of the least cross-entropy + decay / 2 * |W|^2, by L-BFGS."""
    def loss(weights):
        logits = x_NC @ weights[:-1] + weights[-1]
        cross = optax.softmax_cross_entropy_with_integer_labels(logits, y_N).mean()
        return cross + decay / 2 * jnp.square(weights[:-1]).sum()

    solver = optax.lbfgs()

    def step(_, state):
        weights, inner = state
        value, gradient = optax.value_and_grad_from_state(loss)(weights, state=inner)
        updates, inner = solver.update(gradient, inner, weights, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(weights, updates), inner

    start = jnp.zeros((x_NC.shape[1] + 1, classes))
    return jax.lax.fori_loop(0, 100, step, (start, solver.init(start)))[0]


def probe(found) -> dict:
    """Accuracy of a linear classifier on standardised features; its decay is found on five folds of train."""
    (x, y), (x_val, y_val) = found["train"], found["val"]
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    x, x_val, classes = (x - mean) / std, (x_val - mean) / std, int(y.max()) + 1
    fold = np.random.default_rng(0).permutation(len(y)) % 5
    solve = jax.jit(fit, static_argnums=3)

    def right(weights, x, y):
        return float((np.asarray(x @ weights[:-1] + weights[-1]).argmax(axis=1) == y).mean())

    scores = {decay: np.mean([right(np.asarray(solve(x[fold != k], y[fold != k], decay, classes)),
                                    x[fold == k], y[fold == k]) for k in range(5)]) for decay in DECAYS}
    best = max(scores, key=scores.get)
    return {"val/top1": right(np.asarray(solve(x, y, best, classes)), x_val, y_val), "decay": best}


def do(part: str, folder: str, root: str, seed: int, extra) -> None:
    """One part, unless it is finished; leaves `seconds.json` beside its `metrics.json`."""
    out = os.path.join(folder, part)
    if os.path.exists(os.path.join(out, "seconds.json")):
        return
    config, start = PARTS[part][1], time.monotonic()
    if part.startswith("probe_"):
        metrics = probe(features(root, config, part.removeprefix("probe_")))
        os.makedirs(out, exist_ok=True)
        writers.write_text(os.path.join(out, "metrics.json"), json.dumps(metrics))
    else:
        subprocess.run([sys.executable, "main.py", f"--config=configs/{config}", f"--workdir={out}",
                        f"--config.data.root={root}", f"--config.seed={seed}", f"--config.data.seed={seed}",
                        *extra], cwd=embedded.ROOT, check=True)
    writers.write_text(os.path.join(out, "seconds.json"), json.dumps({"seconds": time.monotonic() - start}))


def rows_of(workdir: str, seeds) -> list[dict[str, str]]:
    """Rows of the results, of the parts that all seeds have; prints them."""
    rows = []
    for part, (what, config) in PARTS.items():
        folders = [os.path.join(workdir, f"seed{seed}", part) for seed in seeds]
        if not all(os.path.exists(os.path.join(folder, "seconds.json")) for folder in folders):
            print(f"{what}: not finished")
            continue
        top1, seconds = ([writers.read_json(os.path.join(folder, name))[key] for folder in folders]
                         for name, key in (("metrics.json", "val/top1"), ("seconds.json", "seconds")))
        top1 = [100 * value for value in top1]
        for column, values, form in (("top-1 (%)", top1, ".1f"), ("seconds", seconds, ".0f")):
            spread = format(np.std(values, ddof=1), form) if len(values) > 1 else ""
            rows.append(results.make_row(
                f"pretrained: {what}: {column}", format(np.mean(values), form), dataset=DATASET,
                config=config, command=f"python benchmarks/pretrained.py --seeds {','.join(map(str, seeds))}",
                seeds=seeds, spread=spread))
        print(f"{what:52s} {rows[-2]['value']} % +- {rows[-2]['spread']}, {rows[-1]['value']} s")
    return rows


def main() -> None:
    """Does what is missing, prints the table, replaces its rows in the results."""
    args, extra = embedded.arguments(__doc__, "runs/pretrained")
    for seed in () if args.collect else args.seeds:
        folder = os.path.join(args.workdir, f"seed{seed}")
        root = make_clips(folder, seed)
        for part in PARTS:
            do(part, folder, root, seed, extra)
    if rows := rows_of(args.workdir, args.seeds):
        embedded.replace_table(args.results, "pretrained", rows)


if __name__ == "__main__":
    main()
