"""Boxes over a frame: edges, class and score, in colours that the colour-blind tell apart."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

# Okabe and Ito's, without black, which dark frames hide; of more classes colours come again.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
           (204, 121, 167))
SIDE = 360  # short side that smaller frames are enlarged to: words on them can be read


def draw(frame_HWC: np.ndarray, boxes_N4: np.ndarray, labels: Sequence[int],
         words: Sequence[str]) -> np.ndarray:
    """A frame with boxes, uint8 RGB; a small one is enlarged.

    Args:
        frame_HWC: uint8 RGB.
        boxes_N4: in shares of the frame.
        labels: numbers of the classes, which give the colours.
        words: beside each box.
    """
    height, width = frame_HWC.shape[:2]
    factor = max(1.0, SIDE / min(height, width))
    height, width = (2 * round(n * factor / 2) for n in (height, width))
    canvas = cv2.resize(np.ascontiguousarray(frame_HWC), (width, height), interpolation=cv2.INTER_LINEAR)
    size = min(height, width) / 640
    thick, font = max(2, round(4 * size)), cv2.FONT_HERSHEY_SIMPLEX
    for box, label, text in zip(boxes_N4, labels, words, strict=True):
        colour = COLOURS[label % len(COLOURS)]
        x1, y1, x2, y2 = (int(round(float(np.clip(x, 0, 1)) * (n - 1)))
                          for x, n in zip(box, (width, height, width, height)))
        cv2.rectangle(canvas, (x1, y1), (x2, y2), (0, 0, 0), thick + 2)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thick)
        scale = max(0.45, 0.9 * size)
        (w, h), below = cv2.getTextSize(text, font, scale, 1)
        left = max(0, min(x1, width - w - 4))
        top = y1 - h - below - 4 if y1 - h - below - 4 >= 0 else min(y1 + thick, height - h - below - 4)
        cv2.rectangle(canvas, (left, top), (left + w + 4, top + h + below + 4), colour, -1)
        ink = (0, 0, 0) if np.dot(colour, (0.3, 0.59, 0.11)) > 110 else (255, 255, 255)
        cv2.putText(canvas, text, (left + 2, top + h + 2), font, scale, ink, 1, cv2.LINE_AA)
    return canvas
