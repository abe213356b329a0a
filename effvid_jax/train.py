"""The train loop: one for every method.

Order of things, which matters: data and its errors first -> method (which loads a frozen teacher) ->
state: resume this workdir, else start from `config.init.checkpoint`, else from scratch -> frozen
networks are evaluated -> steps, each with its own batch and random numbers, both derived from the step
alone, so that a killed run continues bit for bit -> evaluation.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

import data_pipelines
from effvid_jax import checkpoint, console, evaluate, sharding, writers
from effvid_jax.methods import Method, Variables, make_method
from effvid_jax.optim import make_optimizer, make_schedule


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stopped and why."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the state is saved, the same command continues."""


@flax.struct.dataclass
class TrainState:
    """What a step reads and writes. `frozen` rides along and is not saved."""

    step: Any
    params: Any
    stats: Any
    optimizer: Any
    frozen: Any

    @property
    def variables(self) -> Variables:
        return Variables(self.params, self.stats, self.frozen)

    def saved(self) -> dict[str, Any]:
        """The part that goes into a checkpoint."""
        return {"params": self.params, "stats": self.stats, "optimizer": self.optimizer,
                "step": self.step}


def train(config, workdir: str) -> dict[str, float]:
    """Trains what `config` describes, then evaluates it.

    Args:
        config: a resolved config (see `configs/common.py`).
        workdir: where everything is written; an earlier run there is continued.

    Returns:
        The final metrics, such as `{'step': 400, 'val/top1': 0.9, 'val/gmacs': 0.1}`.

    Raises:
        ValueError: anything wrong with config, data or teacher, before the first step.
        TrainingError: a loss that is not finite, or a teacher at chance.
        Interrupted: after a signal, with the state saved.
    """
    mesh = sharding.make_mesh()
    data_args = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    pipeline = data_pipelines.make_pipeline(config.data, "train", **data_args)
    class_names = pipeline.source.class_names
    method = make_method(config, class_names)
    steps_per_epoch = pipeline.steps_per_epoch
    num_steps = config.train.num_steps or round(config.train.num_epochs * steps_per_epoch)
    tx = make_optimizer(config.optim, steps_per_epoch, num_steps)
    clip_shape = (config.data.batch_size, config.data.num_frames, config.data.crop, config.data.crop, 3)

    describe_run(config, workdir, class_names)
    checkpointer = checkpoint.Checkpointer(workdir, config.train.keep)
    state = init_state(method, tx, config, clip_shape)
    resumed = bool(checkpointer.steps())
    if resumed:
        saved = checkpointer.restore(state.saved(), config.init.step or None)
        state = state.replace(**saved)
        console.say(f"continuing {workdir} at step {int(saved['step'])} of {num_steps}")
    first_step = int(state.step)
    state = sharding.replicate(state, mesh)
    predict = evaluate.jit_predict(method.predict, mesh)
    writer = writers.MetricWriter(workdir, first_step, enabled=jax.process_index() == 0)
    if not resumed:
        write_parameters(workdir, state.params)
        metrics = check_references(config, method, state.variables, mesh, class_names, workdir)
        writer.write_scalars(0, metrics)

    step_fn = jit_train_step(method, tx, config.seed, mesh)
    rate = make_schedule(config.optim, steps_per_epoch, num_steps)
    pipeline.close()
    pipeline = data_pipelines.make_pipeline(config.data, "train", start_step=first_step, **data_args)
    batches = sharding.Prefetch(pipeline, mesh)
    watch = Watch(pipeline.source, num_steps)
    every_eval = max(1, round(config.train.eval_every_epochs * steps_per_epoch))
    with (console.bar(num_steps, f"train {config.name}", "step", first_step) as progress,
          Signals() as signals):
        for step in range(first_step + 1, num_steps + 1):
            batch, ids = next(batches)
            state, scalars = step_fn(state, batch)
            watch.add(step, scalars, ids)
            progress.update()
            if step % config.train.log_every_steps == 0 or step == num_steps:
                metrics = watch.flush()
                metrics |= {"train/lr": float(rate(step - 1)), "train/wait_share": batches.wait_share(),
                            "data/broken_videos": len(pipeline.broken)}
                writer.write_scalars(step, metrics)
                progress.set_postfix_str(" ".join(
                    f"{k.split('/')[1]} {v:.3g}" for k, v in metrics.items()
                    if k in ("train/loss", "train/loss_kd", "train/top1", "val/top1")))
            if step == num_steps and method.calibrate is not None:
                rows, *_ = evaluate.collect(predict, state.variables, config, mesh, class_names, "calib",
                                            "calib")
                variables = method.calibrate(state.variables, rows)
                state = state.replace(stats=sharding.replicate(variables.stats, mesh))
            save = step % config.train.checkpoint_every_steps == 0 or step == num_steps
            if save or signals.caught:
                watch.flush()
                checkpointer.save(step, state.saved(), config, class_names)
            if signals.caught:
                checkpointer.close()
                raise Interrupted(
                    f"stopped by {signals.caught} after step {step} of {num_steps}; the state is saved. "
                    f"Start the same command again to continue.")
            if step % every_eval == 0 and step < num_steps:
                writer.write_scalars(step, evaluate.evaluate(
                    predict, state.variables, config, mesh, class_names,
                    resolution=method.resolution))
    pipeline.close()
    checkpointer.close()
    metrics = evaluate.evaluate(predict, state.variables, config, mesh, class_names,
                                resolution=method.resolution, workdir=workdir,
                                analyse=method.analyse)
    metrics = {"step": num_steps, **metrics, "params": count_parameters(state.params)}
    writer.write_scalars(num_steps, metrics)
    writer.write_final(metrics)
    writer.close()
    return metrics


def jit_train_step(method: Method, tx, seed: int, mesh):
    """(state, batch) -> (state, scalars), compiled; the old state's memory is reused."""

    def train_step(state: TrainState, batch):
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        (_, (stats, scalars)), gradient = jax.value_and_grad(method.loss, has_aux=True)(
            state.params, state.variables, batch, rng)
        updates, optimizer = tx.update(gradient, state.optimizer, state.params)
        params = jax.tree.map(lambda p, u: p + u.astype(p.dtype), state.params, updates)
        scalars["grad_norm"] = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient)))
        return state.replace(step=state.step + 1, params=params, stats=stats,
                             optimizer=optimizer), scalars

    everywhere = sharding.replicated(mesh)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(everywhere, everywhere))


def init_state(method: Method, tx, config, clip_shape) -> TrainState:
    """A fresh state, from `config.init.checkpoint` where one is named."""
    variables = method.init(jax.random.key(config.seed), clip_shape)
    params, stats = variables.params, variables.stats
    if config.init.checkpoint:
        _, loaded = checkpoint.load_variables(config.init.checkpoint)
        skip = config.init.skip
        if "backbone" in params and "backbone" not in loaded["params"]:
            # A plain network as the backbone of one with exits: what is outside is new.
            loaded = {name: {"backbone": tree} for name, tree in loaded.items()}
            skip = "|".join(filter(None, [skip, "^(?!backbone/)"]))
        params = merge(params, loaded["params"], skip, config.init.checkpoint)
        stats = merge(stats, loaded["batch_stats"], skip, config.init.checkpoint)
    return TrainState(jnp.zeros((), jnp.int32), params, stats, tx.init(params), variables.frozen)


def merge(ours, loaded, skip, where: str):
    """Loaded arrays in the structure of `ours`; paths that match `skip` keep our values.

    Raises:
        ValueError: lists every array that is missing, unused or of another shape and not skipped.
    """
    flat, have = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (ours, loaded))

    def waived(name):
        return bool(skip) and re.search(skip, name) is not None

    problems = [f"  missing in the file: {k}" for k in flat if k not in have and not waived(k)]
    problems += [f"  unused in the file: {k}" for k in have if k not in flat and not waived(k)]
    problems += [f"  {k}: file {have[k].shape}, model {flat[k].shape}" for k in flat
                 if k in have and not waived(k) and have[k].shape != flat[k].shape]
    if problems:
        raise ValueError(
            f"config.init.checkpoint={where!r} does not fit the model; config.init.skip takes a regular "
            f"expression of arrays to leave at their initial values ('fc/' for another number of "
            f"classes):\n" + "\n".join(problems[:20]))
    return flax.traverse_util.unflatten_dict(
        {k: v if waived(k) else jnp.asarray(have[k]) for k, v in flat.items()}, sep="/")


def check_references(config, method: Method, variables, mesh, class_names, workdir) -> dict[str, float]:
    """Evaluates frozen networks before training; one at chance teaches nothing.

    Raises:
        TrainingError: top-1 (mAP for several labels) below `config.train.min_reference_ratio` x chance.
    """
    metrics = {}
    for name, predict in method.references.items():
        found = evaluate.evaluate(
            evaluate.jit_predict(predict, mesh), variables, config, mesh, class_names, prefix=name)
        metrics |= found
        top1, chance = found[f"{name}/top1"], 1 / len(class_names)
        console.say(f"{name} before training: top-1 {top1:.4f} (chance {chance:.4f})")
        if top1 < config.train.min_reference_ratio * chance:
            raise TrainingError(
                f"{name} at step 0 has top-1 {top1:.4f}, less than "
                f"config.train.min_reference_ratio={config.train.min_reference_ratio} times chance "
                f"({chance:.4f}): its weights, class order or resolution are probably wrong. "
                f"--config.train.min_reference_ratio=0 distils from it all the same.")
    return metrics


class Watch:
    """Collects the scalars of steps without waiting for the device; stops at a loss that is not finite."""

    lag = 2  # a step is looked at when this many later ones are under way

    def __init__(self, source, num_steps: int):
        self.source, self.num_steps = source, num_steps
        self.pending: list[tuple[int, dict, np.ndarray]] = []
        self.sums: dict[str, float] = {}
        self.count, self.start = 0, time.monotonic()

    def add(self, step: int, scalars: dict, ids) -> None:
        """Takes the (still computing) scalars of a step and the ids of its clips."""
        self.pending.append((step, scalars, ids))
        while len(self.pending) > self.lag:
            self._look(*self.pending.pop(0))

    def flush(self) -> dict[str, float]:
        """Means since the last flush as 'train/...', after looking at every pending step."""
        while self.pending:
            self._look(*self.pending.pop(0))
        seconds, n = time.monotonic() - self.start, max(self.count, 1)
        metrics = {f"train/{k}": v / n for k, v in self.sums.items()}
        if self.count:
            metrics["train/steps_per_second"] = self.count / max(seconds, 1e-9)
        self.sums, self.count, self.start = {}, 0, time.monotonic()
        return metrics

    def _look(self, step, scalars, ids) -> None:
        values = {k: float(v) for k, v in scalars.items()}
        if not all(np.isfinite(v) for v in values.values()):
            clips = ", ".join(self.source.entry(int(i)).name for i in ids[:8])
            raise TrainingError(
                f"not finite at step {step} of {self.num_steps}: {values}. Clips of that batch: {clips}"
                f"{', ...' if len(ids) > 8 else ''}. Nothing of this step was saved; a lower "
                f"config.optim.lr or config.optim.clip_norm may help.")
        for k, v in values.items():
            self.sums[k] = self.sums.get(k, 0.0) + v
        self.count += 1


class Signals:
    """Remembers SIGINT and SIGTERM instead of dying of them; the second one kills as usual."""

    def __enter__(self):
        self.caught = ""
        self._old = {}
        if threading.current_thread() is threading.main_thread():
            for s in (signal.SIGINT, signal.SIGTERM):
                self._old[s] = signal.signal(s, self._catch)
        return self

    def _catch(self, number, frame):
        del frame
        self.caught = signal.Signals(number).name
        signal.signal(number, self._old[number])

    def __exit__(self, *_):
        for s, handler in self._old.items():
            signal.signal(s, handler)


def describe_run(config, workdir: str, class_names) -> None:
    """Writes config.json, classes.txt and run.json: what is needed to evaluate without a config."""
    if jax.process_index() > 0:
        return
    os.makedirs(workdir, exist_ok=True)
    with open(os.path.join(workdir, "config.json"), "w") as f:
        json.dump(checkpoint.to_json(config), f, indent=2)
    with open(os.path.join(workdir, "classes.txt"), "w") as f:
        f.writelines(f"{name}\n" for name in class_names)
    with open(os.path.join(workdir, "run.json"), "w") as f:
        json.dump(writers.environment(), f, indent=2)


def write_parameters(workdir: str, params) -> None:
    """The table of parameters as `parameters.txt`."""
    if jax.process_index() == 0:
        from clu import parameter_overview  # only needed here

        with open(os.path.join(workdir, "parameters.txt"), "w") as f:
            f.write(parameter_overview.get_parameter_overview(params, include_stats=False) + "\n")


def count_parameters(params) -> int:
    """Number of trained values."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
