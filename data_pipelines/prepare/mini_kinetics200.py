"""Mini-Kinetics-200 of AR-Net and VA-RED2: their split files over a copy of Kinetics-400 that is there.

    RAW/mini_train_videofolder.txt, mini_val_videofolder.txt (or minik_...), lines `<class>/<video> 300 17`
    RAW/train/..., RAW/val/..., RAW/replacement/...     Kinetics-400 in any layout, see kinetics400

The split files come from the authors, by the links in the documents of AR-Net, AdaFuse or ResKD; name their
folder with --annotations. Fields may be separated by blanks or ';'. Videos are found by their names, whatever
folders the files write before them. The number of frames is not used. Labels are those of the files: places
of the names of the 200 classes in alphabetical order.
"""

import os
import re

from data_pipelines.errors import DataError
from data_pipelines.prepare import reading
from data_pipelines.prepare.facts import Clip, Facts, Plan
from data_pipelines.prepare.kinetics400 import Copy, is_replacement

FACTS = Facts(
    name="mini_kinetics200", title="Mini-Kinetics-200", page="https://github.com/mengyuest/AR-Net",
    size="half of Kinetics-400", classes=200, counts={"train": 121215, "val": 9867},
    source="the figures that papers quote; the validation list that AdaFuse distributes has 9,867 lines, too",
    lists={"train": "mini-kinetics/minik_train_videofolder.txt",
           "val": "mini-kinetics/minik_val_videofolder.txt"},
    folder="data/kinetics400", root="data/kinetics400", config="configs/supervised_minik.py",
    digest="69f9f8260b86")
_LINE = re.compile(r"(?P<path>.*\S)\s*[ ;,\t]\s*(?P<frames>[0-9]+)\s*[ ;,\t]\s*(?P<label>[0-9]+)\s*$")


def plan(args) -> Plan:
    """What is there of both splits.

    Raises:
        DataError: split files that are missing or cannot be read, or labels that are not one class each.
    """
    read = {split: reading.find(args, FACTS, *(f"{name}_{split}{end}" for end in ("_videofolder.txt", ".txt")
                                               for name in ("minik", "mini"))) for split in FACTS.lists}
    for split, path in read.items():
        if os.path.realpath(path) == os.path.realpath(os.path.join(args.out, FACTS.lists[split])):
            raise DataError(f"{path} is what this command reads and where it would write: move the authors' "
                            f"split files to a folder of their own and name it with --annotations.")
    classes: dict[int, str] = {}
    notes: list[str] = []
    rows = {split: reading.once(_rows(path, classes), path, notes) for split, path in read.items()}
    names = [classes.get(label, f"class {label}") for label in range(max(max(classes) + 1, 2))]
    if args.classes:
        raise DataError(f"--classes={args.classes} has no meaning here: the labels are those of the split "
                        f"files.")
    copy = Copy(args.raw)
    lists = {split: [Clip(name, copy.path(name), labels) for name, labels in found.items()]
             for split, found in rows.items()}
    replaced = sum(is_replacement(clip.path) for clips in lists.values() for clip in clips)
    if replaced:
        notes.append(f"{replaced} videos are CVDF's replacements of corrupted ones")
    return Plan(args.raw, names, lists, list(read.values()), notes=notes)


def _rows(path: str, classes: dict[int, str]):
    """(line, name of the video, label) of a split file; collects the names of the classes."""
    for number, line in reading.lines(path):
        match = _LINE.match(line)
        parts = match["path"].replace("\\", "/").split("/") if match else []
        if len(parts) < 2:
            raise reading.bad(path, number, line, "<folders>/<class>/<video>, number of frames and label")
        label, name = int(match["label"]), parts[-2].replace("_", " ")
        if label >= FACTS.classes or classes.setdefault(label, name) != name:
            raise reading.bad(path, number, line, f"a label from 0 to {FACTS.classes - 1} of one class; "
                                                  f"{label} is {classes.get(label, 'none')!r}")
        video = parts[-1]
        yield number, reading.stem(video) if "." in video else video, (label,)
