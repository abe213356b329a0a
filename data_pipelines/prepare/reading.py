"""Reading official files: finding them, rows with their numbers, an index of the videos that are there."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence

from data_pipelines.errors import DataError
from data_pipelines.sources.class_names import read_class_names
from data_pipelines.sources.files import VIDEO_ENDINGS
from data_pipelines.sources.text_files import read_text, split_lines

# Folders that are looked through for lists: so deep, those with fewer folders in them.
_DEPTH, _MANY = 3, 2000


def find(args, facts, *names: str, needed: bool = True, videos: bool = False) -> str:
    """Path of the first of some file (or folder) names below --annotations or --raw.

    Args:
        args: of the command.
        facts: of the data set.
        names: which are as good as each other.
        needed: whether it must be there; otherwise '' is an answer.
        videos: it is a folder of videos, which are below --raw.

    Raises:
        DataError: no such folder, or none of the names.
    """
    for field in ("raw", "annotations"):
        folder = getattr(args, field)
        if folder and not os.path.isdir(folder):
            raise DataError(f"--{field}={folder} is not a folder: expected that of the unpacked files of "
                            f"{facts.title}. They are not downloaded here: see {facts.page}.")
    top = args.raw if videos else args.annotations or args.raw
    level = [top]
    for _ in range(_DEPTH + 1):
        for folder in level:
            if found := next((path for name in names if os.path.exists(path := os.path.join(folder, name))),
                             ""):
                return found
        level = [child for folder in level for child in folders_in(folder)]
    if needed:
        raise DataError(f"{top} holds no {' or '.join(names)}, down to {_DEPTH} folders below: it belongs to "
                        f"the official files of {facts.title}, see {facts.page}." + ("" if videos else
                        " Where it lies elsewhere, name the folder with --annotations."))
    return ""


def folders_in(folder: str) -> list[str]:
    """The folders in a folder, sorted; none of one with so many that they are clips."""
    found = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir()
                   and not entry.name.startswith("."))
    return found if len(found) < _MANY else []


def lines(path: str) -> Iterator[tuple[int, str]]:
    """(number, text) of every line that is not blank."""
    for number, line in enumerate(split_lines(read_text(path, names_files=True), path), 1):
        if line.strip():
            yield number, line


def rows(path: str, separator: str, columns: str, at_least: int) -> Iterator[tuple[int, list[str]]]:
    """(number, fields) of every line, quotes and blanks taken off.

    Args:
        path: the file.
        separator: of the fields.
        columns: what they are, for messages.
        at_least: how many there must be.

    Raises:
        DataError: fewer.
    """
    for number, line in lines(path):
        fields = [field.strip()
                  for field in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]
        if len(fields) < at_least:
            raise bad(path, number, line, f"{columns}, separated by {separator!r}")
        yield number, fields


def bad(path: str, number: int, line: str, expected: str) -> DataError:
    """The error for a line."""
    return DataError(f"{path}:{number}: cannot read {line.strip()[:200]!r}: expected {expected}.")


def load_json(path: str, kind: type, expected: str):
    """The content of a json file.

    Raises:
        DataError: no json, or not of the type that is expected.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no json ({error}): expected {expected}.") from None
    if not isinstance(content, kind) or not content:
        raise DataError(f"{path} holds {type(content).__name__} of {len(content) if content else 0}: "
                        f"expected {expected}.")
    return content


def names_of_classes(args, names: Iterable[str]) -> list[str]:
    """The names in their order, or in that of --classes.

    Raises:
        DataError: --classes names others.
    """
    names = list(names)
    if not args.classes:
        return names
    if not os.path.isfile(args.classes):
        raise DataError(f"--classes={args.classes} does not exist: expected a file of the {len(names)} "
                        f"names.")
    own = read_class_names(args.classes)
    if odd := sorted(set(own) ^ set(names)) or (len(own) != len(names) and ["a name twice"]):
        raise DataError(f"--classes={args.classes} names {len(own)} classes, the data set has {len(names)}, "
                        f"and {odd[0]!r} is not in both: expected the same names in another order.")
    return own


def index_of(names: Sequence[str], name: str, path: str, number: int) -> int:
    """Label of a class that a line names.

    Raises:
        DataError: no such class.
    """
    try:
        return names.index(name)
    except ValueError:
        raise bad(path, number, name, f"one of the {len(names)} classes, such as {names[0]!r}") from None


def videos_below(root: str, skip: Sequence[str] = ()) -> list[str]:
    """All videos below a folder, relative to it, sorted; links are followed, once each.

    Args:
        root: the folder.
        skip: folders that are left out.
    """
    found, seen = [], {os.path.realpath(folder) for folder in skip}
    for parent, folders, files in os.walk(root, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.relpath(os.path.join(parent, name), root) for name in files
                  if name.lower().endswith(VIDEO_ENDINGS) and not name.startswith(".")]
    return sorted(found)


def stem(path: str) -> str:
    """Name of a file without folder and ending."""
    return os.path.splitext(os.path.basename(path))[0]


class ByName:
    """Paths by what lists write of them: as it is, or with other letters in size.

    Args:
        paths: that are there.
    """

    def __init__(self, paths: Iterable[str]):
        self._exact, self._folded = {}, {}
        for path in paths:
            for name in (path, os.path.splitext(path)[0]):
                self._exact.setdefault(name, path)
                self._folded.setdefault(name.lower(), path)

    def path(self, name: str) -> str:
        """The path, with any ending where that of the name is not there; '': there is none."""
        without = os.path.splitext(name)[0]
        return (self._exact.get(name) or self._exact.get(without) or self._folded.get(name.lower())
                or self._folded.get(without.lower(), ""))


def once(clips: Iterable[tuple[int, str, tuple[int, ...]]], path: str, notes: list[str]) -> dict[str,
                                                                                                 tuple[int,
                                                                                                       ...]]:
    """Labels by name of (line, name, labels), every name once.

    Raises:
        DataError: a name with two different labels.
    """
    found, where, twice = {}, {}, 0
    for number, name, labels in clips:
        if name in found:
            twice += 1
            if found[name] != labels:
                raise DataError(f"{path}:{number}: {name!r} has label {labels}, in line {where[name]} it has "
                                f"{found[name]}: expected one; remove the wrong line.")
        found[name], where[name] = labels, number
    if twice:
        notes.append(f"{path} repeats {twice} lines, which count once")
    if not found:
        raise DataError(f"{path} lists no clips with labels.")
    return found


def wrong(path: str, field: str, value, expected: str) -> DataError:
    """The error for a field of a json file."""
    return DataError(f"{path}: {field} is {repr(value)[:100]}: expected {expected}.")
