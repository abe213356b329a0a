"""FCVID: 91,223 web videos, 239 categories, several of them in some; read as frames.

    RAW/FCVID_VideoName_TrainTestSplit.txt     lines `<folders>/<video>.mp4 train` or `test`
    RAW/FCVID_Label.txt        a line each of those: 239 numbers, 1 where the category is in the video
    RAW/<any folders>/<video>.mp4 (or .mkv, .webm, .flv)

Frames go to <out>/imgs_train/<video>/img_00001.png and imgs_test: 4 per second, 360 pixels high, as ResKD has
them of ActivityNet; --format=jpg for less. An interrupted command continues. A line of the lists has every
label of its video once; labels are the columns of FCVID_Label.txt, --classes names them (as AR-Net's
classInd.txt does). With --split_train and --split_val, AR-Net's own split files
(`<video>,<frames>,<label>[,<label>...]`) replace both files.
"""

import os

from data_pipelines.errors import DataError
from data_pipelines.prepare import frames, reading
from data_pipelines.prepare.arnet import add_split_flags, given, split_file
from data_pipelines.prepare.facts import Clip, Facts, Plan
from data_pipelines.sources.base import default_class_names
from data_pipelines.sources.class_names import read_class_names

FACTS = Facts(
    name="fcvid", title="FCVID", page="https://fvl.fudan.edu.cn/dataset/fcvid/list.htm (videos by request)",
    size="4,230 hours of video", classes=239, counts={"train": 45611, "val": 45612},
    source="ResKD's and AR-Net's papers; 91,223 lines of the official split",
    lists={"train": "fcvid_png_img_train_split.txt", "val": "fcvid_png_img_val_split.txt"},
    folder="data/fcvid", root="data/fcvid", config="configs/supervised_fcvid.py",
    list_format="frames", multi_label=True)
_SPLITS = {"train": "train", "val": "test"}
_BELOW = {"train": "imgs_train", "val": "imgs_test"}


def add_arguments(parser) -> None:
    """Flags of frames, and of AR-Net's split files."""
    frames.add_arguments(parser)
    add_split_flags(parser)


def plan(args) -> Plan:
    """What is there of both splits.

    Raises:
        DataError: official files that are missing or cannot be read.
    """
    notes: list[str] = []
    labels, names, read = split_file(args, FACTS, notes) if given(args) else _official(args, notes)
    paths = reading.videos_below(args.raw, skip=[os.path.join(args.out, below) for below in _BELOW.values()])
    there = reading.ByName(paths)
    by_stem: dict[str, list[str]] = {}
    for path in paths:
        by_stem.setdefault(reading.stem(path), []).append(path)
    lists: dict[str, list[Clip]] = {}
    videos: dict[str, str] = {}
    for split, found in labels.items():
        lists[split] = []
        for name, numbers in found.items():
            alone = by_stem.get(reading.stem(name), [])
            video = there.path(os.path.normpath(name)) or (alone[0] if len(alone) == 1 else "")
            folder = frames.without_ending(os.path.normpath(name)) if video else ""
            if video:
                videos[os.path.join(_BELOW[split], folder)] = os.path.join(args.raw, video)
            lists[split].append(Clip(name, folder, numbers))
    extraction = frames.Extraction(args.out, videos, args)
    return Plan(args.out, names, lists, read, look=extraction, work="extracting", done=extraction.done,
                below=_BELOW,
                template=frames.template(args),
                settings=frames.settings(args), fields=frames.fields(args), notes=notes)


def _official(args, notes: list[str]) -> tuple[dict[str, dict[str, tuple[int, ...]]], list[str], list[str]]:
    """(labels by split and video, names of the classes, files that were read) of the official files."""
    split_path = reading.find(args, FACTS, "FCVID_VideoName_TrainTestSplit.txt")
    label_path = reading.find(args, FACTS, "FCVID_Label.txt")
    found: dict[str, list] = {split: [] for split in _SPLITS}
    count, bare, width = 0, 0, 0
    labels = reading.lines(label_path)
    for number, line in reading.lines(split_path):
        name, _, word = line.strip().replace("\t", " ").rpartition(" ")
        split = next((split for split, own in _SPLITS.items() if own == word.lower()), None)
        if not name.strip() or split is None or os.path.normpath(name.strip()).startswith(("..", os.sep)):
            raise reading.bad(split_path, number, line,
                              "a video below the folder of videos, and train or test")
        label_number, row = next(labels, (0, ""))
        if not label_number:
            raise DataError(f"{label_path} ends before line {number} of {split_path}: expected as many.")
        numbers = row.replace(",", " ").split()
        if (width and len(numbers) != width) or not set(numbers) <= {"0", "1", "0.0",
                                                                                         "1.0"}:
            raise reading.bad(label_path, label_number, row, f"{width or FACTS.classes} numbers 0 or 1, for "
                                                             f"line {number} of {split_path}")
        width, count = len(numbers), count + 1
        if own := tuple(k for k, one in enumerate(numbers) if one[0] == "1"):
            found[split].append((number, name.strip(), own))
        bare += not own
    if rest := next(labels, None):
        raise DataError(f"{label_path}:{rest[0]}: more lines than the {count} of {split_path}: expected one "
                        f"for each.")
    if bare:
        notes.append(f"{bare} videos have no label and are left out")
    names = read_class_names(args.classes) if args.classes else default_class_names(width)
    if len(names) != width:
        raise DataError(f"--classes={args.classes} names {len(names)} classes, {label_path} has {width} "
                        f"columns.")
    return ({split: reading.once(rows, split_path, notes) for split, rows in found.items()}, names,
            [split_path, label_path])
