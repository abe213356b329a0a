"""The network of a workdir, as one that answers."""

from __future__ import annotations

import contextlib
import os
import threading
import time

import jax
import numpy as np

from data_pipelines import ClipReader, VideoError
from effvid_jax import console, evaluate
from effvid_jax.drawn import along
from effvid_jax.errors import NotFiniteError, UserError
from effvid_jax.exits import executor
from effvid_jax.methods import Runner
from effvid_jax.predict.network import Network, name_of, short
from effvid_jax.predict.streams import Stream
from effvid_jax.start import runs

FEW = 16  # videos that stop early are not worth the programs of a pool's sizes
MAX_WAIT = 4  # batches that a video of a pool waits for at most


@contextlib.contextmanager
def _open_to_threads(opened):
    """`frames` of an open video, for threads; it is closed when they are done, and nobody waits for that."""
    lock, over = threading.Lock(), threading.Event()

    def frames(positions):
        with lock:
            if over.is_set():
                raise RuntimeError("nobody waits for these frames any more")
            return opened.frames(positions)

    def close():
        with lock:
            opened.close()

    try:
        yield frames
    finally:
        over.set()
        if lock.locked():  # a deadline was over before the frames were there
            threading.Thread(target=close).start()
        else:
            close()


class Predictor(Network):
    """A trained network.

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
        self.class_names, self.task = tuple(saved.class_names), method.task
        self.name = f"the network at step {saved.step}"
        self.every, self.says_classes, self._method = method.task.every, method.task.class_scores, method
        self.clip_shape = (self.reader.num_views, config.data.num_frames, config.data.test_crop_size)
        self._variables = jax.device_put(variables)
        routed = next((r.routed for r in method.runners().values() if r.routed), None)
        self._predict = routed or jax.jit(method.predict)
        self._features = jax.jit(method.features)
        stopping = next((runner for runner in method.runners().values() if runner.segments), Runner())
        self._adaptive, self._deadline = stopping.segments, stopping.deadline
        self.batch_size = config.data.eval_batch_size
        self._executor, self._pool = None, None
        if self._deadline is not None and self.reader.num_views > 1:
            raise UserError(f"config.method.deadline_ms: of {self.reader.num_views} views per video all are "
                            f"computed, so no deadline can be kept; use one view, or leave it at 0.")
        if self._adaptive is not None and self.reader.num_views == 1:
            self._thresholds = jax.device_get(self._adaptive.thresholds(variables))
            self._executor = executor.Executor(self._adaptive.steps, self._adaptive.score, 1,
                                               policy="compact", threads=1, deadline=self._deadline)
            if self._deadline is not None:  # or the first clip would be late
                _, frames, side = self.clip_shape
                black = np.zeros((1, frames, side, side, 3), np.uint8)
                self._executor.warm_up(self._variables, black, load=True)

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
            with exits also "exit", the number of the checkpoint that answered, of how many ("exits"); with a
            deadline (`config.method.deadline_ms`) "ms", from opening the clip to the answer, and whether the
            deadline "cut" it.

        Raises:
            VideoError: the clip cannot be read.
            NotFiniteError: the network's scores of it.
        """
        return self.scored(video)[1]

    def scored(self, video):
        """See `Network.scored`; what is told as `__call__` has it."""
        name, since = name_of(video), time.monotonic()
        if self.task.every:
            with self.reader.open(video) as opened:
                said = self.along(opened, name)
            return np.stack([one.scores for one in said]), along.answer(self.task, said)
        if self.stops_early:
            with _open_to_threads(self.reader.open(video)) as frames:
                return self._stop_early(frames, name, since)
        return self.scored_views(self.reader.views(video), name)

    def start(self, videos_BVTHWC):
        """See `Network.start`."""
        return self._predict(self._variables, {"video": videos_BVTHWC})

    def finish(self, started, names):
        """See `Network.finish`."""
        exits = everything = [None] * len(names)
        if self._adaptive is not None:
            exits = started.extra["exit"]
            everything = np.asarray(self._adaptive.all_segments(started, self.reader.num_views))
        logits, gmacs, exits = jax.device_get((started.logits, started.gmacs, exits))
        found = []
        for i, name in enumerate(names):
            try:
                found.append(self._whole(name, logits[i], gmacs[i], exits[i], everything[i]))
            except NotFiniteError as error:
                found.append(error)
        return found

    def _whole(self, name, logits, gmacs, exit, everything):
        """As `scored`, of a video of which everything was computed."""
        views = self.reader.num_views
        if exit is None:
            return self._scored(name, logits, gmacs, views)
        scores, told = self._scored(name, logits, everything, views)
        return scores, {**told, "gmacs_where_it_stops": short(gmacs), **self._exit(exit)}

    def pooled(self, load, names, size, threads):
        """See `Network.pooled`: those that go on from several batches share the later segments."""
        if len(names) < FEW or self._deadline is not None:  # a deadline is of one video, not of its batch
            yield from super().pooled(load, names, size, threads)
            return
        if self._pool is None or self._pool.batch_size != size or self._pool.threads != threads:
            runner = self._method.runners()["pool"]
            sizes = tuple(s for s in runner.sizes if s <= size)
            self._pool = executor.Executor(runner.segments.steps, runner.segments.score, size, sizes, "pool",
                                           threads=threads, max_wait=MAX_WAIT)
        order = self._adaptive.order
        batches = (executor.Rows(range(first, min(first + size, len(names))),
                                 load=lambda i, start, stop: load(i, order[start:stop]))
                   for first in range(0, len(names), size))
        for answer in self._pool.run(self._variables, self._thresholds, batches):
            if isinstance(answer.error, VideoError):
                yield answer.error
                continue
            if answer.error is not None:
                raise answer.error
            try:
                yield self._stopped(names[answer.id], answer)
            except NotFiniteError as error:
                yield error

    def columns(self):
        """See `Network.columns`."""
        views, exits = self.reader.num_views, {} if self._adaptive is None else {"exit": 1, "exits": 1}
        per_clip = {"gmacs_per_clip": 0.0} if views > 1 else {}
        stops = {"gmacs_where_it_stops": 0.0} if exits and views > 1 else {}
        timed = {} if self._deadline is None else {"ms": 0.0, "cut": False}
        return {**self.task.answer(np.full(len(self.class_names), 0.5)), "gmacs": 0.0, **per_clip, **stops,
                **exits, **timed}

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

    def _stop_early(self, frames, name, since=None):
        """As `scored`; `frames` gives those at some positions of the clip, which came at the time `since`."""
        order = self._adaptive.order
        rows = executor.Rows([0], load=lambda _, start, stop: frames(order[start:stop]), since=since)
        answer, = self._executor.run(self._variables, self._thresholds, [rows])
        if answer.error is not None:
            raise answer.error
        return self._stopped(name, answer)

    def _stopped(self, name, answer):
        """As `scored`, of an answer of the executor."""
        scores, told = self._scored(name, answer.logits, self._adaptive.spent(answer))
        timed = {} if self._deadline is None else {"ms": round(1e3 * answer.seconds, 2), "cut": answer.cut}
        return scores, {**told, **self._exit(answer.checkpoint), **timed}

    def _exit(self, checkpoint) -> dict:
        """The checkpoint (from 0) that answered, as people count."""
        return {"exit": int(checkpoint) + 1, "exits": len(self._adaptive.gmacs)}

    def _checked(self, name, logits, gmacs):
        """(scores, gmacs), both finite."""
        scores = self.task.scores(logits[None])[0]
        for what, values in (("scores", scores), ("gmacs", gmacs)):
            if not np.isfinite(values).all():
                raise NotFiniteError(name, what, self.name)
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
        return Stream(self._method, self._variables, self.config, self.reader, self.name)

    def picture(self, video, result, k):
        """See `Network.picture`; of a task that is about frames those with what was said drawn over them."""
        if not self.task.every:
            return super().picture(video, result, k)
        with self.reader.open(video) as opened:
            said = [along.Said(frame["frame"], scores, 0.0)
                    for frame, scores in zip(result.told["frames"], result.scores, strict=True)]
            return along.strip(self.task, opened, said)
