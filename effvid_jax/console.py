"""What a user sees while something runs: messages and progress bars, on standard error."""

from __future__ import annotations

import sys

import jax
import tqdm


def say(text: str) -> None:
    """Prints a line above any progress bar, on the first process only."""
    if jax.process_index() == 0:
        tqdm.tqdm.write(text, file=sys.stderr)


def bar(total: int, what: str, unit: str, initial: int = 0, leave: bool = True) -> tqdm.tqdm:
    """A progress bar with an ETA; in a log file a line every ten seconds rather than every tenth."""
    return tqdm.tqdm(
        total=total, initial=initial, desc=what, unit=unit, leave=leave, file=sys.stderr,
        disable=jax.process_index() > 0, dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 10.0)
