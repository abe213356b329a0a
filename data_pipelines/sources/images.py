"""Images with masks of classes: any folder of both, list files, and SceneParse150's official layout.

    masks       <root>/train/images/a.jpg   <root>/train/masks/a.png   the same below val/; or lists of pairs
    sceneparse  <root>/images/training/a.jpg   <root>/annotations/training/a.png   .../validation/
                <root>/objectInfo150.txt; or the .odgt lists of CSAILVision/semantic-segmentation-pytorch

A list has a line each pair, `image mask` (separated by a tab, a comma or blanks), or is a .odgt file: a json
object a line with `fpath_img` and `fpath_segm`. An image is a video of one frame.
"""

import json
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.errors import DataError, VideoError
from data_pipelines.names import printable
from data_pipelines.sources.base import Entry, Source, default_class_names, key_of_file, shorten
from data_pipelines.sources.class_names import read_class_names
from data_pipelines.sources.lists import find_file
from data_pipelines.sources.text_files import read_text, split_lines
from data_pipelines.video import masks
from data_pipelines.video.decode import IMAGE_ENDINGS, open_video

_LOOK_AT = 24  # pairs that are read before any work: mistakes are mostly made in all of them
_SCENEPARSE = {"train": "training", "val": "validation"}
_NAMES, _FOLDER = "objectInfo150.txt", "ADEChallengeData2016"
_looked_at: set[tuple] = set()  # in this process


class Pair(NamedTuple):
    """An image and its mask, and what they are called."""

    image: str
    mask: str
    name: str


class ImageSource(Source):
    """Images with masks.

    Args:
        pairs: of the split.
        class_names: name of every class.
        first: number of class 0 in the masks; smaller ones are no class.
        description, check_command: see `Source`.
        look: whether some pairs are read at once.

    Raises:
        DataError: masks that do not exist, or, among some pairs that are read, of another size than their
            image or with numbers that are no class.
    """

    def __init__(self, pairs: Sequence[Pair], class_names: Sequence[str], first: int, description: str,
                 check_command: str, look: bool = True):
        self._pairs, self._first = list(pairs), first
        self.class_names = [printable(name) for name in class_names]
        self.description, self.check_command = description, check_command
        key = (description, len(self._pairs), len(self.class_names), first)
        if look and key not in _looked_at:
            self._look()
            _looked_at.add(key)

    def __len__(self):
        return len(self._pairs)

    def entry(self, index):
        pair = self._pairs[index]
        return Entry(printable(pair.name), (), mask=pair.mask, mask_first=self._first)

    def open(self, index):
        return open_video(self._pairs[index].image)

    def path(self, index: int) -> str:
        """Full path of an image."""
        return self._pairs[index].image

    def key(self, index):
        return key_of_file(self.path(index))

    def check(self, index: int) -> None:
        """Reads a pair.

        Raises:
            VideoError: image or mask cannot be read, a number that is no class, or a mask of another size.
        """
        pair = self._pairs[index]
        with self.open(index) as image:
            size = image.stored_size
        found = masks.read_classes(pair.mask, len(self.class_names), self._first).shape
        if found != size:
            raise VideoError(pair.mask, f"the mask has {found[1]} x {found[0]} pixels, its image "
                                        f"{pair.image} {size[1]} x {size[0]}: expected the same")

    def _look(self) -> None:
        missing = [pair.mask for pair in self._pairs if not os.path.exists(pair.mask)]
        if missing:
            raise DataError(f"{len(missing)} of the {len(self)} images of {self.description} have no mask, "
                            f"e.g. {shorten(missing)}: add the masks, or leave those images out.")
        for index in np.unique(np.linspace(0, len(self) - 1, min(len(self), _LOOK_AT)).astype(int)):
            try:
                self.check(int(index))
            except VideoError as error:
                if "readable" in error.reason or not os.path.exists(error.name):
                    continue  # single broken files are counted while they are read
                raise DataError(f"{self.description}: {error}. Correct the masks, data.classes_file or "
                                f"data.num_classes ({len(self.class_names)} classes), or data.mask_first "
                                f"({self._first}, the number of the first class in the masks). "
                                f"`{self.check_command}` lists all that is wrong.") from None


def masks_source(config, split: str, look: bool = True) -> ImageSource:
    """Images and masks below `<split_root>/images` and `/masks`, or of `config.<split>_list`.

    Without a root of its own a split is the folder of its name below `config.root`.

    Raises:
        DataError: folders, lists, classes or masks that are not there or do not fit.
    """
    if list_path := getattr(config, f"{split}_list", ""):
        path = _list_file(list_path, config, split)
        pairs, where = _listed(path, [config.root]), f"data.{split}_list='{path}'"
    else:
        own = getattr(config, f"{split}_root", "") or split
        folder = os.path.join(config.root, own)
        folder = own if not os.path.isdir(folder) and os.path.isdir(own) else folder
        pairs = _below(os.path.join(folder, "images"), os.path.join(folder, "masks"), config, split)
        where = f"'{folder}'"
    return ImageSource(pairs, _class_names(config), config.mask_first, f"images of {where}",
                       _command("masks", config, split), look)


def sceneparse_source(config, split: str, look: bool = True) -> ImageSource:
    """SceneParse150 (the ADE20K challenge of 2016): 0 in a mask is no class, 1 to K are the classes.

    Raises:
        DataError: as `masks_source`.
    """
    root = config.root
    if not os.path.isdir(os.path.join(root, "images")) and os.path.isdir(os.path.join(root, _FOLDER)):
        root = os.path.join(root, _FOLDER)
    if list_path := getattr(config, f"{split}_list", ""):
        path = _list_file(list_path, config, split)
        pairs = _listed(path, [root, os.path.dirname(os.path.abspath(root))])
        where = f"data.{split}_list='{path}'"
    else:
        name = _SCENEPARSE.get(split, split)
        folders = (os.path.join(root, kind, name) for kind in ("images", "annotations"))
        pairs, where = _below(*folders, config, split), f"'{root}'"
    names = os.path.join(root, _NAMES)
    known = not config.classes_file and os.path.exists(names)
    class_names = _object_names(names) if known else _class_names(config)
    if config.num_classes not in (0, len(class_names)):
        raise DataError(f"{names} names {len(class_names)} classes, but data.num_classes="
                        f"{config.num_classes}: expected the same number, or 0.")
    return ImageSource(pairs, class_names, 1, f"'{split}' images of {where}",
                       _command("sceneparse", config, split), look)


def _below(images: str, masks_folder: str, config, split: str) -> list[Pair]:
    """Pairs of the same name, whatever their endings."""
    for folder in (images, masks_folder):
        if not os.path.isdir(folder):
            raise DataError(
                f"{folder} is not a folder. data.source={config.source!r} reads split {split!r} from images "
                f"in {images} and masks of the same names in {masks_folder}: correct data.root="
                f"{config.root!r} (or data.{split}_root), or give a list of pairs as data.{split}_list.")
    found: dict[str, str] = {}
    for parent, folders, files in os.walk(images):
        folders.sort()
        for file in sorted(f for f in files if f.lower().endswith(IMAGE_ENDINGS) and not f.startswith(".")):
            path = os.path.relpath(os.path.join(parent, file), images)
            stem = os.path.splitext(path)[0]
            if stem in found:
                raise DataError(f"{images} holds {found[stem]} and {path}, and one mask is of both: remove "
                                "one.")
            found[stem] = path
    if not found:
        raise DataError(f"{images} holds no images (known endings: {' '.join(IMAGE_ENDINGS)}).")
    there = {}
    for parent, _, files in os.walk(masks_folder):
        for file in sorted(f for f in files if f.lower().endswith(IMAGE_ENDINGS)):
            path = os.path.join(parent, file)
            there[os.path.splitext(os.path.relpath(path, masks_folder))[0]] = path
    return [Pair(os.path.join(images, path), there.get(stem, os.path.join(masks_folder, f"{stem}.png")), path)
            for stem, path in sorted(found.items())]


def _list_file(path: str, config, split: str) -> str:
    found = find_file(path, config.root)
    if not os.path.isfile(found):
        raise DataError(f"data.{split}_list={path!r} does not exist (data.root={config.root!r}): expected a "
                        f"list of lines `image mask`, or a .odgt file.")
    return found


def _listed(path: str, roots: Sequence[str]) -> list[Pair]:
    """The pairs of a list; relative paths are below the first of the roots where the image is."""
    pairs = []
    for number, line in enumerate(split_lines(read_text(path, names_files=True), path), 1):
        if not line.strip():
            continue
        image, mask = _two(line.strip(), f"{path}:{number}")
        root = next((r for r in roots if os.path.exists(os.path.join(r, image))), roots[0])
        pairs.append(Pair(os.path.join(root, image), os.path.join(root, mask), image))
    if not pairs:
        raise DataError(f"{path} holds no pairs: expected lines `image mask`, or json objects with "
                        f"fpath_img and fpath_segm.")
    missing = [pair.image for pair in pairs if not os.path.exists(pair.image)]
    if missing:
        raise DataError(f"{len(missing)} of the {len(pairs)} images listed in {path} do not exist, e.g. "
                        f"{shorten(missing)}: correct data.root or the list.")
    return pairs


def _two(line: str, where: str) -> tuple[str, str]:
    """Image and mask of a line of a list."""
    if line.startswith("{"):
        try:
            content = json.loads(line)
            return str(content["fpath_img"]), str(content["fpath_segm"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{where}: expected a json object with fpath_img and fpath_segm "
                            f"({type(error).__name__}: {error}).") from None
    for separator in ("\t", ",", None):
        parts = [part.strip() for part in line.split(separator)]
        if len(parts) == 2 and all(parts):
            return parts[0], parts[1]
    raise DataError(f"{where}: {line[:80]!r} is no pair: expected `image mask`, with a tab between them "
                    f"where names have blanks.")


def _class_names(config) -> list[str]:
    if config.classes_file:
        path = find_file(config.classes_file, config.root)
        if not os.path.isfile(path):
            raise DataError(f"data.classes_file={config.classes_file!r} does not exist "
                            f"(data.root={config.root!r}).")
        names = _object_names(path) if os.path.basename(path) == _NAMES else read_class_names(path)
        if config.num_classes not in (0, len(names)):
            raise DataError(f"data.classes_file={config.classes_file!r} names {len(names)} classes, but "
                            f"data.num_classes={config.num_classes}: expected the same number, or 0.")
        return names
    if config.num_classes < 2:
        raise DataError(f"data.num_classes={config.num_classes}: with data.source={config.source!r} set "
                        f"data.classes_file to a file of names, or this to the number of classes.")
    return default_class_names(config.num_classes)


def _object_names(path: str) -> list[str]:
    """Names of SceneParse150's objectInfo150.txt: Idx, Ratio, Train, Val, Stuff and Name, separated by tabs.

    Of several words for a class the first one, unless two classes share it.
    """
    rows = [line.split("\t") for line in split_lines(read_text(path), path) if line.strip()]
    head = [word.strip().lower() for word in rows[0]] if rows else []
    if "idx" not in head or "name" not in head or len(rows) < 2:
        raise DataError(f"{path}: expected a first line with Idx and Name, separated by tabs, and a class a "
                        "line.")
    try:
        found = {int(row[head.index("idx")]): row[head.index("name")].strip() for row in rows[1:]}
    except (ValueError, IndexError):
        raise DataError(f"{path}: expected {len(head)} columns in every line, Idx a number.") from None
    if sorted(found) != list(range(1, len(found) + 1)):
        raise DataError(f"{path}: expected classes numbered from 1 to {len(found)}, each once.")
    names = [found[index] for index in sorted(found)]
    firsts = [name.split(",")[0].split(";")[0].strip() for name in names]
    return [first if firsts.count(first) == 1 else name for first, name in zip(firsts, names)]


def _command(kind: str, config, split: str) -> str:
    flags = {"root": config.root, "split": split, "list": getattr(config, f"{split}_list", ""),
             "split_root": getattr(config, f"{split}_root", ""), "classes_file": config.classes_file,
             "num_classes": config.num_classes or "", "mask_first": config.mask_first or ""}
    return " ".join([f"python -m data_pipelines.check_masks --source={kind}",
                     *(f"--{name}={str(value)!r}" for name, value in flags.items() if value)])
