"""Figures of this room: the look of `effvid_jax/plots.py`, as PNG for the screen and SVG for print."""

from __future__ import annotations

import warnings

from effvid_jax import plots, writers

KINDS = ("png", "svg")


def figure(width: float, height: float):
    """An empty figure; inches."""
    from matplotlib.figure import Figure  # slow to import

    return Figure(figsize=(width, height), layout="constrained")


def frame(axes) -> None:
    """Axes as in every plot of the project: two lines, light horizontal ones behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)


def colour(i: int) -> str:
    """Colour-blind-safe."""
    return plots.COLOURS[i % len(plots.COLOURS)]


def write(drawn, path: str) -> None:
    """`path`.png and `path`.svg of a figure; the same figure gives the same bytes."""
    import matplotlib

    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "effvid"}):
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # scripts the font lacks
        for kind in KINDS:
            with writers.whole(f"{path}.{kind}") as part:
                drawn.savefig(part, format=kind, dpi=150, bbox_inches="tight",  # labels at the edges, whole
                              metadata={"Date": None} if kind == "svg" else None)
