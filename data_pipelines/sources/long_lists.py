"""Lists of millions of clips: read by Arrow, kept as columns, an item made when it is asked for.

`lists.py` says what a list is, line by line; here the lines of a whole file are read at once, where all of
them are plain: UTF-8, blanks or tabs between path and numbers, no header. Whatever is not plain, or wrong, is
left to `lists.py`, which finds the line and says what is wrong with it. `benchmarks/long_list.py` measures
ten million lines: 19 seconds and 1.3 GiB.
"""

import functools
import mmap
import os
import re
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.sources.items import ListItem
from data_pipelines.sources.text_files import MAX_LINE

LONG = 1 << 22  # bytes of a list from which on it is read here
_BLOCK = 1 << 24  # bytes that are read at a time
# What str.split takes for a blank and a regular expression does not, and what ends a line elsewhere.
_ODD = (r"[\x{00}-\x{08}\x{0a}-\x{1f}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}"
        r"\x{3000}\x{feff}]")
_PATH = r"^[ \t]*(?P<path>[^ \t,;]|[^ \t].*[^ \t,;])"
_NUMBER = r"[ \t]+(?P<{}>[0-9]{{1,18}})"
_SHAPES = {  # (list_format, multi_label): one line
    ("video", False): _PATH + _NUMBER.format("last") + r"[ \t]*$",
    ("frames", False): _PATH + _NUMBER.format("frames") + _NUMBER.format("last") + r"[ \t]*$",
    ("video", True): _PATH.replace(".*", ".*?") + r"(?P<numbers>(?:[ \t]+[0-9]{1,18})+)[ \t]*$",
    ("frames", True): _PATH.replace(".*", ".*?") + r"(?P<numbers>(?:[ \t]+[0-9]{1,18}){2,})[ \t]*$"}
_NO_PATH = {  # what `lists.py` reads otherwise, or looks at more closely
    "a path that leaves the root": r"(^|/)\.\.(/|$)",
    "a number with a sign": r"(^|[ \t])[+-][0-9]{1,18}$"}


class NotPlain(Exception):
    """The list is for `lists.py`; says why."""


class LongList(Sequence):
    """The items of a list, as columns.

    Args:
        paths: of the clips, an Arrow array of strings in pieces.
        frames: (N,) of each, or None.
        labels: all labels one after the other.
        starts: (N + 1,) where those of each clip begin; None: one a clip.
    """

    def __init__(self, paths, frames, labels: np.ndarray, starts: np.ndarray | None):
        self._paths, self._frames, self._labels, self._starts = paths, frames, labels, starts

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._item(index, self._paths[index].as_py())

    def __iter__(self) -> Iterator[ListItem]:
        index = 0
        for piece in self._paths.chunks:
            for path in piece.to_pylist():
                yield self._item(index, path)
                index += 1

    def _item(self, index: int, path: str) -> ListItem:
        first, last = (index, index + 1) if self._starts is None else self._starts[index:index + 2]
        frames = 0 if self._frames is None else int(self._frames[index])
        return ListItem(path, frames, tuple(self._labels[first:last].tolist()))

    def distinct_labels(self) -> set[int]:
        """All labels that occur."""
        return set(np.unique(self._labels).tolist())


def read(path: str, list_format: str, multi_label: bool, num_classes: int, root: str) -> LongList:
    """The items of a plain list; those of one that was read before, and has not changed, at once.

    Args:
        path, list_format, multi_label, num_classes, root: see `lists.read_list`.

    Raises:
        NotPlain: it is not, or something is wrong with it.
    """
    state = os.stat(path)
    return _read(os.path.abspath(path), list_format, multi_label, num_classes, root, state.st_mtime_ns,
                 state.st_size)


@functools.lru_cache(maxsize=4)  # training, its held-out part, validation
def _read(path, list_format, multi_label, num_classes, root, *state) -> LongList:
    import pyarrow as pa  # slow to import
    from pyarrow import csv

    del state
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if re.search(rb"\r(?!\n)", data):  # where lines end then, `text_files.py` knows
            raise NotPlain("a carriage return within a line")
    options = dict(
        read_options=csv.ReadOptions(column_names=["line"], block_size=_BLOCK),
        parse_options=csv.ParseOptions(delimiter="\x01", quote_char=False, double_quote=False,
                                       escape_char=False, newlines_in_values=False),
        convert_options=csv.ConvertOptions(column_types={"line": pa.string()}, strings_can_be_null=False))
    pieces = []
    try:
        with pa.memory_map(path) as file:
            with csv.open_csv(file, **options) as batches:
                for batch in batches:
                    pieces.append(_columns(batch.column(0), list_format, multi_label, num_classes, root,
                                           first=not pieces))
    except pa.ArrowInvalid as error:  # no UTF-8, an endless line, a separator of ours
        raise NotPlain(" ".join(str(error).split())[:200]) from error
    if not pieces:
        raise NotPlain("no lines")
    paths, frames, labels, counts = zip(*pieces)
    starts = None
    if multi_label:
        starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return LongList(pa.chunked_array(paths), np.concatenate(frames) if list_format == "frames" else None,
                    np.concatenate(labels), starts)


def _columns(lines, list_format, multi_label, num_classes, root, first: bool):
    """(paths, frames or None, labels, labels of each or None) of some lines."""
    from pyarrow import compute as pc

    def refuse(found, why: str) -> None:
        where = pc.index(found, True).as_py()
        if where >= 0:
            raise NotPlain(f"{why}: {lines[where].as_py().strip()!r}"[:200])

    refuse(pc.greater(pc.binary_length(lines), MAX_LINE), "a very long line")
    refuse(pc.match_substring_regex(lines, _ODD), "a sign that is no plain text")
    if first and lines[0].as_py()[:1] in "[{":
        raise NotPlain("it looks like JSON")
    parts = pc.extract_regex(lines, _SHAPES[list_format, multi_label])
    refuse(pc.is_null(parts), "a line of another shape")
    paths = pc.struct_field(parts, "path")
    for why, pattern in _NO_PATH.items():
        refuse(pc.match_substring_regex(paths, pattern), why)
    if root:
        inside = [pc.starts_with(paths, os.path.join(where, "")) for where in (os.path.abspath(root),
                                                                               os.path.realpath(root))]
        absolute = pc.starts_with(paths, "/")
        refuse(pc.and_not(absolute, pc.or_(*inside)), "an absolute path")
    frames = counts = None
    if multi_label:
        numbers = pc.split_pattern_regex(pc.utf8_trim(pc.struct_field(parts, "numbers"), " \t"), "[ \t]+")
        counts = pc.list_value_length(numbers).to_numpy()
        labels = pc.cast(pc.list_flatten(numbers), "int64").to_numpy()
        if list_format == "frames":
            begins = np.cumsum(counts) - counts
            frames, labels, counts = labels[begins], np.delete(labels, begins), counts - 1
    else:
        labels = pc.cast(pc.struct_field(parts, "last"), "int64").to_numpy()
        if list_format == "frames":
            frames = pc.cast(pc.struct_field(parts, "frames"), "int64").to_numpy()
    if labels.max(initial=0) >= num_classes:
        raise NotPlain("a label that is too large")
    return paths, frames, _small(labels), counts


def _small(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int32) if values.max(initial=0) < 2**31 else values
