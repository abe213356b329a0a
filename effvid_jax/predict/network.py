"""What every network that answers has in common, restored from a workdir or exported."""

from __future__ import annotations

import abc
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import ClipReader, VideoError, in_order
from effvid_jax.errors import NotFiniteError, UserError

Scored = tuple[np.ndarray, dict[str, Any]]  # scores, and what is told as json values


class Part(NamedTuple):
    """What is said of a window.

    Attributes:
        start, end: seconds from the first frame of the video.
        scores: probabilities float64 (K,).
        told: as json values: 'top5', 'gmacs' and so on.
    """

    start: float
    end: float
    scores: np.ndarray
    told: dict[str, Any]


class Network(abc.ABC):
    """A network that answers.

    Attributes:
        reader: finds and reads videos as evaluation does.
        name: of it, for messages: 'the network at step 100'.
        class_names: K names.
        clip_shape: (V, T, side) of what it sees of a video: views, frames, pixels.
        num_threads: that `config.data` reads with.
        batch_size: videos that evaluation asks about at once, `config.data.eval_batch_size`.
        every: it answers about a frame every so many (boxes, masks); 0: about a video as a whole.
        says_classes: whether answers are probabilities of classes.
    """

    reader: ClipReader
    name: str
    class_names: tuple[str, ...]
    clip_shape: tuple[int, int, int]
    num_threads: int = 1
    batch_size: int = 1
    every: int = 0
    says_classes: bool = True

    @property
    @abc.abstractmethod
    def stops_early(self) -> bool:
        """Whether easy clips stop early: then frames are decoded only as far as they are needed."""

    def __call__(self, video) -> dict[str, Any]:
        """What is told of a video: the second value of `scored`."""
        return self.scored(video)[1]

    @abc.abstractmethod
    def scored(self, video) -> Scored:
        """(scores, what is told) of a video."""

    def scored_views(self, views_VTHWC: np.ndarray, name: str = "(no file)") -> Scored:
        """As `scored`, for views uint8 (V, T, H, W, 3) that are read already; `name` is for messages."""
        if self.stops_early:
            return self._stop_early(lambda positions: views_VTHWC[0][list(positions)], name)
        found, = self.finish(self.start(views_VTHWC[None]), [name])
        if isinstance(found, NotFiniteError):
            raise found
        return found

    @abc.abstractmethod
    def _stop_early(self, frames: Callable, name: str) -> Scored:
        """As `scored`; `frames` gives those at some positions of the clip."""

    @abc.abstractmethod
    def start(self, videos_BVTHWC: np.ndarray) -> Any:
        """Begins to compute everything about a batch, uint8, and does not wait for it."""

    @abc.abstractmethod
    def finish(self, started, names: Sequence[str]) -> list[Scored | NotFiniteError]:
        """What `start` began, of the first videos of the batch, which have these names: as `scored`."""

    def pooled(self, load: Callable, names: Sequence[str], size: int,
               threads: int) -> Iterator[Scored | VideoError | NotFiniteError]:
        """Answers about many videos of a network that stops early, in order.

        Here one after the other in each thread; a network may have its videos share what it computes.

        Args:
            load: (number of a video, positions) -> these frames of its clip, uint8 (n, side, side, 3); called
                in threads.
            names: of the videos.
            size: videos of a batch.
            threads: that load.

        Yields:
            As `scored`, or the VideoError of `load`, or a NotFiniteError.
        """
        def answer(i):
            try:
                return self._stop_early(lambda positions: load(i, positions), names[i])
            except (VideoError, NotFiniteError) as error:
                return error

        yield from in_order(answer, range(len(names)), threads, 2 * threads)

    @abc.abstractmethod
    def columns(self) -> dict[str, Any]:
        """What `scored` tells of any video, with values that mean nothing: names for a table."""

    def classify(self, views_VTHWC: np.ndarray, name: str = "(no file)") -> dict[str, Any]:
        """What is told of views: the second value of `scored_views`."""
        return self.scored_views(views_VTHWC, name)[1]

    @abc.abstractmethod
    def answer(self, scores) -> dict[str, Any]:
        """What scores say, as json values."""

    @abc.abstractmethod
    def words(self, told: dict[str, Any]) -> str:
        """What is told, for people."""

    def check_windows(self, window: float, stride: float | None) -> None:
        """Raises UserError for windows that cannot be, or that this network does not answer."""
        for name, value in (("window", window), ("stride", stride)):
            if value is not None and not (math.isfinite(value) and 1e-3 <= value <= 1e6):
                raise UserError(f"{name}={value}: expected a number of seconds, at least 0.001.")
        self.check_classes(f"window={window}")

    def check_classes(self, field: str) -> None:
        """Raises UserError if this network does not answer with classes of a video, as `field` needs."""
        if self.every:
            raise UserError(f"{field}: this network answers about a frame every {self.every}, along the "
                            f"whole video: leave it away.")
        if not self.says_classes:
            raise UserError(f"{field}: this network does not answer with probabilities of classes: leave "
                            f"it away.")

    def windows(self, video, window: float, stride: float | None = None, fps: float = 0.0) -> Iterator[Part]:
        """What is said of every window of a video, which is decoded once and of which a window is in memory.

        Args:
            video: see `data_pipelines.ClipReader`.
            window, stride: seconds of a window, and from one to the next (None: they follow each other). The
                last one is moved back so that it ends with the video.
            fps: of frames that have no rate of their own; 0: 25.

        Raises:
            UserError: see `check_windows`. VideoError: the video cannot be read.
        """
        self.check_windows(window, stride)
        with self.reader.play(video, fps) as played:
            for cut in played.windows(window, stride or window):
                yield self.part(cut, played.name)

    def part(self, cut, name: str) -> Part:
        """What is said of a `data_pipelines.windows.Window`."""
        return Part(round(cut.start, 3), round(cut.end, 3), *self.scored_views(cut.views, name))

    def stream(self):
        """A `streams.Stream`, which takes frames one by one.

        Raises:
            UserError: this network cannot.
        """
        raise UserError("an exported network has no program for streams: load the workdir it came from, or "
                        "cut the stream into windows (--window=SECONDS).")

    @abc.abstractmethod
    def features(self, views_VTHWC: np.ndarray) -> np.ndarray:
        """What the classifier reads, float32 (C,), the mean over views, frames and positions."""

    def picture(self, video, result, k: int) -> bytes:
        """PNG of a video with the `k` most probable classes of a `Result`."""
        from effvid_jax import plots

        title = f"{result.gmacs:.3g} GMACs"
        title += f", exit {result.exit} of {result.exits}" if result.exit else ""
        return plots.answer(self.reader.views(video)[0], result.top(k), title)


def name_of(video) -> str:
    """A video's name: its path, or '(no file)'."""
    return os.fspath(video) if isinstance(video, (str, os.PathLike)) else "(no file)"


def short(gmacs) -> float:
    """A cost as it is told: six digits."""
    return float(f"{float(gmacs):.6g}")
