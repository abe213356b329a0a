"""A trained network in Python: three lines from a workdir, or from an exported folder, to an answer.

    import effvid_jax
    model = effvid_jax.load("runs/demo")
    model.predict("clip.mp4").top(5)          # [("waving", 0.93), ...]

Videos are files, their bytes, folders of frames, or arrays uint8 (N, H, W, 3): N frames of any size, RGB from
0 to 255, in the order of time. Which of them are seen, and which part, is decided as in evaluation.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from effvid_jax.errors import UserError
from effvid_jax.predict import Network, Stream, name_of, open_network


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a network says.

    Attributes:
        scores: what the task keeps, for classification probabilities float64 (K,), K classes; of a task that
            is about frames (boxes, masks) a row for each frame that it was asked about.
        class_names: K names, in the order of the scores.
        gmacs: multiply-adds in 10^9 that the answer cost, all views together.
        exit, exits: number, from 1, of the checkpoint that answered, of how many; None without early exits.
        told: everything that `--mode=predict` says, as json values.
    """

    scores: np.ndarray
    class_names: tuple[str, ...]
    gmacs: float
    exit: int | None = None
    exits: int | None = None
    told: dict[str, Any] = dataclasses.field(repr=False)

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.top(1)[0][0]

    @property
    def prob(self) -> float:
        """Its probability."""
        return self.top(1)[0][1]

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The k most probable classes with their probabilities, most probable first.

        Raises:
            UserError: the network answers something else than classes.
        """
        if self.scores.shape != (len(self.class_names),):
            raise UserError(f"this network does not answer with classes but with {self.scores.shape} "
                            f"numbers: `told` has its answer.")
        best = np.argsort(-self.scores, kind="stable")[:k]
        return [(self.class_names[i], float(self.scores[i])) for i in best]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window(Answer):
    """What a network says of a part of a video.

    Attributes:
        start, end: seconds from the first frame of the video.
    """

    start: float
    end: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result(Answer):
    """What a network says of one video.

    Attributes:
        video: its path, or '(no file)'.
        windows: of a video that was cut into windows what was said of each; `scores` are their mean.
    """

    video: str
    windows: tuple[Window, ...] = dataclasses.field(default=(), repr=False)
    _picture: Any = dataclasses.field(repr=False, compare=False)

    def plot(self, path: str | os.PathLike | None = None, k: int = 5) -> bytes:
        """Frames of the video above its k most probable classes, as PNG; written to `path` if given.

        Of a task that is about frames (boxes, masks) those with what was said drawn over them.
        """
        from effvid_jax import writers

        picture = self._picture(self, k)
        if path is not None:
            writers.write_bytes(str(path), picture)
        return picture


class Model:
    """A network that answers; made by `load`.

    Attributes:
        class_names: K names.
        clip_shape: (V, T, side) of what it sees of a video: views, frames, pixels.
    """

    def __init__(self, network: Network):
        self._network, self.clip_shape = network, network.clip_shape
        self.class_names = tuple(network.class_names)

    def predict(self, video, window: float | None = None, stride: float | None = None,
                fps: float = 0.0) -> Result | list[Result]:
        """What the network says of a video, or of several.

        Args:
            video: a video as the module's docstring has it; or a list of videos, a folder of video files, or
                a pattern ('clips/*.mp4'), for a list of results.
            window, stride: see `windows`; then `Result.windows` has the windows, and its scores are their
                mean.
            fps: see `windows`.

        Raises:
            VideoError: a video cannot be read; FileNotFoundError: it is not there.
            NotFiniteError: scores that are no numbers.
            UserError: windows that cannot be.
        """
        if isinstance(video, (list, tuple)):
            return [self.predict(one, window, stride, fps) for one in video]
        if isinstance(video, (str, os.PathLike)):
            found = self._network.reader.find(os.fspath(video))
            if found != [os.fspath(video)]:
                return [self.predict(path, window, stride, fps) for path in found]
        if window is None and stride is not None:
            raise UserError(f"stride={stride} says how far windows are apart: give window=SECONDS as well.")
        parts = () if window is None else tuple(self.windows(video, window, stride, fps))
        if parts:
            scores = np.mean([part.scores for part in parts], axis=0)
            told = {**self._network.answer(scores), "windows": len(parts),
                    "gmacs": float(f"{sum(part.gmacs for part in parts):.6g}")}
        else:
            with self._network.reader.local(video) as stored:
                scores, told = self._network.scored(stored)
        return Result(video=name_of(video), windows=parts, **self._fields(scores, told),
                      _picture=lambda result, k: self._network.picture(video, result, k))

    def windows(self, video, window: float, stride: float | None = None,
                fps: float = 0.0) -> Iterator[Window]:
        """What the network says of every part of a video, one after the other.

        The video is decoded once; in memory are the frames of a window.

        Args:
            video: a single one; '-' (standard input), 'camera:0' and anything with `read` as well.
            window, stride: seconds of a part, and from one to the next (None: they follow each other). The
                last one is moved back so that it ends with the video.
            fps: frames per second of frames that have no rate of their own (arrays, folders of frames); 0:
                25.

        Raises:
            VideoError, NotFiniteError: see `predict`.
            UserError: a number that is no time, or a network that does not answer with classes of a video.
        """
        for part in self._network.windows(video, window, stride, fps):
            yield Window(start=part.start, end=part.end, **self._fields(part.scores, part.told))

    def stream(self) -> Stream:
        """A stream of frames, which this network takes one by one: `stream.push(frame)` -> scores (K,).

        Raises:
            UserError: it cannot: its frames read later ones, or it is exported.
        """
        return self._network.stream()

    def views(self, video) -> np.ndarray:
        """What the network sees of a video: uint8 (V, T, side, side, 3), RGB.

        Raises:
            VideoError: it cannot be read.
        """
        return self._network.reader.views(video)

    def features(self, video) -> np.ndarray:
        """What the classifier reads of a video: float32 (C,), the mean over views, frames and positions.

        Raises:
            VideoError: the video cannot be read.
            UserError: an exported network, which has answers only.
        """
        return self._network.features(self.views(video))

    def _fields(self, scores, told) -> dict[str, Any]:
        return dict(scores=scores, class_names=self.class_names, gmacs=told["gmacs"], exit=told.get("exit"),
                    exits=told.get("exits"), told=told)


def load(path: str | os.PathLike) -> Model:
    """The network of a training run, or an exported one.

    Args:
        path: a workdir (of a run of several stages the last one, the student, is meant), or the folder
            `export` that `--mode=export` writes.

    Raises:
        UserError: neither is there, or what is there is damaged.
    """
    return Model(open_network(os.path.abspath(os.fspath(path))))
