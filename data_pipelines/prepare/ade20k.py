"""ADE20K in the form of SceneParse150: 20,210 + 2,000 images, every pixel of one of 150 classes or of none.

    RAW/ADEChallengeData2016/images/training/*.jpg, validation/*.jpg
    RAW/ADEChallengeData2016/annotations/training/*.png, validation/*.png     0: none, 1 to 150: the classes
    RAW/ADEChallengeData2016/objectInfo150.txt

data.source='sceneparse' reads these files as they are; here every image and mask is read and checked. The
lists that are written name the usable pairs, `image<tab>mask`: data.train_list and data.val_list take them.
"""

import os
import types

from data_pipelines.errors import DataError
from data_pipelines.prepare import reading
from data_pipelines.prepare.facts import Clip, Facts, Plan
from data_pipelines.sources.images import sceneparse_source

FACTS = Facts(
    name="ade20k", title="ADE20K (SceneParse150)", page="http://sceneparsing.csail.mit.edu", size="1 GB",
    classes=150, counts={"train": 20210, "val": 2000}, source="the page of the challenge",
    lists={"train": "sceneparse_train_pairs.txt", "val": "sceneparse_val_pairs.txt"},
    folder="data/ade20k", root="data/ADEChallengeData2016", config="configs/segment_ade20k.py",
    list_format="", multi_label=True)


def plan(args) -> Plan:
    """What is there of both splits.

    Raises:
        DataError: official files that are missing or cannot be read.
    """
    if args.classes:
        raise DataError(f"--classes={args.classes} has no meaning here: objectInfo150.txt is read by "
                        f"data.source='sceneparse' itself.")
    info = reading.find(args, FACTS, "objectInfo150.txt", videos=True)
    root = os.path.dirname(info)
    config = types.SimpleNamespace(source="sceneparse", root=root, classes_file="", num_classes=0,
                                   mask_first=0)
    sources, lists, looks = {}, {}, {}
    for split in FACTS.lists:
        source = sources[split] = sceneparse_source(config, split, look=False)
        lists[split] = []
        for index in range(len(source)):
            path = os.path.relpath(source.path(index), root)
            looks[path] = (source, index)
            lists[split].append(Clip(source.entry(index).name, path))

    def look(path):
        source, index = looks[path]
        source.check(index)
        return 1

    def line(clip, _):
        source, index = looks[clip.path]
        return f"{clip.path}\t{os.path.relpath(source.entry(index).mask, root)}"

    return Plan(root, sources["train"].class_names, lists, [info], look=look, work="reading", line=line)
