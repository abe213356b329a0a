"""Orbax checkpoints of a run, readable on any number of devices.

What one is on disk, and how it is checked: `stored.py`. Which one is taken: `recovery.py`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from effvid_jax import course, recovery, stored, writers
from effvid_jax.errors import UserError
from effvid_jax.stored import CheckpointError

TRAINING_ONLY = "distillation_projection"  # parameters that are trained beside a network, no part of it


class Saved(NamedTuple):
    """What a checkpoint says about itself: see `load_variables`."""

    model: ml_collections.ConfigDict
    num_classes: int
    class_names: tuple[str, ...]
    step: int
    config: ml_collections.ConfigDict


class Checkpointer:
    """Saves and restores training states under `workdir/checkpoints`.

    Saving is asynchronous: the arrays are copied before `save` returns and written in the background;
    a process killed while writing leaves the previous step intact. Of the newest `keep` are kept.

    Raises:
        UserError: `keep` is less than 1; the folder cannot be made.
    """

    def __init__(self, workdir: str, keep: int = 2):
        if keep < 1:
            raise UserError(f"config.train.keep={keep}: expected 1 or more, the number of newest checkpoints "
                            f"that stay; a large one keeps all.")
        self.directory = os.path.join(os.path.abspath(workdir), "checkpoints")
        logging.getLogger("absl").addFilter(_not_orbax)  # it logs as tracebacks what is raised here
        with writers.writing(self.directory):
            self._manager = self._make_manager(self.directory, keep)
        self._due: int | None = None  # a save that has not been looked at
        self._from_step = 0  # what a user wanted this run to go back to
        self.position: course.Position | None = None  # where `resume` found the run

    def _make_manager(self, directory: str, keep: int):
        return ocp.CheckpointManager(
            directory, options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True),
            item_handlers={"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()})

    def steps(self) -> list[int]:
        """Steps that are completely written, in order."""
        return recovery.steps_in(self.directory)

    def save(self, step: int, state: Any, config, class_names) -> None:
        """Saves the tree `state` as `step`, after looking whether the save before is there.

        Raises:
            CheckpointError: one of them is not: a full disk, or a newer step in the way.
        """
        args = self._arguments(step, state, config, class_names)
        self.wait()
        self._save(self._manager, step, args)
        self._due = step

    def replace(self, step: int, state: Any, config, class_names) -> None:
        """As `save`, in the place of a step that is there; at any time one of the two is."""
        self.wait()
        new = os.path.join(self.directory, "replacement")
        manager = self._make_manager(new, 1)
        self._save(manager, step, self._arguments(step, state, config, class_names))
        self._finish(manager, step)
        manager.close()
        if jax.process_index() == 0:
            self._check(new, step)
            self._swap(step)
        of_the_first(0)

    def resume(self, template: Any, step: int = 0) -> Any:
        """The state to go on from in the structure of `template`, as numpy arrays; None if there is none.

        What would be in the way of saving the steps to come is set aside, and said.

        Args:
            template: of the state.
            step: of the checkpoint; 0: the newest sound one. A run that went back to this step before, and
                was stopped, goes on from its own newest one.

        Raises:
            CheckpointError: no checkpoint of this step, none that is sound, or other arrays than the
                template's. Nothing has been moved then.
        """
        if jax.process_index() == 0:
            recovery.finish_replacement(self.directory)
        of_the_first(0)
        self._from_step = step
        found, damaged, error = None, {}, None
        if jax.process_index() == 0:
            try:
                found, damaged = self._find(step)
            except CheckpointError as problem:
                error = problem
        chosen = of_the_first(-2 if error else -1 if found is None else found.step)
        if chosen == -2:
            raise error or CheckpointError(f"{self.directory}: no checkpoint to go on from; the first "
                                           f"process says why.")
        state = None
        if chosen >= 0:
            nested, meta = (found.nested, found.meta) if found else stored.read(self.directory, chosen)
            self.position = stored.position_of(meta)
            state = stored.from_nested(nested, template, os.path.join(self.directory, str(chosen)))
        if jax.process_index() == 0:
            recovery.clear_the_way(self.directory, chosen, damaged)
        of_the_first(0)
        self._manager.reload()
        return state

    def restore(self, template: Any, step: int = 0) -> Any:
        """As `resume`, changing nothing.

        Raises:
            CheckpointError: nothing there, nothing sound, or other arrays than the template's.
        """
        found, damaged = recovery.newest_sound(self.directory, step)
        if found is None:
            raise CheckpointError(f"{self.directory}: no checkpoint here.")
        recovery.say_damaged(self.directory, damaged, found.step)
        return stored.from_nested(found.nested, template, os.path.join(self.directory, str(found.step)))

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
            CheckpointError: the last save is not.
        """
        due, self._due = self._due, None
        self._finish(self._manager, due)
        if due is not None and jax.process_index() == 0:
            self._check(self.directory, due)

    def close(self) -> None:
        """Waits for writes and frees the background threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def _find(self, step: int) -> tuple[recovery.Found | None, dict[int, str]]:
        """As `newest_sound`; a command that went back to `step` and was stopped goes on where it was."""
        if step:
            with contextlib.suppress(CheckpointError):
                found, damaged = recovery.newest_sound(self.directory)
                if found is not None and found.meta.get("from_step") == step:
                    return found, damaged
        return recovery.newest_sound(self.directory, step)

    def _arguments(self, step: int, state: Any, config, class_names):
        """What orbax saves as a step."""
        nested = stored.to_nested(state)
        meta = {"step": step, "config": to_save(config), "class_names": list(class_names),
                "num_classes": len(class_names), "versions": writers.versions(),
                "from_step": self._from_step, "arrays": stored.describe(nested)}
        if size := meta["config"].get("data", {}).get("batch_size"):
            seen = (self.position or course.begin(size)).at(step, size)
            meta["seen"] = {"clips": seen.clips, "first_batch_size": seen.first_batch_size}
        return ocp.args.Composite(state=ocp.args.StandardSave(nested), meta=ocp.args.JsonSave(meta))

    def _save(self, manager, step: int, args) -> None:
        try:
            done = manager.save(step, args=args)
        except Exception as error:  # orbax raises a different type for every way a disk can fail
            raise self._unwritten(step, error) from error
        if not done:  # orbax drops what is not newer than everything there, without a word
            raise CheckpointError(f"{self.directory}/{step} is not saved: there is a step "
                                  f"{manager.latest_step()} already. Does another command write there?")

    def _finish(self, manager, step: int | None) -> None:
        try:
            manager.wait_until_finished()
        except Exception as error:
            raise self._unwritten(step, error) from error

    def _unwritten(self, step: int | None, error: Exception) -> CheckpointError:
        steps = self.steps()
        return CheckpointError(
            f"{self.directory}/{step} cannot be written ({stored.first_line(error)}). Intact are {steps}: "
            f"make room, or see who may write there, and start the same command again.")

    def _check(self, directory: str, step: int) -> None:
        """Raises CheckpointError unless a step is there with its meta."""
        where = os.path.join(directory, str(step))
        try:
            stored.read_meta(where)
            if os.listdir(os.path.join(where, "state")):
                return
            problem = "its arrays are not there"
        except (CheckpointError, OSError) as error:
            problem = str(error)
        raise CheckpointError(f"{where} was saved, but {problem}. Does another command write there?")

    def _swap(self, step: int) -> None:
        new, here = os.path.join(self.directory, "replacement"), os.path.join(self.directory, str(step))
        with writers.writing(here):
            os.rename(here, f"{here}.replaced")
            os.rename(os.path.join(new, str(step)), here)
            shutil.rmtree(f"{here}.replaced")
            shutil.rmtree(new)


def load_variables(path: str, step: int | None = None) -> tuple[Saved, dict[str, Any]]:
    """Parameters and statistics of a run, without its optimizer, and the model they belong to.

    Of a run with `config.train.ema` the averaged ones.

    Args:
        path: a workdir (of a single run, of one stage, or of `torch_import`); a run of several stages
            stands for its last one.
        step: which checkpoint; the newest sound one by default.

    Returns:
        `Saved`, and `{'params': ..., 'batch_stats': ...}` of numpy arrays.

    Raises:
        CheckpointError: no checkpoint there, or a damaged one.
    """
    directory = checkpoint_directory(path)
    found, damaged = recovery.newest_sound(directory, step or 0, only=("params", "stats", "averaged"))
    if found is None:
        raise CheckpointError(f"{directory}: no checkpoint here; "
                              + "; ".join(f"{s} {reason}" for s, reason in damaged.items()) + ".")
    recovery.say_damaged(directory, damaged, found.step)
    nested, meta = found.nested, found.meta
    nested = nested.get("averaged", nested)
    config = ml_collections.ConfigDict(meta["config"])
    saved = Saved(config.model, meta["num_classes"], tuple(meta["class_names"]), meta["step"], config)
    params = {name: tree for name, tree in nested["params"].items() if name != TRAINING_ONLY}
    return saved, {"params": params, "batch_stats": nested.get("stats", {})}


def checkpoint_directory(path: str) -> str:
    """`path/checkpoints`, or the one of its last stage.

    Raises:
        CheckpointError: neither is there.
    """
    path = os.path.abspath(path)
    if recovery.steps_in(directory := os.path.join(path, "checkpoints")):
        return directory
    stage = _last_stage(path)
    if recovery.steps_in(directory := os.path.join(path, stage, "checkpoints")):
        return directory
    raise CheckpointError(
        f"{path}: no checkpoint here (looked for checkpoints/<step> in it and in its folder {stage}). "
        f"Give the --workdir of a training run, or the --out of effvid_jax.torch_import.")


def _last_stage(path: str) -> str:
    """The folder of the last stage of a run of several."""
    saved = os.path.join(path, "config.json")
    run = writers.read_json(saved).get("run", "") if os.path.exists(saved) else ""
    return str(run).split(",")[-1].strip() or "student"


def save_imported(workdir: str, variables: dict[str, Any], config, class_names) -> None:
    """Writes converted weights as the checkpoint of step 0, with `workdir/config.json`.

    Args:
        workdir: where; must hold no checkpoint yet.
        variables: `{'params': ..., 'batch_stats': ...}`.
        config: needs `model` (see `methods.building.build_backbone`).
        class_names: K names; numbers as strings will do.
    """
    checkpointer = Checkpointer(workdir)
    if checkpointer.steps():
        raise CheckpointError(f"{workdir} already holds checkpoints {checkpointer.steps()}: choose "
                              f"another --out.")
    state = {"params": variables["params"], "stats": variables["batch_stats"], "step": np.zeros((), int)}
    checkpointer.save(0, state, config, class_names)
    checkpointer.close()
    save_config(config, workdir)


def to_json(config) -> Any:
    """A config as plain json values."""
    if hasattr(config, "to_json_best_effort"):
        return json.loads(config.to_json_best_effort())
    return json.loads(json.dumps(config))


def to_save(config) -> dict[str, Any]:
    """A config as it is saved: without the step that a single command goes back to."""
    plain = to_json(config)
    if "step" in plain.get("init", {}):
        plain["init"]["step"] = 0
    return plain


def save_config(config, workdir: str) -> None:
    """`workdir/config.json`, on the first process."""
    if jax.process_index() == 0:
        with writers.writing(workdir):
            os.makedirs(workdir, exist_ok=True)
        writers.write_text(os.path.join(workdir, "config.json"), json.dumps(to_save(config), indent=2))


def of_the_first(number: int) -> int:
    """A number of the first process, on all of them; every process waits for it here."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def _not_orbax(record: logging.LogRecord) -> bool:
    return os.path.join("orbax", "checkpoint") not in record.pathname
