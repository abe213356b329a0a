"""Something-Something V1: 108,499 clips as JPEG frames, 174 actions with objects.

    RAW/20bn-something-something-v1/<id>/00001.jpg ...    (or any folder of such folders, named by --frames)
    RAW/something-something-v1-labels.csv                 a class a line
    RAW/something-something-v1-train.csv, -validation.csv     lines `<id>;<class>`; -test.csv has no classes

Labels are the lines of labels.csv, as mmaction2 and AdaFuse count them. TSM's lists and weights have the
names in alphabetical order: for those give --classes=category.txt, the file that its tools write.
"""

import os
import re

from data_pipelines.errors import DataError
from data_pipelines.make_list import count_frames
from data_pipelines.prepare import reading
from data_pipelines.prepare.facts import Clip, Facts, Plan
from data_pipelines.video.decode import FrameFolder

FACTS = Facts(
    name="something_v1", title="Something-Something V1",
    page="https://www.qualcomm.com/developer/software/something-something-v-2-dataset (V1 on request)",
    size="26 GB", classes=174, counts={"train": 86017, "val": 11522},
    source="lines of the released csv files; with 10,960 of the test set 108,499 clips",
    lists={"train": "sthv1_train_list_rawframes.txt", "val": "sthv1_val_list_rawframes.txt"},
    folder="data/sthv1", root="data/sthv1/rawframes", config="configs/dynamic_sthv1.py",
    digest="28d842f1129a", list_format="frames")
TEMPLATE = "{:05}.jpg"
_NUMBER = re.compile("[0-9]+$")


def add_arguments(parser) -> None:
    """Where the frames are."""
    parser.add_argument("--frames", metavar="DIR", help="folder of the folders of frames; default: "
                                                        "20bn-something-something-v1 below --raw")


def plan(args) -> Plan:
    """What is there of both splits.

    Raises:
        DataError: official files that are missing or cannot be read.
    """
    file = "something-something-v1-{}.csv".format
    index = reading.find(args, FACTS, file("labels"))
    names = reading.names_of_classes(args, [line.strip() for _, line in reading.lines(index)])
    root = args.frames or reading.find(args, FACTS, "20bn-something-something-v1", videos=True)
    if not os.path.isdir(root):
        raise DataError(f"--frames={root} is not a folder: expected one of <id>/00001.jpg and so on.")
    there = {entry.name for entry in os.scandir(root) if _NUMBER.match(entry.name)}
    lists, read, notes = {}, [index], []
    for split, word in (("train", "train"), ("val", "validation")):
        path = reading.find(args, FACTS, file(word))
        clips = reading.once(_rows(path, names, notes), path, notes)
        lists[split] = [Clip(name, name if name in there else "", labels) for name, labels in clips.items()]
        read.append(path)

    def look(name):
        folder = os.path.join(root, name)
        count = count_frames(folder, TEMPLATE, 1)
        if args.check == "decode":
            with FrameFolder(folder, count, TEMPLATE, 1) as frames:
                frames.get(range(count))
        return count

    return Plan(root, names, lists, read, look=look, work="counting", template=TEMPLATE,
                notes=notes)


def _rows(path: str, names, notes: list[str]):
    """(line, id, label) of a csv; lines without a class are of a test set."""
    bare = 0
    for number, line in reading.lines(path):
        name, _, label = (part.strip().strip('"') for part in line.partition(";"))
        if not _NUMBER.match(name):
            raise reading.bad(path, number, line, "<number of the video>;<class>")
        if label:
            yield number, name, (reading.index_of(names, label, path, number),)
        bare += not label
    if bare:
        notes.append(f"{path} has {bare} lines without a class, which are left out")
