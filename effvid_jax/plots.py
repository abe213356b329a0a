"""Pictures of a run, as PNG bytes, some in a vector form as well. Drawn without pyplot: no window, no state.

matplotlib takes long to import, so only what draws does: methods import this file in every mode. It reads
formulas in texts, so every name that comes from a user goes through `_name`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from effvid_jax import console

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
GOOD, BAD = "#228833", "#cc3311"
MAX_CLASSES = 40  # that can be told apart in a picture
LONGEST_NAME = 32


def accuracy_against_cost(points: Mapping[str, tuple[float, float]], label: str) -> bytes:
    """Accuracy over GMACs per video, one point a network.

    Args:
        points: {name: (gmacs, accuracy in the unit of the label)}.
        label: of the accuracy, such as 'top-1 (%)'.
    """
    figure, axes = _figure(6, 4)
    for i, (name, (gmacs, accuracy)) in enumerate(points.items()):
        axes.scatter(gmacs, accuracy, s=80, color=_colour(i), marker=MARKERS[i % len(MARKERS)],
                     label=f"{_name(name)} {accuracy:.1f}", zorder=3)
    costs = [gmacs for gmacs, _ in points.values()]
    if max(costs) > 3 * min(costs):
        in_ratios(axes)
    axes.margins(x=0.25, y=0.25)
    _end_at_all(axes, label)
    axes.set_xlabel("GMACs per video")
    axes.set_ylabel(label)
    axes.legend(frameon=False, ncols=min(3, len(points)), loc="lower left", bbox_to_anchor=(0, 1.0))
    return _png(figure)


def in_ratios(axes) -> None:
    """A logarithmic axis of costs with labels at 1, 2, 5, 10, ... as numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _end_at_all(axes, label: str) -> None:
    if label.endswith("(%)"):
        axes.set_ylim(top=min(axes.get_ylim()[1], 101))  # a mark at 100 is whole, and nothing lies above


def two_prices(points: Mapping[str, tuple[float, float, float]], prices: tuple[str, str], label: str):
    """Accuracy over two prices side by side, one point a network.

    Args:
        points: {name: (first price, second price, accuracy in the unit of the label)}.
        prices: what they are.
        label: of the accuracy, such as 'top-1 (%)'.

    Returns:
        A figure, for `forms`.
    """
    figure = _blank(10, 4.5)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, price, k in zip(panels, prices, (0, 1)):
        _frame(axes)
        for i, (name, values) in enumerate(points.items()):
            axes.scatter(values[k], values[2], s=70, color=_colour(i), zorder=3,
                         marker=MARKERS[i // len(COLOURS) % len(MARKERS)], label=_name(name))
        in_ratios(axes)
        axes.set_xlabel(price)
        axes.margins(x=0.15, y=0.15)
    _end_at_all(panels[0], label)
    panels[0].set_ylabel(label)
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside upper center")
    return figure


def curves(histories: Mapping[str, Sequence[Mapping[str, float]]], metric: str, label: str,
           scale: float, loss_title: str) -> bytes:
    """Loss and accuracy while training.

    Args:
        histories: {network: rows of metrics.csv}.
        metric, label, scale: the accuracy's name in the rows, how it is written, and its factor to that.
        loss_title: what the loss is.
    """
    figure = _blank(10, 3.8)
    loss, accuracy = figure.subplots(1, 2)
    for i, (name, rows) in enumerate((_name(name), rows) for name, rows in histories.items()):
        parts = any("train/loss_cls" in row for row in rows)  # a sum of which only this compares
        loss.plot(*_series(rows, "train/loss_cls" if parts else "train/loss"), color=_colour(i),
                  label=name)
        if parts:
            loss.plot(*_series(rows, "train/loss"), ":", color=_colour(i), label=f"{name}, all terms")
        x, y = _series(rows, f"train/{metric}")
        accuracy.plot(x, scale * y, color=_colour(i))
        x, y = _series(rows, f"val/{metric}")
        accuracy.plot(x, scale * y, MARKERS[i % len(MARKERS)], color=_colour(i), markersize=8)
    for axes in (loss, accuracy):
        _frame(axes)
        axes.set_xlabel("step")
    loss.set_title(f"{loss_title} on training batches")
    loss.set_yscale("log")
    loss.yaxis.set_major_formatter("{x:g}")
    loss.legend(frameon=False)
    accuracy.set_title(f"{label}: training as lines, validation as marks")
    accuracy.set_ylim(bottom=0)
    return _png(figure)


def exit_curve(curves, marks, label: str):
    """Accuracy over mean GMACs as thresholds move, with single operating points beside it.

    Args:
        curves: {search: points}, each with `gmacs` and `accuracy`.
        marks: {name: points}.
        label: of the accuracy.

    Returns:
        A figure, for `forms`.
    """
    figure, axes = _figure(6, 4)
    for i, (name, points) in enumerate(curves.items()):
        points = sorted(points, key=lambda p: p.gmacs)
        axes.plot([p.gmacs for p in points], [100 * p.accuracy for p in points], ("-", "--")[i % 2],
                  color=_colour(i), label=f"thresholds by {_name(name)}")
    for i, (name, some) in enumerate(marks.items(), len(curves)):
        axes.scatter([p.gmacs for p in some], [100 * p.accuracy for p in some], s=50, zorder=3,
                     color=_colour(i), marker=MARKERS[i % len(MARKERS)], label=_name(name, 48))
    axes.set_xlim(left=0)
    axes.set_xlabel("mean GMACs per video")
    axes.set_ylabel(label)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0))
    return figure


def exit_shares(exits: Sequence[Mapping], groups: Sequence[tuple[str, Sequence[float], float]],
                label: str):
    """Where videos left: how many at each checkpoint, how many of those were right; and the same per class.

    Args:
        exits: of every checkpoint 'name', 'share' of the videos and 'accuracy' (in [0, 1]; NaN: no video left
            there), 'gmacs'.
        groups: (class, shares of its videos at each checkpoint, mean GMACs); of many the first and last.
        label: of the accuracy.

    Returns:
        A figure, for `forms`.
    """
    half = MAX_CLASSES // 2
    few = list(groups) if len(groups) <= MAX_CLASSES else [*groups[:half], *groups[-half:]]
    figure = _blank(11, max(4.2, 0.2 * len(few) + 1.6))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    _frame(left)
    shades, m = _shades(len(exits)), len(exits)
    x = np.arange(m)
    left.bar(x, [100 * e["share"] for e in exits], 0.7, color=shades, edgecolor="#444444", linewidth=0.6,
             label="share of the videos (%)")
    left.plot(x, [100 * e["accuracy"] for e in exits], "D", color="#cc3311", markersize=7,
              label=f"of those that left there, {label}")
    for i, e in enumerate(exits):
        left.annotate(f"{100 * e['share']:.0f}", (i, 100 * e["share"]), (0, 2), textcoords="offset points",
                      ha="center", fontsize=8)
    told = -(-m // 7)  # of many exits every second or third says more than its number
    left.set_xticks(x, [f"{i + 1}\n{e['name']}\n{e['gmacs']:.3g} G" if i % told == 0 else f"{i + 1}"
                        for i, e in enumerate(exits)], fontsize=8)
    left.set_xlabel("exit: frames seen, depth; GMACs per video")
    left.set_ylim(0, 108)
    left.set_ylabel("percent")
    left.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0))
    _frame(right)
    right.grid(False)
    y, start = np.arange(len(few))[::-1], np.zeros(len(few))
    for k in range(m):
        width = np.array([100 * shares[k] for _, shares, _ in few])
        right.barh(y, width, 0.8, left=start, color=shades[k], edgecolor="#444444", linewidth=0.4,
                   label=f"exit {k + 1}")
        start += width
    right.set_yticks(y, [f"{_name(name)}  ({gmacs:.3g} G)" for name, _, gmacs in few], fontsize=8)
    right.set_xlim(0, 100)
    right.set_xlabel("share of the class's videos (%); in brackets its mean GMACs per video")
    right.legend(frameon=False, fontsize=8, ncols=min(m, 6), loc="lower left", bbox_to_anchor=(0, 1.0),
                 handlelength=1.2, columnspacing=1.0)
    return figure


def per_class(class_names: Sequence[str], accuracies: Mapping[str, np.ndarray],
              label: str = "right (%)") -> bytes:
    """Share of each class's videos that are right, per network; of many classes, the worst ones.

    Args:
        class_names: K names.
        accuracies: {network: (K,)}, NaN for classes without videos; the last one is the subject.
        label: of the axis.
    """
    subject = list(accuracies.values())[-1]
    order = [k for k in np.argsort(subject, kind="stable") if not np.isnan(subject[k])][:MAX_CLASSES]
    figure, axes = _figure(max(6, 0.45 * len(order) + 2), 4.2)
    width = 0.8 / len(accuracies)
    for i, (name, values) in enumerate(accuracies.items()):
        x = np.arange(len(order)) + (i - (len(accuracies) - 1) / 2) * width
        axes.bar(x, 100 * values[order], width, color=_colour(i), label=_name(name))
    axes.set_xticks(np.arange(len(order)), [_name(class_names[k]) for k in order], rotation=60, ha="right",
                    rotation_mode="anchor")
    axes.set_ylabel(label)
    axes.set_ylim(0, 105)
    axes.legend(frameon=False, ncols=len(accuracies), loc="lower left", bbox_to_anchor=(0, 1.0))
    return _png(figure)


def precision_recall(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> bytes:
    """Precision over recall, a curve a class; of more than `MAX_CLASSES` the first ones.

    Args:
        curves: {class: (recall, precision)}, in [0, 1], as the least score goes down; nothing where nothing
            was found.
    """
    few = dict(list(curves.items())[:MAX_CLASSES])
    figure, axes = _figure(6 if len(few) <= 8 else 8.5, 4.4)
    styles = ("-", "--", ":", "-.")
    for i, (name, (recall, precision)) in enumerate(few.items()):
        start = [0.0] * bool(len(recall))
        axes.plot(100 * np.append(start, recall), 100 * np.append(precision[:1], precision), color=_colour(i),
                  linestyle=styles[(i + i // len(COLOURS)) % len(styles)], label=_name(name))
    axes.set_xlabel("recall (%)")
    axes.set_ylabel("precision (%)")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 105)
    axes.legend(frameon=False, fontsize=8, ncols=1 + len(few) // 24, loc="upper left",
                bbox_to_anchor=(1.0, 1.0))
    return _png(figure)


def confusion(class_names: Sequence[str], counts_KK: np.ndarray) -> bytes:
    """Rows: true class; columns: predicted class; in percent of the row."""
    few = len(class_names) <= MAX_CLASSES
    size = min(12.0, max(4.0, 0.42 * len(class_names) + 1.5)) if few else 9.0
    figure, axes = _figure(size, size)
    percent = 100 * counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    axes.grid(False)
    if few:
        ticks = np.arange(len(class_names))
        names = [_name(name) for name in class_names]
        axes.set_xticks(ticks, names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, names)
        for i, j in np.argwhere(percent > 0):
            axes.text(j, i, f"{percent[i, j]:.0f}", ha="center", va="center", fontsize=7,
                      color="white" if percent[i, j] > 50 else "black")
    else:
        figure.colorbar(image, label="% of the true class", shrink=0.6)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return _png(figure)


def histogram(values: Mapping[str, Sequence[float]], label: str, unit: str) -> bytes:
    """How often values occur: steps in bins that all networks share, and a line where all are alike.

    Args:
        values: {network: (N,)}.
        label: of the values, with their unit.
        unit: what is counted, such as 'images'.
    """
    figure, axes = _figure(6, 3.6)
    arrays = {name: np.asarray(x, float) for name, x in values.items()}
    both = np.concatenate(list(arrays.values()))
    spread = float(np.ptp(both)) or abs(float(both.mean())) or 1.0
    bins = np.linspace(both.min() - 0.02 * spread, both.max() + 0.02 * spread, 31)
    styles = ("-", "--", ":", "-.")
    for i, (name, x) in enumerate(arrays.items()):
        style = dict(color=_colour(i), linestyle=styles[i % len(styles)], linewidth=2, label=_name(name))
        if np.ptp(x) == 0:
            axes.axvline(x[0], **style)
        else:
            axes.hist(x, bins, histtype="step", **style)
    axes.set_xlabel(label)
    axes.set_ylabel(unit)
    axes.legend(frameon=False, ncols=min(3, len(arrays)), loc="lower left", bbox_to_anchor=(0, 1.0))
    return _png(figure)


def heat_map(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], label: str) -> bytes:
    """Values in [0, 1] as colours (lighter = less); of many rows the first ones."""
    rows, values = rows[:MAX_CLASSES], values[:MAX_CLASSES]
    figure, axes = _figure(max(5.0, 0.3 * len(columns) + 3), max(3.0, 0.22 * len(rows) + 2))
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    axes.set_yticks(np.arange(len(rows)), [_name(name) for name in rows])
    axes.set_xticks(np.arange(len(columns)), [_name(name) for name in columns], rotation=60, ha="right",
                    rotation_mode="anchor")
    figure.colorbar(image, label=label)
    return _png(figure)


def examples(clips: Sequence[tuple[np.ndarray, str, Mapping[str, tuple[str, bool]]]]) -> bytes:
    """Frames of a few clips beside what each network says.

    Args:
        clips: (frames uint8 (N, H, W, 3), true label, {network: (its words, right?)}).
    """
    figure = _blank(10, 1.25 * len(clips))
    grid = figure.subplots(len(clips), 2, squeeze=False, width_ratios=(2.6, 1))
    for (strip_axes, text_axes), (frames, label, words) in zip(grid, clips, strict=True):
        frames = np.pad(frames, ((0, 0), (0, 0), (0, max(2, frames.shape[2] // 30)), (0, 0)),
                        constant_values=255)
        strip_axes.imshow(np.concatenate(list(frames), axis=1))
        for axes in (strip_axes, text_axes):
            axes.set_axis_off()
        lines = [(f"true: {_name(label)}", "black")]
        lines += [(f"{_name(name)}: {_name(said)}", GOOD if right else BAD)
                  for name, (said, right) in words.items()]
        for i, (line, colour) in enumerate(lines):
            text_axes.text(0, 1 - (i + 0.5) / len(lines), line, color=colour, va="center", fontsize=9,
                           transform=text_axes.transAxes)
    return _png(figure)


def answer(frames: np.ndarray, top: Sequence[tuple[str, float]], title: str) -> bytes:
    """Frames of a video above a bar a class.

    Args:
        frames: uint8 (N, H, W, 3); up to eight are shown.
        top: (class, probability), most probable first.
        title: of the whole.
    """
    frames = frames[np.linspace(0, len(frames) - 1, min(8, len(frames))).round().astype(int)]
    figure = _blank(8, 1.6 + 0.3 * len(top))
    above, below = figure.subplots(2, 1, height_ratios=(1.1, 0.3 * len(top)))
    frames = np.pad(frames, ((0, 0), (0, 0), (0, max(1, frames.shape[2] // 30)), (0, 0)), constant_values=255)
    above.imshow(np.concatenate(list(frames), axis=1))
    above.set_axis_off()
    above.set_title(_name(title), fontsize=9)
    for i, (_, prob) in enumerate(top):
        below.barh(i, 100 * prob, color=_colour(0))
        below.text(100 * prob + 1, i, f"{100 * prob:.1f}", va="center", fontsize=8)
    below.set_yticks(range(len(top)), [_name(label) for label, _ in top])
    below.invert_yaxis()
    below.set_xlim(0, 110)
    below.set_xlabel("probability (%)")
    _frame(below)
    return _png(figure)


def forms(figure) -> dict[str, bytes]:
    """A figure by the ending of its file: '.png', and '.svg' for print, with sharp lines and letters."""
    import matplotlib

    out = io.BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "effvid"}):
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(out, format="svg", dpi=150, metadata={"Date": None})  # the same figure, the same bytes
    return {".png": _png(figure), ".svg": out.getvalue()}


def exit_strips(strips: Sequence[tuple[np.ndarray, str, str, str, bool, str]]):
    """Videos by the checkpoint where they left, a strip of frames each.

    Args:
        strips: (frames uint8 (N, H, W, 3), title of the checkpoint, truth, what was said, right?, cost).

    Returns:
        A figure, for `forms`.
    """
    titles = list(dict.fromkeys(title for _, title, *_ in strips))
    most = max(len(frames) for frames, *_ in strips)
    figure = _blank(min(12.0, 2.2 + 0.85 * most), 0.9 * len(strips) + 0.35 * len(titles) + 0.1)
    for part, title in zip(np.atleast_1d(figure.subfigures(len(titles), 1, height_ratios=[
            0.9 * sum(t == title for _, t, *_ in strips) + 0.35 for title in titles])), titles):
        mine = [strip for strip in strips if strip[1] == title]
        part.suptitle(title, fontsize=9, x=0.01, ha="left")
        grid = part.subplots(len(mine), 2, squeeze=False, width_ratios=(0.85 * most, 2.2))
        for (pictures, words), (frames, _, label, said, right, gmacs) in zip(grid, mine, strict=True):
            frames = np.pad(frames, ((0, 0), (0, 0), (0, max(2, frames.shape[2] // 30)), (0, 0)),
                            constant_values=255)
            pictures.imshow(np.concatenate(list(frames), axis=1))
            for axes in (pictures, words):
                axes.set_axis_off()
            for y, line, colour in ((0.8, label, "black"), (0.5, said, GOOD if right else BAD),
                                    (0.2, gmacs, "black")):
                words.text(0, y, _name(line), color=colour, va="center", fontsize=8,
                           transform=words.transAxes)
    return figure


def _name(name: object, longest: int = LONGEST_NAME) -> str:
    """A user's name as matplotlib draws it: no formula, no line break, nothing that a legend leaves out."""
    text = console.one_line(name, longest).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _series(rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(row["step"], row[name]) for row in rows if name in row]
    return tuple(np.array(points, float).reshape(-1, 2).T)


def _blank(width: float, height: float):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _figure(width: float, height: float):
    figure = _blank(width, height)
    axes = figure.subplots()
    _frame(axes)
    return figure, axes


def _frame(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)


def _shades(count: int) -> list:
    """Colours of an order, dark to light, that stay in order for the colour-blind and in print."""
    from matplotlib import colormaps

    return [colormaps["viridis"](x) for x in np.linspace(0.08, 0.97, count)]


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _png(figure) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():  # of scripts that the font lacks; the report's text has the names
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(out, format="png", dpi=110)
    return out.getvalue()
