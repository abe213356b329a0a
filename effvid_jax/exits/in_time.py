"""Items of a source that may be slow, for a caller who has other things to do in time."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator


def in_time(items: Iterable, seconds: Callable[[], float | None], stop: threading.Event) -> Iterator:
    """The items, read one ahead in a thread; None whenever the next one does not come in time.

    Args:
        items: the source; its errors come out here.
        seconds: how long to wait for the next item, asked before each wait; None: as long as it takes.
        stop: set when nobody listens any more; the thread ends when the source gives its next item.
    """
    read: queue.Queue = queue.Queue(1)

    def put(item, error=None) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                read.put((item, error), timeout=0.1)
                return True
        return False

    def source():
        try:
            if all(put(item) for item in items):
                put(None, StopIteration())
        except BaseException as error:  # raised where the items are used
            put(None, error)

    threading.Thread(target=source, daemon=True).start()
    while True:
        try:
            item, error = read.get(timeout=seconds())
        except queue.Empty:
            yield None
            continue
        if isinstance(error, StopIteration):
            return
        if error is not None:
            raise error
        yield item
