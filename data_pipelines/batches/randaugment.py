"""RandAugment (Cubuk et al., arXiv 1909.13719) of a clip: the same operations on all of its frames.

Operations and their ranges are torchvision's `RandAugment`; what they measure of an image (its extremes, its
histogram, its mean brightness) is measured of the clip, so that a scene does not flicker. What moves into the
picture from beyond it has the colour of what lies beside a frame, and pixels are interpolated.
"""

from collections.abc import Callable

import cv2
import numpy as np

from data_pipelines.batches.placing import MEAN_RGB

_GREY = np.float32((0.299, 0.587, 0.114))  # Rec. 601, as PIL converts


def randaugment(frames_THWC: np.ndarray, count: int, magnitude: float,
                rng: np.random.Generator) -> np.ndarray:
    """A clip after `count` operations that are drawn one by one.

    Args:
        frames_THWC: uint8 RGB.
        count: operations; one may come twice, and one of them does nothing.
        magnitude: 0 to 10: how much of each operation's range.
        rng: draws them, and whether they go to one side or the other.
    """
    for _ in range(count):
        name = list(OPERATIONS)[rng.integers(len(OPERATIONS))]
        sign = 1 if rng.random() < 0.5 else -1
        frames_THWC = OPERATIONS[name](frames_THWC, magnitude / 10, sign)
    return frames_THWC


# ------------------------------------------------------------------------------------------- geometry
def _warp(frames, matrix_23) -> np.ndarray:
    """Frames in which the pixel (x, y) is that of `matrix_23` @ (x, y, 1), counted from the centre."""
    height, width = frames.shape[1:3]
    matrix, centre = np.array(matrix_23, np.float64), np.array([(width - 1) / 2, (height - 1) / 2])
    matrix[:, 2] += centre - matrix[:, :2] @ centre
    return np.stack([cv2.warpAffine(frame, matrix, (width, height), flags=cv2.INTER_LINEAR
                                    | cv2.WARP_INVERSE_MAP, borderValue=MEAN_RGB) for frame in frames])


def _rotate(frames, level, sign):
    angle = np.deg2rad(30 * level * sign)
    return _warp(frames, [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0]])


def _translate(frames, level, sign, axis):
    moved = 150 / 331 * frames.shape[2 - axis] * level * sign
    return _warp(frames, [[1, 0, moved * (axis == 0)], [0, 1, moved * (axis == 1)]])


# --------------------------------------------------------------------------------------------- colours
def _table(frames, table) -> np.ndarray:
    """Frames by a table of 256 values, the same for all colours or one each (256, 3)."""
    table = np.clip(np.round(table), 0, 255).astype(np.uint8)
    return table[frames] if table.ndim == 1 else np.stack(
        [table[:, c][frames[..., c]] for c in range(3)], axis=-1)


def _blend(frames, plain, level, sign) -> np.ndarray:
    """Away from a version without contrast, colour or detail, or towards it."""
    factor = np.float32(1 + 0.9 * level * sign)
    mixed = plain + factor * (frames.astype(np.float32) - plain)
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def _smooth(frames) -> np.ndarray:
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # PIL's SMOOTH
    return np.stack([cv2.filter2D(frame.astype(np.float32), -1, kernel, borderType=cv2.BORDER_REPLICATE)
                     for frame in frames])


def _auto_contrast(frames, level, sign):
    low, high = (np.asarray(f(frames, axis=(0, 1, 2)), np.float64) for f in (np.min, np.max))
    at = np.arange(256)[:, None]
    return _table(frames, np.where(high > low, (at - low) * 255 / np.maximum(high - low, 1), at))


def _equalize(frames, level, sign):
    tables = []
    for c in range(3):
        counts = np.bincount(frames[..., c].reshape(-1), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        before = np.cumsum(counts) - counts
        tables.append((before + step // 2) // step if step else np.arange(256))
    return _table(frames, np.stack(tables, axis=1))


# Name -> (uint8 frames, level from 0 to 1, sign) -> uint8 frames.
OPERATIONS: dict[str, Callable[[np.ndarray, float, int], np.ndarray]] = {
    "identity": lambda x, level, sign: x,
    "shear_x": lambda x, level, sign: _warp(x, [[1, 0.3 * level * sign, 0], [0, 1, 0]]),
    "shear_y": lambda x, level, sign: _warp(x, [[1, 0, 0], [0.3 * level * sign, 1, 0]]),
    "translate_x": lambda x, level, sign: _translate(x, level, sign, 0),
    "translate_y": lambda x, level, sign: _translate(x, level, sign, 1),
    "rotate": _rotate,
    "brightness": lambda x, level, sign: _table(x, np.arange(256) * (1 + 0.9 * level * sign)),
    "color": lambda x, level, sign: _blend(x, (x @ _GREY)[..., None], level, sign),
    "contrast": lambda x, level, sign: _blend(x, np.round((x @ _GREY).mean()), level, sign),
    "sharpness": lambda x, level, sign: _blend(x, _smooth(x), level, sign),
    "posterize": lambda x, level, sign: x & np.uint8(256 - 2 ** round(4 * level)),
    "solarize": lambda x, level, sign: np.where(x >= 256 * (1 - level), 255 - x, x),
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
}
