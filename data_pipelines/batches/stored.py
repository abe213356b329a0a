"""Rows that were computed for training clips once and are read with them, such as a teacher's answers.

    view-000/rows-00000000.f16, rows-00000256.f16, ...     of the videos from that number on
    view-001/...

They belong to the clips that come again and again (`data.fixed_views`): row i of view v is that of clip v
of video i. A file is there when all its rows are; one of a video that could not be read is NaN. It is float16
and nothing else: the header of a .npy file goes through Python's parser, which fails in threads now and then
(SystemError of 3.11). Who writes them is `effvid_jax/methods/stored_teacher.py`.
"""

import copy
import functools
import os
from collections.abc import Iterator

import numpy as np

from data_pipelines.batches.targets import Targets
from data_pipelines.errors import DataError, VideoError

FILE_BYTES, FILE_ROWS = 2**28, 256  # of a file, at most: what an interruption costs


class StoredRows:
    """Where they lie; picklable.

    Args:
        folder: of all files.
        videos: their number.
        shape: of a row.

    Attributes:
        dtype: of all rows.
        row_bytes, per_file: of a row, and rows of a file.
    """

    dtype = np.float16

    def __init__(self, folder: str, videos: int, shape: tuple[int, ...]):
        self.folder, self.videos, self.shape = folder, videos, tuple(shape)
        self.row_bytes = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        self.per_file = max(1, min(FILE_ROWS, FILE_BYTES // self.row_bytes))

    def files(self, views: int) -> Iterator[tuple[int, range, str]]:
        """(view, videos, path) of every file."""
        for view in range(views):
            for first in range(0, self.videos, self.per_file):
                yield view, range(first, min(first + self.per_file, self.videos)), self.path(view, first)

    def path(self, view: int, index: int) -> str:
        """The file that has the row of a clip."""
        first = index - index % self.per_file
        return os.path.join(self.folder, f"view-{view:03d}", f"rows-{first:08d}.f16")

    def read(self, view: int, index: int) -> np.ndarray:
        """The row of a clip.

        Raises:
            DataError: its file is missing or damaged.
        """
        path = self.path(view, index)
        try:
            rows = _opened(path, self.row_bytes)
            first = index - index % self.per_file
            if len(rows) != (wanted := min(self.per_file, self.videos - first)):
                raise ValueError(f"{len(rows)} rows, not {wanted}")
            return np.array(rows[index - first]).view(self.dtype).reshape(self.shape)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}): remove it, and the same command computes it "
                            f"again.") from None

    def content(self, found: np.ndarray) -> bytes:
        """Of the file of some rows (n, ...)."""
        return np.ascontiguousarray(found, self.dtype).tobytes()


@functools.lru_cache(64)  # every file that is open is a mapping of memory
def _opened(path: str, row_bytes: int) -> np.ndarray:
    """(n, bytes of a row)."""
    size = os.path.getsize(path)
    if not size or size % row_bytes:
        raise ValueError(f"{size} bytes are no whole rows of {row_bytes}")
    return np.memmap(path, np.uint8, "r", shape=(size // row_bytes, row_bytes))


class StoredTargets(Targets):
    """Targets with the stored row of a training clip beside them; in evaluation the targets alone.

    Args:
        targets: the others.
        name: of the row in a batch; float16 of `rows.shape`.
        rows: where it is read.
    """

    def __init__(self, targets: Targets, name: str, rows: StoredRows):
        self.targets, self.name, self.rows = targets, name, rows
        self.train_fields = {**targets.train_fields, name: (rows.shape, rows.dtype)}
        self.evaluate_fields = targets.evaluate_fields
        self._index = self._view = -1

    def at(self, place):
        """See `Targets.at`."""
        return self._with(self.targets.at(place))

    def of_clip(self, index, view):
        """See `Targets.of_clip`."""
        found = self._with(self.targets.of_clip(index, view))
        found._index, found._view = index, view
        return found

    def _with(self, targets: Targets) -> "StoredTargets":
        found = copy.copy(self)
        found.targets = targets
        return found

    def train(self, entry, rng):
        """See `Targets.train`.

        Raises:
            VideoError: the video could not be read when its row was to be computed.
            DataError: the row cannot be read.
        """
        row = self.rows.read(self._view, self._index)
        if np.isnan(row.flat[0]):
            raise VideoError(entry.name, f"it could not be read when {self.rows.folder} was written")
        return {**self.targets.train(entry, rng), self.name: row}

    def evaluate(self, entry):
        """See `Targets.evaluate`."""
        return self.targets.evaluate(entry)

    def check(self, split):
        """See `Targets.check`."""
        self.targets.check(split)
