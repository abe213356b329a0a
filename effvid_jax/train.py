"""The train loop: one for every method and task.

Order of things, which matters: data and its errors first -> task and method (which loads a frozen teacher)
-> state: resume this workdir, else start from `config.init.checkpoint`, else from scratch -> frozen
networks are evaluated -> steps, each with its own batch and random numbers, both derived from the step
alone, so that a killed run continues bit for bit; now and then an evaluation, and what follows from it (the
best state is kept, the run ends) -> the state is saved -> what is chosen on held-out data is, and saved in
its place -> evaluation.

Who does what: `data_pipelines` makes batches, `sharding.Prefetch` has them on the devices in time, `state.py`
has what a step changes and where that begins, `log.py` writes scalars, `saver.py` saves, `evaluate.py`
scores, `best.py` compares; each knows when it is its turn, the loop only asks.
"""

from __future__ import annotations

import json
import os

import jax
import jax.numpy as jnp
import numpy as np

import data_pipelines
from effvid_jax import checkpoint, console, mixing, optim, probe, sharding, writers
from effvid_jax.backbones import remat
from effvid_jax.best import Best
from effvid_jax.course import Course
from effvid_jax.evaluate import Evaluations
from effvid_jax.log import Log
from effvid_jax.methods import Method, make_method
from effvid_jax.saver import Saver
from effvid_jax.signals import Signals
from effvid_jax.start import workdirs
from effvid_jax.start.introduction import introduce
from effvid_jax.state import TrainState, start
from effvid_jax.tasks import make_task


def train(config, workdir: str, resume_anyway: bool = False) -> dict[str, float]:
    """Trains what `config` describes, then evaluates it.

    Args:
        config: a resolved config (see `configs/recipes/base.py`).
        workdir: where everything is written; an earlier run there is continued.
        resume_anyway: even where `config` changes what its numbers mean.

    Returns:
        The final metrics, such as `{'step': 400, 'val/top1': 0.9, 'val/gmacs': 0.1}`.

    Raises:
        UserError, DataError: anything wrong with config, data or teacher, before the first step.
        TrainingError: a loss that is not finite, or a teacher at chance.
        Interrupted: after a signal, with the state saved.
    """
    with Signals() as signals:
        return _train(config, workdir, resume_anyway, signals)


def _train(config, workdir: str, resume_anyway: bool, signals: Signals) -> dict[str, float]:
    for line in workdirs.check_resume(config, workdir, resume_anyway):
        console.say(line)
    mesh, first_process = sharding.make_mesh(config.train.get("fsdp", 1)), jax.process_index() == 0
    split = data_pipelines.open_split(config.data, "train", process_count=jax.process_count())
    task = make_task(config, split.class_names)
    workdirs.check_classes(task.class_names, workdir, resume_anyway)
    for line in workdirs.check_devices(config, workdir, len(split), resume_anyway):
        console.say(line)
    split = split.with_targets(task.targets)
    task.prepare(split)
    method = make_method(config, task)
    method.check_calibration()
    method.check_split(split)
    course = Course(config, len(split))
    evaluations = Evaluations(config, method, mesh, workdir, course)
    best = Best(config, workdir, evaluations.all_alike)
    with Log(config, workdir, course, lambda i: split.entry(i).name, task.watched, first_process) as log:
        with Saver(config, workdir, task.class_names, course) as saver:
            method.plan(course.num_steps)
            state, resumed = start(config, method, course.optimizer, saver)
            course.go_on(saver.position)
            workdirs.check_length(first_step := int(state.step), course.num_steps, workdir)
            describe_run(config, workdir, task.class_names)  # not before all that can be refused
            log.begin(first_step)
            if told := course.told():
                console.say(f"{workdir}: {told}")
            if resumed:
                console.say(f"continuing {workdir} at step {first_step} of {course.num_steps}")
            state = sharding.place(state, mesh)
            introduce(config, workdir, split, evaluations.videos, state, first_step)
            if resumed:
                evaluations.at(first_step, state.evaluated, log, only_missing=True)
                best.begin(first_step, log.rows, saved=True)
                end_early(best, course, first_step)
            else:
                if config.init.get("probe", False):
                    params = probe.begin(config, task, sharding.whole(state.variables, mesh), mesh)
                    state = sharding.place(state.begin_with(params), mesh)
                write_parameters(workdir, state.params)
                log.write(0, evaluations.references(state.variables))
                best.begin(0, (), saved=False)
            step_fn = jit_train_step(method, course.optimizer, config.seed, mesh, state)
            split = method.prepare(split)
            with (split.batches(first_step, jax.process_index(), jax.process_count(),
                                skip=course.skip) as batches,
                  sharding.Prefetch(batches, mesh) as ahead, signals.steps(),
                  log.progress(lambda step: {
                      "train/lr": float(course.rate(step - 1)), "train/wait_share": ahead.wait_share(),
                      "data/broken_videos": len(batches.broken)})):
                for step in range(first_step + 1, course.num_steps + 1):
                    if (item := signals.next(ahead)) is None:
                        saver.at(step - 1, state, now=signals.caught, before=log.settle)
                    batch, here = item
                    state, scalars = step_fn(state, batch)
                    log.add(step, scalars, here["id"])
                    saver.at(step, state, now=signals.now(), before=log.settle)
                    if name := evaluations.at(step, state.evaluated, log):
                        saver.at(step, state, now=name, before=log.settle)
                    if best.metric and evaluations.is_due(step, best.metric):
                        if best.at(step, log.value(step, best.metric)):
                            saver.at(step, state, before=log.settle, keep=best.keep)
                        if end_early(best, course, step):
                            saver.at(step, state, before=log.settle)
                            break
            num_steps = course.num_steps
            if method.calibrates and (first_step < num_steps or not method.calibrated(state.evaluated)):
                state = state.with_stats(evaluations.calibrated(state.evaluated).stats)
                saver.again(state)
        metrics = {"step": num_steps, **evaluations.final(state.evaluated),
                   "params": count_parameters({name: tree for name, tree in state.params.items()
                                                if name != checkpoint.TRAINING_ONLY})}
        if best.at_the_end(num_steps, metrics):
            best.keep()
        if method.calibrates and best.step is not None:
            keep_calibrated(best, method, evaluations, state)
        metrics |= best.told()
        log.finish(metrics)
    return metrics


def end_early(best: Best, course: Course, step: int) -> bool:
    """Ends a run after `step` if it is time, and says why; whether it does."""
    if why := best.ended:
        console.say(f"the run ends after step {step} of {course.num_steps}: {why}")
        course.num_steps = step
    return bool(why)


def keep_calibrated(best: Best, method: Method, evaluations: Evaluations, state: TrainState) -> None:
    """Thresholds and the like are chosen for the best state, too, which may be older than the last one."""
    older = state.replace(**best.restored(state.saved()))
    if not method.calibrated(older.evaluated):
        older = sharding.place(older, evaluations.mesh)
        best.replace(older.with_stats(evaluations.calibrated(older.evaluated).stats).saved(), method.config)


def jit_train_step(method: Method, tx, seed: int, mesh, state: TrainState):
    """(state, batch) -> (state, scalars), compiled; the old state's memory is reused.

    Args:
        method, tx, seed: of the run.
        mesh: the devices.
        state: arrays or shapes, for where they lie (`sharding.py`).
    """
    everywhere = sharding.replicated(mesh)
    lies = everywhere if mesh.shape[sharding.FSDP] == 1 else sharding.of_state(state, mesh)
    mode = method.config.model.get("remat", "none")
    return jax.jit(train_step_of(method, tx, seed, mesh), donate_argnums=0, out_shardings=(lies, everywhere),
                   compiler_options=remat.compiler_options(mode, mesh.devices.flat[0].platform))


def train_step_of(method: Method, tx, seed: int, mesh):
    """The same, not compiled."""
    train = method.config.train
    mixup, cutmix, decay = (train.get(name, 0.0) for name in ("mixup", "cutmix", "ema"))
    every, frozen = method.config.optim.accumulate, method.config.optim.get("frozen", "")

    def loss(params, *rest):
        return method.loss(optim.hold(params, frozen), *rest)

    def train_step(state: TrainState, batch):
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        if mixup or cutmix:
            batch = mixing.mixed(batch, jax.random.fold_in(rng, mixing.STREAM), mixup, cutmix)
        here = sharding.gathered(state.variables, mesh)
        (_, (stats, scalars)), gradient = jax.value_and_grad(loss, has_aux=True)(
            here.params, here, batch, rng)
        gradient = sharding.like_state(gradient, mesh)
        updates, optimizer = tx.update(gradient, state.optimizer, state.params)
        params = jax.tree.map(lambda p, u: p + u.astype(p.dtype), state.params, updates)
        scalars["grad_norm"] = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient)))
        averaged = optim.averaged(state.averaged, {"params": params, "stats": stats}, state.step, decay,
                                  every) if decay else {}
        return state.replace(step=state.step + 1, params=params, stats=stats,
                             optimizer=optimizer, averaged=averaged), scalars

    return train_step


def describe_run(config, workdir: str, class_names) -> None:
    """Writes config.json, classes.txt and run.json: what is needed to evaluate without a config."""
    if jax.process_index() > 0:
        return
    checkpoint.save_config(config, workdir)
    writers.write_text(os.path.join(workdir, "classes.txt"), writers.lines(class_names))
    writers.write_text(os.path.join(workdir, "run.json"), json.dumps(writers.environment(), indent=2))


def write_parameters(workdir: str, params) -> None:
    """The table of parameters as `parameters.txt`."""
    if jax.process_index() == 0:
        from clu import parameter_overview  # slow to import

        table = parameter_overview.get_parameter_overview(params, include_stats=False)
        writers.write_text(os.path.join(workdir, "parameters.txt"), table + "\n")


def count_parameters(params) -> int:
    """Number of trained values."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
