"""Windows of a video: parts of some seconds, one every so many, each as evaluation would see it alone."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from data_pipelines.batches import clips
from data_pipelines.errors import DataError

MOST_BYTES = 1 << 30  # that the frames of a window may take
_FASTEST = 120.0  # frames per second that are believed before they have come
_EPS = 1e-6  # seconds


class Window(NamedTuple):
    """A part of a video.

    Attributes:
        start, end: seconds from the first frame.
        views: what evaluation would see of a video of these frames alone, uint8 (V, T, side, side, 3).
    """

    start: float
    end: float
    views: np.ndarray


def check(options, fps: float, length: float) -> None:
    """Raises `DataError` for windows whose frames take too much memory."""
    crops, fps = 3 if options.test_crop == "three" else 1, min(fps, _FASTEST)
    needed = length * fps * crops * options.test_crop_size**2 * 3
    if needed > MOST_BYTES:
        raise DataError(f"--window={length:g}: the frames of so many seconds take {needed / 2**30:,.1f} GiB "
                        f"({fps:g} a second, data.test_crop_size={options.test_crop_size}), and at most "
                        f"{MOST_BYTES / 2**30:g} are held: choose at most "
                        f"{length * MOST_BYTES / needed:.0f} seconds.")


def cut(frames: Iterable[tuple[float, np.ndarray]], options, fps: float, length: float,
        stride: float) -> Iterator[Window]:
    """Cuts a video into windows while it is played: [0, length), [stride, stride + length), ...

    What is left at the end belongs to a last window, as long as the others, that ends with the video; a video
    that is shorter than a window is one. A window without a frame of its own shows the one before. In memory
    are the frames of a window, as evaluation crops them.

    Args:
        frames: (seconds, uint8 RGB (H, W, 3)); seconds never fall.
        options: the data configuration.
        fps: frames per second, as far as it is known.
        length, stride: seconds.

    Raises:
        DataError: the frames of a window take too much memory.
    """
    check(options, fps, length)
    held: deque[tuple[float, np.ndarray]] = deque()
    start, end, number = 0.0, 0.0, 0

    def window(start, end):
        inside = [crops for seconds, crops in held if start - _EPS <= seconds < end - _EPS]
        if not inside:
            inside = [next((crops for seconds, crops in reversed(held) if seconds < start), held[0][1])]
        return Window(start, end, clips.views_of_crops(inside, options))

    most = None
    for seconds, frame in frames:
        while seconds >= start + length - _EPS:
            yield window(start, start + length)
            number += 1
            start = number * stride
        while len(held) > 1 and held[1][0] <= min(start, seconds - length) + _EPS:
            held.popleft()
        held.append((seconds, clips.eval_crops(frame, options)))
        most = most or max(2, MOST_BYTES // held[-1][1].nbytes)
        if len(held) > most:
            raise DataError(f"--window={length:g}: more than {most} frames come in so many seconds, which "
                            f"is all that is held: choose a shorter window.")
        end = seconds + 1 / fps
    told = (number - 1) * stride + length if number else 0.0
    if held and end > told + _EPS:
        yield window(max(0.0, end - length), end)
