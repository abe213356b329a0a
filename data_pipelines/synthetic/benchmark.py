"""Embedded benchmark: labelled clips made by code, written as real H.264 mp4 files.

No data set may be shipped or downloaded, so this is what demos, tests and published numbers run on.
The files go through the same lists, decoder and loader as Kinetics would. What the clips show is in
`drawing.py`; here they become files.

A built benchmark, with labels in alphabetical order of the class names, as for any folder of
classes (data.source='folder' reads the same benchmark):

    train/<class>/<index>.mp4   val/<class>/<index>.mp4
    train.txt  val.txt          lines `path label`, paths relative to this folder
    train_clips.csv  val_clips.csv   a row per line of the list: what generated the clip
    classes.txt  manifest.json

Clip i of a split is a pure function of (parameters except the counts, split, i): train and val have
disjoint random streams, and a smaller benchmark is the beginning of a larger one. The bytes of the
files also depend on the versions of NumPy, OpenCV and, above all, x264.

    python -m data_pipelines.synthetic --out=clips --contact_sheet=clips.png
"""

import argparse
import csv
import functools
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.synthetic import folders, scenes
from data_pipelines.synthetic.drawing import (
    GENERATOR_VERSION,
    MOTIONS,
    SPLITS,
    YOUNGER,
    check_params,
    class_names,
    default_params,
    draw_factors,
    make_clip,
)
from data_pipelines.tools import atomic_write, parallel


class Benchmark(NamedTuple):
    """Paths of a built benchmark; the entries of the lists are relative to `root`."""
    train_list: str
    val_list: str
    classes_file: str
    root: str


def write_video(path, frames, fps=25, *, crf=18, gop=12, b_frames=2, preset="veryfast",
                pix_fmt="yuv420p", times_ms=None) -> None:
    """Writes an H.264 mp4 file, which appears under its name only when it is complete.

    Args:
        path: the file; its folder must exist.
        frames: uint8 (T, H, W, 3), RGB. Odd sizes need pix_fmt='yuv444p'.
        fps: frames per second: number or text such as '30000/1001'.
        crf: x264's quality, 0 (lossless) to 51.
        gop: largest distance between key frames.
        b_frames: B frames in a row at most; with any, decoding order is not display order.
        preset: x264's trade of time for size.
        pix_fmt: pixel format in the file.
        times_ms: display time of every frame in milliseconds, for a variable frame rate.
    """
    frames = np.ascontiguousarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames must be uint8 (T, H, W, 3) with T > 0, not {frames.dtype} "
                         f"{frames.shape}")
    with atomic_write(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        # Same frames, same bytes: one thread, and no macroblock tree, with which the x264 of
        # PyAV 18 now and then writes another file for small frames.
        stream.codec_context.thread_count = 1
        stream.options = {"preset": preset, "crf": str(crf), "g": str(gop), "bf": str(b_frames),
                          "mbtree": "0"}
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for t, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = int(times_ms[t]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def build(out, params, workers: int | None = None) -> Benchmark:
    """Writes the benchmark into a folder, or completes it there; shows progress on stderr.

    An interrupted build is continued; only files that are missing are written. Of several processes
    that build in the same folder one works and the others wait for it.

    Args:
        out: the folder.
        params: see `default_params`; missing ones take their defaults.
        workers: threads; the number of cores by default.

    Raises:
        DataError: bad parameters, or the folder holds a benchmark with other parameters, or anything else.
    """
    params, out = check_params(params), Path(out).absolute()
    manifest = {"generator_version": GENERATOR_VERSION, "parameters": _identity(params)}
    with folders.building(out, manifest, YOUNGER):
        names = class_names(params)
        missing = []
        for split in SPLITS:
            for name in names:
                (out / split / name).mkdir(parents=True, exist_ok=True)
            present = {path.name for path in out.glob(f"{split}/*/*.mp4")}
            missing += [(split, i) for i in range(params[f"{split}_clips"])
                        if f"{i:06d}.mp4" not in present]

        written = dict(zip(missing, parallel(
            functools.partial(_write_clip, out, params), missing, workers, "writing the embedded benchmark",
            "clip", processes=True), strict=True))
        for split in SPLITS:
            if missing or not (out / f"{split}.txt").exists():
                _write_list(out, split, params, written)
        with atomic_write(out / "classes.txt") as part:
            part.write_text("".join(f"{name}\n" for name in names))
    return Benchmark(*(str(out / name) for name in ("train.txt", "val.txt", "classes.txt", "")))


def ensure_built(data_config) -> Benchmark:
    """Builds the benchmark of a configuration unless it is there already.

    Args:
        data_config: the data configuration; `synthetic` has the parameters, `root` is the folder
            under which every set of parameters has its own subfolder.

    Raises:
        DataError: bad parameters; no root, or one that holds something else; or data.flip with classes that
            a mirror exchanges.
    """
    params = check_params(data_config.synthetic)
    mirrored = [name for name in list(MOTIONS)[:params["num_motions"]] if MOTIONS[name][0]]
    if data_config.flip and mirrored:
        raise DataError(
            f"data.flip=True mirrors half of the training clips, but the embedded benchmark has "
            f"classes that a mirror exchanges (motions {' and '.join(mirrored)}). Set "
            f"data.flip=False, or data.synthetic.num_motions=2 (up and down only).")
    folder = folders.choose(data_config, params, len(class_names(params)),
                            [GENERATOR_VERSION, _identity(params)])
    return build(folder, params)


def made_clips(data_config, split: str) -> dict[str, dict[str, str]]:
    """{name of a clip: what generated it, see `draw_factors`}; {} of other data than the embedded benchmark.

    Args:
        data_config: the data configuration.
        split: its name; 'calib' is a part of 'train'.

    Raises:
        DataError: see `ensure_built`.
    """
    if data_config.source == "synthetic_scenes":
        return scenes.made(data_config, split if split in SPLITS else "train")
    if data_config.source != "synthetic":
        return {}
    name = split if split in SPLITS else "train"
    with open(Path(ensure_built(data_config).root) / f"{name}_clips.csv", encoding="utf-8") as f:
        return {row["path"]: row for row in csv.DictReader(f)}


def _clip_path(names, split, index):
    return f"{split}/{names[index % len(names)]}/{index:06d}.mp4"


def _identity(params):
    """The parameters as they were before the younger ones, where these have no effect."""
    return {name: value for name, value in params.items() if YOUNGER.get(name) != value}


def _write_clip(out, params, clip):
    """Writes one file and returns its factors; `clip`: split and index."""
    factors, frames = make_clip(params, *clip)
    write_video(out / _clip_path(class_names(params), *clip), frames, factors["fps"], crf=factors["crf"],
                gop=factors["gop"])
    return factors


def _write_list(out, split, params, written):
    """The lists of a split; `written` has the factors of clips that are known: (split, index) -> factors."""
    names = class_names(params)
    rows = [{"path": _clip_path(names, split, index),
             **(written.get((split, index)) or draw_factors(params, split, index)[0])}
            for index in range(params[f"{split}_clips"])]
    folders.write_lists(out, split, rows)


# ------------------------------------------------------------------------------ sheets, odd files
def contact_sheet(benchmark: Benchmark, path, frames_per_clip: int = 6) -> None:
    """Writes a PNG with one clip of every class: frames over time, and the last at half resolution.

    Args:
        benchmark: a built benchmark; its first val clips are shown.
        path: the PNG file.
        frames_per_clip: evenly spread frames to show.
    """
    from data_pipelines.video.decode import open_video

    names = Path(benchmark.classes_file).read_text().split()
    with open(Path(benchmark.root) / "val_clips.csv", encoding="utf-8") as file:
        clips = {row["label"]: row for row in reversed(list(csv.DictReader(file)))}
    rows = []
    for label, name in enumerate(names):
        if str(label) not in clips:
            continue
        clip = clips[str(label)]
        with open_video(str(Path(benchmark.root) / clip["path"])) as video:
            picked = np.linspace(0, video.num_frames - 1, frames_per_clip).round()
            images = video.get(picked.astype(int))
        side = min(images.shape[1:3])
        top, left = (images.shape[1] - side) // 2, (images.shape[2] - side) // 2
        images = list(images[:, top:top + side, left:left + side])
        half = cv2.resize(images[-1], (side // 2, side // 2), interpolation=cv2.INTER_AREA)
        tiles = [cv2.resize(image, (144, 144), interpolation=cv2.INTER_NEAREST)
                 for image in [*images, half]]
        caption = np.full((18, 144 * len(tiles), 3), 255, np.uint8)
        about = (f"{name}   difficulty {clip['difficulty']}, {clip['redundancy']}"
                 + (f", {clip['late']} late" if clip["late"] else "")
                 + f", decisive frame {clip['decisive_frame']} of {clip['frames']}")
        cv2.putText(caption, about, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1,
                    cv2.LINE_AA)
        rows.append(np.concatenate([caption, np.concatenate(tiles, 1)]))
    columns = 1 if len(rows) < 8 else 2
    rows += [np.full_like(rows[0], 255)] * (-len(rows) % columns)
    height = len(rows) // columns
    sheet = np.concatenate([np.concatenate(rows[c * height:(c + 1) * height])
                            for c in range(columns)], axis=1)
    done, picture = cv2.imencode(".png", sheet[..., ::-1])
    if not done or not Path(path).parent.is_dir():
        raise DataError(f"cannot write {path}: not a folder that exists")
    with atomic_write(path) as part:
        part.write_bytes(picture)


def make_odd_files(folder) -> dict[str, bool]:
    """Writes the kinds of files that real collections contain besides good ones.

    Returns:
        {file name: whether it is a readable video}. Readable: variable frame rate, rotated by its
        display matrix, odd width and height, a single frame, a name with blanks. Not readable: empty,
        truncated (the index at the end is missing), cut (the index is there, frames are missing), no
        frames, sound only, text, and damaged in the middle.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _, frames = make_clip(check_params({}), "val", 0)
    frames = np.resize(frames, (24, *frames.shape[1:]))
    times = np.cumsum(np.random.default_rng(0).integers(10, 120, len(frames)))
    write_video(folder / "vfr.mp4", frames, times_ms=times)
    write_video(folder / "rotated.mp4", frames)
    _rotate(folder / "rotated.mp4")
    write_video(folder / "odd_size.mp4", frames[:, :-1, :-1], pix_fmt="yuv444p")
    write_video(folder / "one_frame.mp4", frames[:1])
    write_video(folder / "name with blanks.mp4", frames)

    good = (folder / "name with blanks.mp4").read_bytes()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "truncated.mp4").write_bytes(good[:len(good) // 2])
    (folder / "text.mp4").write_text("This is not a video.\n" * 50)
    start, end = good.index(b"mdat") + 4, good.index(b"moov") - 4
    noise = np.random.default_rng(1).bytes((end - start) // 2)
    middle = start + (end - start) // 4
    (folder / "damaged.mp4").write_bytes(good[:middle] + noise + good[middle + len(noise):])
    _index_first(folder / "name with blanks.mp4", folder / "cut.mp4")
    whole = (folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[:len(whole) // 2])
    with av.open(str(folder / "no_frames.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with av.open(str(folder / "sound_only.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate, sound.pts = 16000, 0
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    readable = {"vfr.mp4", "rotated.mp4", "odd_size.mp4", "one_frame.mp4", "name with blanks.mp4"}
    return {path.name: path.name in readable for path in sorted(folder.glob("*.mp4"))}


def _rotate(path):
    """Sets the display matrix of an mp4 to a quarter turn, as telephones do (PyAV cannot)."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44  # version 0 of the box: 40 bytes of other fields before it
    matrix = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data[:start] + matrix + data[start + len(matrix):])


def _index_first(source, target):
    """Copies an mp4 without decoding, its index in front of the frames (as for streaming)."""
    with (av.open(str(source)) as old,
          av.open(str(target), "w", options={"movflags": "faststart"}) as new):
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)


def main(argv=None) -> int:
    """Command line: builds the benchmark into a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.synthetic",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Writes the embedded benchmark as mp4 files. Interrupted, the same command "
                    "continues.", epilog="parameters:" + default_params.__doc__.split("\n", 2)[2])
    parser.add_argument("--out", required=True, help="folder to write into")
    short = {"train_clips": "--train", "val_clips": "--val", "short_side": "--size"}
    for name, value in default_params().items():
        flags = [f"--{name}"] + ([short[name]] if name in short else [])
        parser.add_argument(*flags, type=type(value), default=value, metavar="N",
                            help=f"default {value}")
    parser.add_argument("--contact_sheet", metavar="PNG",
                        help="also draw sample clips, into this file")
    parser.add_argument("--workers", type=int, help="threads; default: the number of cores")
    args = parser.parse_args(argv)
    params = {name: getattr(args, name) for name in default_params()}
    benchmark = build(args.out, params, args.workers)
    if args.contact_sheet:
        contact_sheet(benchmark, args.contact_sheet)
    print(f"{params['train_clips']} train and {params['val_clips']} val clips of "
          f"{len(class_names(params))} classes in {benchmark.root}")
    return 0
