"""Writes list files: from a folder of classes, or from lists of another project.

    python -m data_pipelines.make_list --root=my_videos --out=lists
        my_videos/<class>/*.mp4, or train/ and val/ folders of such folders, become lists/train.txt,
        val.txt (lines `path label`, paths relative to my_videos) and classes.txt. The split is the
        one that data.source='folder' makes. With --out=all.txt everything goes into one list.

    python -m data_pipelines.make_list --convert=train_split.txt --root=imgs --out=train.txt \\
            --list_format=frames
        lines `path frames label [label ...]`, separated by commas (AR-Net's ActivityNet and FCVID
        splits) or blanks, become `path frames label [label ...]` with the frames that are in
        imgs/path (extraction at 4 frames per second changes their number), every label once.

    python -m data_pipelines.make_list --convert=minik_train.txt --root=kinetics400 --out=train.txt
        the same lines become `path label [label ...]` for video files; the ending of the file is
        looked up (AR-Net's Mini-Kinetics split).

Clips that do not exist, cannot be opened or have names that a list cannot hold are left out and
named, up to --max_broken_share.
"""

import argparse
import os
import types
from pathlib import Path

from data_pipelines.clip_lists import Dropped, list_items, read_broken, reason_of
from data_pipelines.errors import DataError, VideoError
from data_pipelines.names import printable
from data_pipelines.options import check_template
from data_pipelines.sources.class_names import class_lines
from data_pipelines.sources.files import VIDEO_ENDINGS, folder_source
from data_pipelines.sources.lists import ListItem, can_be_listed, list_line
from data_pipelines.tools import atomic_write, parallel, run_tool
from data_pipelines.video.decode import open_video


def find_video(path: str) -> str:
    """Returns the path of an existing video file, with its ending if `path` lacks it.

    Raises:
        VideoError: there is none.
    """
    for ending in ("", *VIDEO_ENDINGS):
        if os.path.isfile(path + ending):
            return path + ending
    raise VideoError(path, "file does not exist")


def count_frames(folder: str, template: str, start_index: int) -> int:
    """Number of consecutively numbered frames in a folder.

    Raises:
        VideoError: no folder, or no first frame in it.
    """
    if not os.path.isdir(folder):
        raise VideoError(folder, "folder does not exist")
    present = set(os.listdir(folder))
    count = 0
    while template.format(start_index + count) in present:
        count += 1
    if not count:
        raise VideoError(folder, f"holds no {template.format(start_index)}")
    return count


def _from_folder(args) -> None:
    """Lists of a folder of classes."""
    config = types.SimpleNamespace(root=args.root, num_classes=0, val_share=args.val_share,
                                   split_seed=args.split_seed)
    sources = {split: folder_source(config, split) for split in ("train", "val")}
    clips = {}
    for split, source in sources.items():
        all_of_it = [(os.path.relpath(source.path(i), args.root), source.entry(i).labels[0])
                     for i in range(len(source))]
        clips[split] = [clip for clip in all_of_it if printable(clip[0]) not in args.excluded]
    class_names = class_lines(sources["train"].class_names)
    paths = [path for split in clips.values() for path, _ in split]
    dropped = Dropped(len(paths), args.max_broken_share)

    def check(path):
        with open_video(os.path.join(args.root, path)):
            pass

    reasons = parallel(lambda path: reason_of(check, path), paths, args.workers, "opening", "clip")
    left_out = set()
    for path, reason in zip(paths, reasons, strict=True):
        reason = reason or not_listed(ListItem(path, 0, (0,)), "video", False)
        if reason:
            left_out.add(path)
            dropped.add(path, reason)
    lines = {split: [list_line(ListItem(path, 0, (label,)), "video") for path, label in items
                     if path not in left_out] for split, items in clips.items()}
    out = Path(args.out)
    if out.suffix:
        lines = {out.stem: sorted(lines["train"] + lines["val"])}
        folder, ending = out.parent, out.suffix
    else:
        folder, ending = out, ".txt"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in lines.items():
        _write_lines(folder / (name + ending), content)
    _write_lines(folder / "classes.txt", class_names)
    dropped.report()


def _converted(args) -> None:
    """A list for what is really there."""
    if not Path(args.out).suffix:
        raise DataError(f"--out={args.out} must be the name of a list file with --convert, e.g. "
                        f"{Path(args.out) / 'train.txt'}.")
    video = args.list_format == "video"

    def exists(path):
        return not reason_of(find_video, path) if video else os.path.isdir(path)

    items = [item for item in list_items(args.convert, args.root, "frames", exists)
             if printable(item.path) not in args.excluded]
    dropped = Dropped(len(items), args.max_broken_share)

    def convert(item):
        """(item of the new list, reason why there is none)."""
        path = os.path.join(args.root, item.path)
        try:
            if video:
                path = find_video(path)
                with open_video(path) as reader:
                    count = reader.num_frames
            else:
                count = count_frames(path, args.frame_template, args.start_index)
            if count < args.min_frames:
                raise VideoError(path, f"{count} frames, fewer than --min_frames={args.min_frames}")
        except VideoError as error:
            return None, error.reason
        name = os.path.relpath(path, args.root) if args.root else path
        made = ListItem(name, 0 if video else count, tuple(dict.fromkeys(item.labels)))
        return made, not_listed(made, args.list_format, several)

    several, lines = any(len(set(item.labels)) > 1 for item in items), []
    converted = parallel(convert, items, args.workers, "converting", "clip")
    for item, (made, reason) in zip(items, converted, strict=True):
        if reason:
            dropped.add(item.path, reason)
        else:
            lines.append(list_line(made, args.list_format))
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    _write_lines(Path(args.out), lines)
    dropped.report()


def not_listed(item: ListItem, list_format: str, multi_label: bool) -> str:
    """Why a list cannot hold an item, or nothing if it can."""
    return "" if can_be_listed(item, list_format, multi_label) else (
        "a list cannot hold this name (blanks at its ends, a line break, a number at its end): rename it")


def _write_lines(path, lines):
    with atomic_write(path) as part:
        # Names of files may hold bytes that are no UTF-8: those are written as they are.
        part.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
    print(f"{path}: {len(lines)} lines")


def main(argv=None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.make_list", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder that paths are relative to")
    parser.add_argument("--out", required=True, help="list file, or folder for several of them")
    parser.add_argument("--convert", metavar="LIST", help="convert this list instead")
    parser.add_argument("--list_format", choices=("video", "frames"), default="video",
                        help="what to write with --convert; default: %(default)s")
    parser.add_argument("--frame_template", default="img_{:05}.png")
    parser.add_argument("--start_index", type=int, default=1, help="number of the first frame")
    parser.add_argument("--min_frames", type=int, default=1, metavar="N",
                        help="with --convert: leave out shorter clips (AR-Net trains with 3)")
    parser.add_argument("--val_share", type=float, default=0.2, help="default: %(default)s")
    parser.add_argument("--split_seed", type=int, default=0)
    parser.add_argument("--exclude", metavar="FILE", help="leave out the clips of this list")
    parser.add_argument("--max_broken_share", type=float, default=0.01, help="default: %(default)s")
    parser.add_argument("--workers", type=int, help="threads; default: the number of cores")
    args = parser.parse_args(argv)
    check_template("--frame_template", args.frame_template)
    args.excluded = read_broken(args.exclude) if args.exclude else {}
    if args.convert:
        _converted(args)
    else:
        _from_folder(args)
    return 0


if __name__ == "__main__":
    run_tool(main)
