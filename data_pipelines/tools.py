"""What the command line tools share: progress, threads, exit codes, files, lists."""

import contextlib
import itertools
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from data_pipelines.errors import DataError, VideoError
from data_pipelines.file_sources import VIDEO_ENDINGS
from data_pipelines.lists import ListItem, find_file, read_list


def run_tool(main: Callable[[], int]) -> None:
    """Runs a tool and exits: 0 success, 1 an error of the user (one line), 130 interrupted.

    Tools return 1 themselves when they finished but found something wrong.
    """
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues where this one stopped.", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)


def progress_bar(total: int, description: str, unit: str, initial: int = 0) -> tqdm:
    """A progress bar with the remaining time, on stderr; every 10 s if that is not a terminal."""
    terminal = sys.stderr.isatty()
    return tqdm(total=total, initial=initial, desc=description, unit=unit, file=sys.stderr,
                dynamic_ncols=terminal, mininterval=0.2 if terminal else 10.0)


def parallel(function: Callable, items: Iterable, workers: int | None, description: str, unit: str,
             *, done: int = 0) -> Iterator:
    """Applies a function to items in threads and yields the results in the order of the items.

    Decoding and encoding release the interpreter's lock. At most a few items per thread are under
    way at a time. An exception, also one where the results are used, stops it: items that have not
    begun are dropped.

    Args:
      function: called with one item.
      items: what to work on.
      workers: threads; the number of cores by default.
      description, unit: of the progress bar.
      done: items that were finished earlier, for the progress bar.
    """
    items = list(items)
    if not items:
        return
    workers = workers or num_cores()
    pool = ThreadPoolExecutor(workers)
    waiting, rest = deque(), iter(items)
    try:
        with progress_bar(done + len(items), description, unit, done) as bar:
            waiting.extend(pool.submit(function, item)
                           for item in itertools.islice(rest, 4 * workers))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in itertools.islice(rest, 1))
                bar.update()
                yield result
    finally:
        pool.shutdown(cancel_futures=True)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@contextlib.contextmanager
def atomic_write(path) -> Iterator[Path]:
    """Gives a temporary path next to `path` that is moved there if the block succeeds."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------- broken clips
def reason_of(function: Callable, *arguments) -> str:
    """Calls a function and returns why the clip is broken, or nothing if it is not."""
    try:
        function(*arguments)
    except VideoError as error:
        return error.reason
    return ""


def write_broken(path, broken: dict[str, str]) -> None:
    """Writes a list of broken clips, one line `name<tab>reason` each."""
    with atomic_write(path) as part:
        part.write_text("".join(f"{name}\t{reason}\n" for name, reason in broken.items()),
                        encoding="utf-8")


def read_broken(path) -> dict[str, str]:
    """Reads what `write_broken` wrote; a line may also hold a name alone."""
    if not os.path.isfile(path):
        raise DataError(f"{path} does not exist: it must be a list of broken clips, as "
                        f"`python -m data_pipelines.check_videos` writes it.")
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return {name: reason for name, _, reason in (line.partition("\t") for line in lines) if name}


class Dropped:
    """Clips that a tool leaves out: name and reason of each, up to a share of all.

    Args:
      total: number of clips.
      max_share: more than this share of them (rounded up) is an error, and so is all of them.
      clips: those that were dropped earlier.
    """

    def __init__(self, total: int, max_share: float, clips: dict[str, str] | None = None):
        self.clips = clips or {}
        self._total, self._share = total, max_share
        self._allowed = min(math.ceil(max_share * total), total - 1)

    def add(self, name: str, reason: str) -> None:
        """Raises `DataError`, which names the first five, when there are too many."""
        self.clips[name] = reason
        if len(self.clips) > self._allowed:
            first = "; ".join(f"{n}: {r}" for n, r in list(self.clips.items())[:5])
            raise DataError(
                f"{len(self.clips)} of the {self._total} clips cannot be used, more than "
                f"--max_broken_share={self._share} allows ({self._allowed}). The first ones: "
                f"{first}. Is --root right? If so repair them, or raise --max_broken_share.")

    def report(self) -> None:
        """Prints how many were left out and the first five."""
        if self.clips:
            print(f"left out {len(self.clips)} of {self._total} clips:")
            for name in list(self.clips)[:5]:
                print(f"  {name}: {self.clips[name]}")


# ------------------------------------------------------------------------------------------ lists
def files_below(folder: str) -> list[str]:
    """All files below a folder with the ending of a video, relative to it, sorted.

    Raises:
      DataError: no such folder, or no such files.
    """
    if not os.path.isdir(folder):
        raise DataError(f"{folder} is not a folder.")
    found = sorted(os.path.relpath(os.path.join(parent, name), folder)
                   for parent, _, names in os.walk(folder) for name in names
                   if name.lower().endswith(VIDEO_ENDINGS) and not name.startswith("."))
    if not found:
        raise DataError(f"{folder} holds no video files (endings: {' '.join(VIDEO_ENDINGS)}).")
    return found


def list_items(path: str, root: str, list_format: str, exists=os.path.exists) -> list[ListItem]:
    """Reads a list whose lines may end with one or several labels.

    Where a path ends and the labels begin is decided by what exists.

    Args:
      path: the list file.
      root: folder that its paths are relative to.
      list_format: 'video' or 'frames'.
      exists: whether there is a clip at a full path.

    Raises:
      DataError: no such list, or a malformed line.
    """
    path = find_file(path, root)
    if not os.path.isfile(path):
        raise DataError(f"the list {path} does not exist.")
    shortest = read_list(path, list_format, False, 10**9)  # only what a line must have
    try:
        longest = read_list(path, list_format, True, 10**9)  # every number at the end is a label
    except DataError:
        return shortest
    return [b if b != a and exists(os.path.join(root, b.path))
            and not exists(os.path.join(root, a.path)) else a
            for a, b in zip(shortest, longest, strict=True)]
