"""Evaluation: accuracy beside cost, every example of a split exactly once.

An `Evaluator` has a split and turns a network into *rows*, one an example: its name, what is true of it, the
network's scores, what they cost. Every metric is computed from rows, which are kept as
`predictions_<split>.npz`: another metric needs no network. `Evaluations` are those of a training run, each
of which knows when it is its turn.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
from typing import Any, NamedTuple

import jax
import numpy as np

import data_pipelines
from effvid_jax import checkpoint, console, processes, sharding, writers
from effvid_jax.course import Course
from effvid_jax.errors import NotFiniteError, TrainingError, UserError
from effvid_jax.exits import executor
from effvid_jax.methods import Method, Runner, Variables, make_method
from effvid_jax.signals import Abandoned, Signals
from effvid_jax.start.validation import during_training
from effvid_jax.tasks import make_task


class Rows(NamedTuple):
    """What a network said of a split.

    Attributes:
        arrays: by name, a row an example: 'name', 'id', the task's targets ('label'), 'scores', 'gmacs',
            and whatever the method tells besides (`Prediction.extra`).
        views, frames, side: of the clips: V, T and pixels.
        broken: number of videos that cannot be read and are missing here.
    """

    arrays: dict[str, np.ndarray]
    views: int
    frames: int
    side: int
    broken: int


class Evaluator:
    """Scores networks of one method and task on one split.

    Args:
        config: `config.data` says how the split is read.
        method: whose predictions are scored.
        mesh: the devices.
        split: its name.
        compiled: programs to share with other evaluators of the method, by predict function.

    Raises:
        DataError: the split cannot be used, or has another number of classes than the network.
    """

    def __init__(self, config, method: Method, mesh, split: str = "val", compiled: dict | None = None):
        self.method, self.task, self.mesh = method, method.task, mesh
        self.split = data_pipelines.open_split(
            config.data, split, process_count=jax.process_count()).with_targets(self.task.targets)
        self._title, self._batch_size = config.name, config.data.eval_batch_size
        self._threads = max(1, data_pipelines.decoding_threads(config.data.num_threads))
        self._compiled: dict[Any, Any] = {} if compiled is None else compiled

    def rows(self, variables, runner: Runner, name: str = "", step: int | None = None) -> Rows:
        """Runs a network over the whole split.

        Args:
            variables: what the runner reads, on the devices; whole copies are made of what is cut.
            runner: how the network is run, see `Method.runners`.
            name: of the network, for the progress bar; the split's by default.
            step: at which the network was trained so far, for messages.

        Raises:
            DataError: no readable video, or more broken ones than `config.data.max_broken_share`.
            NotFiniteError: scores, cost or anything else that the network says of a video.
        """
        title = f"eval {name or self.split.name} {self._title}"
        run = self._whole if runner.segments is None else self._in_segments
        found, broken = run(sharding.whole(variables, self.mesh), runner, title)
        if jax.process_count() > 1:
            broken = self._broken_everywhere(broken)
        if not found or not len(found["id"]):
            raise data_pipelines.DataError(f"split {self.split.name!r} of config.data has no readable video.")
        found["name"] = np.array([self.split.entry(int(i)).name for i in found["id"]])
        self._check_finite(found, name or "the network" + ("" if step is None else f" at step {step}"))
        return Rows(found, *self.split.clip_shape, broken)

    def _broken_everywhere(self, broken: int) -> int:
        """Number of broken videos that all processes have met; each of them counts its own."""
        total = int(sum(sharding.rows_of_all({"broken": np.array([broken])})["broken"]))
        if total > self.split.broken.allowed:
            raise data_pipelines.DataError(
                f"{total} of the {len(self.split)} clips of {self.split.description} are broken, as all "
                f"processes together have found, more than config.data.max_broken_share allows "
                f"({self.split.broken.allowed}). `{self.split.check_command}` checks all clips and lists the "
                f"broken ones: repair or remove those, or raise data.max_broken_share.")
        return total

    def _check_finite(self, found, network: str) -> None:
        """Raises NotFiniteError where something is not finite that is no target."""
        said = {name: x for name, x in found.items()
                if np.issubdtype(x.dtype, np.inexact) and name not in self.split.targets.evaluate_fields}
        for name in sorted(said, key=lambda name: name != "scores"):
            bad = ~np.isfinite(said[name].reshape(len(said[name]), -1)).all(axis=1)
            if bad.any():
                raise NotFiniteError(found["name"][bad.argmax()], name, network,
                                     f"{bad.sum()} of {len(bad)} videos of the split {self.split.name!r}")

    def score(self, rows: Rows, resolution: int = 0) -> dict[str, float]:
        """Accuracy and cost.

        Args:
            rows: see `rows`.
            resolution: side of the network's input, if it is not that of the clips.

        Returns:
            The task's metrics ('top1', ...), accuracies in [0, 1]; 'gmacs', mean per video with all its
            views; 'gmacs_min' and 'gmacs_max' if it differs between videos; the same under its full name,
            'gmacs_per_video', and of one view, which papers quote, 'gmacs_per_clip' ('..._min' and '..._max'
            where single views are known); of a network with a task's head 'gmacs_backbone', per video without
            the head; 'views', 'frames', 'resolution', 'examples', 'broken_videos'.
        """
        gmacs = rows.arrays["gmacs"]
        clips = rows.arrays.get("clip_gmacs", gmacs if rows.views == 1 else None)
        result = self.task.metrics(rows.arrays) | {
            "gmacs": gmacs.mean(dtype=np.float64), "views": rows.views, "frames": rows.frames,
            "resolution": resolution or rows.side, "examples": len(gmacs),
            "broken_videos": rows.broken}
        result |= {"gmacs_per_video": result["gmacs"], "gmacs_per_clip": result["gmacs"] / rows.views}
        backbone = None
        if "gmacs_head" in rows.arrays:
            backbone = gmacs - rows.arrays["gmacs_head"]
            result["gmacs_backbone"] = backbone.mean(dtype=np.float64)
        for name, x in (("gmacs", gmacs), ("gmacs_per_video", gmacs), ("gmacs_per_clip", clips),
                        ("gmacs_backbone", backbone)):
            if x is not None and x.min() < x.max():
                result |= {f"{name}_min": float(x.min()), f"{name}_max": float(x.max())}
        return {name: float(x) if isinstance(x, np.floating) else x for name, x in result.items()}

    def evaluate(self, variables, runner: Runner, workdir: str | None = None,
                 what: str = "", step: int | None = None) -> dict[str, float]:
        """`score` of `rows` as `<split>/top1` and so on.

        Args:
            variables, runner, step: see `rows`.
            workdir: if given, the method analyses the rows too, and this folder gets what it draws,
                `predictions_<split>.csv` and `predictions_<split>.npz` (the rows).
            what: of another evaluation than the run's own: these files are `..._<split>_<what>`.
        """
        rows = self.rows(variables, runner, step=step)
        result = self.score(rows, self.method.resolution)
        if workdir is not None:
            first = jax.process_index() == 0
            title = f"{self.split.name}_{what}" if what else self.split.name
            with writers.writing(workdir), Signals.held():
                result |= self.method.analyse(rows.arrays, variables, workdir if first else "", title)
            if first:
                path = os.path.join(workdir, f"predictions_{title}")
                with writers.whole(path + ".csv") as part:
                    self.task.write_rows(part, rows.arrays)
                with writers.whole(path + ".npz") as part, open(part, "wb") as f:
                    np.savez_compressed(f, **rows.arrays)
        return {f"{self.split.name}/{name}": value for name, value in result.items()}

    def _whole(self, variables, runner, title):
        """Batch by batch, everything computed on all devices, or each frame by the network it is sent to."""
        if runner.routed is None and runner.predict not in self._compiled:
            self._compiled[runner.predict] = jax.jit(
                sharding.apart(runner.predict, self.mesh), out_shardings=sharding.replicated(self.mesh))
        if runner.routed is not None and jax.process_count() > 1:
            raise UserError("a network that sends frames to where they belong ('routed') runs in a single "
                            "process: evaluate on several with one that computes everything.")
        predict = runner.routed or self._compiled[runner.predict]
        found: dict[str, list] = collections.defaultdict(list)
        process = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        with (self.split.batches(training=False, **process) as batches,
              sharding.Prefetch(batches, self.mesh) as ahead,
              console.bar(batches.num_steps, title, "batch", leave=False) as progress):
            for batch, here in ahead:
                prediction = predict(variables, {"video": batch.pop("video")})
                others = here if jax.process_count() == 1 else sharding.gather(batch, self.mesh)
                rows = {"scores": self.task.scores(np.asarray(prediction.logits)), "gmacs": prediction.gmacs,
                        **prediction.extra, **others}
                for name, x in self.task.kept({name: np.asarray(x) for name, x in rows.items()}).items():
                    found[name].append(x)
                progress.update()
                Signals.check()
            broken = len(batches.broken)
        real = np.concatenate(found.pop("mask")) > 0 if found else np.zeros(0, bool)
        return {name: np.concatenate(parts)[real] for name, parts in found.items()}, broken

    def _in_segments(self, variables, runner, title):
        """An executor: what a video that stops does not need is neither read nor computed.

        Of several processes each has an executor of its own for its share of the videos: which programs it
        runs, and when, depends on where they stop.
        """
        split, segments, mesh = self.split, runner.segments, self.mesh
        size, sizes, own = self._batch_size, runner.sizes, sharding.own_share(len(self.split))
        if several := jax.process_count() > 1:
            mesh = sharding.own_mesh()
            variables = sharding.replicate(jax.device_get(variables), mesh)
            size //= jax.process_count()
            sizes = tuple(part for part in sizes if part <= size)
        run = executor.Executor(segments.steps, segments.score, size, sizes, runner.policy,
                                mesh if mesh.size > 1 else None, self._threads, deadline=runner.deadline)
        if runner.deadline is not None:
            _, frames, side = split.clip_shape
            run.warm_up(variables, np.zeros((1, frames, side, side, 3), np.uint8), load=True)
        batches = (executor.Rows(own[start:start + size],
                                 load=lambda i, start, stop: split.frames(i, segments.order[start:stop]))
                   for start in range(0, len(own), size))
        found: dict[str, list] = collections.defaultdict(list)
        asked = False  # whether all processes are to stop: each asks once
        with console.bar(len(own), title, "video", leave=False) as progress:
            for answer in run.run(variables, jax.device_get(segments.thresholds(variables)), batches):
                progress.update()
                if several and not asked and processes.wanted():
                    asked = True
                    Signals.check()
                if isinstance(answer.error, data_pipelines.VideoError):
                    split.broken.add([(answer.id, answer.error.name, answer.error.reason)])
                    continue
                if answer.error is not None:
                    raise answer.error
                told = {"id": answer.id, "scores": self.task.scores(answer.logits[None])[0],
                        "gmacs": segments.spent(answer), "exit": answer.checkpoint}
                if runner.deadline is not None:
                    told |= {"seconds": answer.seconds, "cut": answer.cut}
                for name, x in {**split.targets.evaluate(split.entry(answer.id)), **told}.items():
                    found[name].append(x)
        if several and not asked:
            Signals.check()
        rows = {name: np.array(values) for name, values in found.items()}
        return sharding.rows_of_all(rows), len(split.broken)


class Evaluations:
    """The evaluations of a training run: of frozen networks before it, now and then, and at its end.

    `config.train.eval_every_epochs` says how often the split 'val' is scored. A config file can name more
    splits, each with its own frequency in epochs (0: at the end only), in a field that the shipped ones do
    without: `config.evaluations = {"test": 0, "hard": 1.0}`. Those before and during training may have
    fewer views than those at the end: `config.train.validation`.

    Args:
        config: of the run.
        method: what is trained.
        mesh: the devices.
        workdir: gets what is written at the end.
        course: of the run.
    """

    def __init__(self, config, method: Method, mesh, workdir: str, course: Course):
        self._config, self._method, self.mesh, self._workdir = config, method, mesh, workdir
        self._course = course
        self._runner = method.runners()[method.runner]
        if self._runner.predict is None:  # a run is scored with everything computed
            self._runner = Runner(method.predict)
        self._compiled: dict[Any, Any] = {}
        plan = {"val": config.train.eval_every_epochs, **config.get("evaluations", {})}
        self._last = [self._evaluator(split) for split in plan]
        during = during_training(config)
        self._evaluators = [
            (evaluator if during is config else self._evaluator(split, during),
             max(1, round(epochs * course.steps_per_epoch)) if epochs else 0)
            for evaluator, (split, epochs) in zip(self._last, plan.items(), strict=True)]
        self._calibration = self._evaluator("calib") if method.calibrates else None  # its errors, now

    def _evaluator(self, split: str, config=None) -> Evaluator:
        return Evaluator(config or self._config, self._method, self.mesh, split, self._compiled)

    @property
    def all_alike(self) -> bool:
        """Whether evaluations during training are made as those at its end."""
        return during_training(self._config) is self._config

    @property
    def videos(self) -> dict[str, int]:
        """{split: number of its videos} of what is evaluated."""
        return {evaluator.split.name: len(evaluator.split) for evaluator in self._last}

    def references(self, variables: Variables) -> dict[str, float]:
        """Scores frozen networks before training; one at chance teaches nothing.

        Raises:
            TrainingError: what the task watches is below `config.train.min_reference_ratio` x chance.
        """
        (evaluator, _), metrics = self._evaluators[0], {}
        task, ratio = evaluator.task, self._config.train.min_reference_ratio
        for name, predict in self._method.references.items():
            found = evaluator.score(evaluator.rows(variables, Runner(predict), name))
            metrics |= {f"{name}/{key}": value for key, value in found.items()}
            value, what = found[task.watched], task.watched_title
            console.say(f"{name} before training: {what} {value:.4f} (chance {task.chance:.4f})")
            if value < ratio * task.chance:
                raise TrainingError(
                    f"{name} at step 0 has {what} {value:.4f}, less than config.train.min_reference_ratio="
                    f"{ratio} times chance ({task.chance:.4f}): {self._why(name)} "
                    f"--config.train.min_reference_ratio=0 distils from it all the same.")
        return metrics

    def _why(self, name: str) -> str:
        """Why a frozen network may know so little: it was trained in this run, or comes from elsewhere."""
        workdir = os.path.abspath(self._config.method.get(name) or "")
        if os.path.dirname(workdir) == os.path.dirname(os.path.abspath(self._workdir)):
            return (f"it was trained in this run ({workdir}): train it longer, in a new --workdir, by "
                    f"config.train.num_steps or config.stages.{name}.train.num_epochs, or on more clips.")
        return "its weights, class order or resolution are probably wrong."

    def calibrated(self, variables: Variables) -> Variables:
        """The variables with what the method chooses on the held-out split 'calib', such as thresholds."""
        if self._calibration is None:
            return variables
        rows = self._calibration.rows(variables, self._runner, step=self._course.num_steps)
        found = self._method.calibrate(variables, rows.arrays)
        return found.replace(stats=sharding.replicate(found.stats, self.mesh))

    def is_due(self, step: int, metric: str) -> bool:
        """Whether `at` gives a metric ('val/top1') after this step."""
        return 0 < step < self._course.num_steps and any(
            every and step % every == 0 and metric.startswith(f"{evaluator.split.name}/")
            for evaluator, every in self._evaluators)

    def at(self, step: int, variables: Variables, log, only_missing: bool = False) -> str:
        """Scores what is due after this step, but the last, into the log.

        Args:
            step: that was made last.
            variables: after it.
            log: of the run.
            only_missing: what the log has already is left out: a run may be killed in an evaluation, after
                the step was saved.

        Returns:
            The signal that ended it before its time, or ''. The same command makes up for it.
        """
        for evaluator, every in self._evaluators:
            if not every or step % every or not 0 < step < self._course.num_steps:
                continue
            if only_missing and log.has(step, f"{evaluator.split.name}/"):
                continue
            try:
                with log.paused():
                    result = evaluator.evaluate(variables, self._runner, step=step)
            except Abandoned as signal:
                return signal.args[0]
            log.write(step, result)
        return ""

    def final(self, variables: Variables) -> dict[str, float]:
        """Scores everything and writes what is worth keeping into the workdir."""
        return {name: value for evaluator in self._last
                for name, value in evaluator.evaluate(
                    variables, self._runner, self._workdir, step=self._course.num_steps).items()}


def evaluate_workdir(config, workdir: str, split: str = "val", what: str = "") -> dict[str, float]:
    """`--mode=eval`: restores the newest checkpoint of a workdir on any device count and scores a split.

    The result is `metrics.json` where it says what the run says at its end; otherwise `eval_<split>.json`,
    `eval_<what>.json` or `eval_<split>_<what>.json` beside it.

    Args:
        config: of the run, maybe with changes.
        workdir: of the run, or of its last stage.
        split: that is scored.
        what: the changes in a word, see `workdirs.evaluation_name`; '' for none.

    Raises:
        CheckpointError: no checkpoint, or a damaged one.
        DataError: the split cannot be used, or has another number of classes.
        NotFiniteError: what the network says of a video.
    """
    mesh = sharding.make_mesh()
    method, variables, saved = restore_for_inference(config, workdir)
    evaluator = Evaluator(config, method, mesh, split)
    variables = sharding.replicate(variables, mesh)
    result = evaluator.evaluate(variables, method.runners()[method.runner], workdir, what, saved.step)
    params = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(variables.params))
    result = {"step": saved.step, **result, "params": params}
    if jax.process_index() == 0:
        beside = "_".join(filter(None, [split if split != "val" else "", what]))
        if not beside:
            write_result(workdir, result)
        else:
            writers.write_json(path := os.path.join(workdir, f"eval_{beside}.json"), result)
            console.say(f"the result of this evaluation: {path}")
    return result


def write_result(workdir: str, result: dict) -> None:
    """`metrics.json`; what it says of other splits (`config.evaluations`) stays true for the same step."""
    path, old = os.path.join(workdir, "metrics.json"), {}
    with contextlib.suppress(OSError, ValueError), open(path) as f:
        old = json.load(f)
    same = isinstance(old, dict) and old.get("step") == result["step"]
    writers.write_json(path, {**old, **result} if same else result)


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
