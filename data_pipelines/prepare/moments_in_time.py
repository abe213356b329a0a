"""Moments in Time, version 1: a million clips of three seconds, 339 verbs.

    RAW/training/<class>/<video>.mp4 ...      RAW/validation/<class>/<video>.mp4 ...
    RAW/moments_categories.txt                lines `<class>,<label>`, in no alphabetical order
    RAW/trainingSet.csv, validationSet.csv    lines `<class>/<video>.mp4,<class>,<agree>,<disagree>`

Labels are those of moments_categories.txt.
"""

import os

from data_pipelines.prepare import reading
from data_pipelines.prepare.facts import Clip, Facts, Plan
from data_pipelines.sources.class_names import read_class_names

FACTS = Facts(
    name="moments_in_time", title="Moments in Time", page="http://moments.csail.mit.edu",
    size="700 hours of video", classes=339, counts={"train": 802264, "val": 33900},
    source="the paper (arXiv 1801.03150); 100 validation clips of each class",
    lists={"train": "mit_train_list_videos.txt", "val": "mit_val_list_videos.txt"},
    folder="data/mit", root="data/mit/videos", config="configs/va_red2_mit.py", digest="99572d9801ae")
_SPLITS = {"train": "training", "val": "validation"}


def plan(args) -> Plan:
    """What is there of both splits.

    Raises:
        DataError: official files that are missing or cannot be read.
    """
    index = reading.find(args, FACTS, "moments_categories.txt")
    names = reading.names_of_classes(args, read_class_names(index))
    root = os.path.dirname(reading.find(args, FACTS, "training", videos=True))
    lists, read, notes = {}, [index], []
    for split, word in _SPLITS.items():
        path = reading.find(args, FACTS, f"{word}Set.csv")
        clips = reading.once(_rows(path, names), path, notes)
        folder = os.path.join(root, word)
        there = reading.ByName(reading.videos_below(folder))
        lists[split] = [Clip(f"{word}/{name}", os.path.join(word, found) if (found := there.path(name))
                             else "",
                             labels) for name, labels in clips.items()]
        read.append(path)
    return Plan(root, names, lists, read, notes=notes)


def _rows(path: str, names):
    """(line, video, label) of a csv, with or without a header; the class is the second field."""
    for number, row in reading.rows(path, ",", "<class>/<video>.mp4,<class>,<agree>,<disagree>", 2):
        if number == 1 and row[0].lower() in ("filename", "video", "path", "file"):
            continue
        if "/" not in row[0]:
            raise reading.bad(path, number, ",".join(row), "<class>/<video>.mp4,<class>,<agree>,<disagree>")
        yield number, row[0], (reading.index_of(names, row[1], path, number),)
