"""The folder of an embedded benchmark: where it is, that it is ours, one process at a time that writes it.

Every set of parameters has a folder of its own below `data.root`, named after what is in it and a digest of
its parameters; `manifest.json` says what they are.
"""

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.tools import atomic_write

_FOLDER = re.compile(r"([a-z]+_)?\d+_classes_\d+\+\d+_clips_[0-9a-f]{8}")


def choose(data_config, params: Mapping, num_classes: int, identity: list, kind: str = "") -> Path:
    """The folder of the benchmark that a data configuration asks for.

    Args:
        data_config: the data configuration; `root` is the folder under which every benchmark has its own.
        params: of the benchmark, checked.
        num_classes: of it.
        identity: what its content depends on, as json values.
        kind: of a benchmark of another task than classification, in its name.

    Raises:
        DataError: no root, or one that holds something else.
    """
    source = data_config.source
    if not data_config.root:
        raise DataError(f"data.root is empty: data.source={source!r} needs a folder to write its clips into, "
                        f"e.g. --config.data.root=data/synthetic.")
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    clips = f"{params['train_clips']}+{params['val_clips']}"
    root = Path(data_config.root)
    folder = root / f"{kind and kind + '_'}{num_classes}_classes_{clips}_clips_{digest}"
    if not (is_new_or_ours(root) or has_manifest(folder)):
        raise DataError(
            f"data.root={str(root)!r} holds files that are not the embedded benchmark's, and :tiny and :demo "
            f"(data.source={source!r}) train on that alone. To train on what is there, leave them out "
            f"(configs/*_folder.py have :small for a small network); for the benchmark leave out data.root, "
            f"or name a folder that is new or empty.")
    return folder


@contextlib.contextmanager
def building(out: Path, manifest: Mapping, older: Mapping | None = None) -> Iterator[None]:
    """What is written in this block is written by one process at a time; others wait for it.

    Args:
        out: the folder; it is made.
        manifest: generator_version, parameters, and what else tells benchmarks apart.
        older: values of parameters that manifests of older benchmarks lack.

    Raises:
        DataError: the folder holds a benchmark with another manifest, or anything else.
    """
    if not is_new_or_ours(out):
        raise DataError(f"{out} holds files that are not the embedded benchmark's: it is written into a "
                        f"folder that is new or empty, or that it lies in already. Name another folder.")
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the process ends, however it ends
        _write_manifest(out / "manifest.json", manifest, older or {})
        for left_over in out.glob("**/.*.part"):  # of a build that was killed
            left_over.unlink()
        yield


def has_manifest(folder: Path) -> bool:
    """Whether a benchmark was begun in a folder."""
    try:
        return "generator_version" in json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


def is_new_or_ours(folder: Path) -> bool:
    """Whether a folder is not there, is empty, is a benchmark, or holds nothing but benchmarks.

    Hidden files, such as the lock of a build that has just begun, do not count.
    """
    if not os.path.lexists(folder) or has_manifest(folder):
        return True

    def visible(folder):
        return [path for path in folder.iterdir() if not path.name.startswith(".")]

    return folder.is_dir() and all(
        path.is_dir() and (has_manifest(path) or not visible(path)) and _FOLDER.fullmatch(path.name)
        for path in visible(folder))


def _write_manifest(path: Path, manifest: Mapping, older: Mapping) -> None:
    if path.exists():
        found = json.loads(path.read_text())
        if found != manifest:
            given, there = _flat(manifest, older), _flat(found, older)
            differ = ", ".join(f"{name}={there.get(name)} there, {given.get(name)} wanted"
                               for name in {**given, **there} if there.get(name) != given.get(name))
            raise DataError(f"{path.parent} holds an embedded benchmark with other parameters "
                            f"({differ}). Choose another folder, or delete that one.")
        return
    with atomic_write(path) as part:
        part.write_text(json.dumps(manifest, indent=2) + "\n")


def _flat(manifest: Mapping, older: Mapping) -> dict:
    """Everything that a manifest says, in one dict."""
    return {**{name: value for name, value in manifest.items() if name != "parameters"}, **older,
            **manifest.get("parameters", {})}


def write_csv(path: Path, rows: Sequence[Mapping]) -> None:
    """Rows with the same fields, under their names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as part:
        part.write_text(text.getvalue())


def write_lists(out: Path, split: str, rows: Sequence[Mapping]) -> None:
    """The lists of a split of labelled clips: what generated each of them, and `path label`."""
    write_csv(out / f"{split}_clips.csv", rows)
    with atomic_write(out / f"{split}.txt") as part:
        part.write_text("".join(f"{row['path']} {row['label']}\n" for row in rows))
