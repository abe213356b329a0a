"""The figures of `gates.py`: cost and decisions, the map of blocks, and the dearest and cheapest clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from effvid_jax import console, plots
from effvid_jax.analysis import drawing, gate_statistics

LONGEST = 30


def overview(costs_C, static: float, layers: Sequence[Mapping], videos: Mapping[str, np.ndarray],
             correlations: Mapping[str, Mapping]):
    """Distribution of cost; what it goes with; decisions of every layer on both axes.

    Args:
        costs_C: GMACs of every clip.
        static: of the plain network.
        layers: see `gate_statistics.layer_table`.
        videos: 'cost' and facts by name, (N,); 'right' is one of the facts where it is known.
        correlations: see `gate_statistics.correlations`.
    """
    figure = drawing.figure(max(9.5, 0.22 * len(layers) + 7), 7.6)
    (cost, goes), (channels, frames) = figure.subplots(2, 2)
    _histogram(cost, costs_C, static)
    _fifths(goes, videos, correlations)
    for axes, what in ((channels, "channels"), (frames, "frames")):
        _decisions(axes, layers, what)
    return figure


def _histogram(axes, costs_C, static: float) -> None:
    drawing.frame(axes)
    found = gate_statistics.distribution(costs_C)
    axes.hist(costs_C, bins=30 if np.ptp(costs_C) > 0 else 1, color=drawing.colour(0))
    axes.axvspan(found["p5"], found["p95"], color="#bbbbbb", alpha=0.35, lw=0, zorder=0, label="5 to 95 %")
    axes.axvline(found["mean"], color="black", label=f"mean {found['mean']:.4g}")
    axes.axvline(static, color=drawing.colour(1), ls="--", label=f"static network {static:.4g}")
    axes.set_xlabel("GMACs per clip")
    axes.set_ylabel("clips")
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)


def _fifths(axes, videos, correlations) -> None:
    drawing.frame(axes)
    continuous = [name for name in videos if name not in ("cost", "right")]
    for i, name in enumerate(continuous):
        mean, error = gate_statistics.by_fifths(videos["cost"], videos[name])
        rho = correlations[name]["spearman"]
        told = "no correlation: one is constant" if rho is None else (
            f"ρ = {rho:+.2f} [{correlations[name]['low']:+.2f}, {correlations[name]['high']:+.2f}]")
        axes.errorbar(np.arange(len(mean)) + 0.06 * i, mean, error, color=drawing.colour(i),
                      marker=plots.MARKERS[i % len(plots.MARKERS)], capsize=2, label=f"{name}: {told}")
    ticks, places = ["lowest\nfifth", "", "middle", "", "highest\nfifth"], list(range(5))
    if "right" in videos and 0 < videos["right"].mean() < 1:
        parts = [videos["cost"][videos["right"] == value] for value in (0, 1)]
        mean, error = gate_statistics.mean_and_error(parts)
        axes.errorbar([6, 7], mean, error, color="black", ls="", marker="D", capsize=2)
        ticks, places = [*ticks, "wrong", "right"], [*places, 6, 7]
    axes.set_xticks(places, ticks)
    axes.set_xlabel("videos in fifths of the quantity; wrong and right answers")
    axes.set_ylabel("mean GMACs per clip")
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0))


def _decisions(axes, layers, what: str) -> None:
    drawing.frame(axes)
    x, bottom = np.arange(len(layers)), np.zeros(len(layers))
    for n, name in enumerate(key for key in layers[0] if key.startswith(f"{what}_")):
        values = np.array([100 * row[name] for row in layers])
        label = name.removeprefix(f"{what}_")
        axes.bar(x, values, bottom=bottom, color=("#4477aa", "#ccbb44", "#ee6677", "#aa3377")[n],
                 label="all" if label == "1/1" else label, width=0.85)
        bottom += values
    axes.set_ylim(0, 100)
    axes.set_ylabel(f"clips that compute these {what} (%)")
    _names(axes.set_xticks, [row["layer"] for row in layers])
    axes.set_xlabel("gated convolution")
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0))


def _names(set_ticks, names, most: int = 40) -> None:
    every = -(-len(names) // most)
    set_ticks(np.arange(len(names))[::every], [_shown(name) for name in names[::every]],
              rotation=60, ha="right", rotation_mode="anchor", fontsize=8)


def _shown(name: str) -> str:
    """A user's name as matplotlib draws it, which reads formulas."""
    return console.one_line(name, LONGEST).replace("$", r"\$")


def block_map(groups: Sequence[str], blocks: Sequence[str], shares: Mapping[str, np.ndarray]):
    """What each block computes for each group of videos, and for all (the last row); lighter is less.

    Args:
        groups, blocks: names.
        shares: {what: (groups, blocks)} in [0, 1].
    """
    height = max(3.2, 0.2 * len(groups) + 1.8)
    figure = drawing.figure(max(8.0, len(shares) * (0.3 * len(blocks) + 1.2) + 2), height)
    panels = figure.subplots(1, len(shares), sharey=True)
    for axes, (what, values) in zip(panels, shares.items()):
        image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        _names(axes.set_xticks, blocks)
        axes.set_title(f"{what} computed", fontsize=10)
        axes.set_xlabel("block")
    panels[0].set_yticks(np.arange(len(groups)), [_shown(name) for name in groups], fontsize=8)
    panels[0].set_ylabel("class")
    figure.colorbar(image, ax=panels, label="share that is computed", shrink=0.8)
    return figure


def strips(rows: Sequence[tuple[str, Sequence[tuple[np.ndarray, float, str]]]]):
    """Frames of the dearest and of the cheapest clip of each class, side by side.

    Args:
        rows: (class, ((frames uint8 (n, H, W, 3), share of the gated convolutions that is computed, name),
            the same of the cheapest)).
    """
    figure = drawing.figure(11, 1.15 * len(rows) + 0.6)
    grid = figure.subplots(len(rows), 2, squeeze=False)
    for (name, pair), two in zip(rows, grid):
        for axes, (frames, share, _) in zip(two, pair):
            gap = max(2, frames.shape[2] // 30)
            frames = np.pad(frames, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
            axes.imshow(np.concatenate(list(frames), axis=1))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            axes.set_xlabel(f"{share:.1%} of the gated convolutions", fontsize=8)
        two[0].set_ylabel(_shown(name), rotation=0, ha="right", va="center", fontsize=8)
    grid[0, 0].set_title("dearest clip", fontsize=10)
    grid[0, 1].set_title("cheapest clip", fontsize=10)
    return figure
