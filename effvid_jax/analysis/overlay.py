"""Heat maps drawn over the frames that they are of."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from effvid_jax import console
from effvid_jax.analysis import drawing

COLUMNS, SIDE = 8, 112  # frames of a strip, and pixels of each


def blend(frames_THWC: np.ndarray, heat_THW: np.ndarray) -> np.ndarray:
    """Half a heat map in viridis (0 dark, 1 bright yellow), half the frame.

    Args:
        frames_THWC: uint8.
        heat_THW: in [0, 1].

    Returns:
        uint8 (T, H, W, 3).
    """
    from matplotlib import colormaps

    colours = 255 * colormaps["viridis"](np.asarray(heat_THW, np.float64))[..., :3]
    return np.clip(np.rint(0.5 * colours + 0.5 * frames_THWC), 0, 255).astype(np.uint8)


def chosen(num_frames: int) -> np.ndarray:
    """At most `COLUMNS` positions, spread over the frames."""
    return np.unique(np.linspace(0, num_frames - 1, min(COLUMNS, num_frames)).round().astype(int))


def strip(frames_THWC: np.ndarray) -> np.ndarray:
    """Some frames of a clip side by side, uint8 (`SIDE`, width, 3), with a white line between them."""
    parts = []
    for frame in frames_THWC[chosen(len(frames_THWC))]:
        larger = frame.shape[0] < SIDE  # pixels of small frames stay visible
        small = cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST if larger else cv2.INTER_AREA)
        parts += [small, np.full((SIDE, 2, 3), 255, np.uint8)]
    return np.concatenate(parts[:-1], axis=1)


def strips(rows: Sequence[tuple[np.ndarray, Sequence[str]]], title: str = ""):
    """Strips below each other, each with lines of text beside it.

    Args:
        rows: (strip uint8 (h, w, 3), its lines).
        title: of the colours; '' without a colour bar.

    Returns:
        A figure.
    """
    from matplotlib.cm import ScalarMappable

    widest = max(strip.shape[1] for strip, _ in rows)
    figure = drawing.figure(2.2 + widest / SIDE * 0.95, 0.97 * len(rows) + (0.7 if title else 0.1))
    grid = figure.subplots(len(rows), 2, squeeze=False, width_ratios=(2.2, widest / SIDE * 0.95))
    for (words, pictures), (image, lines) in zip(grid, rows, strict=True):
        pictures.imshow(image, interpolation="nearest")
        pictures.set_xlim(-0.5, widest - 0.5)
        for axes in (words, pictures):
            axes.set_axis_off()
        words.text(1, 0.5, "\n".join(map(plain, lines)), ha="right", va="center", fontsize=8,
                   transform=words.transAxes)
    if title:
        bar = figure.colorbar(ScalarMappable(cmap="viridis"), ax=grid[:, 1].tolist(), location="bottom",
                              shrink=0.6, aspect=40)
        bar.set_label(title, fontsize=9)
        bar.ax.tick_params(labelsize=8)
    return figure


def plain(text: object, longest: int = 40) -> str:
    """A user's name as matplotlib draws it: one line, no formula."""
    return console.one_line(text, longest).replace("$", r"\$")
