"""Classes and how sure a network is of them, over the frames that they are about: mp4 or gif."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np

import data_pipelines
from effvid_jax import console, writers
from effvid_jax.drawn.boxes import COLOURS

SHOWN = 3  # classes
_SHORT, _LONG, _LONG_OF_GIF = 240, 1280, 480  # sides in pixels: enlarged to the first, shrunk to the others
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class Drawing:
    """A video that is written while it is played; made by `drawing`.

    An answer is about some seconds. A frame is shown with the answer whose middle is next to it, so it waits
    until that one is known; frames that wait are kept as JPEG.
    """

    def __init__(self, writer, longest: int):
        self._writer, self._longest = writer, longest
        self._waiting: deque[tuple[float, np.ndarray]] = deque()
        self._before = self._answer = None  # (middle in seconds, guesses, note)
        self._size = None

    def seen(self, frames: Iterable[tuple[float, np.ndarray]]) -> Iterator[tuple[float, np.ndarray]]:
        """The same (seconds, frame uint8 RGB (H, W, 3)), noted on their way."""
        for seconds, frame in frames:
            small = self._fitted(frame)
            _, jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
            self._waiting.append((seconds, jpeg))
            yield seconds, frame

    def say(self, start: float, end: float, guesses: Sequence[tuple[str, float]], note: str = "") -> None:
        """An answer about [start, end] seconds: (class, probability) most probable first; a line below."""
        self._before, self._answer = self._answer, ((start + end) / 2, list(guesses)[:SHOWN], note)
        self._write(self._answer[0])

    def finish(self) -> None:
        """Shows the frames that are left with the last answer."""
        if self._answer:
            self._before = None
            self._write(float("inf"))

    def _write(self, until: float) -> None:
        change = (self._before[0] + self._answer[0]) / 2 if self._before else float("-inf")
        while self._waiting and self._waiting[0][0] <= until:
            seconds, content = self._waiting.popleft()
            _, guesses, note = self._before if seconds <= change else self._answer
            frame = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB)
            self._writer.add(over(frame, guesses, note), seconds)

    def _fitted(self, frame):
        """A frame in the size of the first one, with even sides that words can be read on."""
        if self._size is None:
            height, width = frame.shape[:2]
            factor = min(max(1.0, _SHORT / min(height, width)), self._longest / max(height, width))
            self._size = tuple(max(2, 2 * round(n * factor / 2)) for n in (width, height))
        return cv2.resize(np.ascontiguousarray(frame), self._size, interpolation=cv2.INTER_AREA)


@contextlib.contextmanager
def drawing(path: str, fps: float) -> Iterator[Drawing]:
    """Writes `path`, `.mp4` or `.gif`, which appears under its name when it is complete.

    Args:
        path: the file.
        fps: frames per second of the video.

    Raises:
        UserError: it cannot be written.
    """
    gif = path.lower().endswith(".gif")
    with writers.whole(path) as part, data_pipelines.frame_writer(part, fps, gif=gif) as writer:
        found = Drawing(writer, _LONG_OF_GIF if gif else _LONG)
        yield found
        found.finish()


def over(frame_HWC: np.ndarray, guesses: Sequence[tuple[str, float]], note: str = "") -> np.ndarray:
    """A frame with a bar for each class in its lower part, uint8 RGB of the same size.

    Args:
        frame_HWC: uint8 RGB.
        guesses: (class, probability), most probable first.
        note: a line below them.
    """
    canvas = frame_HWC.copy()
    height, width = canvas.shape[:2]
    size = max(0.4, min(height, width) / 640)
    line = round(26 * size) + 4
    lines = len(guesses) + bool(note)
    top = max(0, height - lines * line - 6)
    canvas[top:] = canvas[top:] // 3
    for i, (label, prob) in enumerate(guesses):
        base = top + (i + 1) * line
        right = 4 + round(prob * (width - 8))
        cv2.rectangle(canvas, (4, base - line + 3), (right, base - 1), _dark(COLOURS[i]), -1)
        _write(canvas, f"{prob:4.0%} {label}", base - line // 4, size)
    if note:
        _write(canvas, note, top + lines * line - line // 4, 0.8 * size)
    return canvas


def _dark(colour) -> tuple[int, ...]:
    """A colour that white letters can be read on."""
    return tuple(int(0.55 * x) for x in colour)


def _write(canvas, text: str, base: int, size: float) -> None:
    room = canvas.shape[1] - 12
    text = console.one_line(text).encode("ascii", "replace").decode()  # all that the font has
    while len(text) > 4 and cv2.getTextSize(text, _FONT, size, 1)[0][0] > room:
        text = text[:-4] + "..."
    cv2.putText(canvas, text, (8, base), _FONT, size, (255, 255, 255), 1, cv2.LINE_AA)
