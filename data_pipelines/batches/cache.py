"""data.cache='memory': decoded frames of small data sets stay in memory.

All frames of a video are kept as uint8 after the short-side resize, which is the first step of every
pipeline, so batches are bit-identical with and without the cache. It is shared by all pipelines and
threads of a process (worker processes have one each) and stops growing at data.cache_gib.

Runs that follow one another in a process may want other sizes of the same videos, such as a teacher's and
that of a network that sees fewer pixels. Who knows of them says so (`cache_for`): a video is decoded once for
all of them, where there is room, and what none of them reads is dropped.

Frames lie in memory that the system gives, not in malloc's: those of one video after the other would fill the
place that a training step on the CPU has just given back (`effvid_jax/speed/host_memory.py`), and it would
get new pages in every step of the first epoch. On two cores such a step took 186 ms instead of 241.
"""

import contextlib
import math
import mmap
import threading
from collections.abc import Iterable

import numpy as np

from data_pipelines.batches import transforms
from data_pipelines.sources.base import Source
from data_pipelines.video.decode import ArrayFrames
from data_pipelines.video.reader import VideoReader

FIELDS = ("short_side", "test_short_side")  # of the data configuration: sizes of frames that are kept
_BLOCK = 1 << 26  # bytes that the system gives at a time


class _Frames:
    """Process-wide store: key → (entry, frames); the key ends with the short side of the frames."""

    def __init__(self):
        self._lock = threading.Lock()
        self._videos = {}
        self._free: dict[int, np.ndarray] = {}  # short side -> what is left of its block
        self.num_bytes = 0
        self.ahead: dict[str, frozenset[int]] = {}  # field -> short sides that will be read

    def get(self, key):
        return self._videos.get(key)

    def room(self, shape: tuple[int, ...]) -> np.ndarray:
        """Memory for the frames of a video, uint8, whose short side tells which others it lies with."""
        size, short_side = math.prod(shape), min(shape[1:3])
        if size > _BLOCK // 4:
            return _of_the_system(size).reshape(shape)
        with self._lock:
            free = self._free.get(short_side, ())
            if size > len(free):
                free = _of_the_system(_BLOCK)
            self._free[short_side] = free[size:]
        return free[:size].reshape(shape)

    def put(self, key, entry, frames, limit: float) -> None:
        with self._lock:
            if key not in self._videos and self.num_bytes + frames.nbytes <= limit:
                self._videos[key] = entry, frames
                self.num_bytes += frames.nbytes

    def keep(self, short_sides) -> None:
        """Drops frames of other sizes."""
        with self._lock:
            self._videos = {key: kept for key, kept in self._videos.items() if key[-1] in short_sides}
            self._free.clear()
            self.num_bytes = sum(frames.nbytes for _, frames in self._videos.values())

    def clear(self) -> None:
        with self._lock:
            self._videos.clear()
            self._free.clear()
            self.num_bytes = 0


def _of_the_system(size: int) -> np.ndarray:
    """So many bytes; they go back when the last array in them is gone."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    block = mmap.mmap(-1, size, **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            block.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(block, np.uint8)


FRAMES = _Frames()


@contextlib.contextmanager
def cache_for(data_configs: Iterable):
    """A block in which videos are read as these configurations say, one after the other.

    Args:
        data_configs: `config.data` of every run that is still to come, the present one included.
    """
    configs = list(data_configs)
    outer, FRAMES.ahead = FRAMES.ahead, {field: frozenset(config[field] for config in configs)
                                         for field in FIELDS}
    FRAMES.keep(frozenset().union(*FRAMES.ahead.values()))
    try:
        yield
    finally:
        FRAMES.ahead = outer


class CachedSource(Source):
    """Another source whose videos are decoded once per process.

    Args:
        source: the source to read from.
        short_side: of the frames that are read.
        limit_bytes: of all cached frames in this process.
        others: short sides that will be read later: kept as well if all videos fit in all sizes.
    """

    def __init__(self, source: Source, short_side: int, limit_bytes: float, others: Iterable[int] = ()):
        self._source = source
        self._short_side = short_side
        self._limit = limit_bytes
        self._others = tuple(sorted(set(others) - {short_side}))
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
        key = self._source.key(index)
        cached = FRAMES.get((*key, self._short_side))
        if cached is None:
            entry, reader = self._source.read(index)
            if FRAMES.num_bytes + _size(reader, self._short_side) > self._limit:
                return entry, reader
            with reader:
                frames = _decoded(reader, (self._short_side, *self._wanted(reader)))
            for short_side, frames_THWC in frames.items():
                FRAMES.put((*key, short_side), entry, frames_THWC, self._limit)
            cached = entry, frames[self._short_side]
        # Key frames of a video have its frames in common, and an entry each.
        entry = cached[0] if cached[0].key_frame < 0 else self._source.entry(index)
        return entry, ArrayFrames(cached[1])

    def _wanted(self, reader: VideoReader) -> tuple[int, ...]:
        """The other sizes, if all videos fit in all of them, judged by this one; else none."""
        size = sum(_size(reader, short_side) for short_side in (self._short_side, *self._others))
        return self._others if size * len(self._source) <= self._limit else ()


def _size(reader: VideoReader, short_side: int) -> int:
    """Bytes of all frames of a video in this size."""
    height, width = transforms.short_side_size(*reader.stored_size, short_side)
    return reader.num_frames * height * width * 3


def _decoded(reader: VideoReader, short_sides: tuple[int, ...]) -> dict[int, np.ndarray]:
    """{short side: all frames of a video in this size, uint8 (T, H, W, 3)}."""
    frames: dict[int, np.ndarray] = {}
    read = 0

    def keep(frame_HWC: np.ndarray) -> np.ndarray:
        nonlocal read
        for short_side in short_sides:
            height, width = transforms.short_side_size(*frame_HWC.shape[:2], short_side)
            if not read:
                frames[short_side] = FRAMES.room((reader.num_frames, height, width, 3))
            transforms.resize_frame(frame_HWC, frames[short_side][read])
        read += 1
        return frame_HWC[:0]  # it is kept already

    reader.get(range(reader.num_frames), keep)
    return frames


def cached(source: Source, options, field: str, processes: int = 1) -> Source:
    """The source itself, or with data.cache='memory' one that keeps what it has decoded.

    Args:
        source: the source to read from.
        options: the data configuration.
        field: which of `FIELDS` has the short side of the frames: that of training or of evaluation.
        processes: that share data.cache_gib, each with a cache of its own; those of workers end with their
            batches, so they keep nothing for later.
    """
    if options.cache != "memory":
        return source
    return CachedSource(source, getattr(options, field), options.cache_gib * 2**30 / processes,
                        () if options.num_workers else FRAMES.ahead.get(field, ()))
