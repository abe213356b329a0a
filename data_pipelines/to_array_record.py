"""Writes a data set as ArrayRecord shards: one record per video, JPEG frames or the original file.

    python -m data_pipelines.to_array_record --list=train.txt --root=data/kinetics400 \\
        --classes_file=classes.txt --out=shards --split=train
    python -m data_pipelines.to_array_record --root=my_videos --out=shards --split=val
        (a folder of classes; the split is the one that data.source='folder' makes)

JPEG frames decode about ten times faster than video. By default a record holds up to 32 evenly
spread frames of short side 256, enough for segment sampling; --frames=0 keeps all of them (dense
sampling), --kind=video the bytes of the file. Train with data.source='array_record',
data.root=<out>; the shards of a split are <split>-00000-of-00008.array_record and so on.

Videos that cannot be read are left out, up to --max_broken_share, and listed with their reasons in
<out>/<split>_broken.txt. Interrupted, the same command continues with the first missing shard.
With --engine=local or ray a shard is a process's work: --num_shards says how many can be written at once.
"""

import argparse
import json
import os
import types
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.batches.transforms import resize_short_side
from data_pipelines.clip_lists import Dropped, read_broken, write_broken
from data_pipelines.engine import ENGINE_FLAGS, Engine, Stage, add_flags, make_engine, run
from data_pipelines.errors import DataError, VideoError
from data_pipelines.options import check_template
from data_pipelines.sources.class_names import class_lines
from data_pipelines.sources.files import FileSource, folder_source, list_source
from data_pipelines.tools import atomic_write, parallel, progress_bar, run_tool
from data_pipelines.video.decode import open_video
from data_pipelines.video.records import Record, ShardWriter

WHOLE = ".whole.incomplete"


def jpeg_record(reader, name: str, labels, *, max_frames: int, short_side: int,
                quality: int) -> Record:
    """Returns a record of JPEG frames.

    Args:
        reader: an open video.
        name, labels: of the record.
        max_frames: evenly spread frames to keep, the middles of equal segments; 0 keeps all.
        short_side: larger frames are shrunk to it; 0 keeps the size.
        quality: of the JPEG encoder, 1 to 100.

    Raises:
        VideoError: a frame cannot be read.
    """
    count = reader.num_frames
    indices = np.arange(count)
    if 0 < max_frames < count:
        indices = ((np.arange(max_frames) + 0.5) * count / max_frames).astype(int)
    jpegs = []
    for start in range(0, len(indices), 32):  # a long video need not fit into memory
        frames = reader.get(indices[start:start + 32])
        if 0 < short_side < min(frames.shape[1:3]):
            frames = resize_short_side(frames, short_side)
        for frame in frames:
            _, jpeg = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
            jpegs.append(jpeg.tobytes())
    return Record(name, tuple(labels), reader.fps, count, jpegs=tuple(jpegs),
                  frame_indices=tuple(indices.tolist()))


def video_record(path: str, name: str, labels, source: str | bytes | None = None) -> Record:
    """Returns a record with the bytes of a video file, after decoding its first and last frame.

    Args:
        path: of the file.
        name, labels: of the record.
        source: where it is not a file that can be opened: its bytes.

    Raises:
        VideoError: it cannot be read.
    """
    source = path if source is None else source
    with open_video(source, path) as reader:
        reader.get([0, reader.num_frames - 1])
        fps, count = reader.fps, reader.num_frames
    return Record(name, tuple(labels), fps, count,
                  video=source if isinstance(source, bytes) else Path(path).read_bytes())


class Shards:
    """The stage: (path, clips as a `FileSource`) of a shard -> [(name, reason)] of the clips that it lacks.

    The shard has `WHOLE` after its name then, until it is written down what it lacks.

    Args:
        kind: 'jpeg' or 'video'.
        frames, short_side, quality: see `jpeg_record`.
    """

    def __init__(self, kind: str, frames: int, short_side: int, quality: int):
        self._kind = kind
        self._options = dict(max_frames=frames, short_side=short_side, quality=quality)

    def record(self, source: FileSource, index: int) -> Record | VideoError:
        """Of a clip, or what is wrong with it."""
        entry = source.entry(index)
        labels = tuple(dict.fromkeys(entry.labels))
        try:
            if self._kind == "video":
                path = source.path(index)
                return video_record(path, entry.name, labels, source.content(index))
            with source.open(index) as reader:
                return jpeg_record(reader, entry.name, labels, **self._options)
        except VideoError as error:
            return error

    def __call__(self, shards: list[tuple[str, FileSource]]) -> list[list[tuple[str, str]]]:
        return [self.write(path, source, (self.record(source, i) for i in range(len(source))))
                for path, source in shards]

    def write(self, path: str, source: FileSource, records) -> list[tuple[str, str]]:
        """Writes a shard of records; returns what it lacks."""
        lacks = []
        with ShardWriter(f"{path}{WHOLE}", source.class_names) as shard:
            for index, found in zip(range(len(source)), records):
                if isinstance(found, VideoError):
                    lacks.append((source.entry(index).name, found.reason))
                else:
                    shard.write(found)
        return lacks


def write_shards(source: FileSource, indices: list[int], out: Path, split: str, num_shards: int,
                 stage: Shards, dropped: Dropped, engine: Engine, workers: int | None = None) -> None:
    """Writes the shards of a split that are not there yet.

    Args:
        source: the clips.
        indices: which of them, in the order in which they are stored.
        out: folder of the shards.
        split: first part of their names.
        num_shards: how many; clip i of n goes into shard i * num_shards // n.
        stage: writes them.
        dropped: counts those that cannot be read.
        engine: that spreads the shards; threads share the clips of one.
        workers: threads.
    """
    shards = [out / f"{split}-{s:05d}-of-{num_shards:05d}.array_record" for s in range(num_shards)]
    parts = [part.tolist() for part in np.array_split(indices, num_shards)]
    missing = [(path, part) for path, part in zip(shards, parts, strict=True) if not path.exists()]
    done = len(indices) - sum(len(part) for _, part in missing)

    def finish(path, lacks):
        try:
            for name, reason in lacks:
                dropped.add(name, reason)
            # Before the shard gets its name: who continues later must know what it lacks.
            write_broken(out / f"{split}_broken.txt", dropped.clips)
            os.replace(f"{path}{WHOLE}", path)
        finally:
            Path(f"{path}{WHOLE}").unlink(missing_ok=True)

    if engine.block == 1:
        rest = [index for _, part in missing for index in part]
        records = parallel(lambda index: stage.record(source, index), rest, workers, f"writing {split}",
                           "clip", done=done)
        for path, part in missing:
            finish(path, stage.write(str(path), source.part(part), records))
        records.close()
        return
    blocks = [[(os.path.abspath(path), source.part(part))] for path, part in missing]
    with progress_bar(len(indices), f"writing {split}", "clip", done) as bar:
        for number, (lacks,) in run(engine, [Stage(stage, _died)], blocks):
            finish(missing[number][0], lacks)
            bar.update(len(missing[number][1]))


def _died(shard):
    path, source = shard
    raise DataError(f"the processes that write {path} die: one of its {len(source)} clips does that. "
                    f"`{source.check_command} --engine=local` finds it; leave it out with --exclude.")


def _source(args) -> FileSource:
    config = types.SimpleNamespace(
        source="list" if args.list else "folder", root=args.root, train_list=args.list, val_list="",
        list_format=args.list_format, frame_template=args.frame_template,
        start_index=args.start_index, classes_file=args.classes_file, num_classes=args.num_classes,
        multi_label=args.multi_label, val_share=args.val_share, split_seed=args.split_seed,
        max_broken_share=args.max_broken_share)
    return list_source(config, "train") if args.list else folder_source(config, args.split)


def _check_settings(path: Path, settings: dict) -> None:
    """Shards of different settings must not mix in one split."""
    if path.exists():
        found = json.loads(path.read_text())
        differ = [f"{key}={found.get(key)!r} there, {value!r} now"
                  for key, value in settings.items() if found.get(key) != value]
        if differ:
            raise DataError(f"{path.parent} holds shards of this split that were made in another "
                            f"way ({'; '.join(differ)}). Choose another --out, or delete {path} "
                            f"and the shards of the split.")
        return
    with atomic_write(path) as part:
        part.write_text(json.dumps(settings, indent=2) + "\n")


def main(argv=None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.to_array_record", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder of the shards")
    parser.add_argument("--split", required=True, help="'train', 'val', ...")
    parser.add_argument("--root", default="", help="folder of the clips")
    parser.add_argument("--list", default="", help="list file; without: --root holds class folders")
    parser.add_argument("--list_format", choices=("video", "frames"), default="video")
    parser.add_argument("--frame_template", default="img_{:05}.png")
    parser.add_argument("--start_index", type=int, default=1, help="number of the first frame")
    parser.add_argument("--classes_file", default="", help="names of the classes of the list")
    parser.add_argument("--num_classes", type=int, default=0, help="of a list without names")
    parser.add_argument("--multi_label", action="store_true", help="lines have several labels")
    parser.add_argument("--val_share", type=float, default=0.2, help="default: %(default)s")
    parser.add_argument("--split_seed", type=int, default=0)
    parser.add_argument("--exclude", metavar="FILE", help="leave out the clips of this list")
    parser.add_argument("--kind", choices=("jpeg", "video"), default="jpeg")
    parser.add_argument("--frames", type=int, default=32, help="0: all; default: %(default)s")
    parser.add_argument("--short_side", type=int, default=256, help="0: as it is; default: 256")
    parser.add_argument("--quality", type=int, default=90, help="of JPEG; default: %(default)s")
    parser.add_argument("--num_shards", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--max_broken_share", type=float, default=0.01, help="default: %(default)s")
    add_flags(parser)
    args = parser.parse_args(argv)
    check_template("--frame_template", args.frame_template)
    if args.kind == "video" and args.list_format == "frames":
        parser.error("--kind=video needs video files, not --list_format=frames")
    if args.num_shards < 1 or args.frames < 0 or not 1 <= args.quality <= 100:
        parser.error("--num_shards must be at least 1, --frames at least 0, --quality 1 to 100")

    engine = make_engine(args.engine, args.workers, args.address)
    source = _source(args)
    excluded = read_broken(args.exclude) if args.exclude else {}
    indices = [i for i in range(len(source)) if source.entry(i).name not in excluded]
    if not indices:
        raise DataError(f"--exclude={args.exclude} leaves no clip of {source.description}.")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    ignored = ("out", "max_broken_share", *ENGINE_FLAGS)
    _check_settings(out / f"{args.split}_settings.json",
                    {key: value for key, value in vars(args).items() if key not in ignored}
                    | {"clips": len(indices)})
    broken = out / f"{args.split}_broken.txt"
    dropped = Dropped(len(indices), args.max_broken_share,
                      read_broken(broken) if broken.exists() else {})

    stage = Shards(args.kind, args.frames, args.short_side, args.quality)
    write_shards(source, indices, out, args.split, args.num_shards, stage, dropped, engine, args.workers)
    with atomic_write(out / "classes.txt") as part:
        part.write_text("".join(f"{line}\n" for line in class_lines(source.class_names)), encoding="utf-8")
    dropped.report()
    size = sum(path.stat().st_size for path in out.glob(f"{args.split}-*.array_record")) / 2**20
    print(f"{len(indices) - len(dropped.clips)} clips, {size:.1f} MiB in {args.num_shards} shards "
          f"{os.path.join(args.out, args.split)}-*")
    return 0


if __name__ == "__main__":
    run_tool(main)
