"""In which form videos are best stored: bytes, speed, and what the frames lose.

    python benchmarks/storage.py --out runs/storage --results docs/results.csv
    python benchmarks/storage.py --out runs/tiny --clips 1 --frames 24 --repeats 1       # seconds, to try it

8 frames of each clip (middles of equal segments) are read as the loader reads them: from the original video
(mp4, key frames 250 apart, with seeking), from copies with key frames 12 apart and with key frames only, from
the original's bytes in ArrayRecord, and from the 32 JPEG frames that `to_array_record` keeps. All cores are
busy with a clip each, sides are timed in turns, and medians are compared; "clips/s a core" is of a core's own
time. Loss is against the original's frames: mean difference in grey levels, and PSNR. Of 32 frames the
nearest is read: it is at most a 64th of the video away from what was asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import numpy as np

from benchmarks import videos
from benchmarks.videos import every_frame, middles
from data_pipelines import Split, open_split
from effvid_jax import writers
from effvid_jax.reports import results
from effvid_jax.speed import timing
from tests.data.clip_files import data_config, write_video

ORIGINAL = "original video"
KIND = "mp4, key frames 250 apart"
COPIES = {"copy, key frames 12 apart": "12", "copy, key frames only": "1"}
FRAMES = 8  # of a clip
SHARDS = {"original video in ArrayRecord": "video", "32 JPEG frames in ArrayRecord": "jpeg"}


def forms(folder: Path, clips: int, frames: int, size) -> dict[str, tuple[Split, int]]:
    """Writes what is not there yet; returns (clips, bytes) of each form.

    Args:
        folder: of the videos.
        clips: how many.
        frames, size: of each.
    """
    folder = folder.resolve()
    originals = videos.make_videos(folder, KIND, clips, frames, size)
    found = {ORIGINAL: _listed(folder, "original", originals)}
    for name, distance in COPIES.items():
        copies = [path.replace(".mp4", f"_{distance}.mp4") for path in originals]
        for path, copy in zip(originals, copies, strict=True):
            if not os.path.exists(copy):
                write_video(f"{copy}.part.mp4", every_frame(path), options=videos.X264 | {"g": distance})
                os.replace(f"{copy}.part.mp4", copy)
        found[name] = _listed(folder, distance, copies)
    for name, kind in SHARDS.items():
        out = folder / f"shards_{kind}_{clips}"
        subprocess.run([sys.executable, "-m", "data_pipelines.to_array_record",
                        f"--list={folder}/original.txt", f"--root={folder}", "--num_classes=2",
                        f"--out={out}", "--split=train", "--num_shards=1", f"--kind={kind}"], cwd=ROOT,
                       check=True, capture_output=True)
        config = data_config(source="array_record", root=str(out), train_list="train-*", num_frames=FRAMES)
        found[name] = (open_split(config, "train"),
                       sum(path.stat().st_size for path in out.glob("train-*.array_record")))
    return found


def _listed(folder: Path, name: str, paths: Sequence[str]) -> tuple[Split, int]:
    """(clips, bytes) of some videos."""
    path = folder / f"{name}.txt"
    writers.write_text(str(path), "".join(
        f"{os.path.basename(video)} {i % 2}\n" for i, video in enumerate(paths)))
    config = data_config(source="list", root=str(folder), train_list=str(path), num_classes=2,
                         num_frames=FRAMES)
    return open_split(config, "train"), sum(os.path.getsize(video) for video in paths)


def measure(folder: Path, clips: int, frames: int, size, repeats: int, cores: int) -> list[dict]:
    """Rows of the table, see the top of this file; arguments as those of `decoders.measure`."""
    made = forms(folder, clips, frames, size)
    with ThreadPoolExecutor(cores) as pool:
        def read_all(split):
            return [shown.shape for shown in pool.map(split.test_frames, range(clips))]

        times = timing.measure({name: partial(read_all, split) for name, (split, _) in made.items()},
                               seconds=0, min_repeats=repeats, max_repeats=repeats, min_sample_seconds=0)
    reference = every_frame(videos.make_videos(folder, KIND, clips, frames, size)[0])
    rows = []
    for name, (split, size_bytes) in made.items():
        # Frames of the original that there are, and which of them are read.
        stored = middles(len(reference), min(32, len(reference))) if "JPEG" in name else range(len(reference))
        shown = split.test_frames(0).astype(float)
        error = shown - reference[[stored[i] for i in middles(len(stored))]]
        rows.append({"form": name, "megabytes": size_bytes / clips / 1e6,
                     "clips_per_second": times[name].rate(clips),
                     "core_ms": 1000 * videos.core_seconds(split.test_frames, range(clips), repeats),
                     "ratio": times[ORIGINAL].median / times[name].median, "spread": times[name].spread,
                     "difference": float(np.abs(error).mean()),
                     "psnr": float(20 * np.log10(255 / max(1e-3, np.sqrt((error ** 2).mean()))))})
    return rows


def result_rows(rows: Sequence[dict], clips: int, note: str) -> list[dict]:
    """Rows of docs/results.csv."""
    made = []
    for row in rows:
        lost = f"{row['difference']:.1f} ({row['psnr']:.0f} dB)" if row["difference"] else "none"
        for column, value in (("MB a clip", f"{row['megabytes']:.2f}"),
                              ("clips/s a core", f"{1000 / row['core_ms']:.0f}"),
                              ("original = 1", f"{row['ratio']:.1f}"),
                              ("grey levels lost (PSNR)", lost)):
            made.append(results.make_row(
                f"storage: {row['form']}: {column}", value, dataset=f"{clips} videos made by code",
                config=note, command=f"python benchmarks/storage.py --out runs/storage --clips {clips}",
                seeds=(0,)))
    return made


def main(argv=None) -> None:
    """Measures, prints the table and one JSON object."""
    videos.main("storage", __doc__, measure, result_rows, argv)


if __name__ == "__main__":
    main()
