"""What is official of a data set, and what is there of it."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is official of a data set, and where its config looks for it (`DATASETS` of the recipes).

    Attributes:
        name: of the command; first part of the files that it writes.
        title, page: of the data set; the page tells how to get it.
        size: about.
        classes: how many.
        counts: clips of each list as released.
        source: where the counts come from.
        lists: file of each list, below --out.
        folder: --out by default.
        root: folder that a config reads videos from.
        config: and its arguments, of the command that trains.
        digest: of the names of the classes in the released order, see `digest`; '': not known.
        list_format: 'video' or 'frames'; '': the config reads the official files, lists are for other uses.
        multi_label: whether a clip may have several labels.
    """
    name: str
    title: str
    page: str
    size: str
    classes: int
    counts: Mapping[str, int]
    source: str
    lists: Mapping[str, str]
    folder: str
    root: str
    config: str
    digest: str = ""
    list_format: str = "video"
    multi_label: bool = False


class Clip(NamedTuple):
    """A line of the official lists.

    Attributes:
        name: what they call it.
        path: of the video or the folder of frames below the root of its list; '': it is not there.
        labels: from 0.
    """
    name: str
    path: str
    labels: tuple[int, ...] = ()


@dataclasses.dataclass
class Plan:
    """What a module found.

    Attributes:
        root: folder that the lists will be relative to.
        classes: their names by label.
        lists: clips of each list of the facts.
        read: the official files that were read.
        look: (path below root) -> frames, of each that is there; raises `VideoError` where it cannot be used.
            None: videos are opened.
        work: what that is called while it is done, and before: 'extracting the frames of'.
        done: number of paths for which it was done before.
        below: folder of a list below the root, where a list has its own.
        line: (clip, frames) -> line of a list, where it is not the usual one.
        template: name of a frame, where the clips are folders of images.
        settings: flags by which something is made that stays, such as frames: others must not mix with it.
        beside: folders below the root that a config reads beside those that the lists name.
        fields: of the config that are other than its own.
        notes: what is odd about the files, for the report.
    """
    root: str
    classes: list[str]
    lists: dict[str, list[Clip]]
    read: list[str]
    look: Callable[[str], int] | None = None
    work: str = "opening"
    done: int = 0
    below: Mapping[str, str] = dataclasses.field(default_factory=dict)
    line: Callable[[Clip, int], str] | None = None
    template: str = ""
    settings: dict = dataclasses.field(default_factory=dict)
    beside: Sequence[str] = ()
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


def digest(names: Sequence[str]) -> str:
    """Twelve digits that tell the names of classes and their order from any others."""
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:12]
