"""List files (the formats of mmaction2 and of AR-Net's split files).

A list line is `path label [label ...]` for videos or `folder num_frames label [label ...]` for
folders of images, separated by blanks or by commas. Lines are read from the right, so a path may
contain blanks; blanks at its ends are not kept. Bytes of a path that are no UTF-8 are kept as
`os.fsdecode` keeps them. A list may have a header, with which columns may come in any order.
"""

import csv
import os
import re
from collections.abc import Sequence

from data_pipelines.errors import DataError
from data_pipelines.sources import long_lists
from data_pipelines.sources.items import ListItem, distinct_labels
from data_pipelines.sources.text_files import MAX_BYTES, read_text, split_lines

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}$")
_LABEL_FIRST = re.compile(r"\s*([0-9]{1,18})(?:\s*[,;\t]\s*|\s+)(\S.*)$")
_COLUMNS = {  # words of headers
    "path": {"path", "file", "filename", "file_name", "filepath", "file_path", "video", "video_path",
             "videopath", "video_name", "name", "clip", "folder", "dir", "frame_dir", "video_id", "id"},
    "frames": {"frames", "num_frames", "n_frames", "nframes", "total_frames", "frame_count", "length"},
    "label": {"label", "labels", "class", "class_id", "classid", "class_index", "label_id", "label_index",
              "target", "class_idx", "label_idx"}}


def read_list(path: str, list_format: str, multi_label: bool, num_classes: int,
              root: str = "") -> Sequence[ListItem]:
    """Reads a list file; one of millions of plain lines in seconds, see `long_lists.py`.

    With `multi_label` all integers at the end of a line (after num_frames) are labels; without it
    only the last one is, so that a path may end with a number.

    Args:
        path: the list file.
        list_format: 'video' or 'frames'.
        multi_label: whether a line may hold several labels.
        num_classes: labels must be within 0 .. num_classes - 1.
        root: folder that the paths must not leave; empty: absolute paths are free.

    Raises:
        DataError: unreadable, empty, a malformed line, a label out of range or a path that leaves
            the root (with file and line).
    """
    if (size := os.path.getsize(path)) >= long_lists.LONG:
        try:
            return long_lists.read(path, list_format, multi_label, num_classes, root)
        except long_lists.NotPlain as why:
            if size > MAX_BYTES:
                raise DataError(f"{path} has {size} bytes, and a list of more than {MAX_BYTES} must be plain "
                                f"text, every line `{_shape(list_format)}`, labels within 0 to "
                                f"{num_classes - 1}, paths within data.root='{root}'. It is not: "
                                f"{why}.") from None
    return parse_list(read_text(path, names_files=True), path, list_format, multi_label, num_classes, root)


def parse_list(text: str, path: str, list_format: str, multi_label: bool, num_classes: int,
               root: str = "") -> list[ListItem]:
    """As `read_list`, of a text that came from the file `path`."""
    lines = [(number, line) for number, line in enumerate(split_lines(text, path), 1) if line.strip()]
    if lines and lines[0][1].lstrip()[:2] in ("[", "[{", "[\"", "{", "{\""):
        raise DataError(f"{path} looks like JSON. A list is text with one line `{_shape(list_format)}` for "
                        f"each clip, as `python -m data_pipelines.make_list` writes it.")
    columns = _header(lines[0][1]) if lines else None
    if columns:
        lines = [(number, _rearranged(line, columns, f"{path}:{number}", list_format))
                 for number, line in lines[1:]]
    elif _label_comes_first(lines, list_format, multi_label):
        lines = [(number, "{1} {0}".format(*_LABEL_FIRST.match(line).groups())) for number, line in lines]
    items, beyond = [], ""
    for number, line in lines:
        item = _item(line, list_format, multi_label)
        if item is None:
            raise DataError(
                f"{path}:{number}: cannot read {line.strip()!r}: with data.list_format='{list_format}' a "
                f"line is "
                f"`{_shape(list_format)}`, separated by blanks or commas, with whole numbers at the end. "
                f"Correct "
                f"the line, or set data.list_format to the other format ('video' or 'frames').")
        if item.num_frames < 0:
            raise DataError(f"{path}:{number}: {item.num_frames} frames in {line.strip()!r}; the number of "
                            f"frames cannot be negative.")
        wrong = [label for label in item.labels if not 0 <= label < num_classes]
        if wrong and not beyond:
            beyond = f"{path}:{number}: label {wrong[0]} of {item.path!r} is out of range"
        items.append(item._replace(path=inside(item.path, root, f"{path}:{number}")))
    if not items:
        raise DataError(f"{path} lists no clips: it needs one line `{_shape(list_format)}` for each of them.")
    if beyond:
        labels = distinct_labels(items)
        shifted = min(labels) == 1 and max(labels) == num_classes
        hint = ("They seem to count from 1: subtract 1 from every label." if shifted else
                "Set data.num_classes to the number of classes of this list, or correct the list (labels "
                "count from 0).")
        raise DataError(f"{beyond}: data.num_classes={num_classes} allows 0 to {num_classes - 1}. {hint}")
    return items


def list_line(item: ListItem, list_format: str) -> str:
    """The line of a list that holds an item."""
    frames = f" {item.num_frames}" if list_format == "frames" else ""
    return f"{item.path}{frames} {' '.join(map(str, item.labels))}"


def can_be_listed(item: ListItem, list_format: str, multi_label: bool) -> bool:
    """Whether the line of an item is read back as the same item, wherever it stands in a list."""
    try:
        text = list_line(item, list_format).removeprefix("\ufeff") + "\n"  # a mark is not kept
        return parse_list(text, "", list_format, multi_label, 10**18) == [item]
    except DataError:
        return False


def find_file(path: str, root: str) -> str:
    """Returns `path` as given if it exists, otherwise under `root`."""
    under_root = os.path.join(root, path)
    return under_root if not os.path.exists(path) and os.path.exists(under_root) else path


def _shape(list_format: str) -> str:
    return "folder num_frames label [label ...]" if list_format == "frames" else "path label [label ...]"


def _item(line: str, list_format: str, multi_label: bool) -> ListItem | None:
    wanted = 2 if list_format == "frames" else 1
    name, integers = _split(line, None if multi_label else wanted)
    if not name or len(integers) < wanted:
        return None
    return ListItem(name, integers.pop(0) if list_format == "frames" else 0, tuple(integers))


def _split(line: str, at_most: int | None) -> tuple[str, list[int]]:
    """Splits a line into the path and the integers at its end (at most `at_most` of them)."""
    separator = next((s for s in ",;" if s in line and _INTEGER.match(line.rsplit(s, 1)[1].strip())), None)
    rest, integers = line.strip(), []
    while at_most is None or len(integers) < at_most:
        parts = rest.rsplit(separator, 1)
        if len(parts) < 2 or not _INTEGER.match(parts[1].strip()):
            break
        rest = parts[0].strip()
        integers.insert(0, int(parts[1].strip()))
    if separator and len(rest) > 2 and rest[0] == rest[-1] == '"':  # csv
        rest = rest[1:-1].replace('""', '"')
    return rest, integers


def _header(line: str) -> tuple[str | None, list[str]] | None:
    """(separator, kinds of the columns) of a header: 'path', 'frames', 'label'; None if it is none."""
    for separator in (",", ";", "\t", None):
        fields = [field.strip().strip('"').lower() for field in line.split(separator)]
        kinds = [next((kind for kind, words in _COLUMNS.items() if field in words), "") for field in fields]
        if len(fields) > 1 and "" not in kinds and kinds.count("path") == 1 and kinds.count("label") >= 1:
            return separator, kinds
    fields = [field.strip().lower() for field in line.split(",")]
    return (",", []) if len(fields) > 1 and fields[-1] in ("label", "labels") else None


def _rearranged(line: str, columns, where: str, list_format: str) -> str:
    """A line whose columns a header names, in the order of lists."""
    separator, kinds = columns
    wanted = ("path", "frames", "label") if list_format == "frames" else ("path", "label")
    if not kinds or kinds == sorted(set(kinds), key=("path", "frames", "label").index) == list(wanted):
        return line
    if separator is None:
        fields = line.split()
    else:
        fields, = csv.reader([line], delimiter=separator, skipinitialspace=True)
    if len(fields) != len(kinds):
        raise DataError(f"{where}: {line.strip()!r} has {len(fields)} columns, the header has {len(kinds)}. "
                        f"Quote what holds the separator, or write lines `{_shape(list_format)}`.")
    return " ".join(field.strip() for kind in wanted
                    for field, own in zip(fields, kinds, strict=True) if own == kind)


def _label_comes_first(lines: Sequence[tuple[int, str]], list_format: str, multi_label: bool) -> bool:
    """Whether all lines are `label path`: none of them can be read as `path label`."""
    return (list_format == "video" and not multi_label and bool(lines) and
            all(_LABEL_FIRST.match(line) and _item(line, list_format, False) is None for _, line in lines))


def inside(name: str, root: str, line: str) -> str:
    """A path that does not leave the root by '..', nor as an absolute path unless the root is empty."""
    if ".." in name.split(os.sep):
        name = os.path.normpath(name)
    if os.path.isabs(name):
        roots = [where.rstrip(os.sep) + os.sep for where in (os.path.abspath(root), os.path.realpath(root))]
        out = bool(root) and not os.path.normpath(name).startswith(tuple(roots))
        hint = "for absolute paths elsewhere set data.root='' (--root='')"
    else:
        out = name.split(os.sep)[0] == ".."
        hint = "set data.root to the folder above, or write absolute paths and data.root=''"
    if out:
        raise DataError(f"{line}: {name!r} is outside of data.root='{root}', which a list must not leave: "
                        f"{hint}.")
    return name
