"""Threads that build the rows of batches, so that the batch that is needed next is ready first."""

import heapq
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class RowThreads:
    """A pool of threads for rows, shared by batches that are built at the same time.

    A thread that is free takes a row of the earliest batch that has one left: on few cores eight batches that
    are read ahead become ready one by one, not all of them at the end. Picklable: a copy in another process
    has threads of its own. They start when they are needed.

    Args:
        count: of threads; with fewer than two the caller builds its rows itself.
    """

    def __init__(self, count: int):
        self._count = count
        self._lock = threading.Lock()
        self._waiting: list[tuple] = []  # heap of (batch, row, id of the future: unequal, build, future)
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    def __reduce__(self):
        return RowThreads, (self._count,)

    def each(self, batch: int, rows: int, build: Callable[[int], None]) -> None:
        """Calls `build(0)` to `build(rows - 1)` and waits for all of them; raises what the first one raised.

        Args:
            batch: its number; rows of lower numbers go first.
            rows: of the batch.
            build: may be called in any order.

        Raises:
            RuntimeError: the threads are closed.
            CancelledError: they were closed meanwhile.
        """
        if self._count < 2:
            for i in range(rows):
                build(i)
            return
        futures = [Future() for _ in range(rows)]
        with self._lock:
            if self._closed:
                raise RuntimeError("the threads that build rows are closed.")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="rows")
            for i, future in enumerate(futures):
                heapq.heappush(self._waiting, (batch, i, id(future), build, future))
                self._pool.submit(self._build_next)
        for future in futures:
            future.result()

    def _build_next(self) -> None:
        with self._lock:
            if not self._waiting:  # dropped
                return
            _, i, _, build, future = heapq.heappop(self._waiting)
        try:
            build(i)
        except BaseException as error:  # whoever waits for the batch raises it
            future.set_exception(error)
        else:
            future.set_result(None)

    def open(self) -> None:
        """Takes rows again after `close`."""
        with self._lock:
            self._closed = False

    def close(self) -> None:
        """Drops the rows that no thread has begun; closing twice is fine."""
        with self._lock:
            self._closed = True
            dropped, self._waiting = self._waiting, []
            pool, self._pool = self._pool, None
        for *_, future in dropped:
            future.cancel()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
