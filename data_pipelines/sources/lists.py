"""List files and class-name files (the formats of mmaction2 and of AR-Net's split files).

A list line is `path label [label ...]` for videos or `folder num_frames label [label ...]` for
folders of images, separated by blanks or by commas. Lines are read from the right, so a path may
contain blanks.
"""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from data_pipelines.errors import DataError

_INTEGER = re.compile(r"[+-]?\d+$")


class ListItem(NamedTuple):
    """One line of a list: path as written, number of frames (0 for video files), labels."""
    path: str
    num_frames: int
    labels: tuple[int, ...]


def read_list(path: str, list_format: str, multi_label: bool, num_classes: int) -> list[ListItem]:
    """Reads a list file.

    With `multi_label` all integers at the end of a line (after num_frames) are labels; without it
    only the last one is, so that a path may end with a number.

    Args:
        path: the list file.
        list_format: 'video' or 'frames'.
        multi_label: whether a line may hold several labels.
        num_classes: labels must be within 0 .. num_classes - 1.

    Raises:
        DataError: unreadable, empty, a malformed line or a label out of range (with file and line).
    """
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    wanted = 2 if list_format == "frames" else 1
    shape = ("folder num_frames label [label ...]" if list_format == "frames"
             else "path label [label ...]")
    items = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and _is_csv_header(line)):
            continue
        name, integers = _split(line, None if multi_label else wanted)
        if not name or len(integers) < wanted:
            raise DataError(
                f"{path}:{number}: cannot read {line.strip()!r}: with "
                f"data.list_format='{list_format}' a line is `{shape}`, separated by blanks or "
                f"commas, with whole numbers at the end. Correct the line, or set "
                f"data.list_format to the other format ('video' or 'frames').")
        num_frames = integers.pop(0) if list_format == "frames" else 0
        if num_frames < 0:
            raise DataError(f"{path}:{number}: {num_frames} frames in {line.strip()!r}; the number "
                            f"of frames cannot be negative.")
        for label in integers:
            if not 0 <= label < num_classes:
                raise DataError(
                    f"{path}:{number}: label {label} of {name!r} is out of range: "
                    f"data.num_classes={num_classes} allows 0 to {num_classes - 1}. Set "
                    f"data.num_classes to the number of classes of this list, or correct the list "
                    f"(labels count from 0).")
        items.append(ListItem(name, num_frames, tuple(integers)))
    if not items:
        raise DataError(f"{path} lists no clips: it needs one line `{shape}` for each of them.")
    return items


def read_class_names(path: str) -> list[str]:
    """Reads one class name per line, or `index name` lines (indices from 0 or from 1, any order).

    Raises:
        DataError: no names, or indices that are not consecutive.
    """
    with open(path, encoding="utf-8") as file:
        lines = [line.strip() for line in file if line.strip()]
    if not lines:
        raise DataError(f"{path} holds no class names: it needs one name per line.")
    split = [re.match(r"(\d+)(?:\s*,\s*|\s+)(.+)$", line) for line in lines]
    if not all(split):
        return lines
    indexed = sorted((int(match[1]), match[2].strip()) for match in split)
    first = indexed[0][0]
    if first > 1 or [index for index, _ in indexed] != list(range(first, first + len(indexed))):
        raise DataError(f"{path}: the class indices are not 0, 1, 2, ... (nor 1, 2, 3, ...): one "
                        f"is missing or repeated. Give every class its own line.")
    return [name for _, name in indexed]


def find_file(path: str, root: str) -> str:
    """Returns `path` as given if it exists, otherwise under `root`."""
    under_root = os.path.join(root, path)
    return under_root if not os.path.exists(path) and os.path.exists(under_root) else path


def _split(line: str, at_most: int | None) -> tuple[str, list[int]]:
    """Splits a line into the path and the integers at its end (at most `at_most` of them)."""
    comma = "," in line and _INTEGER.match(line.rsplit(",", 1)[1].strip())
    rest, integers = line.strip(), []
    while at_most is None or len(integers) < at_most:
        parts = rest.rsplit(",", 1) if comma else rest.rsplit(None, 1)
        if len(parts) < 2 or not _INTEGER.match(parts[1].strip()):
            break
        rest = parts[0].strip()
        integers.insert(0, int(parts[1]))
    return rest, integers


def _is_csv_header(line: str) -> bool:
    fields: Sequence[str] = [field.strip().lower() for field in line.split(",")]
    return len(fields) > 1 and fields[-1] in ("label", "labels")
