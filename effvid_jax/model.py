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
from typing import Any

import numpy as np

from data_pipelines import ClipReader
from effvid_jax.drawn import along
from effvid_jax.errors import NotFiniteError, UserError
from effvid_jax.predict import Predictor


@dataclasses.dataclass(frozen=True)
class Result:
    """What a network says of one video.

    Attributes:
        video: its path, or '(no file)'.
        scores: what the task keeps, for classification probabilities float64 (K,), K classes; of a task that
            is about frames (boxes, masks) a row for each frame that it was asked about.
        class_names: K names, in the order of the scores.
        gmacs: multiply-adds in 10^9 that the answer cost, all views together.
        exit, exits: number, from 1, of the checkpoint that answered, of how many; None without early exits.
        told: everything that `--mode=predict` says of the video, as json values.
    """

    video: str
    scores: np.ndarray
    class_names: tuple[str, ...]
    gmacs: float
    exit: int | None
    exits: int | None
    told: dict[str, Any] = dataclasses.field(repr=False)
    _picture: Any = dataclasses.field(repr=False, compare=False)

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

    def __init__(self, network, reader: ClipReader, clip_shape: tuple[int, int, int]):
        self._network, self._reader, self.clip_shape = network, reader, clip_shape
        self.class_names = tuple(network.class_names)

    def predict(self, video) -> Result | list[Result]:
        """What the network says of a video, or of several.

        Args:
            video: a video as the module's docstring has it; or a list of videos, or a folder of video files,
                for a list of results.

        Raises:
            VideoError: a video cannot be read; FileNotFoundError: it is not there.
            NotFiniteError: scores that are no numbers.
        """
        if isinstance(video, (list, tuple)):
            return [self.predict(one) for one in video]
        if isinstance(video, (str, os.PathLike)):
            found = self._reader.find(os.fspath(video))
            if found != [os.fspath(video)]:
                return [self.predict(path) for path in found]
        scores, told = self._network.scored(video)
        return Result(_name(video), scores, self.class_names, told["gmacs"], told.get("exit"),
                      told.get("exits"), told, lambda result, k: self._network.picture(video, result, k))

    def views(self, video) -> np.ndarray:
        """What the network sees of a video: uint8 (V, T, side, side, 3), RGB.

        Raises:
            VideoError: it cannot be read.
        """
        return self._reader.views(video)

    def features(self, video) -> np.ndarray:
        """What the classifier reads of a video: float32 (C,), the mean over views, frames and positions.

        Raises:
            VideoError: the video cannot be read.
            UserError: an exported network, which has answers only.
        """
        return self._network.features(self.views(video))


class _Pictured:
    """Something with a `reader` whose answers are classes, or are drawn where it says so."""

    def picture(self, video, result: Result, k: int) -> bytes:
        """See `Result.plot`."""
        from effvid_jax import plots

        title = f"{result.gmacs:.3g} GMACs"
        title += f", exit {result.exit} of {result.exits}" if result.exit else ""
        return plots.answer(self.reader.views(video)[0], result.top(k), title)


class _Restored(_Pictured, Predictor):
    """The network of a workdir, with all it says."""

    def picture(self, video, result, k) -> bytes:
        """See `Result.plot`."""
        if not self.task.every:
            return super().picture(video, result, k)
        with self.reader.open(video) as opened:
            said = [along.Said(frame["frame"], scores, 0.0)
                    for frame, scores in zip(result.told["frames"], result.scores, strict=True)]
            return along.strip(self.task, opened, said)

    def scored(self, video) -> tuple[np.ndarray, dict]:
        """(scores, what is told) of a video."""
        if self.task.every:
            with self.reader.open(video) as opened:
                said = self.along(opened, _name(video))
            return np.stack([one.scores for one in said]), along.answer(self.task, said)
        told = self(video)
        return told.pop("scores"), told

    def features(self, views_VTHWC) -> np.ndarray:
        """See `Model.features`."""
        found = self._features(self._variables, {"video": views_VTHWC[None]})
        return np.asarray(found, np.float32)[0]

    def _result(self, name, logits_K, gmacs, views=1) -> dict:
        return {**super()._result(name, logits_K, gmacs, views),
                "scores": self.task.scores(logits_K[None])[0]}


class _Exported(_Pictured):
    """The network of an export folder."""

    def __init__(self, path: str, reader: ClipReader):
        from effvid_jax import exported

        self._loaded, self.reader = exported.load(path), reader
        self.class_names = self._loaded.class_names

    def scored(self, video) -> tuple[np.ndarray, dict]:
        """(scores, what is told) of a video: probabilities of its views are averaged."""
        if "exits" in self._loaded.info and self.reader.num_views == 1:
            with self.reader.open(video) as opened:
                scores, gmacs, number = self._loaded.stop_early(opened.frames)
            return np.asarray(scores, np.float64), {
                "gmacs": gmacs, "exit": number, "exits": len(self._loaded.info["exits"]["gmacs"])}
        views = self.reader.views(video)
        outputs, gmacs = self._loaded(views, check=False)
        scores, cost = np.asarray(outputs, np.float64).mean(axis=0), float(np.asarray(gmacs).sum())
        for what, values in (("scores", scores), ("gmacs", cost)):
            if not np.isfinite(values).all():
                raise NotFiniteError(_name(video), what, "the exported network")
        return scores, {"gmacs": float(f"{cost:.6g}")}

    def features(self, views_VTHWC):
        """See `Model.features`."""
        raise UserError("an exported network has answers only: for features load the workdir it came from.")


def load(path: str | os.PathLike) -> Model:
    """The network of a training run, or an exported one.

    Args:
        path: a workdir (of a run of several stages the last one, the student, is meant), or the folder
            `export` that `--mode=export` writes.

    Raises:
        UserError: neither is there, or what is there is damaged.
    """
    path = os.path.abspath(os.fspath(path))
    if os.path.exists(info := os.path.join(path, "model.json")):
        from effvid_jax import writers

        data = writers.read_json(info)["data"]
        reader = ClipReader(data)
        return Model(_Exported(path, reader), reader,
                     (reader.num_views, data["num_frames"], data["test_crop_size"]))
    network = _Restored(path)
    data = network.config.data
    return Model(network, network.reader, (network.reader.num_views, data.num_frames, data.test_crop_size))


def _name(video) -> str:
    return os.fspath(video) if isinstance(video, (str, os.PathLike)) else "(no file)"
