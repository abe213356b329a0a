"""ActivityNet v1.3: untrimmed videos of two minutes, 200 classes, several of them in some; read as frames.

    RAW/activity_net.v1-3.min.json         subset 'training' or 'validation', annotations with labels
    RAW/<any folders>/v_<id>.mp4 (or .mkv, .webm; with or without v_)

Frames go to <out>/imgs/<video>/img_00001.png: 4 per second, 360 pixels high, as ResKD asks for; about 1.9 TB,
with --format=jpg less. An interrupted command continues. A line of the lists has every label of its video
once. Labels are the places of the names in alphabetical order; AR-Net's classInd.txt, given as --classes, may
have another. With --split_train and --split_val, AR-Net's own split files
(`<video>,<frames>,<label>[,<label>...]`) replace the json.
"""

import os

from data_pipelines.prepare import frames, reading
from data_pipelines.prepare.arnet import add_split_flags, given, split_file
from data_pipelines.prepare.facts import Clip, Facts, Plan

FACTS = Facts(
    name="activitynet", title="ActivityNet v1.3", page="http://activity-net.org/download.html",
    size="650 hours of video, 1.9 TB of png frames", classes=200, counts={"train": 10024, "val": 4926},
    source="subsets of the json, as ResKD and AR-Net quote them; many videos have left YouTube",
    lists={"train": "actnet_png_img_train_split.txt", "val": "actnet_png_img_val_split.txt"},
    folder="data/actnet", root="data/actnet/imgs", config="configs/supervised_actnet.py",
    digest="696d49925655", list_format="frames", multi_label=True)
_SUBSETS = {"train": "training", "val": "validation"}
_ID = 11  # letters of a YouTube id


def add_arguments(parser) -> None:
    """Flags of frames, and of AR-Net's split files."""
    frames.add_arguments(parser)
    add_split_flags(parser)


def plan(args) -> Plan:
    """What is there of both splits.

    Raises:
        DataError: official files that are missing or cannot be read.
    """
    root, notes = os.path.join(args.out, "imgs"), []
    if given(args):
        labels, names, read = split_file(args, FACTS, notes)
    else:
        path = reading.find(args, FACTS, "activity_net.v1-3.min.json", "activity_net.v1-3.json")
        labels, names = _labels(args, path, notes)
        read = [path]
    videos: dict[str, str] = {}
    for video in reading.videos_below(args.raw, skip=[root]):
        videos.setdefault(_id(reading.stem(video)), video)
    lists = {split: [] for split in FACTS.lists}
    made = {}
    for split, found in labels.items():
        for name, numbers in found.items():
            video = videos.get(_id(reading.stem(name) if "." in name[-6:] else name), "")
            folder = reading.stem(video) if video else ""
            if video:
                made[folder] = os.path.join(args.raw, video)
            lists[split].append(Clip(name, folder, numbers))
    extraction = frames.Extraction(root, made, args)
    return Plan(root, names, lists, read, look=extraction, work="extracting", done=extraction.done,
                template=frames.template(args),
                settings=frames.settings(args), fields=frames.fields(args), notes=notes)


def _id(name: str) -> str:
    """The YouTube id in the name of a video."""
    return name[2:] if name.startswith("v_") and len(name) == _ID + 2 else name


def _labels(args, path: str, notes: list[str]) -> tuple[dict[str, dict[str, tuple[int, ...]]], list[str]]:
    """(labels by split and name, names of the classes) of the json."""
    content = reading.load_json(path, dict, "an object with 'database'")
    database = content.get("database")
    if not isinstance(database, dict) or not database:
        raise reading.wrong(path, "database", database, "an object of videos by their ids")
    found: dict[str, dict[str, list[str]]] = {split: {} for split in _SUBSETS}
    for name, video in database.items():
        subset = video.get("subset") if isinstance(video, dict) else None
        split = next((split for split, word in _SUBSETS.items() if word == subset), None)
        if split is None:
            if subset != "testing":
                raise reading.wrong(path, f"subset of {name}", subset,
                                    "'training', 'validation' or 'testing'")
            continue
        try:
            found[split][name] = list(dict.fromkeys(one["label"] for one in video["annotations"]))
        except (KeyError, TypeError):
            raise reading.wrong(path, f"annotations of {name}", video.get("annotations"),
                                "a list of objects with 'label'") from None
    bare = [name for videos in found.values() for name, labels in videos.items() if not labels]
    if bare:
        notes.append(f"{len(bare)} videos have no label and are left out, such as {bare[0]}")
    released = sorted({label for videos in found.values() for labels in videos.values() for label in labels})
    names = reading.names_of_classes(args, released)
    place = {name: k for k, name in enumerate(names)}
    return {split: {f"v_{name}": tuple(place[label] for label in labels)
                    for name, labels in videos.items() if labels} for split, videos in found.items()}, names
