"""A stream: frames one by one, an answer after each, in memory that does not grow."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import jax
import numpy as np

from data_pipelines import ClipReader, VideoError
from effvid_jax.errors import NotFiniteError, UserError
from effvid_jax.methods.streaming import streaming
from effvid_jax.predict.network import short
from effvid_jax.tasks import classification

KEPT = 10_000  # frames whose times are remembered


class Stream:
    """Takes frames one by one; made by `load(...).stream()`.

        stream = model.stream()
        for frame in frames:                 # uint8 (H, W, 3), RGB, in the order of time
            scores = stream.push(frame)      # probabilities float64 (K,)

    A frame is cropped and resized as in evaluation. The answer after n of the T frames of a clip is that of a
    clip of these n frames; later it is the mean over the last T frames, see
    `effvid_jax/methods/streaming.py`.

    Args:
        method, variables: of the evaluated network.
        config: how clips are read, and T (`config.data.num_frames`).
        reader: the same.
        name: of the network, in messages.

    Attributes:
        class_names: K names.
        gmacs: multiply-adds in 10^9 of a frame, all crops together.
        frames: how many have come since the start or the last `reset`.
        every: every so many frames of a video are what the network was trained on
            (`config.data.frame_interval`).

    Raises:
        UserError: the network looks at later frames, or at all of them together.
    """

    def __init__(self, method, variables, config, reader: ClipReader, name: str):
        task = method.task
        if task.every or not task.class_scores:
            raise UserError("this network does not answer with classes of a video, so it takes no stream.")
        self._reader, self._task, self._name, self._variables = reader, task, name, variables
        self.class_names = tuple(task.class_names)
        crops = reader.crops(np.zeros((8, 8, 3), np.uint8))
        found = streaming(method, variables, crops.shape, config.data.num_frames)
        self.gmacs, self.every = short(found.gmacs), config.data.frame_interval
        self._start, self._step = jax.device_put(found.start), jax.jit(found.step)
        self._seconds: deque[float] = deque(maxlen=KEPT)
        jax.block_until_ready(self._step(self._variables, self._start, crops))  # compiled: no frame waits
        self.reset()

    def reset(self) -> None:
        """Forgets all frames: the next one is the first of another stream."""
        self._state, self.frames, self.scores = self._start, 0, None

    def push(self, frame) -> np.ndarray:
        """The next frame.

        Args:
            frame: uint8 RGB (H, W, 3), of any size.

        Returns:
            Probabilities float64 (K,) of the classes, of what was seen so far.

        Raises:
            VideoError: no such frame. NotFiniteError: scores that are no numbers.
        """
        start = time.perf_counter()
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or not frame.size:
            raise VideoError("frame", f"{frame.dtype} {frame.shape}; expected uint8 (H, W, 3)")
        state, logits = self._step(self._variables, self._state, self._reader.crops(frame))
        scores = self._task.scores(np.asarray(logits)[None])[0]
        if not np.isfinite(scores).all():
            raise NotFiniteError(f"(frame {self.frames})", "scores", self._name)
        self._state, self.scores = state, scores
        self.frames += 1
        self._seconds.append(time.perf_counter() - start)
        return scores

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The k most probable classes after the last frame with their probabilities, most probable first.

        Raises:
            UserError: no frame has come.
        """
        if self.scores is None:
            raise UserError("no frame has come yet: push one.")
        best = np.argsort(-self.scores, kind="stable")[:k]
        return [(self.class_names[i], float(self.scores[i])) for i in best]

    def told(self) -> dict[str, Any]:
        """What is told of the last frame, as json values: top5, its cost, milliseconds that it took."""
        return {**classification.top5(self.class_names, self.scores), "gmacs": self.gmacs,
                "milliseconds": round(1e3 * self._seconds[-1], 3)}

    def latency(self) -> tuple[float, float]:
        """Milliseconds from a frame to its answer, of the last 10,000 frames: median and 95th percentile."""
        if not self._seconds:
            return 0.0, 0.0
        return tuple(float(x) for x in np.round(1e3 * np.percentile(self._seconds, (50, 95)), 3))
