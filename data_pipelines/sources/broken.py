"""Counting videos that cannot be read, and stopping when there are too many of them."""

import logging
import math
from collections.abc import Iterable, Sequence

from data_pipelines.errors import DataError
from data_pipelines.sources.base import Source


def allowed_broken(source: Source, max_broken_share: float) -> int:
    """Number of broken videos that a split tolerates.

    The share is rounded up, so that a single bad file does not stop a small data set (unless the
    share is 0), but at least one video must be readable.
    """
    return min(math.ceil(max_broken_share * len(source)), len(source) - 1)


def too_many_broken(source: Source, max_broken_share: float,
                    videos: Sequence[tuple[str, str]]) -> DataError:
    """The error that ends a run: count, share, the first five (name, reason), what to do."""
    total = len(source)
    first = "; ".join(f"{name}: {reason}" for name, reason in videos[:5])
    return DataError(
        f"{len(videos)} of the {total} clips of {source.description} are broken "
        f"({len(videos) / total:.1%} so far), more than data.max_broken_share={max_broken_share} "
        f"({allowed_broken(source, max_broken_share)} clips) allows. The first ones: {first}. "
        f"`{source.check_command}` checks all clips and lists the broken ones: repair or remove "
        f"those, or raise data.max_broken_share.")


class BrokenFiles:
    """The distinct broken videos that a pipeline has met so far; `len()` is their number.

    Attributes:
        allowed: how many are tolerated.
    """

    def __init__(self, source: Source, split: str, max_broken_share: float):
        self._source, self._split, self._share = source, split, max_broken_share
        self._videos = {}
        self.allowed = allowed_broken(source, max_broken_share)

    def __len__(self) -> int:
        return len(self._videos)

    @property
    def count(self) -> int:
        """Number of distinct broken videos."""
        return len(self._videos)

    @property
    def names(self) -> list[str]:
        """Their names, in the order in which they were met."""
        return [name for name, _ in self._videos.values()]

    @property
    def reasons(self) -> list[str]:
        """What is wrong with each of them."""
        return [reason for _, reason in self._videos.values()]

    def add(self, found: Iterable[tuple[int, str, str]]) -> None:
        """Records (index, name, reason) of broken videos; each one is logged once.

        Raises:
            DataError: more of them than allowed.
        """
        for index, name, reason in found:
            if index not in self._videos:
                self._videos[index] = name, reason
                logging.warning("broken clip %d of '%s' (%d allowed): %s: %s", len(self),
                                self._split, self.allowed, name, reason)
        if len(self) > self.allowed:
            raise too_many_broken(self._source, self._share, list(self._videos.values()))
