"""What a user sees while something runs: messages and progress bars, on standard error."""

from __future__ import annotations

import contextlib
import sys

import jax
import tqdm


def say(text: str) -> None:
    """Prints a line above any progress bar, on the first process only."""
    if jax.process_index() == 0:
        tqdm.tqdm.write(text, file=sys.stderr)


def one_line(name: object, longest: int = 0) -> str:
    """A name as a person reads it, whatever it holds: one line, without control characters.

    Args:
        name: of a class, a video, a network; parts that are no Unicode are shown as escapes.
        longest: number of characters; of a longer name the middle is left out. 0: any.
    """
    text = str(name).encode("utf-8", "backslashreplace").decode()
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "(no name)"
    if longest and len(text) > longest:
        text = f"{text[:(longest - 1) // 2]}…{text[-(longest // 2):]}"
    return text


def bar(total: int, what: str, unit: str, initial: int = 0, leave: bool = True) -> tqdm.tqdm:
    """A progress bar with an ETA; in a log file a line every ten seconds rather than every tenth."""
    return _Bar(
        total=total, initial=initial, desc=what, unit=unit, leave=leave, file=sys.stderr,
        disable=jax.process_index() > 0, dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 10.0)


class _Bar(tqdm.tqdm):
    """Its clock starts when the first unit is done: that one waits for the compiler and for the data."""

    _started = False

    def update(self, n=1):
        if self._started or self.disable:
            return super().update(n)
        self._started = True
        self.n += n
        self.initial = self.last_print_n = self.n
        self.start_t = self.last_print_t = self._time()
        return self.refresh()

    @contextlib.contextmanager
    def paused(self):
        """Time in this block is not that of a unit: the ETA after it is what it was before."""
        if self.disable:
            yield
            return
        if self.n > self.last_print_n:  # what has not gone into the speed yet
            self._ema_dn(self.n - self.last_print_n)
            self._ema_dt(self._time() - self.last_print_t)
        yield
        self.last_print_n, self.last_print_t = self.n, self._time()
