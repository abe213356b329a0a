"""Evaluation: accuracy beside cost, every example of the split exactly once."""

from __future__ import annotations

import collections
import csv
import os
from functools import partial

import jax
import numpy as np

import data_pipelines
from data_pipelines.broken import BrokenFiles
from data_pipelines.options import check_options, plain_options
from effvid_jax import checkpoint, console, executor, metrics, sharding, writers
from effvid_jax.methods import Method, Variables, make_method


def jit_predict(predict, mesh):
    """(variables, batch of numpy arrays) -> Prediction as numpy arrays, on all devices of the mesh."""
    compiled = jax.jit(predict, out_shardings=sharding.replicated(mesh))
    return lambda variables, batch: jax.tree.map(np.asarray, compiled(variables, batch))


def evaluate(predict, variables, config, mesh, class_names, *, split: str = "val", prefix: str = "",
             resolution: int = 0, workdir: str = "", analyse=None,
             adaptive=None) -> dict[str, float]:
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
        analyse: see `Method.analyse`.
        adaptive: see `Method.adaptive`: videos really stop early, in place of `predict`.

    Returns:
        `{prefix}/top1`, `top5`, `mean_class_accuracy`, `gmacs`, `views`, `frames`, `resolution`,
        `examples`, `broken_videos`; `gmacs_min` and `gmacs_max` if the cost differs between videos;
        `clip_top1` if there are several views; `map` if videos have several labels; and what
        `analyse` adds. Accuracies are in [0, 1].
    """
    gather_rows = collect if adaptive is None else partial(collect_adaptive, adaptive)
    rows, shape, broken, source = gather_rows(
        predict, variables, config, mesh, class_names, split, prefix or split)
    scores, labels, gmacs = rows["scores"], rows["label"], rows["gmacs"]
    result = {
        "top1": metrics.top_k_accuracy(scores, labels, 1),
        "top5": metrics.top_k_accuracy(scores, labels, min(5, len(class_names))),
        "mean_class_accuracy": metrics.mean_class_accuracy(scores, labels),
        "gmacs": gmacs.mean(dtype=np.float64), "views": shape[0], "frames": shape[1],
        "resolution": resolution or shape[2], "examples": len(labels), "broken_videos": broken,
    }
    if gmacs.min() < gmacs.max():
        result |= {"gmacs_min": float(gmacs.min()), "gmacs_max": float(gmacs.max())}
    if "clip_answers" in rows:
        result["clip_top1"] = float((rows["clip_answers"] == labels[:, None]).mean(dtype=np.float64))
    if config.data.multi_label:
        result["map"] = metrics.mean_average_precision(scores, rows["labels"])
    first = jax.process_index() == 0
    if analyse is not None:
        rows["name"] = np.array([source.entry(int(i)).name for i in rows["id"]])
        result |= analyse(rows, variables, workdir if first else "", split, class_names)
    if workdir and first:
        write_predictions(os.path.join(workdir, f"predictions_{split}.csv"), rows, source, class_names)
    return {f"{prefix or split}/{name}": float(value) if isinstance(value, np.floating) else value
            for name, value in result.items()}


def collect(predict, variables, config, mesh, class_names, split: str, title: str):
    """Predictions for a whole split.

    Returns:
        rows (see `Method.analyse`, without names), the views' shape (V, T, side), number of broken
        videos, and the source of the clips.

    Raises:
        ValueError: another number of classes than the network's, or no readable video.
    """
    pipeline = data_pipelines.make_pipeline(
        config.data, split, process_index=jax.process_index(), process_count=jax.process_count())
    _check_classes(pipeline.source, split, class_names)
    keep = ("label", "mask", "id") + (("labels",) if config.data.multi_label else ())
    found: dict[str, list] = collections.defaultdict(list)
    shape = (0, 0, 0)
    with console.bar(pipeline.num_steps, f"eval {title} {config.name}", "batch", leave=False) as progress:
        for batch in pipeline:
            shape = batch["video"].shape[1:4]
            on_device = sharding.shard_batch(batch, mesh)
            prediction = predict(variables, {"video": on_device["video"]})
            found["scores"].append(softmax(prediction.logits))
            found["gmacs"].append(prediction.gmacs)
            for name, values in prediction.extra.items():
                found[name].append(values)
            for name in keep:
                found[name].append(gather(on_device[name], mesh))
            progress.update()
    broken = len(pipeline.broken)
    pipeline.close()
    real = np.concatenate(found.pop("mask")) > 0 if found else np.zeros(0, bool)
    if not real.any():
        raise data_pipelines.DataError(f"split {split!r} of config.data has no readable video.")
    rows = {name: np.concatenate(parts)[real] for name, parts in found.items()}
    return rows, shape, broken, pipeline.source


def collect_adaptive(adaptive, predict, variables, config, mesh, class_names, split: str, title: str):
    """As `collect`, with an executor: what stopped videos do not need is neither decoded nor computed.

    Raises:
        ValueError: as `collect`; or several processes, or several views.
    """
    from data_pipelines import clips, sources  # these import the decoders
    from data_pipelines.cache import CachedSource

    del predict
    if jax.process_count() > 1:
        raise ValueError("config.method.executor works in a single process: evaluate with "
                         "--config.method.executor=simulate on several.")
    options = plain_options(config.data)
    check_options(options)
    source = sources.make_source(options, split)
    _check_classes(source, split, class_names)
    reading = CachedSource(source, options.test_short_side, options.cache_gib * 2**30) \
        if options.cache == "memory" else source
    broken = BrokenFiles(source, split, options.max_broken_share)

    def load(index, start, stop):
        _, reader = reading.read(index)
        with reader:
            return clips.eval_frames(reader, options, adaptive.order[start:stop])

    size = config.data.eval_batch_size
    run = executor.Executor(adaptive.steps, adaptive.score, size, tuple(config.method.executor_sizes),
                            config.method.executor, mesh if mesh.size > 1 else None,
                            max(1, options.num_threads))
    batches = (executor.Rows(range(start, min(start + size, len(source))), load=load)
               for start in range(0, len(source), size))
    thresholds = jax.device_get(adaptive.thresholds(variables))
    found: dict[str, list] = collections.defaultdict(list)
    with console.bar(len(source), f"eval {title} {config.name}", "video", leave=False) as progress:
        for answer in run.run(variables, thresholds, batches):
            progress.update()
            if answer.error is not None:
                if not isinstance(answer.error, data_pipelines.VideoError):
                    raise answer.error
                broken.add([(answer.id, answer.error.name, answer.error.reason)])
                continue
            labels = clips.distinct_labels(source.entry(answer.id), options, len(class_names))
            found["id"].append(answer.id)
            found["label"].append(labels[0])
            found["labels"].append(np.isin(np.arange(len(class_names)), labels).astype(np.uint8))
            found["scores"].append(softmax(answer.logits))
            found["gmacs"].append(adaptive.gmacs[answer.checkpoint])
            found["exit"].append(answer.checkpoint)
    if not found:
        raise data_pipelines.DataError(f"split {split!r} of config.data has no readable video.")
    rows = {name: np.array(values) for name, values in found.items()}
    return rows, (1, options.num_frames, options.test_crop_size), len(broken), source


def _check_classes(source, split: str, class_names) -> None:
    if len(source.class_names) != len(class_names):
        raise ValueError(
            f"the network has {len(class_names)} classes, split {split!r} of config.data has "
            f"{len(source.class_names)}: give the data it was trained for.")


def evaluate_workdir(config, workdir: str, split: str = "val") -> dict[str, float]:
    """`--mode=eval`: restores the newest checkpoint of a workdir on any device count and scores it.

    Raises:
        ValueError: no checkpoint, a damaged one, or another number of classes than the data has.
    """
    mesh = sharding.make_mesh()
    method, variables, saved = restore_for_inference(config, workdir)
    really_stop = method.adaptive is not None and config.method.executor != "simulate"
    result = evaluate(
        jit_predict(method.predict, mesh), sharding.replicate(variables, mesh), config, mesh,
        saved.class_names, split=split, resolution=method.resolution, workdir=workdir,
        analyse=method.analyse, adaptive=method.adaptive if really_stop else None)
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
    variables = Variables(loaded["params"], loaded["batch_stats"])
    if method.calibrate is not None:
        variables = method.calibrate(variables, None)
    return method, variables, saved


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
