"""Which library decodes the frames of a clip fastest, and whether they are those asked for.

    python benchmarks/decoders.py --out runs/decoders --results docs/results.csv
    python benchmarks/decoders.py --out runs/tiny --clips 1 --frames 24 --repeats 1       # seconds, to try it

PyAV as data_pipelines uses it, PyAV from the start with one thread and with two, OpenCV, torchcodec and
decord (those that can be imported) read the 8 middles of equal segments of the same videos, made by code in
the containers of the data sets (`videos.py`). All cores are busy with a video each, sides are timed in turns,
and medians are compared: clips a second over those of PyAV as used. Then each takes the clips alone, and what
is counted is a core's time, which says most where the machine has other work. Frames have their number
painted in: how many were others is counted, and the right ones are compared with all frames decoded in turn,
pixel by pixel.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import av
import cv2
import numpy as np

import data_pipelines
from benchmarks import videos
from benchmarks.videos import every_frame, middles
from effvid_jax import writers
from effvid_jax.reports import results
from effvid_jax.speed import timing
from tests.data.clip_files import data_config

OURS = "PyAV, as used"
Decoder = Callable[[str, Sequence[int]], np.ndarray]  # path and frames, in order -> (n, H, W, 3)


def ours(paths: Sequence[str], folder: Path) -> Decoder:
    """The reader of data_pipelines, for these videos; frames are the 8 that it samples in evaluation."""
    listed = folder / "listed.txt"
    writers.write_text(str(listed), "".join(f"{os.path.abspath(path)} 0\n" for path in paths))
    split = data_pipelines.open_split(data_config(source="list", train_list=str(listed), num_classes=2,
                                                  num_frames=8), "train")
    numbers = {path: number for number, path in enumerate(paths)}
    return lambda path, indices: split.test_frames(numbers[path])


def _pyav(path, indices, threads=1):
    frames, wanted = [], set(indices)
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "AUTO", threads
        for i, frame in enumerate(container.decode(stream)):
            if i in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            if i == indices[-1]:
                break
    return np.stack(frames)


def _opencv(path, indices):
    capture, frames, at = cv2.VideoCapture(path), [], 0
    for index in indices:
        while at <= index:
            capture.grab()
            at += 1
        frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    return np.stack(frames)


def _opencv_seeking(path, indices):
    capture, frames = cv2.VideoCapture(path), []
    for index in indices:
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        frames.append(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
    return np.stack(frames)


def _torchcodec(path, indices, **options):
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, **options)
    return decoder.get_frames_at(indices).data.numpy()


def _torchcodec_approximate(path, indices):
    return _torchcodec(path, indices, seek_mode="approximate")


def _decord(path, indices):
    import decord

    return decord.VideoReader(path, num_threads=1).get_batch(indices).asnumpy()


DECODERS: dict[str, tuple[str, Decoder]] = {  # name: (what it needs, how it reads)
    "PyAV, from the start": ("av", _pyav),
    "PyAV, from the start, 2 threads": ("av", partial(_pyav, threads=2)),
    "OpenCV, from the start": ("cv2", _opencv), "OpenCV, seeking": ("cv2", _opencv_seeking),
    "torchcodec": ("torchcodec.decoders", _torchcodec),
    "torchcodec, approximate": ("torchcodec.decoders", _torchcodec_approximate),
    "decord": ("decord", _decord)}


def usable() -> dict[str, Decoder]:
    """The decoders whose library can be imported; the others are named on standard error."""
    found = {}
    for name, (module, decode) in DECODERS.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # torchcodec: RuntimeError without FFmpeg's libraries
            print(f"{name}: left out ({type(error).__name__}: {str(error).splitlines()[0]})", file=sys.stderr)
        else:
            found[name] = decode
    return found


def exactness(decode: Decoder, paths: Sequence[str]) -> tuple[int, int, float]:
    """What a decoder gives.

    Returns:
        How many frames were others than those asked for, or were not given at all; of how many; and the mean
        difference in grey levels of the right one that differs most from the reference.
    """
    wrong, total, difference = 0, 0, 0.0
    for path in paths:
        reference = every_frame(path)
        indices = middles(len(reference))
        total += len(indices)
        try:
            frames = decode(path, indices)
        except Exception as error:  # each library has its own
            print(f"{path}: {type(error).__name__}: {str(error).splitlines()[:1]}", file=sys.stderr)
            wrong += len(indices)
            continue
        for frame, index in zip(frames, indices, strict=True):
            if videos.number_of(frame) == index % 256:
                difference = max(difference, float(np.abs(frame.astype(int) - reference[index]).mean()))
            else:
                wrong += 1
    return wrong, total, difference


def _with_indices(decode: Decoder, item: tuple[str, Sequence[int]]) -> np.ndarray:
    return decode(*item)


def measure(folder: Path, clips: int, frames: int, size, repeats: int, cores: int) -> list[dict]:
    """Rows of the table, see the top of this file.

    Args:
        folder: of the videos.
        clips: videos of a kind.
        frames, size: of each.
        repeats: samples of each library.
        cores: videos that are decoded at a time.
    """
    rows, others = [], usable()
    with ThreadPoolExecutor(cores) as pool:
        def read_all(decode, indices):
            return [found.shape for found in pool.map(decode, indices, indices.values())]

        for kind in videos.KINDS:
            paths = videos.make_videos(folder, kind, clips, frames, size)
            indices = {path: middles(len(every_frame(path))) for path in paths}
            libraries = {OURS: ours(paths, folder), **others}
            exact = {name: exactness(decode, paths) for name, decode in libraries.items()}
            times = timing.measure(
                {name: partial(read_all, decode, indices) for name, decode in libraries.items()
                 if exact[name][0] < exact[name][1]},
                seconds=0, min_repeats=repeats, max_repeats=repeats, min_sample_seconds=0)
            for name, (wrong, total, difference) in exact.items():
                row = {"kind": kind, "library": name, "wrong": wrong, "frames": total,
                       "difference": difference, "clips_per_second": 0.0, "ratio": 0.0, "spread": 0.0,
                       "core_ms": 0.0}
                if timed := times.get(name):
                    row |= {"clips_per_second": timed.rate(clips), "spread": timed.spread,
                            "ratio": times[OURS].median / timed.median,
                            "core_ms": 1000 * videos.core_seconds(
                                partial(_with_indices, libraries[name]), [*indices.items()], repeats)}
                rows.append(row)
    return rows


def result_rows(rows: Sequence[dict], clips: int, note: str) -> list[dict]:
    """Rows of docs/results.csv."""
    made = []
    for row in rows:
        value = f"{row['ratio']:.2f}" if row["ratio"] else "–"
        if row["wrong"]:
            value += f", {row['wrong']} of {row['frames']} frames wrong"
        made.append(results.make_row(
            f"decoders: {row['library']}: {row['kind']}", value, dataset=f"{clips} videos made by code",
            config=note, command=f"python benchmarks/decoders.py --out runs/decoders --clips {clips}",
            seeds=(0,)))
    return made


def main(argv=None) -> None:
    """Measures, prints the table and one JSON object."""
    videos.main("decoders", __doc__, measure, result_rows, argv)


if __name__ == "__main__":
    main()
