"""The interface of all sources of videos."""

import abc
import os
import shlex
from collections.abc import Sequence

from data_pipelines.entry import Entry
from data_pipelines.video.reader import VideoReader


class Source(abc.ABC):
    """A random-access, picklable sequence of videos.

    Attributes:
        class_names: name of every class; its length is the number of classes.
        description: where the videos come from, for messages, e.g. "data.val_list='val.txt'".
        check_command: shell command that decodes every video and lists the broken ones.
    """
    class_names: list[str]
    description: str
    check_command: str

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of videos."""

    @abc.abstractmethod
    def entry(self, index: int) -> Entry:
        """Returns name and labels of video `index`."""

    @abc.abstractmethod
    def open(self, index: int) -> VideoReader:
        """Returns a reader of video `index`; raises `VideoError` if it cannot be opened."""

    def read(self, index: int) -> tuple[Entry, VideoReader]:
        """Returns both at once: sources whose entries are not in memory read a record only once."""
        return self.entry(index), self.open(index)

    @abc.abstractmethod
    def key(self, index: int) -> tuple:
        """Returns what identifies the content of a video in this process (for the frame cache)."""


def key_of_file(path: str) -> tuple:
    """What identifies the content of a file in this process: its path, and when and how large it was made."""
    path = os.path.abspath(path)
    try:
        status = os.stat(path)
    except OSError:
        return (path,)
    return (path, status.st_mtime_ns, status.st_size)


def default_class_names(num_classes: int) -> list[str]:
    """Names for a data set that comes without: "class 0", "class 1", ..."""
    return [f"class {k}" for k in range(num_classes)]


def shorten(names: Sequence[str], limit: int = 5) -> str:
    """The first few names of a longer list, for messages."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(str(name) for name in names[:limit]) + more


def check_command(**flags: str | int) -> str:
    """The command that decodes every video of a source and lists the broken ones."""
    arguments = [shlex.quote(f"--{name}={value}") for name, value in flags.items()]
    return " ".join(["python -m data_pipelines.check_videos", *arguments])
