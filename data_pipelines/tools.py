"""What the command line tools share: progress, threads, exit codes, files."""

import contextlib
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from data_pipelines import helping


def run_tool(main: Callable[[], int]) -> None:
    """Runs a tool and exits: 0 success, 1 an error of the user (one line), 130 interrupted.

    Tools return 1 themselves when they finished but found something wrong.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no UTF-8
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is half-written goes away too
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues where this one stopped.", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)


def progress_bar(total: int, description: str, unit: str, initial: int = 0) -> tqdm:
    """A progress bar with the remaining time, on stderr; every 10 s if that is not a terminal."""
    terminal = sys.stderr.isatty()
    return tqdm(total=total, initial=initial, desc=description, unit=unit, file=sys.stderr,
                dynamic_ncols=terminal, mininterval=0.2 if terminal else 10.0)


def parallel(function: Callable, items: Iterable, workers: int | None, description: str, unit: str,
             *, done: int = 0, processes: bool = False) -> Iterator:
    """Applies a function to items in threads and yields the results in the order of the items.

    Decoding and encoding release the interpreter's lock. At most a few items per thread are under
    way at a time. An exception, also one where the results are used, stops it: items that have not
    begun are dropped.

    Args:
        function: called with one item.
        items: what to work on.
        workers: threads; the number of cores by default.
        description, unit: of the progress bar.
        done: items that were finished earlier, for the progress bar.
        processes: of many items all but one thread have a process each, see `helping.helped`; for functions
            that keep the lock.
    """
    items = list(items)
    if not items:
        return
    workers = workers or num_cores()
    helpers = min(workers - 1, len(items) // helping.ITEMS_EACH) if processes else 0
    with (progress_bar(done + len(items), description, unit, done) as bar,
          helping.helped(function, helpers) as call,
          contextlib.closing(in_order(call, items, workers, 4 * workers)) as results):
        for result in results:
            bar.update()
            yield result


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


def decoding_threads(wanted: int) -> int:
    """How many of so many threads decode at a time: no more than there are cores.

    A decoder lets go of Python's lock several times a frame and has to wait for it again; threads that are
    more than the cores only wait for each other. On two cores 16 read 235 clips a second, two 430.
    """
    return min(wanted, num_cores())


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def memory_bytes() -> int:
    """Memory of this machine; a petabyte where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**50


@contextlib.contextmanager
def atomic_write(path) -> Iterator[Path]:
    """Gives a temporary path next to `path` that is moved there if the block succeeds."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
