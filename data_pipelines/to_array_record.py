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
"""

import argparse
import json
import os
import types
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.batches.transforms import resize_short_side
from data_pipelines.clip_lists import Dropped, read_broken, write_broken
from data_pipelines.errors import DataError, VideoError
from data_pipelines.options import check_template
from data_pipelines.sources.class_names import class_lines
from data_pipelines.sources.files import FileSource, folder_source, list_source
from data_pipelines.tools import atomic_write, parallel, run_tool
from data_pipelines.video.decode import open_video
from data_pipelines.video.records import Record, ShardWriter


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


def video_record(path: str, name: str, labels) -> Record:
    """Returns a record with the bytes of a video file, after decoding its first and last frame.

    Raises:
        VideoError: it cannot be read.
    """
    with open_video(path) as reader:
        reader.get([0, reader.num_frames - 1])
        fps, count = reader.fps, reader.num_frames
    return Record(name, tuple(labels), fps, count, video=Path(path).read_bytes())


def write_shards(source: FileSource, indices: list[int], out: Path, split: str, num_shards: int,
                 make_record: Callable[[int], Record], dropped: Dropped,
                 workers: int | None = None) -> None:
    """Writes the shards of a split that are not there yet.

    Args:
        source: the clips.
        indices: which of them, in the order in which they are stored.
        out: folder of the shards.
        split: first part of their names.
        num_shards: how many; clip i of n goes into shard i * num_shards // n.
        make_record: gives the record of an index of the source, or raises `VideoError`.
        dropped: counts those that cannot be read.
        workers: threads.
    """
    shards = [out / f"{split}-{s:05d}-of-{num_shards:05d}.array_record" for s in range(num_shards)]
    parts = [part.tolist() for part in np.array_split(indices, num_shards)]
    missing = [(path, part) for path, part in zip(shards, parts, strict=True) if not path.exists()]
    rest = [index for _, part in missing for index in part]

    def record(index):
        try:
            return make_record(index)
        except VideoError as error:
            return error

    records = parallel(record, rest, workers, f"writing {split}", "clip",
                       done=len(indices) - len(rest))
    for path, part in missing:
        with ShardWriter(path, source.class_names) as shard:
            for index in part:
                found = next(records)
                if isinstance(found, VideoError):
                    dropped.add(source.entry(index).name, found.reason)
                else:
                    shard.write(found)
            # Before the shard gets its name: who continues later must know what it lacks.
            write_broken(out / f"{split}_broken.txt", dropped.clips)
    records.close()


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
    parser.add_argument("--workers", type=int, help="threads; default: the number of cores")
    args = parser.parse_args(argv)
    check_template("--frame_template", args.frame_template)
    if args.kind == "video" and args.list_format == "frames":
        parser.error("--kind=video needs video files, not --list_format=frames")
    if args.num_shards < 1 or args.frames < 0 or not 1 <= args.quality <= 100:
        parser.error("--num_shards must be at least 1, --frames at least 0, --quality 1 to 100")

    source = _source(args)
    excluded = read_broken(args.exclude) if args.exclude else {}
    indices = [i for i in range(len(source)) if source.entry(i).name not in excluded]
    if not indices:
        raise DataError(f"--exclude={args.exclude} leaves no clip of {source.description}.")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    ignored = ("out", "workers", "max_broken_share")
    _check_settings(out / f"{args.split}_settings.json",
                    {key: value for key, value in vars(args).items() if key not in ignored}
                    | {"clips": len(indices)})
    broken = out / f"{args.split}_broken.txt"
    dropped = Dropped(len(indices), args.max_broken_share,
                      read_broken(broken) if broken.exists() else {})

    def make_record(index):
        entry = source.entry(index)
        labels = tuple(dict.fromkeys(entry.labels))
        if args.kind == "video":
            return video_record(source.path(index), entry.name, labels)
        with source.open(index) as reader:
            return jpeg_record(reader, entry.name, labels, max_frames=args.frames,
                               short_side=args.short_side, quality=args.quality)

    write_shards(source, indices, out, args.split, args.num_shards, make_record, dropped,
                 args.workers)
    with atomic_write(out / "classes.txt") as part:
        part.write_text("".join(f"{line}\n" for line in class_lines(source.class_names)), encoding="utf-8")
    dropped.report()
    size = sum(path.stat().st_size for path in out.glob(f"{args.split}-*.array_record")) / 2**20
    print(f"{len(indices) - len(dropped.clips)} clips, {size:.1f} MiB in {args.num_shards} shards "
          f"{os.path.join(args.out, args.split)}-*")
    return 0


if __name__ == "__main__":
    run_tool(main)
