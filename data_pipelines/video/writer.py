"""Writing a video frame by frame, of any length: mp4, or gif for pages that show nothing else."""

import contextlib
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np

from data_pipelines.tools import atomic_write

_CLOCK = Fraction(1, 90_000)  # of an mp4 whose frames have times
GIF_FPS = 10.0  # at most: it knows hundredths of a second, and viewers slow down what is faster


def write_frames(path, frames: Iterable[np.ndarray], fps: float = 25.0, crf: int = 20) -> None:
    """Writes an H.264 mp4 file that any player shows; it appears under its name only when it is complete.

    Args:
        path: the file; its folder must exist.
        frames: uint8 (H, W, 3) RGB, one at a time; at least one, all of one size with even sides.
        fps: frames per second.
        crf: x264's quality, 0 (lossless) to 51.
    """
    with frame_writer(path, fps, crf) as writer:
        for frame in frames:
            writer.add(frame)


@contextlib.contextmanager
def frame_writer(path, fps: float = 25.0, crf: int = 20, gif: bool = False) -> Iterator["FrameWriter"]:
    """As `write_frames`, for frames that come one after the other; a gif repeats for ever.

    Args:
        path, fps, crf: see `write_frames`.
        gif: whether this is a gif, whose frames come at most `GIF_FPS` times a second: others are left out.
    """
    with atomic_write(path) as part, av.open(str(part), "w", format="gif" if gif else "mp4") as container:
        writer = _Gif(container, fps) if gif else FrameWriter(container, fps, crf)
        yield writer
        writer.finish()


class FrameWriter:
    """A video that is being written; made by `frame_writer`."""

    def __init__(self, container, fps: float, crf: int):
        self._container, self._count = container, 0
        self._rate = Fraction(fps).limit_denominator(1001)
        self._stream = container.add_stream("libx264", rate=self._rate)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 1
        self._stream.options = {"preset": "veryfast", "crf": str(crf)}
        self._last = -1

    def add(self, image: np.ndarray, seconds: float | None = None) -> None:
        """The next frame, uint8 RGB (H, W, 3), all of one size with even sides.

        Args:
            image: the frame.
            seconds: when it is shown, for a video whose frames do not come equally often; then every frame
                has it.
        """
        if not self._count:
            self._begin(*image.shape[:2], seconds is not None)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        if seconds is not None:
            frame.pts, frame.time_base = max(self._last + 1, round(seconds / _CLOCK)), _CLOCK
            self._last = frame.pts
        self._count += 1
        self._encode(frame)

    def finish(self) -> None:
        """Writes what the encoder has kept."""
        if self._count:
            self._encode(None)

    def _begin(self, height: int, width: int, timed: bool) -> None:
        self._stream.height, self._stream.width = height, width
        if timed:
            self._stream.codec_context.time_base = _CLOCK

    def _encode(self, frame) -> None:
        self._container.mux(self._stream.encode(frame))


class _Gif(FrameWriter):
    """A gif: every frame with the 256 colours that suit it best."""

    def __init__(self, container, fps: float):
        self._container, self._count, self._last = container, 0, -1
        self._fps = min(fps, GIF_FPS)
        self._stream = container.add_stream("gif", rate=Fraction(self._fps).limit_denominator(100))
        self._stream.pix_fmt = "pal8"
        self._source_fps, self._seen = fps, 0

    def add(self, image, seconds=None):
        """See `FrameWriter.add`."""
        seconds = self._seen / self._source_fps if seconds is None else seconds
        self._seen += 1
        number = int(seconds * self._fps + 1e-6)
        if number <= self._last:
            return
        if not self._count:
            height, width = image.shape[:2]
            self._stream.height, self._stream.width = height, width
            graph = self._graph = av.filter.Graph()
            source = graph.add_buffer(width=width, height=height, format="rgb24",
                                      time_base=Fraction(1, 1) / self._stream.codec_context.framerate)
            split, sink = graph.add("split"), graph.add("buffersink")
            palette, use = graph.add("palettegen", "stats_mode=single"), graph.add("paletteuse", "new=1")
            source.link_to(split)
            split.link_to(palette, 0)
            split.link_to(use, 1, 0)
            palette.link_to(use, 0, 1)
            use.link_to(sink)
            graph.configure()
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 1) / self._stream.codec_context.framerate
        self._last, self._count = number, self._count + 1
        self._graph.push(frame)
        self._drain()

    def finish(self):
        """See `FrameWriter.finish`."""
        if self._count:
            self._graph.push(None)
            self._drain()
            self._encode(None)

    def _drain(self) -> None:
        while True:
            try:
                self._encode(self._graph.pull())
            except (av.error.BlockingIOError, av.error.EOFError):
                return
