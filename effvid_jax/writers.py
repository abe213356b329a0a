"""Files of a run, written whole or not at all, and its metrics: JSON lines, csv and TensorBoard events.

The methods of `MetricWriter` are those of clu's, whose own writers cannot be imported without TensorFlow.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata

import jax

from effvid_jax import console
from effvid_jax.errors import UserError

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "av")
_HOST = re.sub(r"[^\w.-]", "_", socket.gethostname())[:40]
_PART = re.compile(r"(.+)\.effvid-(.*)-([0-9]+)\.part", re.DOTALL)  # what `whole` writes to


# --------------------------------------------------------------------------------------- single files
@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Whatever keeps this block from writing becomes one line: "no space left" alone names no file.

    Raises:
        UserError: names the file and the reason.
    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename not in (None, path) else ""
        raise UserError(f"{path} cannot be written: {error.strerror or error}{where}. What was saved before "
                        f"is intact: make room, or choose another --workdir, and start the command again."
                        ) from error


@contextlib.contextmanager
def whole(path: str) -> Iterator[str]:
    """Gives a path beside `path` to write to; it takes that one's place if the block succeeds.

    What a killed process had begun to write in the same place is removed.

    Raises:
        UserError: it cannot be written; what was there before still is.
    """
    part = f"{path}.effvid-{_HOST}-{os.getpid()}.part"
    try:
        with writing(path):
            yield part
            os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(part)
        clear_parts(os.path.dirname(path) or ".", of=os.path.basename(path))


def clear_parts(*folders: str, of: str = "") -> None:
    """Removes what `whole` left in these folders, of the file `of` or of all, when its process was killed.

    Of another host, whose processes cannot be seen from here, only what is an hour old.
    """
    for folder in filter(os.path.isdir, folders):
        for name in os.listdir(folder):
            if (match := _PART.fullmatch(name)) and of in ("", match[1]):
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):
                    if (match[2] == _HOST and not _runs(int(match[3]))
                            or time.time() - os.path.getmtime(path) > 3600):
                        os.remove(path)


def _runs(pid: int) -> bool:
    """Whether another process of this number is there."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return pid != os.getpid()


def write_bytes(path: str, content: bytes) -> None:
    """A file, such as a picture."""
    with whole(path) as part, open(part, "wb") as f:
        f.write(content)


def write_picture(path: str, forms: Mapping[str, bytes]) -> None:
    """A picture in several forms, `<path>.png` and so on: `{'.png': ..., '.svg': ...}`, see `plots.forms`."""
    for ending, content in forms.items():
        write_bytes(path + ending, content)


def write_text(path: str, text: str) -> None:
    """A text file in UTF-8, on the disk when this returns."""
    with whole(path) as part, open(part, "w", encoding="utf-8", errors="surrogateescape") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())


def write_json(path: str, metrics: dict) -> None:
    """Plain numbers as json."""
    write_text(path, json.dumps({k: _plain(v) for k, v in metrics.items()}, indent=2))


def update_json(path: str, metrics: dict) -> None:
    """Replaces some entries of a json file, which may not be there yet; a damaged one is set aside."""
    old = {}
    if os.path.exists(path):
        try:
            old = read_json(path)
        except UserError as error:
            console.say(f"{error} It is kept as {set_aside(path, 'damaged')}.")
    write_json(path, old | metrics)


def lines(names) -> str:
    """Names as a text file has them, one a line: line breaks within a name become spaces."""
    return "".join(f"{line_of(name)}\n" for name in names)


def line_of(name: str) -> str:
    """A name as `lines` writes it."""
    return name.replace("\r", " ").replace("\n", " ")


def write_csv(path: str, rows: list[dict]) -> None:
    """Rows with different columns as one table."""
    columns = dict.fromkeys(name for row in rows for name in row)
    with whole(path) as part, open(part, "w", newline="", encoding="utf-8", errors="backslashreplace") as f:
        table = csv.DictWriter(f, list(columns))
        table.writeheader()
        table.writerows(rows)


def write_lines(path: str, lines: Iterable[Sequence]) -> None:
    """A table of which every line, the one with the columns' names as well, is given as its values."""
    with whole(path) as part, open(part, "w", newline="", encoding="utf-8", errors="backslashreplace") as f:
        csv.writer(f).writerows(lines)


def read_json(path: str, advice: str = "") -> dict:
    """What `write_json` wrote.

    Args:
        path: of the file.
        advice: what to do if it cannot be read, for the message.

    Raises:
        UserError: it cannot be read, is cut or otherwise damaged, or holds something else.
    """
    try:
        with open(path, encoding="utf-8") as f:
            found = json.load(f)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. {advice}".strip()) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged, or no json file ({error}). {advice}".strip()) from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: it holds a {type(found).__name__} where names and values are "
                        f"expected. {advice}".strip())
    return found


def read_csv(path: str) -> list[dict[str, str]]:
    """The lines of a table by column.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as f:
            rows = list(csv.DictReader(f))
    except (OSError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if any(None in row or None in row.values() for row in rows):
        raise UserError(f"{path} is damaged: a line has not as many columns as the first one.")
    return rows


def set_aside(path: str, why: str) -> str:
    """Renames a file or folder to `<path>.<why>`, or `.<why>-2` and so on; returns its new name."""
    number = 1
    while os.path.lexists(new := f"{path}.{why}" + (f"-{number}" if number > 1 else "")):
        number += 1
    with writing(new):
        os.rename(path, new)
    return new


# -------------------------------------------------------------------------------------------- metrics
class MetricWriter:
    """Writes `metrics.jsonl`, `metrics.csv`, `metrics.json` (final) and TensorBoard events to a workdir.

    Args:
        workdir: where.
        first_step: a continued run drops what was written after this step, so that the files are those
            of one uninterrupted run. Lines that cannot be read go to `metrics.jsonl.unreadable`.
        enabled: False on all processes but the first.
        others: get every row (`add`), the result (`finish`) and the end (`close`), too.

    Raises:
        UserError: a file cannot be written; so do the methods.
    """

    def __init__(self, workdir: str, first_step: int = 0, enabled: bool = True, others: Sequence = ()):
        self.workdir, self.enabled, self._others = workdir, enabled, others
        self.rows: list[dict] = []
        if not enabled:
            return
        with writing(workdir):
            os.makedirs(workdir, exist_ok=True)
        path = self._path("metrics.jsonl")
        if first_step and os.path.exists(path):
            self.rows = [row for row in _history(path) if row["step"] <= first_step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._board = _Board(os.path.join(workdir, "tensorboard"), first_step + 1)

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """Adds the scalars of a step to every file."""
        if not self.enabled or not scalars:
            return
        row = {"step": int(step), **{k: _plain(v) for k, v in scalars.items() if k != "step"}}
        self.rows.append(row)
        path = self._path("metrics.jsonl")
        with writing(path), open(path, "a") as f:
            f.write(json.dumps(row) + "\n")
        self._write_csv()
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)):
                self._board.add(step, name, value)
        for other in self._others:
            other.add(row)

    def write_final(self, metrics: dict[str, float]) -> None:
        """The result of the run as `metrics.json`."""
        if self.enabled:
            write_json(self._path("metrics.json"), metrics)
            for other in self._others:
                other.finish({name: _plain(value) for name, value in metrics.items()})

    def flush(self) -> None:
        """Everything so far is on disk."""
        if self.enabled:
            self._board.flush()

    def close(self) -> None:
        """Flushes and closes."""
        if self.enabled:
            for other in self._others:
                other.close()
            self._board.close()

    def _write_csv(self) -> None:
        merged: dict[int, dict] = {}
        for row in self.rows:
            merged.setdefault(row["step"], {}).update(row)
        write_csv(self._path("metrics.csv"), [merged[step] for step in sorted(merged)])

    def _path(self, name: str) -> str:
        return os.path.join(self.workdir, name)


class _Board:
    """TensorBoard events, written by the caller's own thread.

    tensorboardX's `SummaryWriter` has another thread for it: on a full disk that one dies with a traceback,
    and the run hangs a few scalars later, when the queue to it is full.
    """

    def __init__(self, folder: str, purge_step: int):
        from tensorboardX import event_file_writer, summary  # take long to import, and few modes write
        from tensorboardX.proto import event_pb2

        self._folder, self._event, self._scalar = folder, event_pb2.Event, summary.scalar
        self._flushed = 0.0
        with writing(folder):
            os.makedirs(folder, exist_ok=True)
            self._file = event_file_writer.EventsWriter(os.path.join(folder, "events"))
            # What an earlier run has shown of later steps disappears.
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            for more in ({"file_version": "brain.Event:2"}, {"session_log": start}):
                self._write(step=purge_step, **more)

    def add(self, step: int, name: str, value: float) -> None:
        """A point of the curve `name`."""
        self._write(step=int(step), summary=self._scalar(name, value))

    def flush(self) -> None:
        self._flushed = time.monotonic()
        with writing(self._folder):
            self._file.flush()

    def close(self) -> None:
        with writing(self._folder):
            self._file.close()

    def _write(self, **fields) -> None:
        with writing(self._folder):
            self._file.write_event(self._event(wall_time=time.time(), **fields))
        if time.monotonic() - self._flushed > 60:
            self.flush()


def _history(path: str) -> list[dict]:
    """The rows of a `metrics.jsonl`; what is no row is kept in another file, and said."""
    rows, unreadable = [], []
    with open(path, "rb") as f:
        lines = f.read().splitlines()
    for line in filter(bytes.strip, lines):
        try:
            row = json.loads(line)
            if type(row["step"]) is not int:
                raise ValueError(row["step"])
            rows.append(row)
        except (ValueError, TypeError, KeyError, RecursionError):
            unreadable.append(line)
    if unreadable:
        kept = f"{path}.unreadable"
        with writing(kept), open(kept, "ab") as f:
            f.writelines(line + b"\n" for line in unreadable)
        console.say(f"{path}: {len(unreadable)} of {len(lines)} lines cannot be read; they are kept in "
                    f"{kept}.")
    return rows


# ------------------------------------------------------------------------------------- what ran where
def environment() -> dict:
    """Command, versions, devices and commit: what a number needs to be quoted."""
    here = os.path.dirname(os.path.abspath(__file__))
    git = subprocess.run(["git", "-C", here, "describe", "--always", "--dirty"], capture_output=True,
                         text=True, check=False)
    return {"command": " ".join(sys.argv), "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            "commit": git.stdout.strip() or "unknown", "versions": versions(),
            "devices": [str(d) for d in jax.devices()], "processes": jax.process_count(),
            "cpus": _cpus()}


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide results."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _cpus() -> int:
    """Cores this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _plain(value):
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    value = float(value)
    return int(value) if value.is_integer() and abs(value) < 2**53 and value > 1e6 else value
