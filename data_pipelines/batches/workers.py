"""Worker processes of the loader: they end with their main process, leave signals to it, and leak nothing."""

import contextlib
import gc
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.errors import DataError

_PARENTS = (signal.SIGINT, signal.SIGTERM)  # signals that a main process answers for its workers
_LOOK = 1.0  # seconds


def begin(index: int, count: int) -> None:
    """The first call in a worker (its number, and how many there are).

    A Ctrl-C, and whoever stops a job, signals a whole group of processes: the main one saves first, and stops
    its workers itself. If it is killed instead, they see that it is gone.
    """
    del index, count
    for number in _PARENTS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PARENTS)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent) -> None:
    """Ends this process, whatever it is doing, when its parent has ended.

    Linux would do it (PR_SET_PDEATHSIG), but when the *thread* ends that started this process, which is a
    short-lived one of grain's.
    """
    while not multiprocessing.connection.wait([parent.sentinel], timeout=_LOOK):
        if os.getppid() != parent.pid:  # something that was forked may hold the sentinel open
            break
    os._exit(1)


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """The block in which workers are started: until `begin` they hear no signal either."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS)  # of this thread, and of those it starts
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def joined(parts: Sequence[dict]) -> dict:
    """A batch from what each worker built of it, in memory of this process; its shared memory goes.

    grain's arrays would be shared memory for as long as they live. Those of a process that ends with one of
    them (which may be on a device) stay behind: Python's tracker counts them as leaked.
    """
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def tidy() -> None:
    """Returns when shared memory that nobody uses any more is gone: a thread of grain's sees to it."""
    from grain._src.python.ipc import shared_memory_array

    gc.collect()  # an iterator that is closed holds some in circles
    pool = getattr(shared_memory_array.SharedMemoryArray, "_del_thread_pool", None)
    if pool is not None:
        pool.apply(int)


def death(error: Exception, count: int) -> DataError | None:
    """What to say of a worker that has died, or None if the error is another one.

    Args:
        error: raised by grain.
        count: of workers.
    """
    match = re.match(r"Worker process was terminated unexpectedly with exit code (-?\d+)", str(error))
    if not match:
        return None
    code, few = int(match[1]), "fewer workers (config.data.num_workers; 0: threads only, which share memory)"
    which = f"one of the config.data.num_workers={count} worker processes that read data"
    if code >= 0:
        return DataError(f"{which} ended (exit code {code}); what it said stands above. A program of your "
                         f"own that starts workers begins under `if __name__ == '__main__':`.")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGBUS":
        return DataError(f"{which} died (SIGBUS): shared memory is full, see `df -h /dev/shm`. Make it "
                         f"larger (containers: --shm-size), or use {few} or smaller batches.")
    if name == "SIGKILL":
        return DataError(f"{which} was killed (SIGKILL), by the system if memory ran out: `dmesg` tells. "
                         f"Use {few}, a smaller config.data.prefetch or config.data.cache_gib, and start the "
                         f"same command again.")
    return DataError(f"{which} died ({name}): start the same command again. If it happens again, a video "
                     f"may be what a decoder crashes at: `python -m data_pipelines.check_videos` finds it.")
