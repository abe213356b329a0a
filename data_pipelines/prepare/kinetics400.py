"""Kinetics-400 as CVDF hosts it: about 306,000 clips of ten seconds, 400 actions.

    RAW/annotations/train.csv, val.csv       label,youtube_id,time_start,time_end,split
    RAW/train/<youtube_id>_000010_000020.mp4 ...      RAW/val/...      in folders of classes, too
    RAW/replacement/replacement_for_corrupted_k400/<youtube_id>_000010_000020.mp4

Videos may lie anywhere below RAW and are known by their names. Where CVDF has a replacement of a corrupted
video it is taken. Labels are the places of the names in alphabetical order. Many videos of the csv files are
gone: those that are not there are listed in <name>_missing.txt, and counts compare with the csv and with
CVDF's copy.
"""

import os
import re

from data_pipelines.errors import DataError
from data_pipelines.prepare import reading
from data_pipelines.prepare.facts import Clip, Facts, Plan

FACTS = Facts(
    name="kinetics400", title="Kinetics-400", page="https://github.com/cvdfoundation/kinetics-dataset",
    size="450 GB", classes=400, counts={"train": 246534, "val": 19906},
    source="rows of the csv files. CVDF's copy has 240,258 and 19,881 videos and 1,392 replacements (its "
           "arrange_by_classes.py); mmaction2, whose lists ResKD uses, had 240,436 and 19,796",
    lists={"train": "kinetics400_train_list_videos.txt", "val": "kinetics400_val_list_videos.txt"},
    folder="data/kinetics400", root="data/kinetics400", config="configs/supervised_k400.py",
    digest="a8dafb93a120")
REPLACEMENT = "replacement"
_ID = 11  # letters of a YouTube id
_NAME = re.compile(r"(.{11})(?:_[0-9]{6}_[0-9]{6})?$")


def plan(args) -> Plan:
    """What is there of both splits.

    Raises:
        DataError: official files that are missing or cannot be read.
    """
    read = {split: reading.find(args, FACTS, f"annotations/{split}.csv", f"{split}.csv",
                                f"kinetics_{split}.csv", f"kinetics400_{split}.csv") for split in FACTS.lists}
    notes: list[str] = []
    rows = {split: reading.once(_rows(path, notes), path, notes) for split, path in read.items()}
    released = sorted({label for labels in rows["train"].values() for label in labels})
    names = reading.names_of_classes(args, released)
    place = {name: k for k, name in enumerate(names)}
    for name, (label,) in rows["val"].items():
        if label not in place:
            raise DataError(f"{read['val']}: {name} is of class {label!r}: expected one of the {len(names)} "
                            f"of {read['train']}.")
    copy = Copy(args.raw)
    lists = {split: [Clip(name, copy.path(name), (place[label],)) for name, (label,) in found.items()]
             for split, found in rows.items()}
    replaced = sum(is_replacement(clip.path) for clips in lists.values() for clip in clips)
    if replaced:
        notes.append(f"{replaced} videos are CVDF's replacements of corrupted ones")
    # ResKD's recipes have its own lists, one below train/ and one below val/; here both are below --raw.
    fields = {"train_root": "", "val_root": "",
              **{f"{split}_list": os.path.join(args.out, file) for split, file in FACTS.lists.items()}}
    return Plan(args.raw, names, lists, list(read.values()), fields=fields, notes=notes)


def _rows(path: str, notes: list[str]):
    """(line, name of the video without ending, class) of a csv; rows without a class are of a test set."""
    columns, unlabelled = None, 0
    for number, row in reading.rows(path, ",", "label,youtube_id,time_start,time_end", 3):
        if columns is None:
            columns = [name.lower() for name in row]
            if not {"label", "youtube_id", "time_start", "time_end"} <= set(columns):
                raise reading.bad(path, number, ",".join(row),
                                  "a header with label, youtube_id, time_start and time_end")
            continue
        value = dict(zip(columns, row, strict=False))
        try:
            start, end = (int(float(value[name])) for name in ("time_start", "time_end"))
        except (KeyError, ValueError):
            raise reading.bad(path, number, ",".join(row), "times in seconds") from None
        if len(value["youtube_id"]) != _ID:
            raise reading.bad(path, number, ",".join(row), f"a YouTube id of {_ID} letters")
        if label := value["label"].replace('"', "").replace("_", " "):
            yield number, f"{value['youtube_id']}_{start:06d}_{end:06d}", (label,)
        unlabelled += not label
    if unlabelled:
        notes.append(f"{path} has {unlabelled} rows without a class, which are left out")


def is_replacement(path: str) -> bool:
    """Whether a video lies in CVDF's folder of replacements."""
    return any(part.startswith(REPLACEMENT) for part in path.split(os.sep)[:-1])


class Copy:
    """A copy of Kinetics, by the names of its videos.

    Args:
        root: any folder above them.
    """

    def __init__(self, root: str):
        self._named, self._ids = {}, {}
        for path in sorted(reading.videos_below(root), key=lambda path: not is_replacement(path)):
            if match := _NAME.match(reading.stem(path)):
                self._named.setdefault(match[0], path)
                self._ids.setdefault(match[1], []).append(path)

    def path(self, name: str) -> str:
        """Path below the root of the replacement of a video, of it or of its id alone; '': there is none."""
        of_id = self._ids.get(name[:_ID], [])
        if replaced := [path for path in of_id if is_replacement(path)]:
            return replaced[0]
        exact = self._named.get(name)
        return exact or next((path for path in of_id if reading.stem(path) == name[:_ID]), "")
