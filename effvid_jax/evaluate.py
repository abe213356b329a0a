"""Evaluation: accuracy beside cost, every example of the split exactly once."""

from __future__ import annotations

import csv
import os

import jax
import numpy as np

import data_pipelines
from effvid_jax import checkpoint, console, metrics, sharding, writers
from effvid_jax.methods import Method, Variables, make_method


def jit_predict(predict, mesh):
    """(variables, batch of numpy arrays) -> Prediction as numpy arrays, on all devices of the mesh."""
    compiled = jax.jit(predict, out_shardings=sharding.replicated(mesh))
    return lambda variables, batch: jax.tree.map(np.asarray, compiled(variables, batch))


def evaluate(predict, variables, config, mesh, class_names, *, split: str = "val", prefix: str = "",
             resolution: int = 0, workdir: str = "") -> dict[str, float]:
    """Scores a split.

    Args:
        predict: from `jit_predict`.
        variables: what `predict` reads, on the devices.
        config: `config.data` says how the split is read.
        mesh: the devices.
        class_names: K names.
        split: which split.
        prefix: of the metrics' names; the split by default.
        resolution: side of the network's input, told beside the accuracy; 0: as the pipeline crops.
        workdir: where to write `predictions_<split>.csv`; not written if empty.

    Returns:
        `{prefix}/top1`, `top5`, `mean_class_accuracy`, `gmacs`, `views`, `frames`, `resolution`,
        `examples`, `broken_videos`; and `map` if videos have several labels. Accuracies are in [0, 1].
    """
    pipeline = data_pipelines.make_pipeline(
        config.data, split, process_index=jax.process_index(), process_count=jax.process_count())
    if len(pipeline.source.class_names) != len(class_names):
        raise ValueError(
            f"the network has {len(class_names)} classes, split {split!r} of config.data has "
            f"{len(pipeline.source.class_names)}: give the data it was trained for.")
    multi_label = config.data.multi_label
    keep = ("label", "mask", "id") + (("labels",) if multi_label else ())
    found: dict[str, list] = {name: [] for name in (*keep, "scores", "gmacs")}
    views = frames = side = 0
    with console.bar(pipeline.num_steps, f"eval {prefix or split} {config.name}", "batch", leave=False) as progress:
        for batch in pipeline:
            views, frames, side = batch["video"].shape[1:4]
            on_device = sharding.shard_batch(batch, mesh)
            prediction = predict(variables, {"video": on_device["video"]})
            found["scores"].append(softmax(prediction.logits))
            found["gmacs"].append(prediction.gmacs)
            for name in keep:
                found[name].append(gather(on_device[name], mesh))
            progress.update()
    broken = len(pipeline.broken)
    pipeline.close()
    real = np.concatenate(found.pop("mask")) > 0
    rows = {name: np.concatenate(parts)[real] for name, parts in found.items()}
    scores, labels = rows["scores"], rows["label"]
    if not len(labels):
        raise data_pipelines.DataError(f"split {split!r} of config.data has no readable video.")
    result = {
        "top1": metrics.top_k_accuracy(scores, labels, 1),
        "top5": metrics.top_k_accuracy(scores, labels, min(5, len(class_names))),
        "mean_class_accuracy": metrics.mean_class_accuracy(scores, labels),
        "gmacs": rows["gmacs"].mean(dtype=np.float64), "views": views, "frames": frames,
        "resolution": resolution or side, "examples": len(labels), "broken_videos": broken,
    }
    if multi_label:
        result["map"] = metrics.mean_average_precision(scores, rows["labels"])
    if workdir and jax.process_index() == 0:
        write_predictions(os.path.join(workdir, f"predictions_{split}.csv"), rows, pipeline.source,
                          class_names)
    return {f"{prefix or split}/{name}": float(value) if isinstance(value, np.floating) else value
            for name, value in result.items()}


def evaluate_workdir(config, workdir: str, split: str = "val") -> dict[str, float]:
    """`--mode=eval`: restores the newest checkpoint of a workdir on any device count and scores it.

    Raises:
        ValueError: no checkpoint, a damaged one, or another number of classes than the data has.
    """
    mesh = sharding.make_mesh()
    method, variables, saved = restore_for_inference(config, workdir)
    result = evaluate(
        jit_predict(method.predict, mesh), sharding.replicate(variables, mesh), config, mesh,
        saved.class_names, split=split, resolution=method.resolution, workdir=workdir)
    params = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(variables.params))
    result = {"step": saved.step, **result, "params": params}
    if jax.process_index() == 0:
        writers.write_json(os.path.join(workdir, "metrics.json"), result)
    return result


def restore_for_inference(config, workdir: str) -> tuple[Method, Variables, checkpoint.Saved]:
    """The evaluated network of a workdir: method, variables (without teacher) and what was saved.

    Only `config.model` and `config.method` matter; frozen networks need not be there any more.
    """
    saved, loaded = checkpoint.load_variables(workdir, config.init.step or None)
    config = config.copy_and_resolve_references()
    config.model = saved.model
    method = make_method(config, saved.class_names, inference=True)
    return method, Variables(loaded["params"], loaded["batch_stats"]), saved


def gather(x, mesh) -> np.ndarray:
    """A batch array that is cut over devices (of several processes, maybe), whole."""
    return np.asarray(jax.jit(lambda a: a, out_shardings=sharding.replicated(mesh))(x))


def softmax(logits) -> np.ndarray:
    """Probabilities (B, K) in float64."""
    z = np.asarray(logits, np.float64)
    z = np.exp(z - z.max(axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def write_predictions(path: str, rows, source, class_names) -> None:
    """One line a video: name, label, predicted class, its probability, cost."""
    with open(path, "w", newline="") as f:
        table = csv.writer(f)
        table.writerow(["video", "label", "predicted", "prob", "gmacs"])
        for i, label, scores, gmacs in zip(rows["id"], rows["label"], rows["scores"], rows["gmacs"]):
            best = int(scores.argmax())
            table.writerow([source.entry(int(i)).name, class_names[int(label)], class_names[best],
                            f"{scores[best]:.4f}", f"{gmacs:.6g}"])
