"""Work for engines, where every process that is started can import it."""

import os
import signal

from data_pipelines import DataError


class Square:
    """Squares numbers; of a deadly one its process dies, of a bad one it raises."""

    def __init__(self, deadly=None, bad=None):
        self._deadly, self._bad = deadly, bad

    def __call__(self, numbers):
        if self._deadly in numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._bad in numbers:
            raise DataError("no good")
        return [number**2 for number in numbers]


def negative(number):
    return -number
