"""Orbax checkpoints with checksums, readable on any number of devices.

Layout: `DIR/checkpoints/<step>/` holds `state` (params, stats, optimizer, step) and `meta` (json: step,
config, class names, library versions, and shape, type and CRC-32 of every array). Orbax restores a
flipped bit and casts types without a word, so every array is checked against `meta` here.

What is damaged is passed by for the newest sound one, and said. A run that goes on sets aside what lies in
its way, `7.damaged`, `9.later` (than the step it goes on from), `999.foreign` (no checkpoint at all): nothing
is deleted. Evaluation changes nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import zlib
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from effvid_jax import console, fit, writers
from effvid_jax.errors import UserError

STEP = re.compile("0|[1-9][0-9]*")  # names of checkpoints; `isdigit` would take "²" for one
META = os.path.join("meta", "metadata")  # orbax's name for the json of `meta`
EXPECTED = {"step": int, "config": dict, "class_names": list, "num_classes": int, "arrays": dict}  # in it


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, cannot be written or does not fit; names file and step."""


class Damaged(CheckpointError):
    """A checkpoint that says itself that it is not what was written."""


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

    def _make_manager(self, directory: str, keep: int):
        return ocp.CheckpointManager(
            directory, options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True),
            item_handlers={"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()})

    def steps(self) -> list[int]:
        """Steps that are completely written, in order."""
        return steps_in(self.directory)

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
        self._finish_replacement()
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
            nested = found.nested if found is not None else read(self.directory, chosen)[0]
            state = from_nested(nested, template, os.path.join(self.directory, str(chosen)))
        if jax.process_index() == 0:
            self._clear(chosen, damaged)
        of_the_first(0)
        self._manager.reload()
        return state

    def restore(self, template: Any, step: int = 0) -> Any:
        """As `resume`, changing nothing.

        Raises:
            CheckpointError: nothing there, nothing sound, or other arrays than the template's.
        """
        found, damaged = newest_sound(self.directory, step)
        if found is None:
            raise CheckpointError(f"{self.directory}: no checkpoint here.")
        _say_damaged(self.directory, damaged, found.step)
        return from_nested(found.nested, template, os.path.join(self.directory, str(found.step)))

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

    def _find(self, step: int) -> tuple[Found | None, dict[int, str]]:
        """As `newest_sound`; a command that went back to `step` and was stopped goes on where it was."""
        if step:
            with contextlib.suppress(CheckpointError):
                found, damaged = newest_sound(self.directory)
                if found is not None and found.meta.get("from_step") == step:
                    return found, damaged
        return newest_sound(self.directory, step)

    def _arguments(self, step: int, state: Any, config, class_names):
        """What orbax saves as a step."""
        nested = to_nested(state)
        meta = {"step": step, "config": to_save(config), "class_names": list(class_names),
                "num_classes": len(class_names), "versions": writers.versions(),
                "from_step": self._from_step, "arrays": describe(nested)}
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
            f"{self.directory}/{step} cannot be written ({_first_line(error)}). Intact are {steps}: "
            f"make room, or see who may write there, and start the same command again.")

    def _check(self, directory: str, step: int) -> None:
        """Raises CheckpointError unless a step is there with its meta."""
        where = os.path.join(directory, str(step))
        try:
            read_meta(where)
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

    def _finish_replacement(self) -> None:
        """Ends a `replace` that was killed between its two renames."""
        if jax.process_index() == 0:
            new = os.path.join(self.directory, "replacement")
            for name in os.listdir(self.directory):
                step = name.removesuffix(".replaced")
                if step == name or not STEP.fullmatch(step):
                    continue
                here = os.path.join(self.directory, step)
                with writers.writing(here):
                    if not os.path.exists(here):
                        there = os.path.join(new, step)
                        os.rename(there if os.path.exists(there) else f"{here}.replaced", here)
                    shutil.rmtree(f"{here}.replaced", ignore_errors=True)
            shutil.rmtree(new, ignore_errors=True)
        of_the_first(0)

    def _clear(self, chosen: int, damaged: dict[int, str]) -> None:
        """Sets aside what lies in the way of a run that goes on from `chosen` (-1: from the beginning)."""
        for name in sorted(os.listdir(self.directory)):
            path = os.path.join(self.directory, name)
            if not _is_step(path):
                if not name.isnumeric():
                    continue
                why, reason = "foreign", "is no name of a checkpoint"
            elif (step := int(name)) in damaged:
                why, reason = "damaged" if _is_checkpoint(path) else "foreign", damaged[step]
            elif step > chosen:
                why, reason = "later", f"is later than step {chosen}, where this run goes on"
            else:
                continue
            new = writers.set_aside(path, why)
            goes_on = f"step {chosen}" if chosen >= 0 else "the beginning"
            console.say(f"{path} {reason}. It is kept as {os.path.basename(new)}; this run goes on from "
                        f"{goes_on}.")


class Found(NamedTuple):
    """A sound checkpoint: its step, arrays (nested dict) and meta."""

    step: int
    nested: dict[str, Any]
    meta: dict[str, Any]


def steps_in(directory: str) -> list[int]:
    """Steps that a `checkpoints` folder names, sound or not, in order."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return sorted(int(name) for name in names if _is_step(os.path.join(directory, name)))


def newest_sound(directory: str, step: int = 0, only: tuple[str, ...] = ()
                 ) -> tuple[Found | None, dict[int, str]]:
    """The newest checkpoint that is what was written, and the newer ones that are not.

    Args:
        directory: the `checkpoints` folder.
        step: if not 0, this one and no other.
        only: see `read`.

    Returns:
        The checkpoint, or None if there is nothing that ever was one; {step: what is wrong with it}.

    Raises:
        CheckpointError: no checkpoint of `step`; there are some and none is sound; one cannot be read for a
            reason that says nothing of its content, such as missing permission.
    """
    steps, damaged = steps_in(directory), {}
    if step and step not in steps:
        raise CheckpointError(f"{directory}: no checkpoint of step {step} (config.init.step); there are "
                              f"{steps}.")
    for candidate in [step] if step else reversed(steps):
        try:
            return Found(candidate, *read(directory, candidate, only)), damaged
        except Damaged as error:
            if step:
                others = [s for s in steps if s != step]
                raise Damaged(f"{error} Other steps here: {others}; without config.init.step the newest "
                              f"sound one is taken.") from error
            damaged[candidate] = str(error).removeprefix(os.path.join(directory, str(candidate))).strip(" .")
    wrecks = [s for s in damaged if _is_checkpoint(os.path.join(directory, str(s)))]
    if wrecks:
        raise CheckpointError(
            f"{directory}: no sound checkpoint. " + " ".join(f"{s} {damaged[s]}." for s in wrecks)
            + " To start from the beginning, give another --workdir or rename this folder.")
    return None, damaged


def load_variables(path: str, step: int | None = None) -> tuple[Saved, dict[str, Any]]:
    """Parameters and statistics of a run, without its optimizer, and the model they belong to.

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
    found, damaged = newest_sound(directory, step or 0, only=("params", "stats"))
    if found is None:
        raise CheckpointError(f"{directory}: no checkpoint here; "
                              + "; ".join(f"{s} {reason}" for s, reason in damaged.items()) + ".")
    _say_damaged(directory, damaged, found.step)
    nested, meta = found.nested, found.meta
    config = ml_collections.ConfigDict(meta["config"])
    saved = Saved(config.model, meta["num_classes"], tuple(meta["class_names"]), meta["step"], config)
    return saved, {"params": nested["params"], "batch_stats": nested.get("stats", {})}


def checkpoint_directory(path: str) -> str:
    """`path/checkpoints`, or the one of its last stage.

    Raises:
        CheckpointError: neither is there.
    """
    path = os.path.abspath(path)
    if steps_in(directory := os.path.join(path, "checkpoints")):
        return directory
    stage = _last_stage(path)
    if steps_in(directory := os.path.join(path, stage, "checkpoints")):
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
        config: needs `model` (see `methods.base.build_backbone`).
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


def read(directory: str, step: int, only: tuple[str, ...] = ()) -> tuple[dict, dict]:
    """(nested dict of numpy arrays, meta) of one step, every array checked.

    Args:
        directory: the `checkpoints` folder.
        step: a step that is there.
        only: top-level entries to read; all by default.

    Raises:
        Damaged: anything missing or not as written.
        CheckpointError: a file of it may not be read.
    """
    where = os.path.join(directory, str(step))
    _check_readable(where)
    meta = read_meta(where)
    try:
        if meta["step"] != step:
            raise ValueError(f"it is a copy of step {meta['step']}")
        arrays = {name: spec for name, spec in meta["arrays"].items()
                  if not only or name.split("/")[0] in only}
        template = _unflatten({name: ocp.RestoreArgs(restore_type=np.ndarray) for name in arrays})
        abstract = _unflatten({name: np.empty(spec["shape"], _dtype(spec["dtype"]))
                               for name, spec in arrays.items()})
        # Not orbax's `Checkpointer`, whose `restore` waits for all processes: one of them reads first.
        nested = ocp.PyTreeCheckpointHandler().restore(
            epath.Path(where) / "state",
            args=ocp.args.PyTreeRestore(item=abstract, restore_args=template, partial_restore=True))
    except MemoryError:
        raise
    except Exception as error:  # orbax raises a different type for every way a file can break
        raise Damaged(f"{where} is damaged ({type(error).__name__}: {_first_line(error)}).") from error
    found = describe(nested)
    bad = [name for name, spec in arrays.items() if found.get(name) != spec]
    if bad:
        raise Damaged(f"{where} is damaged: {len(bad)} arrays differ from the checksums written with them, "
                      f"the first is {bad[0]}.")
    return nested, meta


def read_meta(where: str) -> dict[str, Any]:
    """What a checkpoint says about itself.

    Raises:
        Damaged: it does not, or lacks something.
    """
    path = os.path.join(where, META)
    if not os.path.exists(path):
        raise Damaged(f"{where} is no whole checkpoint: {META} is missing.")
    try:
        meta = writers.read_json(path)
    except UserError as error:
        raise Damaged(f"{where} is damaged: {str(error).replace(path, META)}") from error
    for name, kind in EXPECTED.items():
        if type(meta.get(name)) is not kind:
            raise Damaged(f"{where} is damaged: {META} has no {name!r} of type {kind.__name__}.")
    if type(meta["config"].get("model")) is not dict:
        raise Damaged(f"{where} is damaged: the config in {META} has no 'model'.")
    if len(meta["class_names"]) != meta["num_classes"]:
        raise Damaged(f"{where} is damaged: {META} has {len(meta['class_names'])} names of "
                      f"{meta['num_classes']} classes.")
    return meta


def describe(nested) -> dict[str, dict[str, Any]]:
    """Shape, type and CRC-32 of every array, by path."""
    out = {}
    for name, x in _flatten(nested).items():
        x = np.ascontiguousarray(x)
        out[name] = {"shape": list(np.shape(x)), "dtype": str(x.dtype),
                     "crc32": zlib.crc32(x.reshape(-1).view(np.uint8))}
    return out


def to_nested(tree: Any) -> dict[str, Any]:
    """Any tree (optimizer states are tuples of named tuples) as nested dicts with string keys."""
    return _unflatten({_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)})


def from_nested(nested, template: Any, where: str) -> Any:
    """The inverse of `to_nested`, in the structure of `template`.

    Raises:
        CheckpointError: lists every array that is missing, unused or of another shape or type.
    """
    flat = _flatten(nested)
    paths, structure = jax.tree_util.tree_flatten_with_path(template)
    wanted = {_name(path): x for path, x in paths}
    problems = fit.differences(*({name: (tuple(x.shape), str(x.dtype)) for name, x in arrays.items()}
                                 for arrays in (wanted, flat)))
    if count := sum(map(len, problems)):
        raise CheckpointError(
            f"{where} does not fit this config ({count} differences): another backbone, number of classes or "
            f"optimizer? Use a new --workdir, or the config it was made with.\n"
            + "\n".join(problems.lines()))
    return jax.tree_util.tree_unflatten(structure, [flat[name] for name in wanted])


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


def _say_damaged(directory: str, damaged: dict[int, str], step: int) -> None:
    for other, reason in damaged.items():
        console.say(f"{os.path.join(directory, str(other))} {reason}. Step {step}, the newest sound one, is "
                    f"used instead.")


def _is_step(path: str) -> bool:
    return STEP.fullmatch(os.path.basename(path)) is not None and os.path.isdir(path)


def _is_checkpoint(path: str) -> bool:
    """Whether a folder holds anything of a checkpoint, sound or not."""
    return any(os.path.exists(os.path.join(path, name)) for name in ("state", "meta", "_CHECKPOINT_METADATA"))


def _check_readable(where: str) -> None:
    """Raises CheckpointError for a file that may not be read, which says nothing of its content."""
    def refuse(error):
        if isinstance(error, PermissionError):
            raise CheckpointError(f"{error.filename} cannot be read: {error.strerror}.") from error

    for folder, _, names in os.walk(where, onerror=refuse):
        for name in names:
            try:
                open(os.path.join(folder, name), "rb").close()
            except OSError as error:
                refuse(error)


def of_the_first(number: int) -> int:
    """A number of the first process, on all of them; every process waits for it here."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _not_orbax(record: logging.LogRecord) -> bool:
    return os.path.join("orbax", "checkpoint") not in record.pathname


def _dtype(name: str):
    return jax.numpy.dtype(name)  # knows bfloat16


def _name(path) -> str:
    return "/".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)


def _flatten(nested) -> dict[str, np.ndarray]:
    return {name: np.asarray(x) for name, x in flatten_dict(nested, sep="/").items()}


def _unflatten(flat) -> dict[str, Any]:
    return unflatten_dict(flat, sep="/")
