"""Videos as files: list files, and a folder per class."""

import logging
import os
import zlib
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.names import printable
from data_pipelines.sources.base import (
    Entry,
    Source,
    check_command,
    default_class_names,
    key_of_file,
    shorten,
)
from data_pipelines.sources.broken import allowed_broken
from data_pipelines.sources.class_names import read_class_names
from data_pipelines.sources.items import ListItem, distinct_labels
from data_pipelines.sources.lists import find_file, read_list
from data_pipelines.video import remote
from data_pipelines.video.decode import FrameFolder, open_video

VIDEO_ENDINGS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv",
                 ".3gp", ".ts", ".mts", ".ogv")
_LOOK_AT = 2000  # files whose existence is checked at the start; all of them if any is missing


class FileSource(Source):
    """Video files, or folders of images, with known labels.

    Args:
        items: path (relative to root, or absolute), number of frames, labels.
        root: folder that relative paths are relative to.
        class_names: name of every class.
        frames: None for video files; (template, start index) for folders of images.
        description, check_command: see `Source`.
    """

    def __init__(self, items: Sequence[ListItem], root: str, class_names: Sequence[str], *,
                 frames: tuple[str, int] | None = None, description: str, check_command: str):
        self._items = items
        self._root = root
        self._frames = frames
        self.class_names = [printable(name) for name in class_names]
        self.description = description
        self.check_command = check_command

    def __len__(self):
        return len(self._items)

    def entry(self, index):
        item = self._items[index]
        return Entry(printable(item.path), item.labels)

    def open(self, index):
        if self._frames:
            return FrameFolder(self.path(index), self._items[index].num_frames, *self._frames)
        return open_video(self.content(index), self.path(index))

    def content(self, index: int) -> str | bytes:
        """The path of a video file; of one in a store its bytes."""
        path = self.path(index)
        return remote.content_of(path) if remote.is_remote(self._root) else path

    def part(self, indices: Sequence[int]) -> "FileSource":
        """A source of some of the videos."""
        return FileSource([self._items[i] for i in indices], self._root, self.class_names,
                          frames=self._frames, description=self.description, check_command=self.check_command)

    def path(self, index: int) -> str:
        """Full path of a video."""
        return os.path.join(self._root, self._items[index].path)

    def key(self, index):
        return key_of_file(self.path(index))


def list_source(config, split: str) -> FileSource:
    """Source of `config.<split>_list` (see `lists.py` for the format).

    Videos are relative to `split_root`, list and class-name files to the current folder or `config.root`.

    Raises:
        DataError: files that do not exist (all of them are named), malformed lines, labels out of
            range, class names that do not fit, or listed videos that do not exist.
    """
    list_path = getattr(config, f"{split}_list")
    if not list_path:
        raise DataError(f"data.{split}_list is empty, so there is no '{split}' split. Set it to a "
                        f"list file; `python -m data_pipelines.make_list` writes one.")
    root, field = split_root(config, split)
    _check_list_files(config, root, field)
    path = find_file(list_path, config.root)
    class_names = _class_names(config)
    items = read_list(path, config.list_format, config.multi_label, len(class_names), root)
    if config.source == "list":
        warn_of_labels(items, class_names, f"data.{split}_list='{path}'", split)
    description = f"data.{split}_list='{path}' under {field}='{root}'"
    flags, frames = dict(list=path, root=root), None
    if config.list_format == "frames":
        frames = (config.frame_template, config.start_index)
        flags |= dict(list_format="frames", frame_template=config.frame_template,
                      start_index=config.start_index)
    source = FileSource(items, root, class_names, frames=frames, description=description,
                        check_command=check_command(**flags))
    _check_videos_exist(source, path, config, root, field)
    return source


def split_root(config, split: str) -> tuple[str, str]:
    """The folder that the videos of a split are relative to, and the field that says so.

    `data.<split>_root` is a folder below `data.root`, or any other; where it is empty, `data.root` counts.
    """
    if not (own := getattr(config, f"{split}_root", "")):
        return config.root, "data.root"
    below = os.path.join(config.root, own)
    return below if os.path.isdir(below) or not os.path.isdir(own) else own, f"data.{split}_root"


def folder_source(config, split: str) -> FileSource:
    """Source of a folder of class folders.

    `root/<split>/<class>/*.mp4` is used if the root has a folder `train` of folders; otherwise
    `root/<class>/*.mp4`, with the share `val_share` of every class held out for 'val'. The choice
    depends on `split_seed`, the name of the class and its files only, not on other classes. With
    `train_root` and `val_root` those are the folders of classes.

    Raises:
        DataError: no such folder, no class folders, a class without videos, another number of classes
            than `num_classes`, or classes of one split that the training split lacks.
    """
    root = config.root
    if not root or not os.path.isdir(root):
        raise DataError(
            f"data.root='{root}' is not a folder. For data.source='folder' it must be the folder "
            f"that holds one folder per class ({root or 'my_videos'}/<class>/*.mp4), or train/ and "
            f"val/ folders of such folders. Check the path (--config.data.root=PATH).")
    folders = _subfolders(root)
    has_splits = "train" in folders and _subfolders(os.path.join(root, "train"))
    own = _own_folders(config, split)
    if own or has_splits and split in folders:
        train, base = own or (os.path.join(root, "train"), os.path.join(root, split))
        names = _subfolders(train)
        unknown = sorted(set(_subfolders(base)) - set(names))
        if unknown:
            raise DataError(f"{base} has class folders that {train} has not: "
                            f"{shorten(unknown)}. Both must have the same class names.")
        present = [name for name in names if os.path.isdir(os.path.join(base, name))]
        clips = {name: _list_videos(os.path.join(base, name)) for name in present}
        held_out = ""
    elif has_splits or split not in ("train", "val"):
        raise DataError(f"data.root='{root}' has no folder '{split}' (it has {shorten(folders)}), "
                        f"so there is no '{split}' split.")
    else:
        base, names = root, folders
        clips = {name: _list_videos(os.path.join(root, name)) for name in names}
        clips = {name: _hold_out(name, files, split, config) for name, files in clips.items()}
        held_out = f" (the share data.val_share={config.val_share} held out for 'val')"
    if not names:
        raise DataError(
            f"data.root='{root}' holds no class folders: it needs one folder per class with video "
            f"files inside ({root}/<class>/*.mp4), or train/ and val/ folders of such folders.")
    if config.num_classes and config.num_classes != len(names) or len(names) < 2:
        raise DataError(
            f"data.root='{root}' has {len(names)} class folders ({shorten(names)}), but "
            f"data.num_classes={config.num_classes or 'at least 2'}. Use data.num_classes=0 to "
            f"take the number of folders, or correct the folder.")
    items = [ListItem(os.path.join(name, file), 0, (names.index(name),))
             for name, files in clips.items() for file in files]
    if not items:
        raise DataError(
            f"the '{split}' split of data.root='{root}' has no clips{held_out}. Every class needs "
            f"at least one clip in train and some in val: add clips, or raise data.val_share.")
    return FileSource(items, base, names, description=f"'{split}' of data.root='{root}'",
                      check_command=check_command(root=base))


def _own_folders(config, split: str) -> tuple[str, str] | None:
    """Folders of classes of 'train' and of a split that have a root of their own; None without such roots."""
    if not any(getattr(config, f"{name}_root", "") for name in ("train", split)):
        return None
    found = []
    for name in ("train", split):
        folder, field = split_root(config, name)
        if field == "data.root" or not os.path.isdir(folder):
            raise DataError(f"data.{name}_root='{getattr(config, f'{name}_root', '')}' is not a folder. With "
                            f"data.source='folder' every split has one if one has: set data.train_root and "
                            f"data.val_root to folders of class folders, or leave out both.")
        found.append(folder)
    return found[0], found[1]


def missing_file_error(missing: Sequence[str], config, what: str) -> DataError:
    """The error for files that a configuration names and that are not there."""
    return DataError(
        f"{what} not found: {', '.join(missing)} (data.source='{config.source}', "
        f"data.root='{config.root}'). Lists of the data sets that `python -m data_pipelines.prepare --help` "
        f"names are written by it from their official files, others by `python -m data_pipelines.make_list "
        f"--root=FOLDER --out=LIST.txt` from a folder of class folders, and shards by `python -m "
        f"data_pipelines.to_array_record` from a list; both explain themselves with --help. To see "
        f"the recipe work without any data set, add :demo to the name of the config.")


def _check_list_files(config, root: str, field: str) -> None:
    names = [config.train_list, config.val_list, config.classes_file]
    missing = [name for name in names if name and not os.path.isfile(find_file(name, config.root))]
    if root and not (remote.is_folder(root) if remote.is_remote(root) else os.path.isdir(root)):
        missing.append(f"{root} ({field})")
    if missing:
        raise missing_file_error(missing, config, "files of the data set")


def _class_names(config) -> list[str]:
    if not config.classes_file:
        if config.num_classes < 2:
            raise DataError(f"data.num_classes={config.num_classes}: with data.source='list' set "
                            f"it to the number of classes, or set data.classes_file to a file of "
                            f"names.")
        return default_class_names(config.num_classes)
    names = read_class_names(find_file(config.classes_file, config.root))
    if config.num_classes and len(names) != config.num_classes:
        raise DataError(
            f"data.classes_file='{config.classes_file}' names {len(names)} classes, but "
            f"data.num_classes={config.num_classes}. Both must agree; data.num_classes=0 takes the "
            f"number of names.")
    return names


def warn_of_labels(items: Sequence, class_names: Sequence[str], where: str, split: str) -> None:
    """Logs what may be a mistake: labels that all seem one too high, classes without a training clip."""
    count = len(class_names)
    missing = sorted(set(range(count)) - distinct_labels(items))
    if missing == [0] and count > 2:
        logging.warning("%s: the labels look shifted by one: 0 (%r) never occurs, all of 1 to %d do. Labels "
                        "count "
                        "from 0: if yours count from 1, subtract 1 from each, and check data.num_classes or "
                        "data.classes_file.", where, class_names[0], count - 1)
    elif missing and split == "train":
        shown = shorten([f"{label} ({class_names[label]})" for label in missing])
        logging.warning("%s: %d of the %d labels never occur: %s. Is data.num_classes or data.classes_file "
                        "the one "
                        "of this list, and do its labels count from 0?", where, len(missing), count, shown)


def _check_videos_exist(source: FileSource, list_path: str, config, root: str, field: str) -> None:
    """Stops early if many listed videos are missing; single ones are handled like broken ones."""
    if remote.is_remote(root):  # a request a file
        return
    count = len(source)
    look_at = np.unique(np.linspace(0, count - 1, min(count, _LOOK_AT)).astype(int))
    missing = [i for i in look_at if not os.path.exists(source.path(i))]
    if missing and len(look_at) < count:
        missing = [i for i in range(count) if not os.path.exists(source.path(i))]
    if len(missing) <= allowed_broken(source, config.max_broken_share):
        return
    hint = ""
    if not config.multi_label and source.entry(missing[0]).name.rsplit(None, 1)[-1].isdigit():
        hint = (" The lines seem to hold more numbers than data.list_format and data.multi_label "
                "say (`path frames label`? several labels?): `python -m data_pipelines.make_list` "
                "converts lists.")
    raise DataError(
        f"{len(missing)} of the {count} clips listed in {list_path} do not exist, e.g. "
        f"{', '.join(source.path(i) for i in missing[:5])}. Relative paths are relative to "
        f"{field}='{root}': correct it (--config.{field}=PATH) or the list; "
        f"data.max_broken_share={config.max_broken_share} is the share that may be missing or "
        f"broken.{hint}")


def _subfolders(folder: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder)
                  if entry.is_dir() and not entry.name.startswith("."))


def _list_videos(folder: str) -> list[str]:
    """Video files below a class folder, relative to it and sorted; logs what is left out."""
    videos, others = [], []
    for parent, _, files in os.walk(folder):
        for file in files:
            if not file.startswith("."):
                kept = videos if file.lower().endswith(VIDEO_ENDINGS) else others
                kept.append(os.path.relpath(os.path.join(parent, file), folder))
    if others:
        logging.warning("%s: left out because of their ending (%d): %s",
                        folder, len(others), shorten(sorted(others)))
    if not videos:
        raise DataError(f"class folder {folder} holds no video files (known endings: "
                        f"{' '.join(VIDEO_ENDINGS)}). Add clips or remove the folder.")
    return sorted(videos)


def _hold_out(name: str, files: list[str], split: str, config) -> list[str]:
    """The files of one class that belong to `split`; at least one stays in train."""
    if not 0 < config.val_share < 1:
        raise DataError(f"data.val_share={config.val_share} must be between 0 and 1 (both "
                        f"excluded) when data.root has no train/ and val/ folders.")
    count = min(len(files) - 1, max(1, round(config.val_share * len(files))))
    rng = np.random.default_rng([config.split_seed, zlib.crc32(name.encode("utf-8", "surrogateescape"))])
    held_out = set(rng.permutation(len(files))[:count].tolist())
    return [file for i, file in enumerate(files) if (i in held_out) == (split == "val")]
