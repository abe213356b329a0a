"""What is known of a video without opening it."""

from typing import NamedTuple


class Box(NamedTuple):
    """An object in the key frame of a video; edges in shares of the frame's width and height.

    Attributes:
        label: number of its class.
        x1, y1, x2, y2: left, top, right, bottom, from 0 to 1.
    """

    label: int
    x1: float
    y1: float
    x2: float
    y2: float


class Entry(NamedTuple):
    """One example of a split: a video, or a frame of it.

    Attributes:
        name: what it is called in messages, tables and reports.
        labels: numbers of its classes, as they are stored (repeats are possible).
        key_frame: number of the frame that is asked about, which data.sampling='around' has its clip around;
            -1: it is the video as a whole.
        boxes: what is to be found in the key frame.
        mask: an image with the class of every pixel of the key frame, its path or its content; '': there is
            none.
        mask_first: number of class 0 in it; smaller ones mean no class.
    """

    name: str
    labels: tuple[int, ...]
    key_frame: int = -1
    boxes: tuple[Box, ...] = ()
    mask: str | bytes = ""
    mask_first: int = 0
