"""The log of a run: scalars of its steps without waiting for the device, on screen and on disk."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import numpy as np

from effvid_jax import checkpoint, console, weights_and_biases, writers
from effvid_jax.course import Course
from effvid_jax.errors import TrainingError


class Log:
    """Collects scalars, shows progress, writes when it is time, stops at a loss that is not finite.

    Args:
        config: of the run.
        workdir: gets `metrics.jsonl`, `metrics.csv` and TensorBoard events.
        course: of the run.
        name_of: id -> name of a video, for messages.
        watched: the task's scalar that is shown beside the loss.
        enabled: False on all processes but the first.
    """

    lag = 2  # a step is looked at when this many later ones are under way

    def __init__(self, config, workdir: str, course: Course, name_of: Callable[[int], str], watched: str,
                 enabled: bool):
        self._every, self._title = config.train.log_every_steps, f"train {config.name}"
        self._workdir, self._enabled, self._course = workdir, enabled, course
        self._name_of, self._config = name_of, config
        self._project = config.train.get("wandb", "")
        self._shown = ("train/loss", "train/loss_kd", f"train/{watched}", f"val/{watched}")
        self._pending: list[tuple[int, dict, np.ndarray]] = []
        self._writer = self._bar = None
        self._reset()

    def begin(self, first_step: int) -> None:
        """Opens the files; what an earlier run wrote after `first_step` is dropped from them."""
        self._first_step = first_step
        others = [weights_and_biases.Run(self._project, self._config, self._workdir)
                  ] if self._project and self._enabled else []
        self._writer = writers.MetricWriter(self._workdir, first_step, self._enabled, others)

    @contextlib.contextmanager
    def progress(self, more: Callable[[int], dict[str, float]]):
        """Shows how far the steps in this block are.

        Args:
            more: step -> what else goes into its line of the log, such as the learning rate.
        """
        self._more = more
        with console.bar(self._course.num_steps, self._title, "step", self._first_step) as self._bar:
            self._reset()
            self._compiled = False
            yield
        self._bar = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._writer is not None:
            self._writer.close()

    def add(self, step: int, scalars: dict, ids) -> None:
        """Takes the (still computing) scalars of a step and the ids of its videos; writes if it is time.

        Raises:
            TrainingError: a scalar of an earlier step is not finite.
        """
        self._pending.append((step, scalars, ids))
        while len(self._pending) > self.lag:
            self._look(*self._pending.pop(0))
        self._bar.update()
        if not self._compiled:  # the first step waits for the compiler, which says nothing of the speed
            self._compiled, self._untimed, self._since = True, len(self._pending), time.monotonic()
        if step % self._every == 0 or step == self._course.num_steps:
            self.write(step, self.settle() | self._more(step))

    def settle(self) -> dict[str, float]:
        """Looks at every pending step; means since the last call as 'train/...'.

        Called before a save too: nothing that is not finite is saved, and a run that continues there has
        the same means as one that was never interrupted.

        Raises:
            TrainingError: a scalar is not finite.
        """
        while self._pending:
            self._look(*self._pending.pop(0))
        metrics = {f"train/{name}": total / max(self._count, 1) for name, total in self._sums.items()}
        if self._count > self._untimed:
            seconds = max(time.monotonic() - self._since, 1e-9)
            metrics["train/steps_per_second"] = (self._count - self._untimed) / seconds
        self._reset()
        return metrics

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds a line to every file, and what matters of it to the progress bar."""
        self._writer.write_scalars(step, metrics)
        shown = {k.split("/")[1]: v for k, v in metrics.items() if k in self._shown}
        if shown and self._bar is not None:
            self._bar.set_postfix_str(" ".join(f"{name} {value:.3g}" for name, value in shown.items()))

    @contextlib.contextmanager
    def paused(self):
        """Whatever is done in this block, such as an evaluation, is no time of a step."""
        start = time.monotonic()
        with contextlib.nullcontext() if self._bar is None else self._bar.paused():
            yield
        self._since += time.monotonic() - start

    def has(self, step: int, beginning: str) -> bool:
        """Whether a metric whose name begins so was written after this step; every process is told."""
        return bool(checkpoint.of_the_first(any(
            row["step"] == step and any(name.startswith(beginning) for name in row)
            for row in self._writer.rows)))

    @property
    def rows(self) -> list[dict]:
        """The history so far, a dict a line; on the first process."""
        return self._writer.rows

    def value(self, step: int, name: str) -> float | None:
        """A metric that was written after this step, on the first process; None if there is none."""
        found = [row[name] for row in self.rows if row["step"] == step and name in row]
        return found[-1] if found else None

    def finish(self, metrics: dict[str, float]) -> None:
        """The result of the run, also as `metrics.json`."""
        self._writer.write_scalars(metrics["step"], metrics)
        self._writer.write_final(metrics)

    def _reset(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = self._untimed = 0
        self._since = time.monotonic()

    def _look(self, step: int, scalars: dict, ids) -> None:
        values = {name: float(value) for name, value in scalars.items()}
        if not all(np.isfinite(value) for value in values.values()):
            videos = ", ".join(self._name_of(int(i)) for i in ids[:8])
            raise TrainingError(
                f"not finite at step {step} of {self._course.num_steps}: {values}. Clips of that batch: "
                f"{videos}{', ...' if len(ids) > 8 else ''}. Nothing of this step was saved; a lower "
                f"config.optim.lr or config.optim.clip_norm may help.")
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
