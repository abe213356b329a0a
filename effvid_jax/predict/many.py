"""Answers about many videos: they are read in threads while the network is asked about a batch at a time.

    path ─ reader ─┐
    path ─ reader ─┼─ batch ─ network on its device ─ answers, in the order of the paths
    path ─ reader ─┘  the next one is read and put together meanwhile

A batch is of so many paths that follow each other; what cannot be read, and what is missing at the end, are
zeros in it, so one program is compiled. In memory are two batches and what is read ahead, one more.
Networks that stop early read as much of a video as they need, see `Network.pooled`.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines import VideoError, in_order
from effvid_jax.errors import NotFiniteError
from effvid_jax.predict.network import Network, Scored

MOST_BYTES = 1 << 28  # of the clips of a batch whose size nobody chose
FULL = 0.9  # readers that are busy for this share of the time are what limits the speed

Outcome = Scored | VideoError | NotFiniteError


def batch_size(network: Network, asked: int | None = None) -> int:
    """Videos of a batch: as asked for; otherwise as in evaluation, and at most 256 MiB of clips."""
    views, frames, side = network.clip_shape
    return asked or max(1, min(network.batch_size, MOST_BYTES // (views * frames * side**2 * 3)))


class Many:
    """Answers about videos, and how fast.

    Args:
        network: that answers.
        size: videos of a batch, see `batch_size`.
        threads: that read; None: as `config.data.num_threads` says.

    Attributes:
        threads: the same.
        answered: videos so far, `after_start` of them since the first batch was answered.
        seconds, start_seconds: that the answers took since then, and until then, when programs are compiled.
    """

    def __init__(self, network: Network, size: int, threads: int | None = None):
        self._network, self._size, self.threads = network, size, threads or network.num_threads
        self.answered = self.after_start = 0
        self.seconds = self.start_seconds = self._busy = 0.0
        self._begin, self._from, self._lock = time.monotonic(), None, threading.Lock()

    def __call__(self, paths: Sequence[str]) -> Iterator[tuple[str, Outcome]]:
        """(path, scores and what is told, or what went wrong) of each, in order."""
        self._begin = time.monotonic()
        answer = self._in_segments if self._network.stops_early else self._whole
        with contextlib.closing(answer(paths)) as outcomes:
            for path, outcome in zip(paths, outcomes):
                self.answered += 1
                self.after_start += self._from is not None
                yield path, outcome
                if self._from is None and self.answered >= min(self._size, len(paths)):
                    self._from, self._busy = time.monotonic(), 0.0
                    self.start_seconds = self._from - self._begin
                elif self._from is not None:
                    self.seconds = time.monotonic() - self._from

    def _whole(self, paths: Sequence[str]) -> Iterator[Outcome]:
        """Everything is computed, batch by batch."""
        size = min(self._size, len(paths))
        before = None
        reads = in_order(self._views, paths, self.threads, size + self.threads)
        with contextlib.closing(reads):
            for start in range(0, len(paths), size):
                found = list(itertools.islice(reads, size))
                batch = Batch(self._network, paths[start:start + size], found, size)
                del found  # the batch has a copy
                if before is not None:
                    yield from before.outcomes()
                before = batch
        if before is not None:
            yield from before.outcomes()

    def _in_segments(self, paths: Sequence[str]) -> Iterator[Outcome]:
        """As far as each needs it."""
        def load(i, positions):
            with self._timed(), self._network.reader.open(paths[i]) as opened:
                return opened.frames(positions)

        return self._network.pooled(load, paths, min(self._size, len(paths)), self.threads)

    def _views(self, path: str) -> np.ndarray | VideoError:
        try:
            with self._timed():
                return self._network.reader.views(path)
        except VideoError as error:
            return error

    @contextlib.contextmanager
    def _timed(self):
        """A block in which a reader is busy."""
        start = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._busy += time.monotonic() - start

    @property
    def reading(self) -> float:
        """Share of the readers' time, since the first batch was answered, in which they were busy."""
        return min(1.0, self._busy / (self.threads * self.seconds)) if self.seconds else 0.0

    def summary(self) -> str:
        """How fast it was, and what limits it."""
        start = f"the first {self.answered - self.after_start} took {self.start_seconds:.1f} s (start)"
        if not self.seconds:
            return f"{self.answered} videos: {start}"
        limit = "decoding" if self.reading >= FULL else f"the network, in batches of {self._size}"
        return (f"{self.answered} videos: {start}, the others {self.seconds:.1f} s, "
                f"{self.after_start / self.seconds:.3g} videos/s. What limits it is {limit} ({self.threads} "
                f"threads decoded {self.reading:.0%} of the time)")


class Batch:
    """A batch that the network is asked about; `outcomes` waits for the answers.

    Args:
        network: that answers.
        names: of the videos.
        found: views uint8 (V, T, side, side, 3) of each, or what kept it from being read.
        size: of the batch that the device sees, at least as many.
    """

    def __init__(self, network: Network, names: Sequence[str], found: Sequence[np.ndarray | VideoError],
                 size: int):
        good = [i for i, one in enumerate(found) if not isinstance(one, VideoError)]
        self._network, self._names = network, [names[i] for i in good]
        self._errors = [one if isinstance(one, VideoError) else None for one in found]
        self._started = None
        if good:
            batch = np.zeros((size, *found[good[0]].shape), np.uint8)
            for row, i in enumerate(good):
                batch[row] = found[i]
            self._started = network.start(batch)

    def outcomes(self) -> Iterator[Outcome]:
        """What is said of each, in order."""
        answers = iter(self._network.finish(self._started, self._names) if self._names else ())
        for error in self._errors:
            yield error or next(answers)
