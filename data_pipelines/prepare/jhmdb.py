"""J-HMDB: 928 clips of 21 actions, every frame with a puppet around the person; three splits.

    RAW/Rename_Images/<class>/<video>/00001.png ...
    RAW/puppet_mask/<class>/<video>/puppet_mask.mat
    RAW/splits/<class>_test_split1.txt ... 3        lines `<video>.avi 1` (training) or 2 (test)

data.source='jhmdb' reads these files as they are; here they are checked: every folder of images, every mask.
The lists that are written name the usable videos as folders of frames, for classification
(list_format=frames, frame_template={:05}.png).
"""

import os

from data_pipelines.errors import DataError, VideoError
from data_pipelines.prepare import reading
from data_pipelines.prepare.facts import Clip, Facts, Plan
from data_pipelines.sources.box_files import count_images
from data_pipelines.sources.jhmdb import IMAGES, MARKS, MASKS, puppet_boxes
from data_pipelines.sources.lists import ListItem, list_line

FACTS = Facts(
    name="jhmdb", title="J-HMDB", page="http://jhmdb.is.tue.mpg.de", size="32,000 images", classes=21,
    counts={"train_1": 660, "val_1": 268, "train_2": 658, "val_2": 270, "train_3": 660, "val_3": 268},
    source="marks in the released files of the splits, 928 videos in each; 31,838 frames with puppets",
    lists={f"{split}_{i}": f"jhmdb_{split}_split_{i}_frames.txt" for i in (1, 2, 3)
           for split in ("train", "val")},
    folder="data/jhmdb", root="data/jhmdb", config="configs/localise_jhmdb.py:split=1",
    digest="835082ecf2eb", list_format="")
SPLITS, _END = "splits", "_test_split{}.txt"


def plan(args) -> Plan:
    """What is there of the three splits.

    Raises:
        DataError: official files that are missing or cannot be read.
    """
    if args.classes:
        raise DataError(f"--classes={args.classes} has no meaning here: data.source='jhmdb' reads the files "
                        f"itself.")
    root = os.path.dirname(reading.find(args, FACTS, IMAGES, videos=True))
    folder = reading.find(args, FACTS, SPLITS, videos=True)
    if not _same(os.path.dirname(folder), root) or not os.path.isdir(os.path.join(root, MASKS)):
        raise DataError(f"{root} holds {IMAGES}/ but not {MASKS}/ and splits/ beside it: expected the three "
                        f"folders together, see {FACTS.page}.")
    names = sorted(entry.name for entry in os.scandir(os.path.join(root, IMAGES))
                   if entry.is_dir() and not entry.name.startswith("."))
    lists: dict[str, list[Clip]] = {key: [] for key in FACTS.lists}
    notes: list[str] = []
    for number in (1, 2, 3):
        for label, name in enumerate(names):
            path = os.path.join(folder, name + _END.format(number))
            if not os.path.isfile(path):
                raise DataError(f"{path} is missing: expected a file for each of the {len(names)} classes "
                                f"and each of the three splits, see {FACTS.page}.")
            for video, (mark,) in reading.once(_marks(path), path, notes).items():
                split = next((split for split in ("train", "val") if MARKS[split] == str(mark)), None)
                frames = os.path.join(IMAGES, name, video)
                if split:
                    there = os.path.isdir(os.path.join(root, frames))
                    lists[f"{split}_{number}"].append(Clip(f"{name}/{video}", frames if there else "",
                                                           (label,)))
    return Plan(root, names, lists, [os.path.join(folder, "*" + _END.format("*"))], notes=notes,
                beside=(MASKS, SPLITS), template="{:05}.png",
                work="checking images and masks of", look=lambda path: _look(root, path),
                line=lambda clip, count: list_line(ListItem(clip.path, count, clip.labels), "frames"))


def _same(a: str, b: str) -> bool:
    return os.path.abspath(a) == os.path.abspath(b)


def _look(root: str, path: str) -> int:
    """Number of images of a video that has them all and a mask with a puppet."""
    count = count_images(os.path.join(root, path), "{:05}.png", 1)
    if not count:
        raise VideoError(path, "holds no 00001.png")
    mask = os.path.join(root, MASKS, os.path.relpath(path, IMAGES), "puppet_mask.mat")
    try:
        boxes = puppet_boxes(mask, count)
    except DataError as error:
        raise VideoError(path, str(error)) from None
    if not boxes:
        raise VideoError(path, f"no frame of {mask} has a puppet")
    return count


def _marks(path: str):
    """(line, video without ending, mark) of a file of one class."""
    for number, line in reading.lines(path):
        video, _, mark = line.strip().rpartition(" ")
        if mark not in ("0", "1", "2") or not video.strip():
            raise reading.bad(path, number, line, "a video and 1 (training), 2 (test) or 0 (neither)")
        yield number, video.strip().removesuffix(".avi"), (int(mark),)
