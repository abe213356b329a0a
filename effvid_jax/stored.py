"""A saved checkpoint as it lies on disk: nested arrays, what it says of itself, and whether it still is that.

Layout: `DIR/checkpoints/<step>/` holds `state` (params, stats, optimizer, step) and `meta` (json: step,
config, class names, library versions, clips seen, and shape, type and CRC-32 of every array). Orbax
restores a flipped bit and casts types without a word, so every array is checked against `meta` here.
"""

from __future__ import annotations

import os
import re
import zlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from effvid_jax import course, fit, sharding, writers
from effvid_jax.errors import UserError

META = os.path.join("meta", "metadata")  # orbax's name for the json of `meta`
YOUNGER = re.compile(r"(^|/)stopping/more_scores$")  # arrays that older code did not save
EXPECTED = {"step": int, "config": dict, "class_names": list, "num_classes": int, "arrays": dict}  # in it


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, cannot be written or does not fit; names file and step."""


class Damaged(CheckpointError):
    """A checkpoint that says itself that it is not what was written."""


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
        template = unflatten({name: ocp.RestoreArgs(restore_type=np.ndarray) for name in arrays})
        abstract = unflatten({name: np.empty(spec["shape"], _dtype(spec["dtype"]))
                               for name, spec in arrays.items()})
        # Not orbax's `Checkpointer`, whose `restore` waits for all processes: one of them reads first.
        nested = ocp.PyTreeCheckpointHandler().restore(
            epath.Path(where) / "state",
            args=ocp.args.PyTreeRestore(item=abstract, restore_args=template, partial_restore=True))
    except MemoryError:
        raise
    except Exception as error:  # orbax raises a different type for every way a file can break
        raise Damaged(f"{where} is damaged ({type(error).__name__}: {first_line(error)}).") from error
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
    if any(type(n) is not int or n < least for n, least in zip(_seen(meta), (0, 1), strict=False)):
        raise Damaged(f"{where} is damaged: {META} has no numbers of clips in 'seen'.")
    if len(meta["class_names"]) != meta["num_classes"]:
        raise Damaged(f"{where} is damaged: {META} has {len(meta['class_names'])} names of "
                      f"{meta['num_classes']} classes.")
    return meta


def position_of(meta: dict[str, Any]) -> course.Position | None:
    """Where a run was saved; None for imported weights, which were not trained."""
    data = meta["config"].get("data")
    size = data.get("batch_size") if isinstance(data, dict) else None
    if type(size) is not int:
        return None
    clips, first = _seen(meta) or (meta["step"] * size, size)  # older code could not change it
    return course.Position(meta["step"], clips, size, first)


def _seen(meta: dict[str, Any]) -> tuple:
    if "seen" not in meta:
        return ()
    seen = meta["seen"]
    return (seen.get("clips"), seen.get("first_batch_size")) if isinstance(seen, dict) else (None,)


def describe(nested) -> dict[str, dict[str, Any]]:
    """Shape, type and CRC-32 of every array, by path; every process calls it where arrays are cut."""
    out = {}
    for name, x in flatten_dict(nested, sep="/").items():  # one after the other: they may be large
        x = np.ascontiguousarray(sharding.on_host(x))
        out[name] = {"shape": list(np.shape(x)), "dtype": str(x.dtype),
                     "crc32": zlib.crc32(x.reshape(-1).view(np.uint8))}
    return out


def to_nested(tree: Any) -> dict[str, Any]:
    """Any tree (optimizer states are tuples of named tuples) as nested dicts with string keys."""
    return unflatten({_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)})


def from_nested(nested, template: Any, where: str) -> Any:
    """The inverse of `to_nested`, in the structure of `template`, which has what older code did not save.

    Raises:
        CheckpointError: lists every array that is missing, unused or of another shape or type.
    """
    flat = flatten(nested)
    paths, structure = jax.tree_util.tree_flatten_with_path(template)
    wanted = {_name(path): x for path, x in paths}
    flat |= {name: np.asarray(x) for name, x in wanted.items() if name not in flat and YOUNGER.search(name)}
    problems = fit.differences(*({name: (tuple(x.shape), str(x.dtype)) for name, x in arrays.items()}
                                 for arrays in (wanted, flat)))
    if count := sum(map(len, problems)):
        raise CheckpointError(
            f"{where} does not fit this config ({count} differences): another backbone, number of classes or "
            f"optimizer? Use a new --workdir, or the config it was made with.\n"
            + "\n".join(problems.lines()))
    return jax.tree_util.tree_unflatten(structure, [flat[name] for name in wanted])


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


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _dtype(name: str):
    return jax.numpy.dtype(name)  # knows bfloat16


def _name(path) -> str:
    return "/".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)


def flatten(nested) -> dict[str, np.ndarray]:
    return {name: np.asarray(x) for name, x in flatten_dict(nested, sep="/").items()}


def unflatten(flat) -> dict[str, Any]:
    return unflatten_dict(flat, sep="/")
