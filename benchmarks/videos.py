"""Videos made by code for what is timed: soft textures that move, noise as of a sensor, numbered frames.

Their containers, distances of key frames and lengths are those of the data sets: Kinetics and Moments in Time
(mp4), UCF-101 and HMDB-51 (avi), Something-Something V2 (webm).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import cv2
import numpy as np

from effvid_jax import writers
from effvid_jax.reports import results
from effvid_jax.speed import bench
from tests.data.clip_files import numbered_frames, read_numbers, write_video

SIZE = (340, 256)
X264 = {"preset": "medium", "crf": "23"}
# ending, codec, its options, frames
KINDS = {
    "mp4, key frames 250 apart": ("mp4", "libx264", X264 | {"g": "250"}, 300),
    "mp4, 12 apart": ("mp4", "libx264", X264 | {"g": "12"}, 300),
    "avi (MPEG-4)": ("avi", "mpeg4", {"qscale": "4"}, 180),
    "avi, B frames": ("avi", "mpeg4", {"qscale": "4", "bf": "2"}, 180),
    "webm (VP9)": ("webm", "libvpx-vp9",
                   {"cpu-used": "8", "deadline": "realtime", "crf": "32", "b": "0"}, 48)}


def moving(count: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """uint8 (count, H, W, 3): two textures that move apart, and numbers for `number_of`."""
    rng, (width, height) = np.random.default_rng(seed), size

    def texture(sigma, strength):
        soft = cv2.GaussianBlur(rng.standard_normal((height, width, 3)).astype(np.float32), (0, 0), sigma,
                                borderType=cv2.BORDER_REFLECT)
        return strength * soft / soft.std()

    back, front = texture(8, 40), texture(3, 20)
    numbers = numbered_frames(count, (64, 16))[:, :10]
    frames = np.empty((count, height, width, 3), np.uint8)
    for i in range(count):
        frame = 120 + np.roll(back, i, axis=1) + np.roll(front, (i // 2, -2 * i), axis=(0, 1))
        frames[i] = np.clip(frame + rng.normal(0, 2, frame.shape), 0, 255)
        frames[i, :20, :128] = cv2.resize(numbers[i], (128, 20), interpolation=cv2.INTER_NEAREST)
    return frames


def make_videos(folder: Path, kind: str, clips: int, frames: int, size: tuple[int, int]) -> list[str]:
    """Writes the videos of a kind that are not there yet; returns their paths.

    Args:
        folder: where.
        kind: key of `KINDS`.
        clips: how many.
        frames: of each; 0: as many as are usual.
        size: width and height.
    """
    ending, codec, options, usual = KINDS[kind]
    paths = [folder / f"{list(KINDS).index(kind)}_{i}.{ending}" for i in range(clips)]
    folder.mkdir(parents=True, exist_ok=True)
    for i, path in enumerate(paths):
        if not path.exists():
            part = path.with_name(f"part_{path.name}")
            write_video(part, moving(frames or usual, size, i), codec=codec, options=options)
            part.rename(path)
    return [str(path) for path in paths]


def number_of(frame: np.ndarray) -> int:
    """The number that is painted into a frame (H, W, 3), modulo 256."""
    return read_numbers(frame[None, :20:2, :128:2])[0]


def middles(count: int, segments: int = 8) -> list[int]:
    """Middles of equal segments, as segment sampling takes them in evaluation."""
    return ((np.arange(segments) + 0.5) * count / segments).astype(int).tolist()


def every_frame(path: str) -> np.ndarray:
    """All frames of a video, uint8 (T, H, W, 3), decoded one after the other: the reference."""
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def core_seconds(function: Callable[..., object], items: Sequence, repeats: int) -> float:
    """Seconds of a core that a call takes for an item, the least of several rounds."""
    def once() -> float:
        start = time.process_time()
        for item in items:
            function(item)
        return (time.process_time() - start) / len(items)

    return min(once() for _ in range(repeats))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the scripts share that time these videos."""
    parser.add_argument("--out", required=True, help="folder of the videos, which are kept, and the result")
    parser.add_argument("--clips", type=int, default=8, help="videos of each kind; default: %(default)s")
    parser.add_argument("--frames", type=int, default=0, help="of a video; 0: as many as are usual")
    parser.add_argument("--size", default="x".join(map(str, SIZE)), help="of videos; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="that are kept busy")
    parser.add_argument("--results", default="", help="csv file to write rows to (docs/results.csv)")
    parser.add_argument("--note", default="", help="on the rows, such as what else the machine did")


def folder_of(args) -> Path:
    """Where videos of one size and length are kept."""
    return Path(args.out, f"videos_{args.size}_{args.frames or 'usual'}")


def size_of(args) -> tuple[int, int]:
    """Width and height."""
    width, height = map(int, args.size.split("x"))
    return width, height


def main(name: str, doc: str, measure: Callable, result_rows: Callable, argv=None) -> None:
    """A script's command line: measures, prints the table and one JSON object, writes both.

    Args:
        name: of the script; the object goes to `<name>.json`.
        doc: its docstring.
        measure: (folder, clips, frames, size, repeats, cores) -> rows.
        result_rows: (rows, clips, note) -> rows of docs/results.csv.
        argv: its arguments.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    add_arguments(parser)
    args = parser.parse_args(argv)
    rows = measure(folder_of(args), args.clips, args.frames, size_of(args), args.repeats, args.cores)
    print(bench.table(rows))
    found = json.dumps({"arguments": vars(args), "rows": rows, "environment": writers.environment()})
    writers.write_text(os.path.join(args.out, f"{name}.json"), found)
    if args.results:
        results.replace_measured(args.results, result_rows(rows, args.clips, args.note))
    print(found)
