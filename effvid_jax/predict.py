"""Top-5 of new clips: `--mode=predict --workdir=DIR --video=FILE_OR_FOLDER [--json]`, or from Python:

    predictor = Predictor("runs/demo")
    predictor("clip.mp4")["top5"]        # [{"label": "waving", "prob": 0.93}, ...]

Frames, crops and views are chosen as in evaluation, by the config that the network was trained with, so
every clip is an array of the same shape and the network is compiled once.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from data_pipelines import ClipReader, VideoError
from effvid_jax import console, evaluate
from effvid_jax.drawn import along
from effvid_jax.errors import NotFiniteError
from effvid_jax.exits import executor
from effvid_jax.signals import Signals
from effvid_jax.start import runs


class Predictor:
    """A trained network that takes one clip at a time.

    Args:
        workdir: of a training run; a run of several stages stands for its last one, the student.
        config: how clips are read; what the run was trained with by default.

    Attributes:
        config: how clips are read.
        reader: finds and reads videos as evaluation does.
        class_names: K names.
        num_threads: that `config.data` reads with.

    Raises:
        UserError: no checkpoint there, or a damaged one.
    """

    def __init__(self, workdir: str, config=None):
        config, directory = runs.trained(config, os.path.abspath(workdir))
        self.config = config
        self.reader = ClipReader(config.data)
        self.num_threads = max(1, config.data.num_threads)
        method, variables, saved = evaluate.restore_for_inference(config, directory)
        self.class_names, self.task, self._step = saved.class_names, method.task, saved.step
        self._variables = jax.device_put(variables)
        self._predict = jax.jit(method.predict)
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
        name = video if isinstance(video, (str, os.PathLike)) else "(no file)"
        if self.task.every:
            with self.reader.open(video) as opened:
                return along.answer(self.task, self.along(opened, name))
        if self.stops_early:
            with self.reader.open(video) as opened:
                return self._stop_early(opened.frames, name)
        return self.classify(self.reader.views(video), name)

    def classify(self, views_VTHWC: np.ndarray, name="(no file)") -> dict:
        """As `__call__`, for views uint8 (V, T, H, W, 3) that are read already; `name` is for messages."""
        if self.stops_early:
            return self._stop_early(lambda positions: views_VTHWC[0][list(positions)], name)
        prediction = self._predict(self._variables, {"video": views_VTHWC[None]})
        gmacs = prediction.gmacs[0]
        views = len(views_VTHWC)
        if self._adaptive is None:
            return self._result(name, prediction.logits[0], gmacs, views)
        result = self._result(name, prediction.logits[0], views * self._adaptive.gmacs[-1], views)
        return {**result, "gmacs_where_it_stops": _short(gmacs), **self._exit(prediction.extra["exit"][0])}

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

    def _stop_early(self, frames, name) -> dict:
        """As `__call__`; `frames` gives those at some positions of the clip."""
        order = self._adaptive.order
        rows = executor.Rows([0], load=lambda _, start, stop: frames(order[start:stop]))
        answer, = self._executor.run(self._variables, self._thresholds, [rows])
        if answer.error is not None:
            raise answer.error
        result = self._result(name, answer.logits, self._adaptive.gmacs[answer.checkpoint])
        return {**result, **self._exit(answer.checkpoint)}

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

    def _result(self, name, logits_K, gmacs, views: int = 1) -> dict:
        scores, gmacs = self._checked(name, logits_K, gmacs)
        per_clip = {"gmacs_per_clip": _short(gmacs / views)} if views > 1 else {}
        return {**self.task.answer(scores), "gmacs": _short(gmacs), **per_clip}


def _short(gmacs) -> float:
    return float(f"{float(gmacs):.6g}")


def predict(config, workdir: str, video: str, as_json: bool) -> None:
    """Prints one JSON object per clip on standard output, and unless `as_json` a readable line before it.

    What a task draws (`Task.draw`) of videos that it is asked about along is written into
    `<workdir>/predictions`.

    Args:
        config: how clips are read.
        workdir: of a trained network.
        video: a file, or a folder of them.
        as_json: nothing but JSON on standard output.

    Raises:
        VideoError: nothing could be read. In a folder, single broken files are named on standard error
            and left out.
        NotFiniteError: the network's scores of a video. In a folder all others are answered first.
    """
    predictor = Predictor(workdir, config)
    paths = predictor.reader.find(video)
    draws = os.path.join(os.path.abspath(workdir), along.FOLDER) if predictor.task.every else ""
    if len(paths) == 1:
        result = _drawn(predictor, paths[0], draws, video) if draws else predictor(paths[0])
        _show(predictor.task, paths[0], result, as_json)
        return
    errors, unsound = [], []
    with console.bar(len(paths), "predict", "video") as progress:
        for path, reading in ((path, None) for path in paths) if draws else _read_ahead(predictor, paths):
            try:
                if draws:
                    result = _drawn(predictor, path, draws, video)
                else:
                    result = reading.result()
                    if not predictor.stops_early:
                        result = predictor.classify(result, path)
            except VideoError as error:
                errors.append(error)
                console.say(f"skipped: {error}")
            except NotFiniteError as error:
                unsound.append(error)
                console.say(f"no answer: {error}")
            else:
                with progress.external_write_mode(file=sys.stdout):
                    _show(predictor.task, path, result, as_json)
            progress.update()
    if len(errors) == len(paths):
        raise VideoError(f"--video={video}", f"none of the {len(paths)} videos can be read; the first: "
                                             f"{errors[0]}")
    if errors:
        console.say(f"{len(errors)} of {len(paths)} videos were skipped")
    if unsound:
        console.say(f"{len(unsound)} of {len(paths)} videos have no answer; the first:")
        raise unsound[0]


def _drawn(predictor: Predictor, path: str, folder: str, root: str) -> dict:
    """What is told of a video, with the files that show it."""
    with predictor.reader.open(path) as opened:
        said = predictor.along(opened, path)
        files = along.draw(predictor.task, opened, said, os.path.join(folder, along.name_of(path, root)))
    return {**along.answer(predictor.task, said), **files}


def _read_ahead(predictor: Predictor, paths: list[str]):
    """Yields (path, future) in order, a few clips being read at any time.

    The future is of a clip's views; of its result where clips stop early, as what is read depends on it.
    """
    work = predictor if predictor.stops_early else predictor.reader.views
    threads = predictor.num_threads
    waiting: deque[tuple[str, Future]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for path in paths:
            waiting.append((path, pool.submit(work, path)))
            if len(waiting) > 2 * threads:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()


def _show(task, path: str, result: dict, as_json: bool) -> None:
    with Signals.held():  # whole lines only
        if not as_json:
            each = f", {result['gmacs_per_clip']:.3g} per clip" if "gmacs_per_clip" in result else ""
            left = f", exit {result['exit']} of {result['exits']}" if "exit" in result else ""
            said = along.words(task, result) if task.every else task.words(result)
            print(f"{path}: {said} ({result['gmacs']:.3g} GMACs{each}{left})")
        print(json.dumps({"video": path, **result}, allow_nan=False), flush=True)
