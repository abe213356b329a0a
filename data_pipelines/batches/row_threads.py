"""Threads that build the rows of batches, so that the batch that is needed next is ready first."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class RowThreads:
    """A pool of threads for rows, shared by batches that are built at the same time.

    The rows of a batch queue up together, behind those of batches that came before: on few cores eight
    batches that are read ahead become ready one by one, not all of them at the end. Picklable: a copy in
    another process has threads of its own. They start when they are needed.

    Args:
        count: of threads; with fewer than two the caller builds its rows itself.
    """

    def __init__(self, count: int):
        self._count = count
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    def __reduce__(self):
        return RowThreads, (self._count,)

    def each(self, build: Callable[[int], None], rows: int) -> None:
        """Calls `build(0)` to `build(rows - 1)` and waits for all of them; raises what the first one raised.

        Raises:
            RuntimeError: the threads are closed.
            CancelledError: they were closed meanwhile.
        """
        if self._count < 2:
            for i in range(rows):
                build(i)
            return
        with self._lock:  # the rows of two batches do not mix
            if self._closed:
                raise RuntimeError("the threads that build rows are closed.")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="rows")
            waiting = [self._pool.submit(build, i) for i in range(rows)]
        for row in waiting:
            row.result()

    def open(self) -> None:
        """Takes rows again after `close`."""
        with self._lock:
            self._closed = False

    def close(self) -> None:
        """Drops the rows that no thread has begun; closing twice is fine."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
