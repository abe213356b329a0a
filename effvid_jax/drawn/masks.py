"""Masks of classes drawn over an image: colours that the colour-blind can tell apart, borders, a legend.

With many classes no palette keeps all colours apart, so colour is not all there is: borders are drawn between
classes, and the number of a class stands in its largest area and in the legend.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from effvid_jax import console

# Paul Tol's 'muted' and 'bright', in the order in which neighbours differ in brightness, too.
PALETTE = np.array([
    (51, 34, 136), (221, 204, 119), (17, 119, 51), (204, 102, 119), (136, 204, 238), (136, 34, 85),
    (68, 170, 153), (238, 102, 119), (153, 153, 51), (170, 68, 153), (102, 204, 238), (68, 119, 170),
    (204, 187, 68), (34, 136, 51), (170, 51, 119), (187, 187, 187)], np.uint8)
LISTED = 13  # classes in a legend, the largest ones: as many as the smallest picture has room for
_FONT, _LEAST_SIDE = cv2.FONT_HERSHEY_SIMPLEX, 320  # pixels: smaller images are enlarged before text is drawn


def colour_of(label: int) -> tuple[int, int, int]:
    """RGB of a class; from the second round through the palette on darker and lighter by turns."""
    colour = PALETTE[label % len(PALETTE)].astype(float)
    turn = label // len(PALETTE)
    towards, share = (255.0 if turn % 2 else 0.0), min(0.6, 0.2 * ((turn + 1) // 2))
    return tuple(int(round(x)) for x in colour + share * (towards - colour))


def over(frame_HWC: np.ndarray, classes_hw: np.ndarray, box: tuple[int, int, int, int],
         class_names: Sequence[str]) -> np.ndarray:
    """An image with its classes and a legend on its right, uint8 RGB; small images are enlarged.

    Frames of one size give pictures of one size, whatever is in them.

    Args:
        frame_HWC: uint8 RGB.
        classes_hw: number of the class of every pixel, in any size.
        box: (top, left, height, width) in pixels of the frame that they are of.
        class_names: K names.
    """
    factor = max(1, -(-_LEAST_SIDE // min(frame_HWC.shape[:2])))
    frame = np.repeat(np.repeat(frame_HWC, factor, axis=0), factor, axis=1)
    top, left, height, width = (factor * n for n in box)
    classes = cv2.resize(classes_hw, (width, height), interpolation=cv2.INTER_NEAREST)
    image, inside = frame.copy(), np.s_[top:top + height, left:left + width]
    table = np.array([colour_of(k) for k in range(int(classes.max()) + 1)], np.float32)
    image[inside] = np.rint(0.45 * frame[inside] + 0.55 * table[classes]).astype(np.uint8)
    image[inside][_borders(classes)] = 255
    labels, counts = np.unique(classes, return_counts=True)
    order = labels[np.argsort(-counts, kind="stable")][:LISTED]
    for label in order:
        _number(image[inside], classes == label, int(label))
    shares = dict(zip(labels.tolist(), counts / classes.size))
    lines = [(int(k), f"{_title(k, class_names)} {shares[int(k)]:.0%}") for k in order]
    widest = max(_width(f"{_title(k, class_names)} 100%") for k in range(len(class_names)))
    return _beside(image, lines, len(labels) - len(order), 40 + widest)


def _title(label: int, class_names) -> str:
    """'12 chair', in letters that OpenCV has."""
    return f"{label} {console.one_line(class_names[label], 26)}".encode("ascii", "replace").decode()


def _width(text: str) -> int:
    return cv2.getTextSize(text, _FONT, 0.5, 1)[0][0]


def _borders(classes) -> np.ndarray:
    """Pixels whose neighbour on the right or below has another class."""
    found = np.zeros(classes.shape, bool)
    found[:, :-1] |= classes[:, 1:] != classes[:, :-1]
    found[:-1] |= classes[1:] != classes[:-1]
    return found


def _number(image, mask, label: int) -> None:
    """Writes the number of a class where its area is widest; into nothing that is too small for it."""
    distance = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(distance.argmax(), distance.shape)
    if distance[row, column] < 7:
        return
    (w, h), _ = cv2.getTextSize(str(label), _FONT, 0.45, 1)
    x, y = np.clip(column - w // 2, 0, max(0, image.shape[1] - w)), min(image.shape[0] - 1, row + h // 2)
    _text(image, str(label), (int(x), int(y)), 0.45)


def _text(image, text: str, at, size: float) -> None:
    """White letters with a black rim, which are seen on everything."""
    for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(image, text, at, _FONT, size, colour, thick, cv2.LINE_AA)


def _beside(image, lines: Sequence[tuple[int, str]], left_out: int, width: int) -> np.ndarray:
    """The image with a legend on white on its right; a last line counts `left_out` smaller classes."""
    texts = [text for _, text in lines] + ([f"and {left_out} more"] if left_out else [])
    height = max(image.shape[0], 12 + 22 * len(texts))
    page = np.full((height, image.shape[1] + width, 3), 255, np.uint8)
    page[:image.shape[0], :image.shape[1]] = image
    for i, text in enumerate(texts):
        x, y = image.shape[1] + 8, 10 + 22 * i
        if i < len(lines):
            page[y:y + 14, x:x + 18] = colour_of(lines[i][0])
            cv2.rectangle(page, (x, y), (x + 17, y + 13), (0, 0, 0), 1)
        cv2.putText(page, text, (x + 26, y + 12), _FONT, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return page
