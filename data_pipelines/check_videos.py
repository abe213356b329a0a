"""Decodes every clip of a data set once and lists the broken ones.

    python -m data_pipelines.check_videos my_videos
    python -m data_pipelines.check_videos --list=train.txt --root=data/kinetics400
    python -m data_pipelines.check_videos --list=train.txt --root=imgs --list_format=frames
    python -m data_pipelines.check_videos --shards='shards/train-*'
    python -m data_pipelines.check_videos --tfds=ucf101_frames --root=tfds --split=train
    python -m data_pipelines.check_videos gs://bucket/clips --engine=ray --address=auto

Writes one line `path<tab>reason` per broken clip to --out; `make_list` and `to_array_record` leave
those out with --exclude. Where nothing is broken there is no such file, unless --out names one.
Interrupted, the same command continues: finished clips are in a journal beside --out, which is removed
at the end. Exit code: 0 every clip is fine, 1 some are broken.
"""

import argparse
import json
import os
import sys
import types
from pathlib import Path

from data_pipelines.clip_lists import files_below, list_items, reason_of, write_broken
from data_pipelines.engine import DIED, ENGINE_FLAGS, Stage, add_flags, make_engine, one_by_one
from data_pipelines.errors import VideoError
from data_pipelines.names import printable
from data_pipelines.options import check_template
from data_pipelines.tools import atomic_write, run_tool
from data_pipelines.video import remote
from data_pipelines.video.container import ERRORS, open_container, text_of
from data_pipelines.video.decode import FrameFolder, open_video
from data_pipelines.video.reader import VideoReader

_OUT = "broken.txt"
_AT_ONCE = 32  # frames decoded before the next ones are


def check_file(path: str, content: str | bytes | None = None) -> None:
    """Decodes a video file from beginning to end.

    Args:
        path: of the file.
        content: where it is not a file that can be opened: its bytes.

    Raises:
        VideoError: the pipelines could not open it, or damage that a decoder conceals was found.
    """
    source = path if content is None else content
    with open_video(source, path) as reader:
        expected = reader.num_frames
    count = damaged = 0
    size = None
    container, stream = open_container(source, path)
    try:
        with container:
            for frame in container.decode(stream):
                count += 1
                damaged += frame.is_corrupt
                if size not in (None, (frame.width, frame.height)):
                    raise VideoError(path, f"the picture size changes at frame {count - 1}")
                size = frame.width, frame.height
    except VideoError:
        raise
    except ERRORS as error:
        raise VideoError(path, f"decoding failed after {count} of {expected} frames "
                               f"({text_of(error)})") from None
    if damaged:
        raise VideoError(path, f"damage in {damaged} of {count} frames")
    if expected - count > max(2, expected // 50):  # as the reader tolerates
        raise VideoError(path, f"truncated: {count} of {expected} frames")


def check_reader(reader: VideoReader) -> None:
    """Reads every frame of a clip that is not a video file.

    Raises:
        VideoError: as the reader does.
    """
    with reader:
        for start in range(0, reader.num_frames, _AT_ONCE):
            reader.get(range(start, min(start + _AT_ONCE, reader.num_frames)))


class Check:
    """The stage: clips -> why each is broken, '' if it is not.

    Args:
        args: of the command.
    """

    def __init__(self, args):
        self._args, self._shards = args, None

    def clips(self) -> tuple[list[str], list]:
        """(names of all clips, what `__call__` takes of each)."""
        args = self._args
        if args.shards or args.tfds:
            source = self._source()
            names = ([source.entry(i).name for i in range(len(source))] if args.shards else
                     [f"{args.tfds}/{args.split}[{i}]" for i in range(len(source))])
            return names, list(range(len(names)))
        if not args.list:
            names = files_below(args.folder or args.root)
            return names, [(name, 0) for name in names]
        items = list_items(args.list, self._root(), args.list_format)
        return [item.path for item in items], [(item.path, item.num_frames) for item in items]

    def __call__(self, clips: list) -> list[str]:
        return [reason_of(self._check, clip) for clip in clips]

    def _check(self, clip) -> None:
        if isinstance(clip, int):
            check_reader(self._source().open(clip))
            return
        name, num_frames = clip
        path = os.path.join(self._root(), name)
        if self._args.list and self._args.list_format == "frames":
            check_reader(FrameFolder(path, num_frames, self._args.frame_template, self._args.start_index))
        else:
            check_file(path, *([remote.content_of(path)] if remote.is_remote(self._root()) else []))

    def _root(self) -> str:
        if not self._args.list:
            return self._args.folder or self._args.root
        return self._args.root or os.path.dirname(self._args.list)

    def _source(self):
        """Of shards; opened once in every process."""
        if self._shards is None:
            from data_pipelines.sources.shards import ArrayRecordSource, TfdsSource

            args = self._args
            config = types.SimpleNamespace(source="array_record" if args.shards else "tfds",
                                           root=args.root or "", tfds_name=args.tfds, num_classes=0,
                                           train_list=args.shards or args.split)
            self._shards = (ArrayRecordSource if args.shards else TfdsSource)(config, "train")
        return self._shards

    def __getstate__(self):
        return {**vars(self), "_shards": None}


class Journal:
    """What was found so far, one JSON line per clip, for an interrupted check."""

    def __init__(self, path: Path, task: dict):
        self.path, self.found = path, {}
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        if lines and lines[0] == json.dumps(task):
            for line in lines[1:-1]:  # what follows the last newline was cut off by a kill
                name, reason = json.loads(line)
                self.found[name] = reason
            text = "\n".join(lines[:-1]) + "\n"
        else:
            text = json.dumps(task) + "\n"
        with atomic_write(path) as part:
            part.write_text(text, encoding="utf-8")
        self._file = open(path, "a", encoding="utf-8")

    def add(self, name, reason):
        self.found[name] = reason
        self._file.write(json.dumps([name, reason]) + "\n")
        self._file.flush()

    def remove(self):
        self._file.close()
        self.path.unlink()


def main(argv=None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.check_videos", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="check all videos below this folder")
    parser.add_argument("--list", help="check the clips of this list file")
    parser.add_argument("--root", help="folder that the paths of the list are relative to "
                                       "(default: its own); alone: like FOLDER")
    parser.add_argument("--list_format", choices=("video", "frames"), default="video")
    parser.add_argument("--frame_template", default="img_{:05}.png")
    parser.add_argument("--start_index", type=int, default=1, help="number of the first frame")
    parser.add_argument("--shards", help="pattern of ArrayRecord shards")
    parser.add_argument("--tfds", help="name of a TFDS data set prepared under --root")
    parser.add_argument("--split", default="train", help="its split")
    parser.add_argument("--out", help=f"default: {_OUT}, if there are any")
    add_flags(parser)
    args = parser.parse_args(argv)
    check_template("--frame_template", args.frame_template)
    if args.folder and (args.list or args.root) or not (
            args.folder or args.list or args.root or args.shards):
        parser.error("give either a folder, or --list, --root, --shards or --tfds with --root")
    if args.folder and os.path.isfile(args.folder):
        args.folder, args.list = None, args.folder

    engine = make_engine(args.engine, args.workers, args.address)
    check = Check(args)
    names, clips = check.clips()
    out = Path(args.out or _OUT)
    task = {key: value for key, value in vars(args).items() if key not in ("out", *ENGINE_FLAGS)}
    journal = Journal(out.with_name(out.name + ".journal"), task)
    rest = [i for i, name in enumerate(names) if name not in journal.found]
    if len(rest) < len(names):
        print(f"continuing: {len(names) - len(rest)} clips were checked before", file=sys.stderr)

    found = one_by_one(engine, Stage(check, lambda clip: DIED), [clips[i] for i in rest], "checking", "clip",
                       done=len(names) - len(rest))
    for i, reason in found:
        journal.add(names[rest[i]], reason)
    broken = {printable(name): journal.found[name] for name in names if journal.found[name]}
    if broken or args.out:
        write_broken(out, broken)
    else:
        out.unlink(missing_ok=True)  # of an earlier check
    journal.remove()
    for name in list(broken)[:5]:
        print(f"broken: {name}: {broken[name]}")
    print(f"{len(broken)} of {len(names)} clips are broken" + (f"; the list is {out}" if broken else ""))
    return 1 if broken else 0


if __name__ == "__main__":
    run_tool(main)
