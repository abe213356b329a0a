"""What the processes of one run tell each other outside of their steps: stop here, I have failed.

A step and a save wait for all processes, so that none of them may stop alone. Whoever gets a signal puts it
into the store of `jax.distributed`. A thread of every process looks there twice a second, and answers with
the number of the next *point* (end of a step, batch of an evaluation) that its main thread has not passed;
the highest of the answers is where all of them stop. Nobody waits for that but a main thread that is at its
own answer before it knows the highest one. Between signals a point costs a comparison; with one process there
is no thread and no store.

A process that fails says so too, and the others end with it, within seconds. What cannot say anything
(SIGKILL, a machine that is gone) is missed by the next collective where it can (gloo, on CPUs: at once), and
by jax after 100 s (`heartbeat_timeout_seconds`), or at once if it was the first process: then jax ends the
others itself, exit code 134.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time

_LOOK = 0.5  # seconds between looks into the store
_ANSWER = 100.0  # seconds in which every process answers; jax itself misses a dead one after as many
_GRACE = 3.0  # seconds in which a main thread ends by itself, with a message of its own
_STOP, _FAILED, _PLACE = "effvid_jax/stop", "effvid_jax/failed", "effvid_jax/{}/{}"


class _Peers:
    """This process among others.

    Args:
        client: of the coordination service.
        index, count: of processes.
    """

    def __init__(self, client, index: int, count: int):
        self._client, self._index, self._count = client, index, count
        self._changed = threading.Condition()
        self._passed = 0  # points
        self._bar: int | None = None  # ours
        self._stop: int | None = None  # of all
        self._name = ""  # of the signal
        self._told = self._over = False
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def point(self) -> str:
        with self._changed:
            self._passed += 1
            while self._bar is not None and self._stop is None and self._passed >= self._bar:
                self._changed.wait(_LOOK)
            return self._name if self._stop is not None and self._passed >= self._stop else ""

    def tell(self, name: str) -> None:
        self._name = self._name or name  # the thread does the rest: a handler must not wait for a network

    def wanted(self) -> str:
        return self._name

    def fail(self, code: int, why: str, gone: bool) -> None:
        if not gone or self._index == 0:
            self._set(_FAILED, f"{code} {self._index} {why}")
            self._leave(code)
        _tidy()
        os._exit(code)

    def end(self) -> None:
        self._over = True
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        try:
            while not self._over:
                time.sleep(_LOOK)
                if self._name and not self._told:
                    self._told = True
                    self._set(_STOP, self._name)
                if self._stop is None and (name := self._get(_STOP)):
                    self._agree(name)
                if failed := self._get(_FAILED):
                    self._follow(failed)
        except Exception as error:  # jax's own differ between versions
            if not self._over and self._bar is not None and self._stop is None:
                os.write(2, f"\nerror: not every process of this run answers ({_first_line(error)}); "
                            f"this one ends. Start the same command again.\n".encode())
                os._exit(1)
            # Otherwise the first process is gone, with the store in it: jax ends this one.

    def _agree(self, name: str) -> None:
        with self._changed:
            heard, self._name = bool(self._name), name
            self._bar = self._passed + 1
        if not heard:
            os.write(2, f"\n{name} in another process of this run: stopping with it\n".encode())
        self._set(_PLACE.format("point", self._index), str(self._bar))
        stop = max(int(self._wait(_PLACE.format("point", i), _ANSWER)) for i in range(self._count))
        with self._changed:
            self._stop = stop
            self._changed.notify_all()

    def _follow(self, failed: str) -> None:
        code, index, why = failed.split(" ", 2)
        if int(index) == self._index:
            return
        time.sleep(_GRACE)
        os.write(2, f"\nerror: process {index} of this run has ended, and this one with it: {why}\n".encode())
        self._leave(int(code))

    def _leave(self, code: int) -> None:
        """The first process is the last one to go: the store is in it."""
        _tidy()
        with contextlib.suppress(Exception):
            self._set(_PLACE.format("gone", self._index), "yes")
            end = time.monotonic() + 2 * _GRACE + 4 * _LOOK
            for i in range(self._count) if self._index == 0 else ():
                self._wait(_PLACE.format("gone", i), max(end - time.monotonic(), 0.01))
            time.sleep(_LOOK if self._index == 0 else 0)
        os._exit(code)  # at a normal end jax waits for processes that have ended

    def _get(self, key: str) -> str:
        try:
            return self._client.key_value_try_get(key)
        except Exception as error:
            if "NOT_FOUND" in str(error):
                return ""
            raise

    def _set(self, key: str, value: str) -> None:
        with contextlib.suppress(Exception):  # another process was faster, or there is no store any more
            self._client.key_value_set(key, value)

    def _wait(self, key: str, seconds: float) -> str:
        return self._client.blocking_key_value_get(key, int(seconds * 1000))


_peers: _Peers | None = None


def start() -> None:
    """Listens from now on, if there are several processes; does not start jax's devices."""
    from jax._src import distributed  # its only door to the store; orbax uses it too

    global _peers
    state = distributed.global_state
    if _peers is None and state.client is not None and (state.num_processes or 1) > 1:
        _peers = _Peers(state.client, state.process_id, state.num_processes)
        atexit.register(_peers.end)  # before jax closes the store, which was registered earlier


def several() -> bool:
    """Whether there are others to agree with."""
    return _peers is not None


def tell(name: str) -> None:
    """A signal has come: the run is to stop. Returns at once."""
    if _peers is not None:
        _peers.tell(name)


def wanted() -> str:
    """A signal that some process has got, as far as this one knows: a reason to come to a point; or ''."""
    return "" if _peers is None else _peers.wanted()


def point() -> str:
    """A point that all processes pass, equally often: the signal that they stop for here, or ''."""
    return "" if _peers is None else _peers.point()


def fail(code: int, why: str, gone: bool = False) -> None:
    """Ends this process, and all others with it; with one process it does nothing.

    Args:
        code: of all of them.
        why: for the others, in a line.
        gone: another one has ended, maybe the one that has the store: without the first process there is
            nobody to tell it to, and jax would end this one with less said.
    """
    if _peers is not None:
        _peers.fail(code, _first_line(why), gone)


def _tidy() -> None:
    """What a process does at its normal end, if it takes no longer than a moment."""
    if "multiprocessing.util" in sys.modules:  # data workers, and what they share
        tidy = threading.Thread(target=sys.modules["multiprocessing.util"]._exit_function, daemon=True)
        tidy.start()
        tidy.join(_GRACE)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _first_line(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
