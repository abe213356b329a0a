"""Answers as files that grow by a row at a time: csv, json lines, and a csv with a row for every second."""

from __future__ import annotations

import csv
import json
import math

import numpy as np

from data_pipelines import VideoError, printable
from effvid_jax import writers


class _Growing:
    """A file whose rows are there as soon as they are told. What was there before is overwritten."""

    def __init__(self, path: str):
        self._path = path
        with writers.writing(path):
            self._file = open(path, "w", newline="", encoding="utf-8", errors="backslashreplace")

    def write(self, write, *rows) -> None:
        with writers.writing(self._path):
            write(*rows)
            self._file.flush()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with writers.writing(self._path):
            self._file.close()


class Rows(_Growing):
    """A row for every answer: `.jsonl` has json objects, `.csv` a column a value.

    Columns of classes are label, prob, label2, prob2 and so on.

    Args:
        path: of the file.
        told: what is told of a video (`Network.columns`), where rows may say why there is no answer: the csv
            has a column `error` then. None: the columns are those of the first row.

    Raises:
        UserError: the file cannot be written; so does `add`.
    """

    def __init__(self, path: str, told: dict | None = None):
        super().__init__(path)
        self._table = None
        if told is not None and not path.lower().endswith(".jsonl"):
            self._begin([*flat({"video": "", **told}), "error"])

    def add(self, row: dict) -> None:
        """Writes a row, whose values are json's."""
        if self._path.lower().endswith(".jsonl"):
            self.write(self._file.write, json.dumps(row, allow_nan=False) + "\n")
            return
        if self._table is None:
            self._begin(list(flat(row)))
        self.write(self._table.writerow, flat(row))

    def _begin(self, columns: list[str]) -> None:
        self._table = csv.DictWriter(self._file, columns, extrasaction="ignore")
        self.write(self._table.writeheader)


def reason_of(error: Exception) -> str:
    """Why a video has no answer, without its name where that is known."""
    return printable(error.reason) if isinstance(error, VideoError) else str(error)


def flat(row: dict) -> dict:
    """A row with a column for every value."""
    out = {}
    for name, value in row.items():
        if name != "top5":
            out[name] = value
            continue
        for i, guess in enumerate(value, 1):
            number = "" if i == 1 else i
            out |= {f"label{number}": guess["label"], f"prob{number}": guess["prob"]}
    return out


class Timeline(_Growing):
    """A row for every second of a video with the probability of each class: the mean of all answers about it.

    Seconds that no answer is about are empty. A row is written when no later answer can be about its second.

    Args:
        path: of the file.
        class_names: K names, the columns.
    """

    def __init__(self, path: str, class_names):
        super().__init__(path)
        self._table, self._count = csv.writer(self._file), len(class_names)
        self.write(self._table.writerow, ["video", "second", *class_names])
        self._begin("")

    def _begin(self, video: str) -> None:
        self._video, self._open, self._next = video, {}, 0

    def add(self, video: str, start: float, end: float, scores_K: np.ndarray) -> None:
        """Adds an answer about [start, end) seconds; starts never fall within a video."""
        if video != self._video:
            self.flush()
            self._begin(video)
        first = max(self._next, math.floor(start))
        self._write_until(first)
        for second in range(first, max(first + 1, math.ceil(end))):
            total, number = self._open.get(second, (0.0, 0))
            self._open[second] = total + scores_K, number + 1

    def flush(self) -> None:
        """Writes what is left of the video: nothing more is said of it."""
        if self._open:
            self._write_until(max(self._open) + 1)

    def __exit__(self, *error):
        self.flush()
        super().__exit__(*error)

    def _write_until(self, second: int) -> None:
        while self._next < second:
            total, number = self._open.pop(self._next, (np.zeros(self._count), 0))
            shown = [f"{x:.6f}" for x in total / number] if number else [""] * self._count
            self.write(self._table.writerow, [self._video, self._next, *shown])
            self._next += 1
