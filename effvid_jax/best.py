"""The best evaluation of a run so far: its state is kept, and a run that finds no better one ends.

`config.train.best` names a metric of the evaluations during training, such as 'val/top1'. Whenever it is
higher than ever before, `WORKDIR/best` becomes a workdir of that state, with the checkpoint, config and
class names of the run: `--workdir=WORKDIR/best` evaluates, predicts and exports it, and other runs start from
it, as from any. After `config.train.patience` evaluations that were not higher by more than
`config.train.min_change`, the run ends as if it had made its last step.

What was best is read in the history of the run, up to where it goes on: a run that was killed has the same
best, and ends at the same step, as one that was not.
"""

from __future__ import annotations

import contextlib
import os
import shutil

import jax

from effvid_jax import checkpoint, console, recovery, stored, writers
from effvid_jax.errors import UserError
from effvid_jax.tasks import find_task

FOLDER = "best"  # in the workdir
_NOTHING, _BETTER, _NO_METRIC = 0, 1, 2


def check(config) -> None:
    """Raises UserError for a metric that no evaluation during training gives, or a wait without one."""
    train = config.train
    metric = train.get("best", "")
    for name in ("patience", "min_change"):
        if train.get(name, 0) and not metric:
            raise UserError(f"config.train.{name}={train[name]} waits for a better evaluation: say of which "
                            f"metric, such as --config.train.best=val/{find_task(config).watched}.")
    if not metric:
        return
    split, _, name = metric.partition("/")
    plan = {"val": train.eval_every_epochs, **config.get("evaluations", {})}
    known = find_task(config).metric_names(config)
    if split not in plan or not name or known and name not in known:
        names = [f"{split}/{name}" for split in plan for name in known or ("METRIC",)]
        raise UserError(f"config.train.best={metric!r}: expected one of {names}.")
    if not plan[split]:
        field = "config.train.eval_every_epochs" if split == "val" else f"config.evaluations.{split}"
        raise UserError(f"config.train.best={metric!r} compares evaluations during training, and {field}=0 "
                        f"makes none: expected epochs between two of them.")


class Best:
    """The best state of a run.

    Args:
        config: of the run.
        workdir: of the run.
        whole: whether the evaluation at the end is as those before it, so that it can be compared.

    Attributes:
        metric: '' if nothing is compared.
        step: of the best evaluation; None before the first.
        value: its metric, on the first process.
    """

    def __init__(self, config, workdir: str, whole: bool = True):
        train = config.train
        self.metric: str = train.get("best", "")
        self._patience, self._least = train.get("patience", 0), train.get("min_change", 0.0)
        self._workdir, self._whole = workdir, whole
        self.folder = os.path.join(workdir, FOLDER)
        self.step: int | None = None
        self.value: float | None = None
        self._mark: float | None = None  # what has to be exceeded by `min_change`
        self._since, self._last = 0, -1

    def begin(self, step: int, rows, saved: bool) -> None:
        """Reads the history of a run that goes on.

        Args:
            step: that it goes on from.
            rows: of the history, on the first process.
            saved: whether its state of that step lies in the workdir.
        """
        if not self.metric:
            return
        missing = False
        if jax.process_index() == 0:
            for row in rows:  # a final evaluation with more views is no better for it
                if self.metric in row and row["step"] <= step and (self._whole or "params" not in row):
                    self._look(row["step"], row[self.metric])
            if os.path.isdir(self._checkpoints):
                recovery.clear_the_way(self._checkpoints, step, {})
            missing = self.step is not None and self.step not in recovery.steps_in(self._checkpoints)
            if missing and not (saved and self.step == step):
                console.say(f"{self.folder} does not hold step {self.step}, the best so far: the next "
                            f"evaluation is the first to be kept.")
                self.step = self.value = None
        self._tell()
        if checkpoint.of_the_first(missing) and self.step is not None:
            self.keep()

    def at(self, step: int, value: float | None) -> bool:
        """Looks at an evaluation; whether it is the best so far. Every process calls it.

        Args:
            step: after which it was.
            value: of the metric, on the first process; None: there is none of that name.

        Raises:
            UserError: there is none.
        """
        code = _NOTHING
        if jax.process_index() == 0:
            code = _NO_METRIC if value is None else _BETTER if self._look(step, value) else _NOTHING
        code = checkpoint.of_the_first(code)
        if code == _NO_METRIC:
            raise UserError(f"config.train.best={self.metric!r}: the evaluation after step {step} has no "
                            f"such metric; the last line of {self._workdir}/metrics.jsonl has those it has.")
        self._tell()
        return code == _BETTER

    def at_the_end(self, step: int, metrics) -> bool:
        """The same for the evaluation after the last step, where it can be compared."""
        return bool(self.metric) and self._whole and self.at(step, metrics.get(self.metric))

    @property
    def ended(self) -> str:
        """Why the run ends here; '' if it does not."""
        if not self.metric or not self._patience or self._since < self._patience:
            return ""
        more = f" by more than {self._least:g}" if self._least else ""
        best = "" if self.step is None else f"; the best was after step {self.step}"
        return (f"no better{more} {self.metric} in {self._since} evaluations (config.train.patience="
                f"{self._patience}){best}")

    def keep(self) -> None:
        """Copies the checkpoint of the best step, which lies in the workdir, to `folder`; removes others."""
        if jax.process_index() == 0:
            source = os.path.join(self._workdir, "checkpoints", str(self.step))
            target = os.path.join(self._checkpoints, str(self.step))
            with writers.writing(self.folder):
                os.makedirs(self._checkpoints, exist_ok=True)
                for name in ("config.json", "classes.txt", "run.json"):
                    with writers.whole(os.path.join(self.folder, name)) as part:
                        shutil.copyfile(os.path.join(self._workdir, name), part)
                shutil.rmtree(f"{target}.part", ignore_errors=True)
                shutil.copytree(source, f"{target}.part")
                shutil.rmtree(target, ignore_errors=True)
                os.rename(f"{target}.part", target)
                for name in os.listdir(self._checkpoints):
                    if name != str(self.step) and recovery.STEP.fullmatch(name.removesuffix(".part")):
                        shutil.rmtree(os.path.join(self._checkpoints, name))
        checkpoint.of_the_first(0)

    def restored(self, template):
        """The kept state in the structure of `template`, as numpy arrays."""
        nested, _ = stored.read(self._checkpoints, self.step)
        return stored.from_nested(nested, template, os.path.join(self._checkpoints, str(self.step)))

    def replace(self, state, config) -> None:
        """Keeps another state in the place of the one that is there."""
        meta = stored.read_meta(os.path.join(self._checkpoints, str(self.step)))
        with contextlib.closing(checkpoint.Checkpointer(self.folder, 1)) as checkpoints:
            checkpoints.position = stored.position_of(meta)
            checkpoints.replace(self.step, state, config, meta["class_names"])

    def told(self) -> dict[str, float]:
        """What the result of the run says of it."""
        return {} if self.step is None else {"best_step": self.step, "best_value": self.value}

    @property
    def _checkpoints(self) -> str:
        return os.path.join(self.folder, "checkpoints")

    def _look(self, step: int, value: float) -> bool:
        if step <= self._last:
            return False
        self._last = step
        if self._mark is None or value > self._mark + self._least:
            self._mark, self._since = value, 0
        else:
            self._since += 1
        if self.value is not None and value <= self.value:
            return False
        self.step, self.value = step, value
        return True

    def _tell(self) -> None:
        """Tells the other processes what the first one knows."""
        step = checkpoint.of_the_first(-1 if self.step is None else self.step)
        self._since = checkpoint.of_the_first(self._since)
        self.step = None if step < 0 else step
