"""The rows of an archive: a csv file a block of so many videos, there when it is whole."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence

from effvid_jax import writers
from effvid_jax.predict.rows import flat


class Shards:
    """The files of an archive.

    Args:
        folder: of the files.
        count: rows of all.
        block: rows of a file; the last one may have fewer.
        columns: of each.
    """

    def __init__(self, folder: str, count: int, block: int, columns: Sequence[str]):
        self.folder, self._count, self._block, self._columns = folder, count, block, list(columns)
        self._open: dict[int, dict[int, dict]] = {}  # block -> row of it -> what is said

    def __len__(self) -> int:
        return math.ceil(self._count / self._block)

    def path(self, number: int) -> str:
        """Of a block."""
        return os.path.join(self.folder, f"rows-{number:05d}-of-{len(self):05d}.csv")

    def range(self, number: int) -> tuple[int, int]:
        """(first row, the one after the last) of a block."""
        return number * self._block, min((number + 1) * self._block, self._count)

    def missing(self) -> list[int]:
        """Numbers of the blocks that are not there."""
        return [number for number in range(len(self)) if not os.path.exists(self.path(number))]

    def add(self, start: int, rows: Sequence[dict]) -> None:
        """Rows of a block from row `start` on; the last ones that come write its file.

        Raises:
            UserError: the file cannot be written.
        """
        number = start // self._block
        held = self._open.setdefault(number, {})
        held.update(enumerate(rows, start))
        first, end = self.range(number)
        if len(held) < end - first:
            return
        with (writers.whole(self.path(number)) as part,
              open(part, "w", newline="", encoding="utf-8", errors="backslashreplace") as file):
            table = csv.DictWriter(file, self._columns)
            table.writeheader()
            table.writerows(flat(held[i]) for i in range(first, end))
            file.flush()
            os.fsync(file.fileno())
        del self._open[number]

    def broken(self) -> int:
        """Rows without an answer, of the blocks that are there."""
        count = 0
        for number in range(len(self)):
            with open(self.path(number), newline="", encoding="utf-8") as file:
                count += sum(bool(row["error"]) for row in csv.DictReader(file))
        return count
