"""Orbax checkpoints with checksums, readable on any number of devices.

Layout: `DIR/checkpoints/<step>/` holds `state` (params, stats, optimizer, step) and `meta` (json: step,
config, class names, library versions, and shape, type and CRC-32 of every array). Orbax restores a
flipped bit and casts types without a word, so every array is checked against `meta` here.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import zlib
from importlib import metadata
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

from effvid_jax import fit
from effvid_jax.errors import UserError

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "av")


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or does not fit; the message names file and step."""


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
    a process killed while writing leaves the previous step intact.
    """

    def __init__(self, workdir: str, keep: int = 2):
        self.directory = os.path.join(os.path.abspath(workdir), "checkpoints")
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(
            self.directory, options=options,
            item_handlers={"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()})

    def steps(self) -> list[int]:
        """Steps that are completely written, in order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, config, class_names) -> None:
        """Saves the tree `state` as `step`; a step that is already there is left alone."""
        if step in self._manager.all_steps():
            return
        nested = to_nested(state)
        meta = {"step": step, "config": to_json(config), "class_names": list(class_names),
                "num_classes": len(class_names), "versions": versions(), "arrays": describe(nested)}
        self._manager.save(step, args=ocp.args.Composite(
            state=ocp.args.StandardSave(nested), meta=ocp.args.JsonSave(meta)))

    def restore(self, template: Any, step: int | None = None) -> Any:
        """The state of `step` (default: the newest) in the structure of `template`, as numpy arrays.

        Raises:
            CheckpointError: nothing there, damaged files, or other arrays than the template's.
        """
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            raise CheckpointError(f"{self.directory}: no checkpoint of step {step}; there are {steps}.")
        nested, _ = read(self.directory, steps[-1] if step is None else step)
        return from_nested(nested, template, f"{self.directory}/{steps[-1] if step is None else step}")

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for writes and frees the background threads."""
        self._manager.wait_until_finished()
        self._manager.close()


def load_variables(path: str, step: int | None = None) -> tuple[Saved, dict[str, Any]]:
    """Parameters and statistics of a run, without its optimizer, and the model they belong to.

    Args:
        path: a workdir (of a single run, of one stage, or of `torch_import`); a run of several stages
            stands for its last one.
        step: which checkpoint; the newest by default.

    Returns:
        `Saved`, and `{'params': ..., 'batch_stats': ...}` of numpy arrays.

    Raises:
        CheckpointError: no checkpoint there, or a damaged one.
    """
    directory = checkpoint_directory(path)
    steps = sorted(int(name) for name in os.listdir(directory) if name.isdigit())
    if not steps or (step is not None and step not in steps):
        raise CheckpointError(f"{directory}: no checkpoint of step {step or 'any'}; there are {steps}.")
    nested, meta = read(directory, steps[-1] if step is None else step, only=("params", "stats"))
    config = ml_collections.ConfigDict(meta["config"])
    saved = Saved(config.model, meta["num_classes"], tuple(meta["class_names"]), meta["step"], config)
    return saved, {"params": nested["params"], "batch_stats": nested.get("stats", {})}


def checkpoint_directory(path: str) -> str:
    """`path/checkpoints`, or the one of its last stage.

    Raises:
        CheckpointError: neither is there.
    """
    path = os.path.abspath(path)
    stage = _last_stage(path)
    for candidate in (path, os.path.join(path, stage)):
        directory = os.path.join(candidate, "checkpoints")
        if os.path.isdir(directory) and any(name.isdigit() for name in os.listdir(directory)):
            return directory
    raise CheckpointError(
        f"{path}: no checkpoint here (looked for checkpoints/<step> in it and in its folder {stage}). "
        f"Give the --workdir of a training run, or the --out of effvid_jax.torch_import.")


def _last_stage(path: str) -> str:
    """The folder of the last stage of a run of several."""
    try:
        with open(os.path.join(path, "config.json")) as f:
            run = json.load(f).get("run", "")
    except (OSError, ValueError):
        run = ""
    return run.split(",")[-1].strip() or "student"


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
    with open(os.path.join(workdir, "config.json"), "w") as f:
        json.dump(to_json(config), f, indent=2)


def read(directory: str, step: int, only: tuple[str, ...] = ()) -> tuple[dict, dict]:
    """(nested dict of numpy arrays, meta) of one step, every array checked.

    Args:
        directory: the `checkpoints` folder.
        step: a step that is there.
        only: top-level entries to read; all by default.

    Raises:
        CheckpointError: anything missing or damaged.
    """
    where = os.path.join(directory, str(step))
    others = [s for s in os.listdir(directory) if s.isdigit() and int(s) != step]
    advice = (f"Other steps here: {sorted(map(int, others))}; --config.init.step=K restores one of them."
              if others else "There is no other step here.")
    try:
        with open(os.path.join(where, "meta", "metadata")) as f:
            meta = json.load(f)
        arrays = {name: spec for name, spec in meta["arrays"].items()
                  if not only or name.split("/")[0] in only}
        template = _unflatten({name: ocp.RestoreArgs(restore_type=np.ndarray) for name in arrays})
        abstract = _unflatten({name: np.empty(spec["shape"], _dtype(spec["dtype"]))
                               for name, spec in arrays.items()})
        nested = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(
            os.path.join(where, "state"),
            args=ocp.args.PyTreeRestore(item=abstract, restore_args=template, partial_restore=True))
    except Exception as error:  # orbax raises a different type for every way a file can break
        raise CheckpointError(f"{where}: damaged checkpoint ({type(error).__name__}: "
                              f"{str(error).splitlines()[0] if str(error) else ''}). {advice}") from error
    found = describe(nested)
    bad = [name for name, spec in arrays.items() if found.get(name) != spec]
    if bad:
        raise CheckpointError(f"{where}: {len(bad)} arrays differ from the checksums written with them, "
                              f"the first is {bad[0]}: the file is damaged. {advice}")
    return nested, meta


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


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide results."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _dtype(name: str):
    return jax.numpy.dtype(name)  # knows bfloat16


def _name(path) -> str:
    return "/".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)


def _flatten(nested) -> dict[str, np.ndarray]:
    return {name: np.asarray(x) for name, x in flatten_dict(nested, sep="/").items()}


def _unflatten(flat) -> dict[str, Any]:
    return unflatten_dict(flat, sep="/")
