"""Engines of one machine: threads of this process, and processes."""

import contextlib
import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from data_pipelines.batches import workers
from data_pipelines.engine.base import Engine, Stage

_work = None  # of a worker process


class Threads(Engine):
    """All stages in threads of this process; those that compute on a device in this one.

    Args:
        workers: threads.
    """

    block = 1

    def __init__(self, workers: int):
        self._workers = workers

    def each(self, stages: Sequence[Stage], blocks: Sequence[list]) -> Iterator[tuple[int, list]]:
        """See `Engine.each`; what kills a thread kills all."""
        here, there = _split(stages)
        with ThreadPoolExecutor(self._workers) as pool:
            under_way: dict = {}
            try:
                for number, results in _spread(pool, _in_turn, there, deque(enumerate(blocks)), under_way,
                                               2 * self._workers):
                    yield number, _in_turn(here, results)
            finally:
                for future in under_way:
                    future.cancel()


class Local(Engine):
    """The first stages in processes of this machine; one that computes on a device in this process.

    Args:
        workers: processes.
    """

    def __init__(self, workers: int):
        self._workers = workers

    def each(self, stages: Sequence[Stage], blocks: Sequence[list]) -> Iterator[tuple[int, list]]:
        """See `Engine.each`."""
        here, there = _split(stages)
        ready = deque(enumerate(blocks))
        alone: deque = deque()  # they were under way when a process died: which one was it?
        while ready or alone:
            careful = bool(alone)
            queue = deque([alone.popleft()]) if careful else ready
            under_way: dict = {}
            with _processes(1 if careful else min(self._workers, len(queue)), there) as pool:
                try:
                    for number, results in _spread(pool, _call, None, queue, under_way, self._workers + 1):
                        yield number, _in_turn(here, results)
                except BrokenProcessPool:
                    if not careful:
                        alone.extend(under_way.values())


def _split(stages: Sequence[Stage]) -> tuple[list, list]:
    """(work in this process, work that is spread): from the first stage on that computes on a device."""
    first = next((i for i, stage in enumerate(stages) if stage.device), len(stages))
    return [stage.work for stage in stages[first:]], [stage.work for stage in stages[:first]]


def _in_turn(works: list, block: list) -> list:
    for work in works:
        block = work(block)
    return block


def _spread(pool: Executor, call, works, queue: deque, under_way: dict, most: int):
    """(number, results) of the blocks of a queue as they are done; `under_way` has those that are not."""
    while queue or under_way:
        while queue and len(under_way) < most:
            number, block = queue[0]
            future = pool.submit(call, works, block)  # of a broken pool: the block stays in the queue
            under_way[future] = queue.popleft()
        for future in wait(under_way, return_when=FIRST_COMPLETED).done:
            results = future.result()
            number, _ = under_way.pop(future)
            yield number, results


@contextlib.contextmanager
def _processes(number: int, works: list):
    """A pool of processes, which end with this one and leave signals to it."""
    pool = ProcessPoolExecutor(number, multiprocessing.get_context("spawn"), _begin, (works,))
    try:
        yield pool
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:  # nobody waits for what they are doing
            process.kill()
        for process in processes:
            process.join()


def _begin(works: list) -> None:
    global _work
    _work = works
    workers.begin(0, 0)


def _call(_, block: list) -> list:
    return _in_turn(_work, block)
