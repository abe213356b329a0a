"""Heat maps drawn over the frames that they are of."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from effvid_jax import console
from effvid_jax.analysis import drawing

COLUMNS, SIDE = 8, 112  # frames of a strip, and pixels of each
INCHES, WORDS, GAP = 0.62, 1.8, 0.12  # of a frame, of the text beside a strip, between videos
GREY = (0.299, 0.587, 0.114)  # of red, green and blue


def blend(frames_THWC: np.ndarray, heat_THW: np.ndarray) -> np.ndarray:
    """Half a heat map in viridis (0 dark, 1 bright yellow), half the frame in grey: all colour is heat.

    Args:
        frames_THWC: uint8.
        heat_THW: in [0, 1].

    Returns:
        uint8 (T, H, W, 3).
    """
    from matplotlib import colormaps

    colours = 255 * colormaps["viridis"](np.asarray(heat_THW, np.float64))[..., :3]
    grey = (frames_THWC @ np.array(GREY))[..., None]
    return np.clip(np.rint(0.5 * colours + 0.5 * grey), 0, 255).astype(np.uint8)


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


def strips(videos: Sequence[Sequence[tuple[np.ndarray, Sequence[str]]]], title: str):
    """Strips below each other, each with lines of text beside it, and a gap between videos.

    Args:
        videos: of each, (strip uint8 (h, w, 3), its lines).
        title: of the colours; "": they are no heat.

    Returns:
        A figure.
    """
    from matplotlib.cm import ScalarMappable

    heights, rows = [], []
    for strips in videos:
        rows += [*([None] if rows else []), *strips]
        heights += [*([GAP] if heights else []), *[INCHES] * len(strips)]
    widest = max(row[0].shape[1] for row in rows if row)
    width, height = INCHES * widest / SIDE, sum(heights) + 0.04 * len(rows)
    figure = drawing.figure(WORDS + width, height + 0.7)
    figure.get_layout_engine().set(h_pad=0.02, w_pad=0.02, hspace=0, wspace=0.02)
    grid = figure.subplots(len(rows), 2, squeeze=False, width_ratios=(WORDS, width), height_ratios=heights)
    for cells, row in zip(grid, rows, strict=True):
        for axes in cells:
            axes.set_axis_off()
        if row is None:
            continue
        (words, pictures), (image, lines) = cells, row
        pictures.imshow(image, interpolation="nearest")
        pictures.set_xlim(-0.5, widest - 0.5)
        words.text(1, 0.5, "\n".join(map(plain, lines)), ha="right", va="center", fontsize=8,
                   transform=words.transAxes)
    if not title:
        return figure
    bar = figure.colorbar(ScalarMappable(cmap="viridis"), ax=grid[:, 1].tolist(), location="bottom",
                          shrink=min(1.0, 3.5 / width), aspect=30, pad=0.12 / height)
    bar.set_label(title, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def plain(text: object, longest: int = 40) -> str:
    """A user's name as matplotlib draws it: one line, no formula."""
    return console.one_line(text, longest).replace("$", r"\$")
