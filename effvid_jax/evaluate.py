"""Evaluation: accuracy beside cost, every example of the split exactly once."""

from __future__ import annotations

import collections
import os
from functools import partial

import jax
import numpy as np

import data_pipelines
from effvid_jax import checkpoint, console, sharding, writers
from effvid_jax.exits import executor
from effvid_jax.methods import Method, Variables, make_method
from effvid_jax.tasks import make_task


def jit_predict(predict, mesh):
    """(variables, batch of numpy arrays) -> Prediction as numpy arrays, on all devices of the mesh."""
    compiled = jax.jit(predict, out_shardings=sharding.replicated(mesh))
    return lambda variables, batch: jax.tree.map(np.asarray, compiled(variables, batch))


def evaluate(predict, variables, config, mesh, task, *, split: str = "val", prefix: str = "",
             resolution: int = 0, workdir: str = "", analyse=None,
             runner=None) -> dict[str, float]:
    """Scores a split.

    Args:
        predict: from `jit_predict`.
        variables: what `predict` reads, on the devices.
        config: `config.data` says how the split is read.
        mesh: the devices.
        task: what the network is asked.
        split: which split.
        prefix: of the metrics' names; the split by default.
        resolution: side of the network's input, told beside the accuracy; 0: as the pipeline crops.
        workdir: where to write `predictions_<split>.csv`; not written if empty.
        analyse: see `Method.analyse`.
        runner: see `Method.runners`: with segments videos really stop early, in place of `predict`.

    Returns:
        `{prefix}/top1`, `top5`, `mean_class_accuracy`, `gmacs`, `views`, `frames`, `resolution`,
        `examples`, `broken_videos`; `gmacs_min` and `gmacs_max` if the cost differs between videos;
        `clip_top1` if there are several views; `map` if videos have several labels; and what
        `analyse` adds. Accuracies are in [0, 1].
    """
    stops = runner is not None and runner.segments is not None
    gather_rows = partial(collect_adaptive, runner) if stops else collect
    rows, shape, broken, data = gather_rows(
        predict, variables, config, mesh, task, split, prefix or split)
    rows["name"] = np.array([data.entry(int(i)).name for i in rows["id"]])
    gmacs = rows["gmacs"]
    result = {
        **task.metrics(rows),
        "gmacs": gmacs.mean(dtype=np.float64), "views": shape[0], "frames": shape[1],
        "resolution": resolution or shape[2], "examples": len(gmacs), "broken_videos": broken,
    }
    if gmacs.min() < gmacs.max():
        result |= {"gmacs_min": float(gmacs.min()), "gmacs_max": float(gmacs.max())}
    first = jax.process_index() == 0
    if analyse is not None:
        result |= analyse(rows, variables, workdir if first else "", split)
    if workdir and first:
        task.write_rows(os.path.join(workdir, f"predictions_{split}.csv"), rows)
    return {f"{prefix or split}/{name}": float(value) if isinstance(value, np.floating) else value
            for name, value in result.items()}


def collect(predict, variables, config, mesh, task, split: str, title: str):
    """Predictions for a whole split.

    Returns:
        rows (see `Method.analyse`, without names), the views' shape (V, T, side), number of broken
        videos, and the split.

    Raises:
        ValueError: another number of classes than the network's, or no readable video.
    """
    data = open_split(config, split, task)
    keep = ("mask", "id", *data.targets.evaluate_fields)
    found: dict[str, list] = collections.defaultdict(list)
    with (data.batches(process_index=jax.process_index(), process_count=jax.process_count()) as batches,
          console.bar(batches.num_steps, f"eval {title} {config.name}", "batch", leave=False) as progress):
        for batch in batches:
            on_device = sharding.shard_batch(batch, mesh)
            prediction = predict(variables, {"video": on_device["video"]})
            found["scores"].append(task.scores(prediction.logits))
            found["gmacs"].append(prediction.gmacs)
            for name, values in prediction.extra.items():
                found[name].append(values)
            for name in keep:
                found[name].append(gather(on_device[name], mesh))
            progress.update()
    real = np.concatenate(found.pop("mask")) > 0 if found else np.zeros(0, bool)
    if not real.any():
        raise data_pipelines.DataError(f"split {split!r} of config.data has no readable video.")
    rows = {name: np.concatenate(parts)[real] for name, parts in found.items()}
    return rows, data.clip_shape, len(batches.broken), data


def open_split(config, split: str, task) -> data_pipelines.Split:
    """A split with the targets of the network's task."""
    return data_pipelines.open_split(config.data, split, task.targets, process_count=jax.process_count())


def collect_adaptive(runner, predict, variables, config, mesh, task, split: str, title: str):
    """As `collect`, with an executor: what stopped videos do not need is neither decoded nor computed.

    Raises:
        ValueError: as `collect`; or several processes, or several views.
    """
    del predict
    adaptive = runner.segments
    if jax.process_count() > 1:
        raise ValueError("config.method.executor works in a single process: evaluate with "
                         "--config.method.executor=simulate on several.")
    data = open_split(config, split, task)

    def load(index, start, stop):
        return data.frames(index, adaptive.order[start:stop])

    size = config.data.eval_batch_size
    run = executor.Executor(adaptive.steps, adaptive.score, size, runner.sizes, runner.policy,
                            mesh if mesh.size > 1 else None, max(1, config.data.num_threads))
    batches = (executor.Rows(range(start, min(start + size, len(data))), load=load)
               for start in range(0, len(data), size))
    thresholds = jax.device_get(adaptive.thresholds(variables))
    found: dict[str, list] = collections.defaultdict(list)
    with console.bar(len(data), f"eval {title} {config.name}", "video", leave=False) as progress:
        for answer in run.run(variables, thresholds, batches):
            progress.update()
            if answer.error is not None:
                if not isinstance(answer.error, data_pipelines.VideoError):
                    raise answer.error
                data.broken.add([(answer.id, answer.error.name, answer.error.reason)])
                continue
            found["id"].append(answer.id)
            for name, value in data.targets.evaluate(data.entry(answer.id)).items():
                found[name].append(value)
            found["scores"].append(task.scores(answer.logits[None])[0])
            found["gmacs"].append(adaptive.gmacs[answer.checkpoint])
            found["exit"].append(answer.checkpoint)
    if not found:
        raise data_pipelines.DataError(f"split {split!r} of config.data has no readable video.")
    rows = {name: np.array(values) for name, values in found.items()}
    return rows, data.clip_shape, len(data.broken), data


def evaluate_workdir(config, workdir: str, split: str = "val") -> dict[str, float]:
    """`--mode=eval`: restores the newest checkpoint of a workdir on any device count and scores it.

    Raises:
        ValueError: no checkpoint, a damaged one, or another number of classes than the data has.
    """
    mesh = sharding.make_mesh()
    method, variables, saved = restore_for_inference(config, workdir)
    result = evaluate(
        jit_predict(method.predict, mesh), sharding.replicate(variables, mesh), config, mesh,
        method.task, split=split, resolution=method.resolution, workdir=workdir,
        analyse=method.analyse, runner=method.runners()[method.runner])
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
    method = make_method(config, make_task(config, saved.class_names), inference=True)
    variables = Variables(loaded["params"], loaded["batch_stats"])
    if method.calibrates:
        variables = method.calibrate(variables, None)
    return method, variables, saved


def gather(x, mesh) -> np.ndarray:
    """A batch array that is cut over devices (of several processes, maybe), whole."""
    return np.asarray(jax.jit(lambda a: a, out_shardings=sharding.replicated(mesh))(x))
