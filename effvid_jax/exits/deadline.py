"""Answers in time: how long the steps of a network take, and what a run under a deadline was like.

A step that runs cannot be stopped, so whether one still fits is asked before it starts. How long it will take
is the second slowest of its last eight runs: neither the mean, which half of them exceed, nor one run that
something else held up. The first run of a program compiles and does not count. What keeps rows from going on
fades a little each time, so that slow runs cannot end a step for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from effvid_jax.errors import UserError

PERCENTILES = (50, 95, 99)
LAST, FADE = 8, 0.01


class Pace:
    """Seconds that steps take, by step and the sizes of the batches that it runs as."""

    def __init__(self):
        self._programs: set[tuple[int, int]] = set()
        self._runs: dict[int, dict[tuple[int, ...], list[float]]] = {}

    def add(self, step: int, sizes: Sequence[int], seconds: float) -> None:
        """A step has run as batches of these sizes, one after the other."""
        programs = {(step, size) for size in sizes}
        new, self._programs = programs - self._programs, self._programs | programs
        if not new:
            runs = self._runs.setdefault(step, {}).setdefault(tuple(sizes), [])
            runs[:] = [*runs, seconds][-LAST:]

    def of(self, step: int, sizes: Sequence[int]) -> float:
        """What it will take; of sizes that have not run together the most that others take; 0: unknown."""
        known = self._runs.get(step, {})
        one = known.get(tuple(sizes))
        return max((sorted(runs)[-2:][0] for runs in ([one] if one else known.values())), default=0.0)

    def fade(self, step: int) -> None:
        """Rows that had time left did not go on for what `of` said."""
        for runs in self._runs.get(step, {}).values():
            runs[:] = [(1 - FADE) * seconds for seconds in runs]


def check(seconds: float | None, what: str) -> None:
    """Raises UserError for what is no time limit; None: none."""
    if seconds is not None and not 0 <= seconds < threading.TIMEOUT_MAX:
        raise UserError(f"{what}={seconds}: expected a number of seconds, 0 or more, or None.")


def told(rows, deadline_ms: float) -> dict[str, float]:
    """What a run under a deadline was like.

    Args:
        rows: 'seconds' (N,) from reading a video to its answer, 'cut' (N,): whether the deadline ended it.
        deadline_ms: milliseconds.

    Returns:
        'deadline_ms'; 'cut_share' of the answers that the deadline ended before their rule did; 'late_share'
        of those that came after it; 'latency_ms_p50', p95, p99.
    """
    milliseconds = 1e3 * np.asarray(rows["seconds"], np.float64)
    return {"deadline_ms": deadline_ms, "cut_share": float(np.mean(rows["cut"])),
            "late_share": float((milliseconds > deadline_ms).mean()),
            **{f"latency_ms_p{p}": float(np.percentile(milliseconds, p)) for p in PERCENTILES}}
