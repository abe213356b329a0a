"""J-HMDB as it is released: images, puppet masks, three splits (Jhuang et al., ICCV 2013).

    Rename_Images/<class>/<video>/00001.png ...
    puppet_mask/<class>/<video>/puppet_mask.mat          part_mask (H, W, T), 0 beside the person
    splits/<class>_test_split1.txt ...                   lines `<video>.avi 1` (training) or 2 (test)

An example is an annotated frame; its box is what surrounds the puppet, its class the folder's. Frames without
a puppet are left out.
"""

import glob
import os

import numpy as np

from data_pipelines.entry import Box
from data_pipelines.errors import DataError
from data_pipelines.sources.base import check_command, shorten
from data_pipelines.sources.box_files import BoxSource, KeyFrame, count_images
from data_pipelines.sources.text_files import read_text, split_lines
from data_pipelines.tools import parallel

IMAGES, MASKS = "Rename_Images", "puppet_mask"
MARKS = {"train": "1", "val": "2", "test": "2"}  # of the splits in their files


def jhmdb_source(config, split: str) -> BoxSource:
    """Source of one split; `config.<split>_list` names the files of the split, such as
    splits/*_test_split1.txt.

    Raises:
        DataError: what is missing of the layout, a line that cannot be read, a mask that cannot.
    """
    root = config.root
    folders = [os.path.join(root, name) for name in (IMAGES, MASKS)]
    if missing := [folder for folder in folders if not os.path.isdir(folder)]:
        raise DataError(f"data.root='{root}': {' and '.join(missing)} missing. For data.source='jhmdb' it is "
                        f"the folder of the released J-HMDB, with {IMAGES}/, {MASKS}/ and splits/ "
                        f"(--config.data.root=PATH).")
    classes = sorted(entry.name for entry in os.scandir(os.path.join(root, IMAGES))
                     if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2 or config.num_classes and config.num_classes != len(classes):
        raise DataError(f"{os.path.join(root, IMAGES)} has {len(classes)} folders of classes "
                        f"({shorten(classes)}), but data.num_classes={config.num_classes or 'at least 2'}: "
                        f"complete the data set, or set data.num_classes=0 for what is there.")
    videos = _videos(config, split, classes)

    def look(video):
        label, folder = video
        images = count_images(os.path.join(root, IMAGES, folder), "{:05}.png", 1)
        boxes = puppet_boxes(os.path.join(root, MASKS, folder, "puppet_mask.mat"), images)
        path = os.path.join(IMAGES, folder)
        return images, [KeyFrame(path, t, (Box(label, *box),)) for t, box in boxes]

    frames, counts = [], {}
    looked = parallel(look, videos, config.num_threads, f"puppet masks of {split}", "video")
    for (_, folder), (images, found) in zip(videos, looked, strict=True):
        counts[os.path.join(IMAGES, folder)] = images
        frames += found
    if not frames:
        raise DataError(f"split {split!r} of data.root='{root}' has no frame with a puppet.")
    return BoxSource(frames, root, classes, folders=(counts, "{:05}.png", 1),
                     description=f"split {split!r} of J-HMDB in data.root='{root}'",
                     check_command=check_command(root=os.path.join(root, IMAGES)))


def _videos(config, split: str, classes) -> list[tuple[int, str]]:
    """(label, <class>/<video>) of a split, in the order of its files."""
    pattern = getattr(config, f"{split}_list")
    if split not in MARKS:
        raise DataError(f"split {split!r}: J-HMDB's files mark 'train' (1) and 'val' or 'test' (2).")
    found, where = [], os.path.join(config.root, pattern)
    files = sorted(glob.glob(where))
    if not pattern or len(files) < len(classes):
        raise DataError(f"data.{split}_list='{pattern}': {where} finds {len(files)} files, there are "
                        f"{len(classes)} classes. Expected one for each, such as 'splits/*_test_split1.txt'.")
    named = dict(sorted(((name, k) for k, name in enumerate(classes)), key=lambda item: -len(item[0])))
    for path in files:
        name = next((name for name in named if os.path.basename(path).startswith(f"{name}_test_split")), None)
        if name is None:
            raise DataError(f"{path}: no folder of {IMAGES} is the class that it is named after.")
        for number, line in enumerate(split_lines(read_text(path), path), 1):
            if not line.strip():
                continue
            video, _, mark = line.strip().rpartition(" ")
            if mark not in ("0", "1", "2") or not video:
                raise DataError(f"{path}:{number}: cannot read {line.strip()!r}: expected a video and 1 "
                                f"(training), 2 (test) or 0.")
            if mark == MARKS[split]:
                found.append((named[name], f"{name}/{video.strip().removesuffix('.avi')}"))
    if not found:
        raise DataError(f"{where}: no video is marked {MARKS[split]}, so split {split!r} is empty.")
    return found


def puppet_boxes(path: str, images: int) -> list[tuple[int, tuple[float, float, float, float]]]:
    """(frame, box in shares) of every image that has a puppet.

    Raises:
        DataError: no readable file with such a mask.
    """
    from scipy.io import loadmat  # slow to import

    try:
        mask = np.asarray(loadmat(path, variable_names=["part_mask"])["part_mask"])
    except Exception as error:  # scipy raises whatever a damaged file leads to
        what = "no variable part_mask" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise DataError(f"{path}: {what or type(error).__name__}. It must be J-HMDB's puppet_mask.mat; "
                        f"repair it, or take its video out of the splits.") from None
    if mask.ndim == 2:
        mask = mask[..., None]  # of a single frame
    if mask.ndim != 3 or mask.dtype.kind not in "uib":
        raise DataError(f"{path}: part_mask is {mask.dtype} {mask.shape}; expected whole numbers (height, "
                        f"width, frames).")
    height, width, count = mask.shape
    found = []
    for t in range(min(count, images)):
        there = mask[..., t] > 0
        rows, columns = (np.flatnonzero(there.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            found.append((t, (columns[0] / width, rows[0] / height, (columns[-1] + 1) / width,
                              (rows[-1] + 1) / height)))
    return found
