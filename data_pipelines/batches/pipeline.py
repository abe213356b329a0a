"""The loader: which videos make batch k, read ahead by threads or worker processes (grain).

Batch k is a pure function of the configuration and k (see `assembly.py`): nothing depends on the
number of threads, workers or processes, or on where a run was resumed. This is the only file that
uses grain, with `workers.py`, which knows what its worker processes lack.
"""

import atexit
import contextlib
import weakref

import grain
from absl import flags

from data_pipelines.batches import workers
from data_pipelines.batches.assembly import EvalAssembly, Parts, TrainAssembly, open_report
from data_pipelines.batches.cache import cached
from data_pipelines.batches.row_threads import RowThreads
from data_pipelines.batches.targets import Targets
from data_pipelines.sources.base import Source
from data_pipelines.sources.broken import BrokenFiles
from data_pipelines.tools import decoding_threads

_all: weakref.WeakSet["Batches"] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """What nobody has closed: later, Python has taken apart what grain needs for it."""
    for batches in list(_all):
        batches.close()


class Batches:
    """Iterator of batches (dicts of numpy arrays, B rows of this process); a context manager.

    train: video uint8 (B, T, H, W, 3); mask float32 (B,); id int64 (B,); and the targets.
    Others: video uint8 (B, V, T, H, W, 3); the same.

    Threads and worker processes start with the first batch. They are stopped by `close`, by the end of the
    block, by the last batch and by any error; nothing but `set_state` starts them again.

    Args:
        source: where videos come from.
        options: the data configuration.
        split: name of the split: 'train' iterates for ever over shuffled, augmented clips; every
            other split once, in order, over the test views of its videos.
        targets: what comes with a clip.
        start_step: number of the first batch; nothing before it is read.
        process_index, process_count: this process builds its contiguous share of the rows of every
            global batch.
        training: False reads 'train' as any other split.
        skip: (train) batch k begins with clip k·B + skip of the stream, B its size: not 0 where a run goes on
            that had another B.

    Attributes:
        source: the `Source`.
        num_examples: number of videos of the split.
        steps_per_epoch: (train) whole batches per pass over the videos, at least 1.
        num_steps: (other splits) number of batches.
        broken: `BrokenFiles` met so far.
    """

    def __init__(self, source: Source, options, split: str, targets: Targets, start_step: int = 0,
                 process_index: int = 0, process_count: int = 1, training: bool | None = None,
                 skip: int = 0):
        self.source = source
        self.num_examples = len(source)
        self.broken = BrokenFiles(source, split, options.max_broken_share)
        _all.add(self)
        self._options = options
        self._step = start_step
        self._iterator = None
        self._closed = False
        train = split == "train" if training is None else training
        source = cached(source, options, "short_side" if train else "test_short_side",
                        processes=max(1, options.num_workers))
        batch_size = options.batch_size if train else options.eval_batch_size
        self._parts = max(1, options.num_workers)  # of a batch: every worker process builds one of each
        self._num_threads = -(-decoding_threads(options.num_threads) // self._parts)
        self._threads = RowThreads(self._num_threads)
        shard = source, options, targets, batch_size, process_index, process_count, self._threads
        self._earlier = 0
        if train:
            self._earlier, rest = divmod(skip, batch_size)
            self.steps_per_epoch = max(1, self.num_examples // batch_size)
            self.num_steps = None
            # The seed idiom is fixed: another one gives another order.
            clips = grain.MapDataset.range(self.num_examples).seed(options.seed).shuffle().repeat(None)
            indices = (clips[rest:] if rest else clips).batch(batch_size, drop_remainder=True)
            parts = Parts(TrainAssembly(*shard, skip=rest), len(indices), self._parts, indices)
        else:
            self.num_steps = -(-self.num_examples // batch_size)
            parts = Parts(EvalAssembly(*shard), self.num_steps, self._parts)
        self._dataset = grain.MapDataset.source(parts)

    def __iter__(self):
        return self

    def __next__(self) -> dict:
        if self.num_steps is not None and self._step >= self.num_steps:
            self.close()
            raise StopIteration
        if self._closed:
            raise RuntimeError("these batches are closed: set_state continues at a step, "
                               "and a new iterator begins anew.")
        try:
            parts = self._next()
            self._step += 1
            self.broken.add([video for part in parts for video in open_report(part)])
            batch = workers.joined(parts) if self._options.num_workers else parts[0]
        except BaseException:
            self.close()
            raise
        return batch

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def get_state(self) -> dict:
        """Returns the position: the number of the next batch."""
        return {"step": self._step}

    def set_state(self, state: dict) -> None:
        """Continues at the position of `get_state`, whatever number of workers saved it; opens again."""
        self.close()
        self._step = int(state["step"])
        self._closed = False

    def close(self) -> None:
        """Stops threads and worker processes; closing twice is fine."""
        self._closed = True
        iterator, self._iterator = self._iterator, None
        if iterator is not None:
            iterator.close()
            del iterator
            if self._options.num_workers:
                workers.tidy()
        self._threads.close()

    def _next(self) -> list[dict]:
        """The parts of the next batch."""
        count = self._options.num_workers
        try:
            if self._iterator is None:
                with workers.starting() if count else contextlib.nullcontext():
                    self._iterator = self._start()
                    return [dict(next(self._iterator)) for _ in range(self._parts)]
            return [dict(next(self._iterator)) for _ in range(self._parts)]
        except RuntimeError as error:
            died = workers.death(error, count)
            if died is None:
                raise
            raise died from error

    def _start(self):
        options, first = self._options, (self._step + self._earlier) * self._parts
        self._threads.open(first + self._parts)
        # A thread of grain's sees to a whole batch, so more of them than batches that are read ahead would
        # idle. The work is done by `RowThreads`, the rows of the next batch first.
        threads = min(self._num_threads, options.prefetch)
        dataset = self._dataset[first:].to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=options.prefetch if threads else 0))
        if options.num_workers:
            if not flags.FLAGS.is_parsed():  # grain's workers read absl flags
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=options.num_workers),
                                          worker_init_fn=workers.begin)
        return iter(dataset)
