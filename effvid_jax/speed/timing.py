"""Wall-clock timing of functions against each other: the one primitive behind every speed we print.

Speeds of a shared machine drift by more than most differences of interest, so functions that are to be
compared are timed in turns (A B C, C B A, ...) and compared by medians; ratios are quoted, not times.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Timing:
    """Times of one function.

    Attributes:
        seconds: per call, one value a repeat.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds of a call."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the range between the quartiles, as a share of the median; 0 for less than 4 repeats."""
        if len(self.seconds) < 4:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2 / self.median

    def rate(self, items: float) -> float:
        """Items per second, for a call that handles `items`."""
        return items / self.median


def measure(sides: Mapping[Any, Callable[[], Any]], *, seconds: float = 5.0, min_repeats: int = 3,
            max_repeats: int = 50, min_sample_seconds: float = 0.02,
            progress: Callable[[], Any] = lambda: None) -> dict[Any, Timing]:
    """Times functions side by side.

    Every function is called once to warm up (which compiles it) and once to learn how many calls make a
    sample of `min_sample_seconds`; calls of a sample are dispatched together and waited for together,
    so that the time to start work on a device is hidden as it is in a loop. Samples of all functions
    are taken in turns, forwards and backwards.

    Args:
        sides: name -> function without arguments; what it returns is waited for
            (`jax.block_until_ready`; values that are not jax arrays are ready).
        seconds: stop after about this long, warm-up not counted.
        min_repeats, max_repeats: samples of each side, whatever the time.
        min_sample_seconds: repeat short calls within a sample until it lasts this long.
        progress: called after every warm-up and every sample.

    Returns:
        name -> `Timing`, in the order given.
    """
    assert sides and 1 <= min_repeats <= max_repeats, (list(sides), min_repeats, max_repeats)
    calls = {}
    for name, function in sides.items():
        jax.block_until_ready(function())
        calls[name] = max(1, round(min_sample_seconds / max(_sample(function, 1), 1e-9)))
        progress()
    samples: dict[Any, list[float]] = {name: [] for name in sides}
    order, start = list(sides), time.perf_counter()
    for repeat in range(max_repeats):
        if repeat >= min_repeats and time.perf_counter() - start > seconds:
            break
        for name in order if repeat % 2 == 0 else reversed(order):
            samples[name].append(_sample(sides[name], calls[name]))
            progress()
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def _sample(function: Callable[[], Any], calls: int) -> float:
    """Seconds of one call, from `calls` calls in a row."""
    start = time.perf_counter()
    jax.block_until_ready([function() for _ in range(calls)])
    return (time.perf_counter() - start) / calls
