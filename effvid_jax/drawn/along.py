"""Answers along a video: a clip around every few frames, drawn over the frames as a video and as a strip.

For tasks that are about a frame (`Task.every`) and draw what they say (`Task.draw`): boxes, masks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np

import data_pipelines
from effvid_jax import console, writers
from effvid_jax.errors import UserError

FOLDER = "predictions"  # of a workdir
SHOWN, HEIGHT = 8, 240  # frames of a strip, and their height in pixels


class Said(NamedTuple):
    """What was said of a frame: its number, a row of scores, cost of its clip."""

    frame: int
    scores: np.ndarray
    gmacs: float


def key_frames(num_frames: int, every: int) -> np.ndarray:
    """The frames that are asked about: the middles of parts of `every` frames, at least one."""
    return np.arange(min(every // 2, num_frames - 1), num_frames, every)


def answer(task, said: list[Said]) -> dict[str, Any]:
    """What is told of a video, as json values: `{"frames": [{"frame": ..., <the task's answer>}, ...],
    "gmacs": of all clips together, "gmacs_per_clip": their mean}`.
    """
    gmacs = [x.gmacs for x in said]
    return {"frames": [{"frame": x.frame, **task.answer(x.scores)} for x in said],
            "gmacs": float(f"{sum(gmacs):.6g}"), "gmacs_per_clip": float(f"{sum(gmacs) / len(gmacs):.6g}")}


def words(task, told: dict[str, Any]) -> str:
    """An `answer` for people: the first frames in words."""
    first = [f"frame {x['frame']}: {task.words(x)}" for x in told["frames"][:3]]
    more = len(told["frames"]) - len(first)
    return "; ".join(first) + (f"; and {more} more" if more else "")


def draw(task, opened, said: list[Said], path: str) -> dict[str, str]:
    """Writes `<path>.mp4`, every frame with what was said of the key frame next to it, and the strip
    `<path>.png`.

    An image, a video of one frame, is `<path>.png` in its own size.

    Returns:
        {"annotated": path of the video, "strip": of the picture}; of an image the first alone.

    Raises:
        VideoError: a frame cannot be read.
        UserError: a file cannot be written.
    """
    with writers.writing(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    if opened.num_frames == 1:
        writers.write_bytes(f"{path}.png", strip(task, opened, said))
        return {"annotated": f"{path}.png"}
    writers.write_bytes(f"{path}.png", strip(task, opened, said))
    with writers.whole(f"{path}.mp4") as part:
        data_pipelines.write_frames(part, _every_frame(task, opened, said), opened.fps or 25.0)
    return {"annotated": f"{path}.mp4", "strip": f"{path}.png"}


def strip(task, opened, said: list[Said]) -> bytes:
    """PNG of some of the frames that were asked about, with what was said; of an image in its own size.

    Raises:
        VideoError: a frame cannot be read.
        UserError: a picture that no PNG holds.
    """
    if opened.num_frames == 1:
        return _png(task.draw(opened.stored([0])[0], said[0].scores))
    parts = []
    for i in np.unique(np.linspace(0, len(said) - 1, min(SHOWN, len(said))).astype(int)):
        drawn = task.draw(opened.stored([said[i].frame])[0], said[i].scores)
        width = max(1, round(drawn.shape[1] * HEIGHT / drawn.shape[0]))
        parts += [cv2.resize(drawn, (width, HEIGHT), interpolation=cv2.INTER_AREA),
                  np.full((HEIGHT, 4, 3), 255, np.uint8)]
    return _png(np.concatenate(parts[:-1], axis=1))


def _png(image) -> bytes:
    done, png = cv2.imencode(".png", image[..., ::-1])
    if not done:
        raise UserError(f"a picture of {image.shape[1]} x {image.shape[0]} pixels cannot be drawn as a PNG.")
    return png.tobytes()


def _every_frame(task, opened, said: list[Said]) -> Iterator[np.ndarray]:
    """All frames, a few in memory at a time, in one size with even sides."""
    keys, size = np.array([x.frame for x in said]), None
    with console.bar(opened.num_frames, "draw", "frame", leave=False) as progress:
        for start in range(0, opened.num_frames, 32):
            numbers = range(start, min(start + 32, opened.num_frames))
            for t, frame in zip(numbers, opened.stored(numbers), strict=True):
                drawn = task.draw(frame, said[int(np.abs(keys - t).argmin())].scores)
                size = size or tuple(n // 2 * 2 for n in drawn.shape[:2])
                yield drawn if drawn.shape[:2] == size else drawn[:size[0], :size[1]]
                progress.update()


def name_of(path: str, root: str) -> str:
    """Name of the files of a video: its own, with the folders below `root` where that is one."""
    inner = os.path.relpath(path, root) if os.path.isdir(root) and path != root else os.path.basename(path)
    return os.path.splitext(inner)[0].replace(os.sep, "_") or "video"
