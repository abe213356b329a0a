"""AR-Net's split files of ActivityNet and FCVID: lines `<video>,<frames>,<label>[,<label>...]`."""

from data_pipelines.errors import DataError
from data_pipelines.prepare import reading
from data_pipelines.sources.base import default_class_names
from data_pipelines.sources.class_names import read_class_names


def add_split_flags(parser) -> None:
    """Flags for the split files."""
    parser.add_argument("--split_train", metavar="FILE",
                        help="AR-Net's split file instead of the official ones; labels stay its own, frames "
                             "are counted anew")
    parser.add_argument("--split_val", metavar="FILE", help="and that of validation")


def given(args) -> bool:
    """Whether they are used.

    Raises:
        DataError: one without the other.
    """
    if bool(args.split_train) != bool(args.split_val):
        raise DataError(f"--split_train={args.split_train} --split_val={args.split_val}: expected both.")
    return bool(args.split_train)


def split_file(args, facts, notes: list[str]
               ) -> tuple[dict[str, dict[str, tuple[int, ...]]], list[str], list[str]]:
    """(labels by split and video, names of the classes, files that were read).

    Raises:
        DataError: lines that cannot be read.
    """
    read = {"train": args.split_train, "val": args.split_val}
    labels = {split: reading.once(_rows(path, facts), path, notes) for split, path in read.items()}
    if args.classes:
        names = read_class_names(args.classes)
        if len(names) != facts.classes:
            raise DataError(f"--classes={args.classes} names {len(names)} classes: expected {facts.classes}.")
    else:
        notes.append("without --classes (AR-Net's classInd.txt) the classes have no names")
        names = default_class_names(facts.classes)
    return labels, names, list(read.values())


def _rows(path: str, facts):
    """(line, video, labels) of a split file, each label once."""
    expected = f"video,frames,label[,label...] with labels from 0 to {facts.classes - 1}"
    for number, row in reading.rows(path, ",", expected, 3):
        if not all(field.isdecimal() for field in row[-2:]):
            raise reading.bad(path, number, ",".join(row), expected)
        first = next(i for i in range(len(row) - 1, -1, -1) if not row[i].isdecimal() or i == 0) + 1
        numbers = tuple(dict.fromkeys(int(field) for field in row[first + 1:]))
        if not numbers or max(numbers) >= facts.classes:
            raise reading.bad(path, number, ",".join(row), expected)
        yield number, ",".join(row[:first]), numbers
