"""Feature maps of a gated convolution: those that it computes beside those that it makes cheaply.

    python -m effvid_jax.analysis.feature_maps --workdir=RUN                  # the first gated convolution
    python -m effvid_jax.analysis.feature_maps --workdir=RUN --layer=layer2_0/conv1/conv_s --clip=17

VA-RED2 (arXiv 2102.07887) computes a part of the channels and frames and makes the rest from them. Two
pictures in one, for one clip (the middle view of video number --clip of the split):

    channels   in columns some of those that are made where half of the channels are computed: the computed
               channel that each is made of, the channel as the whole convolution computes it, and as made
    frames     in columns all frames of one channel: as the whole convolution computes them, and with every
               second one held (times the layer's factor); what is made has a dashed edge

Under every made map stands its correlation with the computed one: 1 would be a perfect stand-in. Every map
has its own scale of grey, from its least to its largest value. The title tells what this clip's gate decided.
Outputs of the convolution are shown, before its batch norm and without the weights of the gate.

Writes `maps_<layer>_<clip>.png`, `.svg`, and `.csv`: correlations of all made channels and frames.
"""

from __future__ import annotations

import json
import os
import sys
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax import console, writers
from effvid_jax.analysis import drawing, opening
from effvid_jax.errors import UserError
from effvid_jax.gating import gates, variants
from effvid_jax.methods.va_red2 import VaRed2


class Maps(NamedTuple):
    """Outputs of a gated convolution for one clip.

    Attributes:
        whole: (T, H, W, C), all channels and frames computed.
        half_channels: with the first half of the channels computed; None if channels are not gated.
        half_frames: with every second frame computed; None if frames are not gated.
        computed: number of computed channels in `half_channels`.
        V_c, V_t: what the clip's gate gives.
    """

    whole: np.ndarray
    half_channels: np.ndarray | None
    half_frames: np.ndarray | None
    computed: int
    V_c: np.ndarray
    V_t: np.ndarray


def maps(method: VaRed2, variables, clip, layer: str) -> Maps:
    """The outputs of a layer.

    Args:
        method: whose network it is.
        variables: of `Method.predict`.
        clip: uint8 (T, side, side, 3).
        layer: module path of a gated convolution.
    """
    numbers = {}

    @jax.jit
    def look(variables, clip):
        found = {}

        def watch(call, args, kwargs, context):
            out = call(*args, **kwargs)
            module = context.module
            if (isinstance(module, gates.GatedConv) and context.method_name == "_layer"
                    and "/".join(module.path) == layer):
                x, made = args[0], out
                numbers["computed"] = made.channels[min(1, len(made.channels) - 1)]
                found.update(_variants(made, x))
            return out

        with nn.intercept_methods(watch):
            clips = method.sight(clip[None])
            decided = method.decisions(variables.network, clips)
        own = decided[method.layer_names(variables.params).index(layer)]
        return found, own.V_c[0], own.V_t[0]

    found, V_c, V_t = jax.device_get(look(variables, clip))
    return Maps(found["whole"], found.get("channels"), found.get("frames"), numbers["computed"], V_c, V_t)


def _variants(layer: variants.Layer, x) -> dict:
    """Outputs with one variant alone, of weight 1."""
    S_c, S_t = len(layer.channels), len(layer.frames)

    def only(S, n):
        return jnp.zeros((x.shape[0], S)).at[:, n].set(1)

    found = {"whole": layer.variant(0, 0)(x, only(S_c, 0), only(S_t, 0))}
    if S_c > 1:
        found["channels"] = layer.variant(1, 0)(x, only(S_c, 1), only(S_t, 0))
    if S_t > 1:
        found["frames"] = layer.variant(0, 1)(x, only(S_c, 0), only(S_t, 1))
    return {name: y[0].astype(jnp.float32) for name, y in found.items()}


def correlation(a, b) -> float:
    """Of two maps; NaN if one is constant."""
    a, b = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) and np.ptp(b) else float("nan")


def table(found: Maps) -> list[dict]:
    """A row a made channel (all frames together) and a made frame (all channels): its correlation."""
    rows = []
    if found.half_channels is not None:
        k = found.computed
        rows += [{"kind": "channel", "number": c, "made_of": (c - k) % k,
                  "correlation": correlation(found.whole[..., c], found.half_channels[..., c])}
                 for c in range(k, found.whole.shape[-1])]
    if found.half_frames is not None:
        rows += [{"kind": "frame", "number": t, "made_of": t - 1,
                  "correlation": correlation(found.whole[t], found.half_frames[t])}
                 for t in range(1, len(found.whole), 2)]
    return rows


def draw(found: Maps, layer: str, clip: str, columns: int):
    """The picture; see the module docstring."""
    T, C, k = len(found.whole), found.whole.shape[-1], found.computed
    parts = [part for part, there in (("channels", found.half_channels), ("frames", found.half_frames))
             if there is not None and (part == "channels" or T > 1)]
    rows = {"channels": 3, "frames": 2}
    width = max(columns, T)
    figure = drawing.figure(1.05 * width + 1.4, sum(1.25 * rows[part] + 0.7 for part in parts) + 0.6)
    panels = np.atleast_1d(figure.subfigures(
        len(parts), 1, height_ratios=[rows[part] + 0.5 for part in parts]))
    for part, panel in zip(parts, panels):
        if part == "channels":
            t = T // 2
            chosen = np.unique(np.linspace(k, C - 1, min(columns, C - k)).astype(int))
            lines = [[found.whole[t, ..., (c - k) % k] for c in chosen],
                     [found.whole[t, ..., c] for c in chosen],
                     [found.half_channels[t, ..., c] for c in chosen]]
            titles = [f"{c}" for c in chosen]
            names = ["made of\n(computed)", "the channel,\ncomputed", "the channel,\nmade"]
            panel.suptitle(f"channels of frame {t}: {k} of {C} computed, the others made", fontsize=10)
            made = [[False] * len(chosen)] * 2 + [[True] * len(chosen)]
        else:
            c = int(np.argmax(found.whole.std(axis=(1, 2)).mean(axis=0)))
            lines = [list(found.whole[..., c]), list(found.half_frames[..., c])]
            titles = [f"frame {t}" for t in range(T)]
            names = ["all frames\ncomputed", "every second\ncomputed"]
            panel.suptitle(f"frames of channel {c} (the one that varies most over space)", fontsize=10)
            made = [[False] * T, [t % 2 == 1 for t in range(T)]]
        _grid(panel, lines, titles, names, made, width)
    weights = ", ".join(f"{what} {' '.join(f'{v:.2f}' for v in V)}" for what, V in (
        ("channels", found.V_c), ("frames", found.V_t)) if len(V) > 1)
    figure.suptitle(f"{console.one_line(layer, 60)}, clip {console.one_line(clip, 40)}\n"
                    f"weights that its gate gives (all, half, ...): {weights}".replace("$", r"\$"),
                    fontsize=10)
    return figure


def _grid(panel, lines, titles, names, made, width: int) -> None:
    grid = panel.subplots(len(lines), width, squeeze=False)
    for r, (line, name) in enumerate(zip(lines, names)):
        for i, axes in enumerate(grid[r]):
            axes.set_xticks([])
            axes.set_yticks([])
            if i >= len(line):
                axes.set_visible(False)
                continue
            axes.imshow(line[i], cmap="gray", interpolation="nearest")
            axes.spines[:].set(color=drawing.colour(1) if made[r][i] else drawing.colour(0), linewidth=1.5,
                               linestyle="--" if made[r][i] else "-")
            if r == 0:
                axes.set_title(titles[i], fontsize=8)
            if made[r][i]:
                axes.set_xlabel(f"r = {correlation(line[i], lines[r - 1][i]):.2f}", fontsize=8)
        grid[r, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)


def analyse(args, opened: opening.Opened) -> None:
    """The command; see the module docstring."""
    method, split = opened.method, opened.split
    if not isinstance(method, VaRed2):
        raise UserError(f"method {opened.config.method.name!r} makes no feature maps: expected a run of "
                        f"va_red2.")
    names = [name for name in method.layer_names(opened.variables.params)
             if not any(entry.startswith(f"{name}:") for entry in method.settings.frozen)]
    layer = args.layer or (names[0] if names else "")
    if layer not in names:
        raise UserError(f"--layer={layer}: expected one of {', '.join(names) or 'none: all are frozen'}.")
    if not 0 <= args.clip < len(split):
        raise UserError(f"--clip={args.clip}: expected a number from 0 to {len(split) - 1}.")
    views = split.views(args.clip)
    found = maps(method, opened.variables, views[len(views) // 2], layer)
    path = os.path.join(opened.out, f"maps_{layer.replace('/', '_')}_{args.clip}")
    rows = table(found)
    writers.write_csv(f"{path}.csv", [row | {"correlation": f"{row['correlation']:.4f}"} for row in rows])
    drawing.write(draw(found, layer, split.entry(args.clip).name, args.columns), path)
    means = {kind: float(np.nanmean([row["correlation"] for row in rows if row["kind"] == kind]))
             for kind in dict.fromkeys(row["kind"] for row in rows)}
    print(json.dumps({"feature_maps": f"{path}.png", "layer": layer,
                      **{f"mean_correlation_{kind}": round(x, 4) for kind, x in means.items()}}))


def main(argv=None) -> int:
    """The command line."""
    parser = opening.parser("feature_maps", __doc__)
    parser.add_argument("--layer", default="", help="module path of a gated convolution; the first one")
    parser.add_argument("--clip", type=int, default=0, help="number of a video in the split")
    parser.add_argument("--columns", type=int, default=8, help="channels that are drawn")
    return opening.run(parser, analyse, argv)


if __name__ == "__main__":
    sys.exit(main())
