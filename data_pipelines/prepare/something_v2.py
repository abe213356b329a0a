"""Something-Something V2: 220,847 clips as webm, 174 actions with objects.

    RAW/20bn-something-something-v2/<id>.webm ...
    RAW/labels/labels.json, train.json, validation.json   (test.json has no classes; names may begin with
                                                          something-something-v2-)

A clip's class is its template without the brackets around the placeholders, its label the number in
labels.json.
"""

import os

from data_pipelines.prepare import reading
from data_pipelines.prepare.facts import Clip, Facts, Plan

FACTS = Facts(
    name="something_v2", title="Something-Something V2",
    page="https://www.qualcomm.com/developer/software/something-something-v-2-dataset",
    size="20 GB", classes=174, counts={"train": 168913, "val": 24777},
    source="entries of the released json files; with 27,157 of the test set 220,847 clips",
    lists={"train": "sthv2_train_list_videos.txt", "val": "sthv2_val_list_videos.txt"},
    folder="data/sthv2", root="data/sthv2/videos", config="configs/supervised_sthv2.py",
    digest="a31a2ad624a5")


def plan(args) -> Plan:
    """What is there of both splits.

    Raises:
        DataError: official files that are missing or cannot be read.
    """
    index, read = _file(args, "labels"), []
    released = _classes(index)
    names = reading.names_of_classes(args, released)
    place = {name: k for k, name in enumerate(names)}
    root = reading.find(args, FACTS, "20bn-something-something-v2", videos=True)
    there = {entry.name for entry in os.scandir(root)}
    lists, notes = {}, []
    for split, word in (("train", "train"), ("val", "validation")):
        path = _file(args, word)
        clips = reading.once(_entries(path, place, notes), path, notes)
        lists[split] = [Clip(name, f"{name}.webm" if f"{name}.webm" in there else "", labels)
                        for name, labels in clips.items()]
        read.append(path)
    return Plan(root, names, lists, [index, *read], notes=notes)


def _file(args, name: str) -> str:
    return reading.find(args, FACTS, f"{name}.json", f"something-something-v2-{name}.json",
                        f"labels/{name}.json")


def _classes(path: str) -> list[str]:
    """Names of the classes by the numbers of labels.json, which are texts."""
    content = reading.load_json(path, dict, "an object of classes and their numbers")
    numbers = {str(value): name for name, value in content.items()}
    if sorted(numbers, key=lambda text: (len(text), text)) != [str(k) for k in range(len(content))]:
        raise reading.wrong(path, "the numbers of the classes", sorted(numbers),
                            f"0 to {len(content) - 1}, each once")
    return [numbers[str(k)] for k in range(len(content))]


def _entries(path: str, place: dict[str, int], notes: list[str]):
    """(number, id, label) of a json; entries without a template are of a test set."""
    bare = 0
    for number, entry in enumerate(reading.load_json(path, list,
                                                     "a list of objects with 'id' and 'template'")):
        name = entry.get("id") if isinstance(entry, dict) else None
        if not str(name or "").isdecimal():
            raise reading.wrong(path, f"id of entry {number}", name, "the number of a video")
        template = entry.get("template")
        if template:
            label = template.replace("[", "").replace("]", "")
            if label not in place:
                raise reading.wrong(path, f"template of entry {number} ({name})", template,
                                    f"one of the {len(place)} classes of labels.json, with brackets around "
                                    f"'something'")
            yield number, str(name), (place[label],)
        bare += not template
    if bare:
        notes.append(f"{path} has {bare} entries without a class, which are left out")
