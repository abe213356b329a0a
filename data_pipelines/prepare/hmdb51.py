"""HMDB-51: 6,766 clips of 51 actions, three splits of 70 + 30 a class.

    RAW/<any folder>/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi ...    (hmdb51_org.rar, unpacked)
    RAW/<any folder>/brush_hair_test_split1.txt ... 3     lines `<video>.avi 1` (training), 2 (test) or 0

Labels are the places of the classes in alphabetical order, as they are released with all known weights.
"""

import os

from data_pipelines.errors import DataError
from data_pipelines.prepare import reading
from data_pipelines.prepare.facts import Clip, Facts, Plan

FACTS = Facts(
    name="hmdb51", title="HMDB-51", size="2 GB", classes=51,
    page="https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database",
    counts={f"{split}_{i}": count for i in (1, 2, 3) for split, count in (("train", 3570), ("val", 1530))},
    source="70 training and 30 test clips of each class in every split; 6,766 clips in all",
    lists={f"{split}_{i}": f"hmdb51_{split}_split_{i}_videos.txt" for i in (1, 2, 3)
           for split in ("train", "val")},
    folder="data/hmdb51", root="data/hmdb51/videos", config="configs/dynamic_hmdb51.py:split=1",
    digest="154ef596b603")
_MARKS = {"train": "1", "val": "2"}
_END = "_test_split{}.txt"


def plan(args) -> Plan:
    """What is there of the three splits.

    Raises:
        DataError: official files that are missing or cannot be read.
    """
    folder = os.path.dirname(reading.find(args, FACTS, "brush_hair" + _END.format(1)))
    released = sorted(name.removesuffix(_END.format(1)) for name in os.listdir(folder)
                      if name.endswith(_END.format(1)) and not name.startswith("."))
    names = reading.names_of_classes(args, released)
    root = os.path.dirname(reading.find(args, FACTS, "brush_hair", videos=True))
    there, notes = reading.ByName(reading.videos_below(root)), []
    lists = {key: [] for key in FACTS.lists}
    for number in (1, 2, 3):
        for name in released:
            path = os.path.join(folder, name + _END.format(number))
            if not os.path.isfile(path):
                raise DataError(f"{path} is missing: expected a file for each of the {len(released)} classes "
                                f"and each of the three splits, see {FACTS.page}.")
            marks = reading.once(_marks(path), path, notes)
            label = (names.index(name),)
            for split, mark in _MARKS.items():
                lists[f"{split}_{number}"] += [
                    Clip(f"{name}/{video}", there.path(f"{name}/{video}"), label)
                    for video, (found,) in marks.items() if found == int(mark)]
    return Plan(root, names, lists, [os.path.join(folder, "*" + _END.format("*"))], notes=notes)


def _marks(path: str):
    """(line, video, mark) of a file of one class."""
    for number, line in reading.lines(path):
        video, _, mark = line.strip().rpartition(" ")
        if mark not in ("0", "1", "2") or not video.strip():
            raise reading.bad(path, number, line, "a video and 1 (training), 2 (test) or 0 (neither)")
        yield number, video.strip(), (int(mark),)
