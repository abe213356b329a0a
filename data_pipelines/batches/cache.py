"""data.cache='memory': decoded frames of small data sets stay in memory.

All frames of a video are kept as uint8 after the short-side resize, which is the first step of every
pipeline, so batches are bit-identical with and without the cache. It is shared by all pipelines and
threads of a process (worker processes have one each) and stops growing at data.cache_gib.
"""

import functools
import threading

import numpy as np

from data_pipelines.batches import transforms
from data_pipelines.sources.base import Source
from data_pipelines.video.decode import ArrayFrames
from data_pipelines.video.reader import VideoReader

_CHUNK = 64  # frames decoded at a time


class _Frames:
    """Process-wide store: key → (entry, frames)."""

    def __init__(self):
        self._lock = threading.Lock()
        self._videos = {}
        self.num_bytes = 0

    def get(self, key):
        return self._videos.get(key)

    def put(self, key, entry, frames, limit: float) -> None:
        with self._lock:
            if key not in self._videos and self.num_bytes + frames.nbytes <= limit:
                self._videos[key] = entry, frames
                self.num_bytes += frames.nbytes

    def clear(self) -> None:
        with self._lock:
            self._videos.clear()
            self.num_bytes = 0


FRAMES = _Frames()


class CachedSource(Source):
    """Another source whose videos are decoded once per process.

    Args:
        source: the source to read from.
        short_side: of the frames that are kept.
        limit_bytes: of all cached frames in this process.
    """

    def __init__(self, source: Source, short_side: int, limit_bytes: float):
        self._source = source
        self._short_side = short_side
        self._limit = limit_bytes
        self.class_names = source.class_names
        self.description = source.description
        self.check_command = source.check_command

    def __len__(self):
        return len(self._source)

    def entry(self, index):
        return self._source.entry(index)

    def open(self, index):
        return self.read(index)[1]

    def key(self, index):
        return self._source.key(index)

    def read(self, index):
        key = (*self._source.key(index), self._short_side)
        cached = FRAMES.get(key)
        if cached is None:
            entry, reader = self._source.read(index)
            if FRAMES.num_bytes + self._size(reader) > self._limit:
                return entry, reader
            with reader:
                cached = entry, self._frames(reader)
            FRAMES.put(key, *cached, self._limit)
        # Key frames of a video have its frames in common, and an entry each.
        entry = cached[0] if cached[0].key_frame < 0 else self._source.entry(index)
        return entry, ArrayFrames(cached[1])

    def _size(self, reader: VideoReader) -> int:
        height, width = transforms.short_side_size(*reader.stored_size, self._short_side)
        return reader.num_frames * height * width * 3

    def _frames(self, reader: VideoReader) -> np.ndarray:
        starts, small = range(0, reader.num_frames, _CHUNK), functools.partial(transforms.small_frame,
                                                                              self._short_side)
        return np.concatenate([
            reader.get(range(start, min(start + _CHUNK, reader.num_frames)), small) for start in starts])


def cached(source: Source, options, short_side: int, processes: int = 1) -> Source:
    """The source itself, or with data.cache='memory' one that keeps what it has decoded.

    Args:
        source: the source to read from.
        options: the data configuration.
        short_side: of the frames that are kept: of training or of evaluation.
        processes: that share data.cache_gib, each with a cache of its own.
    """
    if options.cache != "memory":
        return source
    return CachedSource(source, short_side, options.cache_gib * 2**30 / processes)
