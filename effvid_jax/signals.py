"""What a signal does to a run: it is saved where there is something to save, and it ends with one line."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from effvid_jax import processes
from effvid_jax.errors import Interrupted


class Signals:
    """SIGINT and SIGTERM while a run must not simply die of them. Any second signal ends the process at once.

    Outside `steps` there is nothing to save, and a signal raises `Interrupted`. Inside, the first one is
    remembered as `caught`, for the loop to save and stop; while it waits for data (`next`), the wait ends.
    One of several processes remembers always, and stops where all of them do, see `processes`.

    Python's handlers wait until the main thread is back in Python, which can take minutes while something is
    compiled; so a thread listens as well, and answers and quits for it.

    Args:
        left: what there is after a signal outside `steps`, and what to do, for the message.
    """

    _of_process: Signals | None = None  # whose turn it is
    _holds = 0  # blocks of `held` that the main thread is in

    def __init__(self, left: str = "what was trained is saved. Start the same command again to continue."):
        self._left = left
        self.caught = ""
        self._old: dict[int, Any] = {}
        self._heard = 0
        self._saves = self._waits = self._collects = False

    def __enter__(self):
        processes.start()
        if threading.current_thread() is threading.main_thread():
            for s in (signal.SIGINT, signal.SIGTERM):
                self._old[s] = signal.signal(s, self._catch)
            self._alarm = signal.signal(signal.SIGALRM, self._catch) if hasattr(signal, "SIGALRM") else None
            self._ear, mouth = os.pipe()
            os.set_blocking(mouth, False)
            self._mouths = mouth, signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._listen, daemon=True)
            self._thread.start()
            self._outer, Signals._of_process = Signals._of_process, self
            gc.callbacks.insert(0, self._collector)
        return self

    def __exit__(self, *_):
        if self._old:
            gc.callbacks.remove(self._collector)
            Signals._of_process = self._outer
            self._give_back()
            os.close(self._mouths[0])
            self._thread.join()
            os.close(self._ear)

    @contextlib.contextmanager
    def steps(self):
        """The block in which there is something to save, and the loop looks at `caught`.

        Raises:
            Interrupted: a signal that came when the loop did not look any more; everything is saved.
        """
        self._raise(self.now())
        self._saves = True
        try:
            yield
        finally:
            self._saves = False
        self._raise(self.now())

    def now(self) -> str:
        """The name of a signal that the run stops for here, or ''; on several processes the same on all.

        Each of them must call this, and `check`, equally often.
        """
        return processes.point() if processes.several() else self.caught

    @classmethod
    def check(cls) -> None:
        """A place in an evaluation where it may end before it has, on all processes.

        Raises:
            Abandoned: within `steps`, where the loop saves next.
            Interrupted: elsewhere.
        """
        signals = cls._of_process
        name = signals.now() if signals is not None else ""
        if name and signals._saves:
            raise Abandoned(name)
        if name:
            signals._raise(name)

    @classmethod
    @contextlib.contextmanager
    def held(cls):
        """A block of a moment that a signal does not cut in two, such as files that belong together.

        Raises:
            Interrupted: at its end, for a signal that came in it.
        """
        cls._holds += 1
        try:
            yield
        finally:
            cls._holds -= 1
        signals = cls._of_process
        if signals is not None and not cls._holds and not signals._saves and not processes.several():
            signals._raise(signals.caught)

    def next(self, batches):
        """`next(batches)`; None where a signal ends the wait for it.

        With several processes every one of them waits on: they stop after the same step.
        """
        try:
            try:
                self._waits = not processes.several()
                return None if self.caught and self._waits else next(batches)
            finally:
                self._waits = False
        except _Woken:
            return None

    def _raise(self, name: str) -> None:
        if name:
            raise Interrupted(f"stopped by {name}; {self._left}")

    def _catch(self, number, frame):
        if number in self._old:
            self.caught = signal.Signals(number).name
        if processes.several() or not self.caught:
            return
        if (self._collects or _swallows(frame)) and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0.02)  # again, when that is over
            return
        if not self._saves and not Signals._holds:
            self._raise(self.caught)
        if self._waits:
            raise _Woken

    def _collector(self, phase: str, info) -> None:
        del info
        self._collects = phase == "start"  # callbacks of weakrefs swallow what is raised in them

    def _listen(self) -> None:
        while number := os.read(self._ear, 1):
            if number[0] not in self._old:
                continue
            self._heard += 1
            if self._heard > 1:
                self._quit(number[0])
            processes.tell(signal.Signals(number[0]).name)
            what = "saving" if self._saves else "stopping"
            os.write(2, f"\n{signal.Signals(number[0]).name}: {what}; again to quit at once\n".encode())

    def _quit(self, number: int) -> None:
        if processes.several():
            threading.Timer(8, os._exit, [128 + number]).start()  # whatever the network does
            processes.fail(128 + number, f"a second {signal.Signals(number).name}")
        os._exit(128 + number)

    def _give_back(self) -> None:
        signal.set_wakeup_fd(self._mouths[1])
        for s, handler in self._old.items():
            signal.signal(s, handler)
        if hasattr(signal, "SIGALRM"):
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._alarm)


def _swallows(frame) -> bool:
    """Whether Python prints and forgets what is raised here: a destructor, a callback of the collector."""
    callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code in callbacks:
            return True
        frame = frame.f_back
    return False


def _in_child() -> None:
    """A forked process dies of signals as usual, and says nothing into its parent's ear."""
    if Signals._of_process is not None:
        with contextlib.suppress(ValueError):  # not in the main thread
            Signals._of_process._give_back()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def told(main: Callable[[], int | None]) -> int | None:
    """The exit code of a command; of one that is stopped 130, after one line."""
    try:
        with Signals("start the same command again."):
            return main()
    except Interrupted as error:
        print(f"\ninterrupted: {error}", file=sys.stderr)
        return 130


class Abandoned(BaseException):
    """Ends an evaluation in the middle of training; `args[0]` is the signal."""


class _Woken(BaseException):
    """Ends a wait for data."""
