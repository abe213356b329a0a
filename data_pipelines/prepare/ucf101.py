"""UCF-101: 13,320 clips of 101 actions, three splits.

    RAW/UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi ...
    RAW/ucfTrainTestlist/classInd.txt, trainlist01.txt ... 03, testlist01.txt ... 03

Labels are those of classInd.txt, which counts from 1, less 1. The files and folders may lie anywhere below
RAW.
"""

import os

from data_pipelines.prepare import reading
from data_pipelines.prepare.facts import Clip, Facts, Plan
from data_pipelines.sources.class_names import read_class_names

FACTS = Facts(
    name="ucf101", title="UCF-101", page="https://www.crcv.ucf.edu/data/UCF101.php", size="6.5 GB",
    classes=101,
    counts={"train_1": 9537, "val_1": 3783, "train_2": 9586, "val_2": 3734, "train_3": 9624, "val_3": 3696},
    source="lines of the released trainlist and testlist files, 13,320 clips in each split",
    lists={f"{split}_{i}": f"ucf101_{split}_split_{i}_videos.txt" for i in (1, 2, 3)
           for split in ("train", "val")},
    folder="data/ucf101", root="data/ucf101/videos", config="configs/dynamic_ucf101.py:split=1",
    digest="3ec3894f8499")
_FILES = {"train": "trainlist", "val": "testlist"}


def plan(args) -> Plan:
    """What is there of the three splits.

    Raises:
        DataError: official files that are missing or cannot be read.
    """
    index = reading.find(args, FACTS, "classInd.txt")
    released = read_class_names(index)
    names = reading.names_of_classes(args, released)
    videos = reading.find(args, FACTS, "UCF-101", released[0], videos=True)
    root = videos if os.path.basename(videos) != released[0] else os.path.dirname(videos)
    there, read, notes, lists = reading.ByName(reading.videos_below(root)), [index], [], {}
    for key in FACTS.lists:
        split, number = key.split("_")
        path = reading.find(args, FACTS, f"{_FILES[split]}0{number}.txt")
        clips = reading.once(_labels(path, names), path, notes)
        lists[key] = [Clip(name, there.path(name), labels) for name, labels in clips.items()]
        read.append(path)
    return Plan(root, names, lists, read, notes=notes)


def _labels(path: str, names):
    """(line, video, label) of a split: a line is `<class>/<video>`, in trainlist with a number behind it."""
    for number, line in reading.lines(path):
        video = line.split()[0].replace("\\", "/")
        folder, _, file = video.rpartition("/")
        if not folder or not file:
            raise reading.bad(path, number, line, "<class>/<video>.avi, in trainlist with a number behind it")
        yield number, video, (reading.index_of(names, folder, path, number),)
