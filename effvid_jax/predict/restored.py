"""The network of a workdir, as one that answers."""

from __future__ import annotations

import os

import jax
import numpy as np

from data_pipelines import ClipReader
from effvid_jax import console, evaluate
from effvid_jax.drawn import along
from effvid_jax.errors import NotFiniteError
from effvid_jax.exits import executor
from effvid_jax.predict.network import Network, name_of, short
from effvid_jax.predict.streams import Stream
from effvid_jax.start import runs


class Predictor(Network):
    """A trained network that takes one clip at a time.

    Args:
        workdir: of a training run; a run of several stages stands for its last one, the student.
        config: how clips are read; what the run was trained with by default.

    Attributes:
        config: how clips are read.
        reader: finds and reads videos as evaluation does.
        class_names: K names.
        task: what the network was asked.
        clip_shape: (V, T, side) of what it sees of a video: views, frames, pixels.

    Raises:
        UserError: no checkpoint there, or a damaged one.
    """

    def __init__(self, workdir: str, config=None):
        config, directory = runs.trained(config, os.path.abspath(workdir))
        self.config = config
        self.reader = ClipReader(config.data)
        self.num_threads = max(1, config.data.num_threads)
        method, variables, saved = evaluate.restore_for_inference(config, directory)
        self.class_names, self.task, self._step = tuple(saved.class_names), method.task, saved.step
        self.every, self.says_classes, self._method = method.task.every, method.task.class_scores, method
        self.clip_shape = (self.reader.num_views, config.data.num_frames, config.data.test_crop_size)
        self._variables = jax.device_put(variables)
        routed = next((r.routed for r in method.runners().values() if r.routed), None)
        self._predict = routed or jax.jit(method.predict)
        self._features = jax.jit(method.features)
        self._adaptive = next((r.segments for r in method.runners().values() if r.segments), None)
        self._executor = None
        if self._adaptive is not None and self.reader.num_views == 1:
            self._thresholds = jax.device_get(self._adaptive.thresholds(variables))
            self._executor = executor.Executor(self._adaptive.steps, self._adaptive.score, 1,
                                               policy="compact", threads=1)

    @property
    def stops_early(self) -> bool:
        """Whether easy clips stop early: then frames are decoded only as far as they are needed."""
        return self._executor is not None

    def __call__(self, video) -> dict:
        """Classifies a clip.

        Args:
            video: path of a video file, its bytes, path of a folder of frames named like
                `config.data.frame_template`, or frames uint8 (N, H, W, 3) in RGB.

        Returns:
            Of a task that is about frames (`Task.every`) what `along.answer` says. Otherwise
            the task's answer, for classification `{"top5": [{"label": ..., "prob": ...}, ...]}`, and
            "gmacs" of all views together: where clips stop early, what was computed until then. With several
            views also "gmacs_per_clip", of one of them, and a network with exits computes all of each;
            "gmacs_where_it_stops" is then what stopping would have cost (evaluation's `gmacs`). Of a network
            with exits also "exit", the number of the checkpoint that answered, of how many ("exits").

        Raises:
            VideoError: the clip cannot be read.
            NotFiniteError: the network's scores of it.
        """
        return self.scored(video)[1]

    def scored(self, video):
        """See `Network.scored`; what is told as `__call__` has it."""
        name = name_of(video)
        if self.task.every:
            with self.reader.open(video) as opened:
                said = self.along(opened, name)
            return np.stack([one.scores for one in said]), along.answer(self.task, said)
        if self.stops_early:
            with self.reader.open(video) as opened:
                return self._stop_early(opened.frames, name)
        return self.scored_views(self.reader.views(video), name)

    def scored_views(self, views_VTHWC, name="(no file)"):
        """See `Network.scored_views`."""
        if self.stops_early:
            return self._stop_early(lambda positions: views_VTHWC[0][list(positions)], name)
        prediction = self._predict(self._variables, {"video": views_VTHWC[None]})
        gmacs, logits = prediction.gmacs[0], prediction.logits[0]
        views = len(views_VTHWC)
        if self._adaptive is None:
            return self._scored(name, logits, gmacs, views)
        scores, told = self._scored(name, logits, views * self._adaptive.gmacs[-1], views)
        left = self._exit(prediction.extra["exit"][0])
        return scores, {**told, "gmacs_where_it_stops": short(gmacs), **left}

    def along(self, opened, name="(no file)") -> list[along.Said]:
        """What is said of every few frames of an open video; raises as `__call__` does."""
        said = []
        keys, size = along.key_frames(opened.num_frames, self.task.every), opened.size
        with console.bar(len(keys), "predict", "frame", leave=False) as progress:
            for key in keys.tolist():
                prediction = self._predict(self._variables, {"video": opened.views(key)[None]})
                scores, gmacs = self._checked(name, prediction.logits[0], prediction.gmacs[0])
                said.append(along.Said(key, self.task.within(scores, size), float(gmacs)))
                progress.update()
        return said

    def _stop_early(self, frames, name):
        """As `scored`; `frames` gives those at some positions of the clip."""
        order = self._adaptive.order
        rows = executor.Rows([0], load=lambda _, start, stop: frames(order[start:stop]))
        answer, = self._executor.run(self._variables, self._thresholds, [rows])
        if answer.error is not None:
            raise answer.error
        scores, told = self._scored(name, answer.logits, self._adaptive.gmacs[answer.checkpoint])
        return scores, {**told, **self._exit(answer.checkpoint)}

    def _exit(self, checkpoint) -> dict:
        """The checkpoint (from 0) that answered, as people count."""
        return {"exit": int(checkpoint) + 1, "exits": len(self._adaptive.gmacs)}

    def _checked(self, name, logits, gmacs):
        """(scores, gmacs), both finite."""
        scores = self.task.scores(logits[None])[0]
        for what, values in (("scores", scores), ("gmacs", gmacs)):
            if not np.isfinite(values).all():
                raise NotFiniteError(name, what, f"the network at step {self._step}")
        return scores, gmacs

    def _scored(self, name, logits_K, gmacs, views: int = 1):
        """(scores, what is told)."""
        scores, gmacs = self._checked(name, logits_K, gmacs)
        per_clip = {"gmacs_per_clip": short(gmacs / views)} if views > 1 else {}
        return scores, {**self.task.answer(scores), "gmacs": short(gmacs), **per_clip}

    def answer(self, scores):
        """See `Network.answer`."""
        return self.task.answer(scores)

    def words(self, told):
        """See `Network.words`."""
        return along.words(self.task, told) if self.task.every else self.task.words(told)

    def features(self, views_VTHWC):
        """See `Network.features`."""
        found = self._features(self._variables, {"video": views_VTHWC[None]})
        return np.asarray(found, np.float32)[0]

    def stream(self):
        """See `Network.stream`."""
        name = f"the network at step {self._step}"
        return Stream(self._method, self._variables, self.config, self.reader, name)

    def picture(self, video, result, k):
        """See `Network.picture`; of a task that is about frames those with what was said drawn over them."""
        if not self.task.every:
            return super().picture(video, result, k)
        with self.reader.open(video) as opened:
            said = [along.Said(frame["frame"], scores, 0.0)
                    for frame, scores in zip(result.told["frames"], result.scores, strict=True)]
            return along.strip(self.task, opened, said)
