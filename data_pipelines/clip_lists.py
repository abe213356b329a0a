"""What the commands read and write: lists of clips, and lists of broken ones."""

import math
import os
from collections.abc import Callable

from data_pipelines.errors import DataError, VideoError
from data_pipelines.names import printable
from data_pipelines.sources.files import VIDEO_ENDINGS
from data_pipelines.sources.items import ListItem
from data_pipelines.sources.lists import find_file, read_list
from data_pipelines.sources.text_files import read_text, split_lines
from data_pipelines.tools import atomic_write
from data_pipelines.video import remote


def files_below(folder: str) -> list[str]:
    """All files below a folder with the ending of a video, relative to it, sorted.

    Raises:
        DataError: no such folder, or no such files.
    """
    if remote.is_remote(folder):
        start = folder.rstrip("/") + "/"
        found = [path.removeprefix(start) for path in remote.find(folder, VIDEO_ENDINGS)]
        if any(remote.is_remote(path) for path in found):
            raise DataError(f"{folder} is not a folder, or has another name in its store "
                            f"({os.path.dirname(found[0])}): give that one.")
    elif not os.path.isdir(folder):
        raise DataError(f"{folder} is not a folder.")
    else:
        found = _files_below(folder)
    if not found:
        raise DataError(f"{folder} holds no video files (endings: {' '.join(VIDEO_ENDINGS)}).")
    return found


def _files_below(folder: str) -> list[str]:
    return sorted(os.path.relpath(os.path.join(parent, name), folder)
                  for parent, _, names in os.walk(folder) for name in names
                  if name.lower().endswith(VIDEO_ENDINGS) and not name.startswith("."))


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
    shortest = read_list(path, list_format, False, 10**9, root)  # only what a line must have
    try:
        longest = read_list(path, list_format, True, 10**9, root)  # every number at the end is a label
    except DataError:
        return shortest
    return [b if b != a and exists(os.path.join(root, b.path))
            and not exists(os.path.join(root, a.path)) else a
            for a, b in zip(shortest, longest, strict=True)]


def reason_of(function: Callable, *arguments) -> str:
    """Calls a function and returns why the clip is broken, or nothing if it is not."""
    try:
        function(*arguments)
    except VideoError as error:
        return error.reason
    return ""


def write_broken(path, broken: dict[str, str]) -> None:
    """Writes a list of broken clips, one line `name<tab>reason` each, names as `printable` gives them."""
    with atomic_write(path) as part:
        lines = (f"{printable(name)}\t{printable(reason)}\n" for name, reason in broken.items())
        part.write_text("".join(lines), encoding="utf-8")


def read_broken(path) -> dict[str, str]:
    """Reads what `write_broken` wrote; a line may also hold a name alone."""
    if not os.path.isfile(path):
        raise DataError(f"{path} does not exist: it must be a list of broken clips, as "
                        f"`python -m data_pipelines.check_videos` writes it where it finds any.")
    lines = split_lines(read_text(path), path)
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
        self.clips[printable(name)] = printable(reason)
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
