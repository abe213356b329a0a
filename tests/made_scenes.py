"""A miniature SceneParse150 in the official formats: jpg images, png masks of 0 to 150, names, lists."""

import json
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.synthetic import scenes

FIRST = ("wall", "building, edifice", "sky", "floor, flooring", "tree", "screen, silver screen",
         "screen, CRT screen")


def sceneparse(folder, train: int = 6, val: int = 4) -> Path:
    """Writes `folder/ADEChallengeData2016`, and `training.odgt` and `validation.odgt` beside it."""
    root = Path(folder) / "ADEChallengeData2016"
    names = [*FIRST, *(f"thing {k}, object {k}" for k in range(len(FIRST), 150))]
    params = scenes.check_params(dict(short_side=40))
    for split, word, short, count in (("train", "training", "train", train),
                                      ("val", "validation", "val", val)):
        for kind in ("images", "annotations"):
            (root / kind / word).mkdir(parents=True, exist_ok=True)
        lines = []
        for i in range(count):
            _, image, mask = scenes.make_scene(params, split, i)
            numbers = np.where(mask == 255, 0, mask * 16 + 1).astype(np.uint8)  # classes all over the 150
            numbers[0, 0] = 0
            name = f"ADE_{short}_{i + 1:08d}"
            cv2.imwrite(str(root / "images" / word / f"{name}.jpg"), image[..., ::-1])
            cv2.imwrite(str(root / "annotations" / word / f"{name}.png"), numbers)
            lines.append(json.dumps({
                "fpath_img": f"ADEChallengeData2016/images/{word}/{name}.jpg",
                "fpath_segm": f"ADEChallengeData2016/annotations/{word}/{name}.png",
                "width": image.shape[1], "height": image.shape[0]}))
        (Path(folder) / f"{word}.odgt").write_text("\n".join(lines) + "\n")
    table = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    table += [f"{k}\t0.01\t1\t1\t1\t{name}" for k, name in enumerate(names, 1)]
    (root / "objectInfo150.txt").write_text("\n".join(table) + "\n")
    return root
