"""What is known of a video without opening it."""

from typing import NamedTuple


class Entry(NamedTuple):
    """One video of a split.

    Attributes:
        name: what it is called in messages, tables and reports.
        labels: numbers of its classes, as they are stored (repeats are possible).
    """

    name: str
    labels: tuple[int, ...]
