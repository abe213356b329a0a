"""Weights in several files, as Hugging Face writes them: an index that says what is where, or a folder.

    read_weights("model.safetensors.index.json"), read_weights("folder/"), read_weights("weights.pth")
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from effvid_jax.torch_import import other_files
from effvid_jax.torch_import.files import TorchFileError, read_torch_file

_INDEX = ".index.json"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{3,6})-of-(?P<count>\d{3,6})(?P<ending>\.[\w.]+)")
_BESIDE = {f"{name}{ending}" for name in ("training_args", "optimizer", "scheduler", "rng_state", "scaler")
           for ending in (".bin", ".pt", ".pth")}  # what trainers write beside weights
_WEIGHTS = (".safetensors", ".pth", ".pt", ".pyth", ".pth.tar", ".bin", ".ckpt")


def read_weights(path: str | os.PathLike) -> Any:
    """Everything a checkpoint holds, tensors as numpy arrays, whether it is one file or several.

    Args:
        path: a file that `read_torch_file` takes, `NAME.index.json`, or a folder with one of them or with all
            shards `NAME-00001-of-0000N.ENDING`.

    Raises:
        TorchFileError: see `read_torch_file`; a missing shard by name; a folder with several checkpoints.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if path.name.endswith(_INDEX):
        return _read_index(path)
    if not path.exists() and path.with_name(path.name + ".index").exists():
        raise TorchFileError(f"{path}: is the name of several files, {path.name}.index and others: "
                             f"{other_files.what_it_is(b'?', b'', path.name + '.data-0-of-1')}")
    found = _SHARD.fullmatch(path.name)
    if found and int(found["count"]) > 1 and path.exists():
        raise TorchFileError(f"{path}: is one of {int(found['count'])} shards: give their index "
                             f"({found['stem']}{found['ending']}{_INDEX}), or the folder that they are in.")
    return read_torch_file(path)


def _read_folder(folder: Path) -> Any:
    """The one checkpoint of a folder."""
    names = sorted(os.listdir(folder))
    if other := other_files.is_checkpoint_folder(names):
        raise TorchFileError(f"{folder}: is {other}.")
    indexes = [name for name in names if name.endswith(_INDEX)]
    shards: dict[tuple, list[str]] = {}
    for name in names:
        if found := _SHARD.fullmatch(name):
            shards.setdefault((found["stem"], found["count"], found["ending"]), []).append(name)
    indexed = {name.removesuffix(_INDEX) for name in indexes}
    sets = {kind: found for kind, found in shards.items() if kind[0] + kind[2] not in indexed}
    single = [name for name in names
              if name.endswith(_WEIGHTS) and not _SHARD.fullmatch(name) and name not in _BESIDE]
    choices = [*indexes, *(f"{stem}-*-of-{count}{ending}" for stem, count, ending in sets), *single]
    if len(choices) != 1:
        what = f"is a folder without weights ({', '.join(names[:4]) or 'empty'}): give a checkpoint's file"
        if choices:
            what = f"holds {len(choices)} checkpoints, {', '.join(choices[:6])}: give one of them"
        raise TorchFileError(f"{folder}: {what}. Expected {_INDEX[1:]} or shards NAME-00001-of-0000N of "
                             f"safetensors or .bin, or a single file of weights.")
    if indexes:
        return _read_index(folder / indexes[0])
    if single:
        return read_torch_file(folder / single[0])
    (stem, count, ending), = sets
    wanted = [f"{stem}-{number:0{len(count)}}-of-{count}{ending}" for number in range(1, int(count) + 1)]
    return _join(folder, wanted, f"{folder}")


def _read_index(path: Path) -> dict[str, np.ndarray]:
    """The tensors that an index names."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        files = index["weight_map"]
        if not (isinstance(files, dict) and files and all(isinstance(name, str) for name in files.values())):
            raise ValueError("weight_map")
    except OSError as error:
        raise TorchFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TorchFileError(f"{path}: is no index of a sharded checkpoint: expected JSON with "
                             f"'weight_map': {{tensor: file}}. Download it again.") from error
    outside = [name for name in files.values()
               if name != os.path.basename(name) or name in ("", ".", "..") or not name.isprintable()]
    if outside:
        raise TorchFileError(f"{path}: names the shard {outside[0]!r}, which is not in its own folder: "
                             f"expected names of files beside the index.")
    state = _join(path.parent, list(dict.fromkeys(files.values())), f"{path}", files)
    missing = [key for key in files if key not in state]
    if missing:
        raise TorchFileError(f"{path}: shard {files[missing[0]]} lacks {len(missing)} of the tensors that "
                             f"the index says it has, the first is {missing[0]!r}: index and shards are of "
                             f"different checkpoints.")
    return state


def _join(folder: Path, names: list[str], source: str,
          files: dict[str, str] | None = None) -> dict[str, np.ndarray]:
    """The tensors of some shards; `files` says which shard counts for a tensor that several have."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise TorchFileError(f"{source}: shard {missing[0]}{more} of {len(names)} is not there: download it "
                             f"into {folder}.")
    state: dict[str, np.ndarray] = {}
    for name in names:
        content = read_torch_file(folder / name)
        if not isinstance(content, dict):
            raise TorchFileError(f"{folder / name}: holds a {type(content).__name__}, not tensors by name.")
        for key, value in content.items():
            if files and files.get(key, name) != name:
                continue
            if key in state:
                raise TorchFileError(f"{folder / name}: holds {key!r}, as another shard does: they are of "
                                     f"different checkpoints.")
            state[key] = value
    return state
