"""What a list says of a clip."""

from collections.abc import Iterable
from typing import NamedTuple


class ListItem(NamedTuple):
    """One line of a list: path as written, number of frames (0 for video files), labels."""

    path: str
    num_frames: int
    labels: tuple[int, ...]


def distinct_labels(items: Iterable[ListItem]) -> set[int]:
    """All labels that occur in a list."""
    if hasattr(items, "distinct_labels"):  # columns know them
        return items.distinct_labels()
    return {label for item in items for label in item.labels}
