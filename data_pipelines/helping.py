"""A function of a module, called in other processes as well: for many small pieces of work in Python.

Threads that draw and encode small clips wait for Python's lock: on two cores 1,200 clips of the embedded
benchmark took 6.3 s with two threads, and 5.05 s where one of them has a process. `multiprocessing` would not
do inside a library: its processes begin with the program's own main file, and one without a guard would start
everything again. Here a process begins with nothing but the module of the function, and a pipe tells it what
to do.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

_BEGIN = ("import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
          "from data_pipelines.helping import serve; serve()")
ITEMS_EACH = 200  # with fewer a process, which takes half a second to start, is not worth it


class _Helper:
    """One process, which calls a function whenever it is asked."""

    def __init__(self):
        self._process = subprocess.Popen([sys.executable, "-c", _BEGIN], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE)

    def begin(self, function: Callable) -> None:
        """Tells it the function; raises OSError if it has ended."""
        self._send(sys.path)
        self._send(function)

    def _send(self, thing) -> None:
        pickle.dump(thing, self._process.stdin)
        self._process.stdin.flush()

    def __call__(self, item):
        """What the function returns.

        Raises:
            OSError, EOFError: the process has ended, or the function has raised something there.
        """
        self._send(item)
        succeeded, result = pickle.load(self._process.stdout)
        if not succeeded:
            raise OSError(result)
        return result

    def close(self) -> None:
        """Ends the process, which finishes what it is doing."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def helped(function: Callable, most: int) -> Iterator[Callable]:
    """A block in which calls of a function go to processes of their own, where one is free.

    Args:
        function: of one argument, which calling twice does not harm; picklable, as are arguments and results:
            a function of a module, not of the program's main file, or a `functools.partial` of one.
        most: processes. Threads that are more than these call the function themselves, and so does who meets
            a process that has ended or an error in one: what is raised is what happens here.
    """
    free, helpers = queue.LifoQueue(), []

    def call(item):
        try:
            helper = free.get_nowait()
        except queue.Empty:
            return function(item)
        try:
            result = helper(item)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError):
            return function(item)  # and nobody asks that one again
        free.put(helper)
        return result

    try:
        for _ in range(most if sys.executable else 0):
            with contextlib.suppress(OSError):  # no process to be had
                helpers.append(_Helper())
                helpers[-1].begin(function)
                free.put(helpers[-1])
        yield call
    finally:
        for helper in helpers:
            helper.close()


def serve() -> None:
    """The other side: reads a function, then calls it with one item after the other until there are no more.

    What ends the program that asks, such as Ctrl-C, ends its pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints is no answer
    try:
        function = pickle.load(asked)
        while True:
            item = pickle.load(asked)
            try:
                answer = True, function(item)
            except Exception as error:
                answer = False, f"{type(error).__name__}: {error}"
            pickle.dump(answer, answers)
            answers.flush()
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        os._exit(0)  # nobody is there any more to whom what is left in `answers` could go
