"""Work that is begun before its turn and handed out in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor


def in_order(work: Callable, items: Iterable, threads: int, most: int) -> Iterator:
    """Yields `work(item)` in the order of the items, of which at most `most` are begun and not yet taken.

    An exception of `work` is raised where its result is due. To be closed by who may stop listening: only
    what is being worked on then is waited for.
    """
    pool, waiting = ThreadPoolExecutor(threads), deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
