"""Threads that build the rows of batches, so that the batch that is needed next is ready first."""

import heapq
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor


class _Rows:
    """Rows of a batch, for all of which somebody waits: who does is woken once, not once a row."""

    def __init__(self, count: int, build: Callable[[int], None]):
        self._build, self._left = build, count
        self._lock, self._done = threading.Lock(), threading.Event()
        self._errors: dict[int, BaseException] = {}
        if not count:
            self._done.set()

    def build(self, i: int) -> None:
        try:
            self._build(i)
        except BaseException as error:  # whoever waits for the batch raises it
            self.end(i, error)
        else:
            self.end(i)

    def end(self, i: int, error: BaseException | None = None) -> None:
        """Row i is done with, or will not be built."""
        with self._lock:
            self._left -= 1
            if error is not None:
                self._errors[i] = error
            if not self._left:
                self._done.set()

    def wait(self) -> None:
        """Raises what the first row of those raised that did."""
        self._done.wait()
        if self._errors:
            raise self._errors[min(self._errors)]


class RowThreads:
    """A pool of threads for rows, shared by batches that are built at the same time.

    A thread that is free takes a row of the earliest batch that has one left: on few cores eight batches that
    are read ahead become ready one by one, not all of them at the end. The first batch has all threads for
    itself: rows of others begin when it is complete, so that it takes no longer than it would alone.
    Picklable: a copy in another process has threads of its own. They start when they are needed.

    Args:
        count: of threads; with fewer than two the caller builds its rows itself.
        first: batches of lower numbers than this are alone, see `open`.
    """

    def __init__(self, count: int, first: int = 0):
        self._count = count
        self._lock = threading.Lock()
        self._waiting: list[tuple] = []  # heap of (batch, row, id of the rows: unequal, the rows)
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self._first = first  # until it is complete: then 0

    def __reduce__(self):
        return RowThreads, (self._count, self._first)

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
        if self._closed:
            raise RuntimeError("the threads that build rows are closed.")
        if self._count < 2:
            for i in range(rows):
                if self._closed:
                    raise CancelledError(f"closed before row {i} of {rows}.")
                build(i)
            return
        whole = _Rows(rows, build)
        with self._lock:
            if self._closed:  # meanwhile
                raise CancelledError(f"closed before the first of {rows} rows.")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="rows")
            for i in range(rows):
                heapq.heappush(self._waiting, (batch, i, id(whole), whole))
            self._begin(rows)
        try:
            whole.wait()
        finally:
            if batch < self._first:
                with self._lock:
                    self._first = 0
                    self._begin(len(self._waiting))

    def _begin(self, rows: int) -> None:
        """Has threads take rows; the lock is held."""
        for _ in range(min(rows, self._count) if self._pool else 0):
            self._pool.submit(self._build_all, self._pool)

    def _build_all(self, pool: ThreadPoolExecutor) -> None:
        """Builds rows until none is left that may begin, or `pool` is closed."""
        while True:
            with self._lock:
                if pool is not self._pool or not self._waiting or self._waiting[0][0] >= self._first > 0:
                    return
                _, i, _, rows = heapq.heappop(self._waiting)
            rows.build(i)

    def open(self, first: int) -> None:
        """Takes rows, also after `close`; batches from number `first` wait until a lower one is complete."""
        with self._lock:
            self._closed, self._first = False, first

    def close(self) -> None:
        """Drops the rows that nobody has begun; closing twice is fine."""
        with self._lock:
            self._closed = True
            dropped, self._waiting = self._waiting, []
            pool, self._pool = self._pool, None
        for _, i, _, rows in dropped:
            rows.end(i, CancelledError(f"closed before row {i}."))
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
