"""Boxes in frames of videos: a csv file of them beside the videos, of any data set.

    video,frame,label,x1,y1,x2,y2
    gym/0001.mp4,48,jump,120,35,182,210
    gym/0001.mp4,96,jump,131,20,190,204
    gym/0002.mp4,30,,,,,                    a frame without boxes

A line is a box (left, top, right, bottom in pixels of the frame as players show it). An example is a frame
with all of its boxes. Columns may come in any order, further ones are left alone; with `width` and `height`,
the size of the frame, no video is opened before it is needed. Frames count from 0; in folders of images
(data.list_format='frames') they are the numbers in the files' names.
"""

import csv
import os
from collections.abc import Sequence
from typing import NamedTuple

from data_pipelines.entry import Box, Entry
from data_pipelines.errors import DataError, VideoError
from data_pipelines.names import printable
from data_pipelines.sources.base import Source, check_command, key_of_file, shorten
from data_pipelines.sources.broken import allowed_broken
from data_pipelines.sources.class_names import read_class_names
from data_pipelines.sources.files import missing_file_error, split_root
from data_pipelines.sources.lists import find_file, inside
from data_pipelines.sources.text_files import read_text, split_lines
from data_pipelines.tools import parallel
from data_pipelines.video.decode import FrameFolder, open_video

COLUMNS = ("video", "frame", "label", "x1", "y1", "x2", "y2")


class KeyFrame(NamedTuple):
    """An example: a frame, counted from 0, of a video or folder of images, and its boxes in shares of it."""

    path: str
    frame: int
    boxes: tuple[Box, ...]


class BoxSource(Source):
    """Key frames of videos, or of folders of images.

    Args:
        frames: the examples.
        root: folder that their paths are relative to.
        class_names: K names.
        folders: None for video files; {path: number of images}, file name of an image and the number of the
            first one for folders of images.
        description, check_command: see `Source`.
    """

    def __init__(self, frames: Sequence[KeyFrame], root: str, class_names: Sequence[str], *,
                 folders: tuple[dict[str, int], str, int] | None = None, description: str,
                 check_command: str):
        self._frames, self._root, self._folders = list(frames), root, folders
        self.class_names = [printable(name) for name in class_names]
        self.description, self.check_command = description, check_command

    def __len__(self):
        return len(self._frames)

    def entry(self, index):
        path, frame, boxes = self._frames[index]
        number = frame + (self._folders[2] if self._folders else 0)
        labels = tuple(box.label for box in boxes)
        return Entry(printable(f"{path}#{number}"), labels, frame, boxes)

    def open(self, index):
        path = self._frames[index].path
        if self._folders:
            counts, template, start = self._folders
            return FrameFolder(self.path(index), counts[path], template, start)
        return open_video(self.path(index))

    def path(self, index: int) -> str:
        """Full path of the video of an example."""
        return os.path.join(self._root, self._frames[index].path)

    def key(self, index):
        """Examples of a video have its frames in common."""
        return key_of_file(self.path(index))


class _Line(NamedTuple):
    where: str  # file and number of the line
    video: str
    frame: int
    label: str
    corners: tuple[float, ...]
    size: tuple[float, float] | None  # width, height


def box_source(config, split: str) -> BoxSource:
    """Source of the csv file `config.<split>_list`; see the module docstring.

    Classes are those of data.classes_file, or the labels of both lists in alphabetical order (whole numbers
    in theirs). Videos are relative to `split_root`, other files to the current folder or `config.root`.

    Raises:
        DataError: files that do not exist, a line that cannot be read, a box that is none or lies beyond its
            frame, a label that is no class, a frame that the video does not have.
    """
    path = getattr(config, f"{split}_list")
    if not path:
        raise DataError(f"data.{split}_list is empty, so there is no '{split}' split. With "
                        f"data.source='boxes' it is a csv file with the columns {','.join(COLUMNS)}.")
    root, field = split_root(config, split)
    named = [config.train_list, config.val_list, config.classes_file]
    missing = [name for name in named if name and not os.path.isfile(find_file(name, config.root))]
    if root and not os.path.isdir(root):
        missing.append(f"{root} ({field})")
    if missing:
        raise missing_file_error(missing, config, "files of the data set")
    lines = [line._replace(video=inside(line.video, root, line.where))
             for line in read_lines(find_file(path, config.root))]
    class_names = _class_names(config, lines, path)
    folders = {} if config.list_format == "frames" else None
    sizes = _sizes(lines, config, root, folders)
    frames = _frames(lines, class_names, sizes, config, folders)
    if not frames:
        raise DataError(f"{path}: none of its videos can be read, under {field}='{root}'. The first one is "
                        f"{os.path.join(root, lines[0].video)}.")
    return BoxSource(
        frames, root, class_names, description=f"data.{split}_list='{path}' under {field}='{root}'",
        folders=None if folders is None else (folders, config.frame_template, config.start_index),
        check_command=check_command(root=root))


def read_lines(path: str) -> list[_Line]:
    """The boxes of a csv file, in its order.

    Raises:
        DataError: no header with the columns, a line that cannot be read (with its number).
    """
    texts = split_lines(read_text(path, names_files=True), path)
    rows = [(number, row) for number, row in enumerate(csv.reader(texts, skipinitialspace=True), 1)
            if any(row)]
    header = [name.strip().lower() for name in rows[0][1]] if rows else []
    lacking = [name for name in COLUMNS if name not in header]
    if lacking:
        raise DataError(f"{path}: the first line must name the columns {','.join(COLUMNS)}; it lacks "
                        f"{', '.join(lacking)}.")
    lines = []
    for number, row in rows[1:]:
        where = f"{path}:{number}"
        if len(row) != len(header):
            raise DataError(f"{where}: {len(row)} columns, the header has {len(header)}: {','.join(row)!r}.")
        lines.append(_line(dict(zip(header, (x.strip() for x in row), strict=True)), where))
    if not lines:
        raise DataError(f"{path} lists no boxes: it needs a line for each of them.")
    return lines


def _line(row: dict[str, str], where: str) -> _Line:
    shown = ",".join(row[name] for name in COLUMNS)
    try:
        frame = int(row["frame"])
        size = (float(row["width"]), float(row["height"])) if row.get("width") and row.get("height") else None
        if not row["label"] and not any(row[name] for name in COLUMNS[3:]):
            return _Line(where, row["video"], frame, "", (), size)
        corners = tuple(float(row[name]) for name in COLUMNS[3:])
    except ValueError:
        raise DataError(f"{where}: cannot read {shown!r}: expected a video, a whole number for the frame, a "
                        f"label and four numbers, or nothing behind the frame where it has no box.") from None
    x1, y1, x2, y2 = corners
    if not (row["video"] and row["label"] and frame >= 0 and x1 < x2 < float("inf") and y1 < y2 < float("inf")
            and min(corners) > float("-inf")) or size and not min(size) > 0:
        raise DataError(f"{where}: {shown!r} is no box: expected a video, a frame of 0 or more, a label, x1 "
                        f"< x2 and y1 < y2 (left, top, right, bottom in pixels).")
    return _Line(where, row["video"], frame, row["label"], corners, size)


def _class_names(config, lines: Sequence[_Line], path: str) -> list[str]:
    if config.classes_file:
        names = read_class_names(find_file(config.classes_file, config.root))
    else:
        both = [find_file(name, config.root) for name in (config.train_list, config.val_list) if name]
        labels = {line.label for name in both for line in read_lines(name)} - {""}
        names = sorted(labels, key=lambda x: (int(x), x) if x.isdecimal() else (10**9, x))
    if len(names) < 2 or config.num_classes and config.num_classes != len(names):
        raise DataError(f"the boxes have {len(names)} classes ({shorten(names)}), but data.num_classes="
                        f"{config.num_classes or 'at least 2'}: correct it (0 takes what is there), or name "
                        f"the classes in data.classes_file.")
    unknown = next((line for line in lines if line.label and line.label not in names), None)
    if unknown:
        raise DataError(f"{unknown.where}: label {unknown.label!r} is none of the classes "
                        f"{shorten(names, 30)}.")
    return names


def _sizes(lines, config, root: str, folders) -> dict[str, tuple[float, float, int]]:
    """(width, height, number of frames; 0: not looked at) by video, without broken ones; fills `folders`."""
    given = {line.video: line.size for line in lines if line.size}
    template, start = config.frame_template, config.start_index
    every = list(dict.fromkeys(line.video for line in lines))
    looked_at = every if folders is not None else [video for video in every if video not in given]

    def look(video: str):
        try:
            path = os.path.join(root, video)
            with (FrameFolder(path, count_images(path, template, start), template, start)
                  if folders is not None else open_video(path)) as reader:
                height, width = reader.get([0]).shape[1:3]
                return (width, height, reader.num_frames), ""
        except VideoError as error:
            return None, str(error)

    found = {video: (*size, 0) for video, size in given.items()}
    broken = {}
    for video, (size, problem) in zip(looked_at, parallel(look, looked_at, config.num_threads,
                                                          "sizes of the videos", "video"), strict=True):
        if size is None:
            broken[video] = problem
            continue
        found[video] = size
        if folders is not None:
            folders[video] = size[2]
    if broken and len(broken) > allowed_broken(every, config.max_broken_share):
        raise DataError(f"{len(broken)} of the {len(every)} videos with boxes cannot be read, more than "
                        f"data.max_broken_share={config.max_broken_share} allows. The first ones: "
                        f"{'; '.join(list(broken.values())[:5])}. Paths are relative to '{root}'.")
    return found


def _frames(lines, class_names, sizes, config, folders) -> list[KeyFrame]:
    first = config.start_index if folders is not None else 0
    labels = {name: k for k, name in enumerate(class_names)}
    boxes: dict[tuple[str, int], list[Box]] = {}
    for line in lines:
        if line.video not in sizes:
            continue
        width, height, count = sizes[line.video]
        frame = line.frame - first
        if frame < 0 or count and frame >= count:
            raise DataError(f"{line.where}: {line.video} has no frame {line.frame}: expected {first} to "
                            f"{first + count - 1}.")
        mine = boxes.setdefault((line.video, frame), [])
        if line.corners:
            mine.append(in_shares(labels[line.label], line.corners, width, height, line.where))
    return [KeyFrame(video, frame, tuple(found)) for (video, frame), found in boxes.items()]


def in_shares(label: int, corners: Sequence[float], width: float, height: float, where: str) -> Box:
    """A box in pixels as shares of its frame, cut at the frame's edges.

    Raises:
        DataError: nothing of it lies in the frame.
    """
    x1, y1, x2, y2 = (min(max(x / n, 0.0), 1.0) for x, n in zip(corners, (width, height) * 2, strict=True))
    if not (x1 < x2 and y1 < y2):
        raise DataError(f"{where}: the box {', '.join(f'{x:g}' for x in corners)} lies beyond its frame of "
                        f"{width:g} x {height:g} pixels. Boxes are left, top, right, bottom in pixels of the "
                        f"frame as players show it.")
    return Box(label, x1, y1, x2, y2)


def count_images(folder: str, template: str, start: int) -> int:
    """Images of a folder that are named by a template, without a gap from the first one on."""
    try:
        there = set(os.listdir(folder))
    except OSError:
        return 0
    count = 0
    while template.format(count + start) in there:
        count += 1
    return count
