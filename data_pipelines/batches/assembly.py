"""Batches of clips by number: the pure functions that the loader calls, in any thread or process.

Global row q of training batch k is clip position k·B + q (+ `skip`, after another batch size) of an endless
shuffled stream, and process
p of P builds the rows p·B/P to (p+1)·B/P - 1: the batches of all processes, one after the other,
are the batch of a single process. The random numbers of a position come from (seed, position);
with `data.fixed_views=N` those of its video in pass e over the videos from (seed, video, e mod N).
Worker processes build every batch together: worker w of W the w-th W-th of this process's rows.
"""

import itertools
import json
import sys

import numpy as np

from data_pipelines.batches import clips
from data_pipelines.batches.row_threads import RowThreads
from data_pipelines.batches.targets import Fields, Targets
from data_pipelines.errors import DataError, VideoError
from data_pipelines.sources.base import Source
from data_pipelines.sources.broken import allowed_broken, too_many_broken


class _Assembly:
    """What both kinds share: the rows of this process, empty batches, reporting.

    Rows know nothing of each other: `threads` builds several at a time, one after the other by default.
    """

    def __init__(self, source: Source, options, targets: Targets, batch_size: int, process_index: int,
                 process_count: int, threads: RowThreads | None = None, skip: int = 0):
        self._source, self._options, self._targets = source, options, targets
        self._batch_size, self._threads, self._skip = batch_size, threads or RowThreads(0), skip
        rows = batch_size // process_count
        self._rows = range(process_index * rows, (process_index + 1) * rows)

    def _empty(self, rows: int, video_shape, targets: Fields):
        fields = {"video": (video_shape, np.uint8), **targets, "mask": ((), np.float32),
                  "id": ((), np.int64)}
        batch = {name: np.zeros((rows, *shape), kind)
                 for name, (shape, kind) in fields.items()}
        batch["id"][:] = -1
        return batch

    def __call__(self, step: int, *indices: np.ndarray, part: int = 0, parts: int = 1) -> dict:
        """Builds a batch, or a part of its rows, and adds 'report', which travels with it between processes.

        An error is reported, not raised: grain would add its own lines to the message.
        """
        broken = []  # (row, index, name, reason)
        count = len(self._rows)
        rows = self._rows[part * count // parts:(part + 1) * count // parts]
        try:
            batch, error = self._build(broken, rows, step * parts + part, step, *indices), ""
        except DataError as caught:
            batch, error = {}, str(caught)
        return batch | {"report": json.dumps([_in_order(broken), error])}


def _in_order(broken) -> list[tuple[int, str, str]]:
    """(index, name, reason) of the broken videos of a batch, whichever row was built first."""
    return [video[1:] for video in sorted(broken.copy(), key=lambda video: video[0])]


def open_report(batch: dict) -> list[tuple[int, str, str]]:
    """Takes the report out of a batch and returns the broken videos in it: (index, name, reason).

    Raises:
        DataError: that building the batch ended with.
    """
    broken, error = json.loads(batch.pop("report"))
    if error:
        raise DataError(error)
    return broken


class Parts:
    """What grain reads, one after the other: the parts of batch 0, those of batch 1, and so on.

    Args:
        assembly: builds them.
        steps: number of batches.
        parts: of a batch; grain's worker w of so many gets the w-th of each.
        indices: of each batch, which videos it has, if `assembly` asks for them.
    """

    def __init__(self, assembly: _Assembly, steps: int, parts: int, indices=None):
        self._assembly, self._parts, self._indices = assembly, parts, indices
        self._length = min(steps, sys.maxsize // parts) * parts

    def __len__(self):
        return self._length

    def __getitem__(self, number: int) -> dict:
        step, part = divmod(int(number), self._parts)
        indices = () if self._indices is None else (self._indices[step],)
        return self._assembly(step, *indices, part=part, parts=self._parts)


class TrainAssembly(_Assembly):
    """assembly(step, indices) builds the local rows of one training batch.

    `indices` has the video of every row of the global batch. A video that cannot be read is
    replaced by another one of the split, drawn from (seed, position, attempt).
    """

    def _build(self, broken, rows, turn, step, indices_B):
        options, fields = self._options, self._targets.train_fields
        batch = self._empty(len(rows), (options.num_frames, options.crop, options.crop, 3), fields)

        def fill(i: int) -> None:
            row = rows[i]
            position = step * self._batch_size + self._skip + row
            index, video, targets = self._read(position, int(indices_B[row]), broken, row)
            batch["video"][i], batch["id"][i] = video, index
            for name in fields:
                batch[name][i] = targets[name]

        self._threads.each(turn, len(rows), fill)
        batch["mask"][:] = 1
        return batch

    def _read(self, position, index, broken, row):
        seed, share = self._options.seed, self._options.max_broken_share
        for attempt in itertools.count(1):
            try:
                if views := self._options.fixed_views:
                    view = position // len(self._source) % views
                    return index, *clips.fixed_clip(self._source, self._options, self._targets, index, view)
                rng = np.random.default_rng([seed, position])
                return index, *clips.train_clip(self._source, self._options, self._targets, index, rng)
            except VideoError as error:
                broken.append((row, index, error.name, error.reason))
            distinct = dict((video[0], video[1:]) for video in _in_order(broken))
            if len(distinct) > allowed_broken(self._source, share):
                raise too_many_broken(self._source, share, list(distinct.values()))
            draw = np.random.default_rng([seed, position, attempt])
            index = int(draw.integers(len(self._source)))


class EvalAssembly(_Assembly):
    """assembly(step) builds the local rows of one evaluation batch; every video has exactly one row.

    Rows beyond the last video have mask 0 and id -1; a video that cannot be read has zeros, mask 0
    and its id.
    """

    def _build(self, broken, rows, turn, step):
        options, fields = self._options, self._targets.evaluate_fields
        size = options.test_crop_size
        batch = self._empty(len(rows), (clips.num_views(options), options.num_frames, size, size, 3), fields)

        def fill(i: int) -> None:
            index = step * self._batch_size + rows[i]
            if index >= len(self._source):
                return
            batch["id"][i] = index
            try:
                video, targets = clips.eval_clip(self._source, options, self._targets, index)
            except VideoError as error:
                broken.append((i, index, error.name, error.reason))
                return
            batch["video"][i], batch["mask"][i] = video, 1
            for name in fields:
                batch[name][i] = targets[name]

        self._threads.each(turn, len(rows), fill)
        return batch
