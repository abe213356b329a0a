"""Where the pixels of a clip lie in the frames of its video: what takes boxes and masks along with them.

A `Place` is drawn before anything is cut, from the size of the frames alone (`transforms.train_place`,
`transforms.test_places`). Frames are cut by it, and so is whatever else lies in them: boxes in shares of the
frame, and masks of the frame's own size or of another one.
"""

from typing import NamedTuple

import numpy as np

MEAN_RGB = (124, 116, 104)  # what is beside a frame: ImageNet's mean, so nearly zero when it is normalised


class Place(NamedTuple):
    """A square of pixels that is cut out of all frames of a clip.

    Attributes:
        frame: (height, width) of the frames that are cut.
        box: (left, top, width, height) of what is cut, in pixels of these; it may reach beyond them.
        side: of the clip, in pixels; the box is resized to it.
        flipped: whether left and right change places, last of all.
    """

    frame: tuple[int, int]
    box: tuple[int, int, int, int]
    side: int
    flipped: bool = False

    def boxes(self, boxes_N4: np.ndarray) -> np.ndarray:
        """Boxes from shares of the frame to shares of the clip, (N, 4) float64 x1, y1, x2, y2.

        They are not clipped: what reaches beyond 0 and 1 is not in the clip.
        """
        (height, width), (left, top, w, h) = self.frame, self.box
        x = (np.asarray(boxes_N4, np.float64).reshape(-1, 4)[:, ::2] * width - left) / w
        y = (np.asarray(boxes_N4, np.float64).reshape(-1, 4)[:, 1::2] * height - top) / h
        if self.flipped:
            x = 1 - x[:, ::-1]
        return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)

    def mask(self, mask_HW: np.ndarray, outside: int) -> np.ndarray:
        """A mask of the whole frame, in any size, as the clip shows it: (side, side), the nearest pixel.

        Args:
            mask_HW: a number each pixel.
            outside: what pixels get that lie beyond the frame.
        """
        (height, width), (left, top, w, h) = self.frame, self.box
        at = np.arange(self.side) + 0.5  # centres of pixels, as in `cv2.resize`
        y, x = (top + at * h / self.side) / height, (left + at * w / self.side) / width
        if self.flipped:
            x = x[::-1]
        rows, columns = (np.floor(s * n).astype(int) for s, n in zip((y, x), mask_HW.shape, strict=True))
        down, across = mask_HW.shape
        inside = ((rows >= 0) & (rows < down))[:, None] & ((columns >= 0) & (columns < across))
        found = mask_HW[rows.clip(0, down - 1)[:, None], columns.clip(0, across - 1)]
        return np.where(inside, found, np.asarray(outside, mask_HW.dtype))


def crop(frames_THWC: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Cuts the same box out of every frame: a view, unless it reaches beyond them (`MEAN_RGB` is there)."""
    left, top, width, height = box
    rows, columns = frames_THWC.shape[1:3]
    above, before = max(0, -top), max(0, -left)
    below, behind = max(0, top + height - rows), max(0, left + width - columns)
    inside = frames_THWC[:, max(0, top):max(0, top + height), max(0, left):max(0, left + width)]
    if not (above or before or below or behind):
        return inside
    import cv2  # a `Place` alone does without

    return np.stack([cv2.copyMakeBorder(frame, above, below, before, behind, cv2.BORDER_CONSTANT,
                                        value=MEAN_RGB) for frame in inside])
