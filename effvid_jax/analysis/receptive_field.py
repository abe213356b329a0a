"""Effective receptive field of a layer, networks side by side: what of its input a position really looks at.

    python -m effvid_jax.analysis.receptive_field --workdir=runs/demo          # teacher, baseline, student
    python -m effvid_jax.analysis.receptive_field --workdir=RUN --stages=baseline,student --layer=stage2

ResKD (arXiv 2209.12797), Fig. 4(a), before against after distillation. The paper takes a position towards
the lower right of the last map, since a 4 x 4 map has no centre, and says no more; this is the usual recipe
(Luo et al., NeurIPS 2016):

    A (T', h, w, C)   the layer's map; cell (h // 2, w // 2): (2, 2) of 4 x 4, (3, 3) of 7 x 7, from 0
    s               = sum over frames and channels of A at that cell
    G (T, H, W)     = sum over RGB of |d s / d x|, x the network's normalised input in its own resolution
    ERF (H, W)      = mean of G over the frames of --clips videos, divided by its largest value

The middle view of every video is looked at. In a network that looks at frames one by one the sum over frames
falls apart, so that G is that of each frame alone.

Writes `receptive_field_<split>.png` and `.svg` (the fields), `.csv` (a line a network), `.npz` (the fields as
arrays), and `receptive_field_frames_<split>.png` and `.svg` (G of single clips over their frames). The csv:

    area_50, area_90   smallest share of the input that holds 50 and 90 % of the field's mass
    side               root of the number of pixels with at least 4.55 % of the largest value, as Luo et al.
    side_share         the same over the side of the input: compares networks of different resolutions
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import tabulate

from effvid_jax import writers
from effvid_jax.analysis import drawing, layers, overlay, side_by_side
from effvid_jax.errors import UserError

SHARES = (0.5, 0.9)
LEAST = 1 - 0.9545  # of the largest value: what Luo et al. count
BRIGHT = 99  # % of a clip's gradients are drawn as they are; by the largest few all others would be dark


def gradients(apply: Callable, layer: layers.Layer, variables, clips_BTHWC):
    """G of the module docstring for each clip: (B, T, H, W). Traced.

    Args:
        apply, layer: of a `layers.Network`.
        variables: for `apply`.
        clips_BTHWC: normalised, as the network sees them.
    """
    _, h, w, _ = layer.shape

    def total(clips):
        _, map_ = layers.with_map(apply, layer, variables, clips)
        return map_[:, :, h // 2, w // 2].astype(jnp.float32).sum()

    return jnp.abs(jax.grad(total)(clips_BTHWC)).sum(axis=-1)


def measures(field_HW: np.ndarray) -> dict[str, float]:
    """The numbers of the csv, see the module docstring, of a field with any scale.

    Raises:
        UserError: nothing but zeros, or not finite: the cell sees nothing.
    """
    values = np.sort(np.asarray(field_HW, np.float64).reshape(-1))[::-1]
    if not np.isfinite(values).all() or not values.sum() > 0:
        raise UserError("the gradient of this layer is zero everywhere, or not finite: the weights are "
                        "damaged, or its activation is dead at this cell. Choose another --layer.")
    held = np.cumsum(values) / values.sum()
    side = float(np.sqrt((values >= LEAST * values[0]).sum()))
    areas = {f"area_{round(100 * share)}": float((np.searchsorted(held, share - 1e-12) + 1) / len(values))
             for share in SHARES}
    return {**areas, "side": side, "side_share": side / len(field_HW)}


def look(opened, chosen: list[int], layer_name: str, kept: int):
    """The field of a network.

    Args:
        opened: the network, see `opening.Opened`.
        chosen: numbers of videos.
        layer_name: '' for the last map.
        kept: of how many videos G is returned, too.

    Returns:
        layer, field (H, W) with largest value 1, [(name, frames uint8 (T, side, side, 3), G (T, H, W))], and
        `measures` with the number of 'clips'.
    """
    network, _ = side_by_side.network_of(opened)
    layer = network.layer(layer_name)

    @jax.jit
    def one(variables, views_VTHWC):
        clips = side_by_side.as_input(opened, views_VTHWC)
        return gradients(network.apply, layer, variables, clips)[0]

    total, count, clips = 0.0, 0, []
    for number, views in side_by_side.views(opened, chosen, f"receptive field of {layer.name}"):
        middle = views[len(views) // 2]
        found_THW = np.asarray(one(opened.variables.network, middle[None]))
        total, count = total + found_THW.mean(axis=0, dtype=np.float64), count + 1
        if len(clips) < kept:
            clips.append((opened.split.entry(number).name, middle, found_THW))
    if not count:
        raise UserError(f"none of the {len(chosen)} chosen videos of {opened.split.name!r} can be read.")
    field = total / count
    numbers = measures(field)
    return layer, field / field.max(), clips, {**numbers, "clips": count}


def draw(fields: Mapping[str, tuple[layers.Layer, np.ndarray, Mapping[str, float]]]):
    """The fields side by side, in colours by the root, as a few pixels at the cell are far above the others.

    A white frame is the part of the input that the cell stands for.
    """
    from matplotlib.colors import PowerNorm

    figure = drawing.figure(3.1 * len(fields) + 0.9, 3.7)
    panels = figure.subplots(1, len(fields), squeeze=False)[0]
    for axes, (name, (layer, field, numbers)) in zip(panels, fields.items()):
        side = len(field)
        image = axes.imshow(field, cmap="viridis", norm=PowerNorm(0.5, 0, 1), interpolation="nearest",
                            extent=(0, side, side, 0))
        _, h, w, _ = layer.shape
        (top, bottom), (left, right) = ((n // 2 * side / n, (n // 2 + 1) * side / n) for n in (h, w))
        for colour, width in (("black", 2.6), ("white", 1.2)):
            axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=colour,
                      linewidth=width)
        axes.set_title(f"{overlay.plain(name)}: {layer.name}, {h} x {w}\n{100 * numbers['area_50']:.1f} % of "
                       f"the input holds half", fontsize=9)
        axes.set_xlabel("x (pixels of the input)")
    panels[0].set_ylabel("y (pixels of the input)")
    figure.colorbar(image, ax=list(panels), label="mean |gradient|, largest = 1",
                    ticks=(0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1), shrink=0.8)
    return figure


def analyse(args, networks, out: str) -> None:
    """The command; see the module docstring."""
    first = next(iter(networks.values()))
    chosen, fields, rows = side_by_side.numbers(first, args.clips, args.videos), {}, []
    seen: dict[str, list] = {}
    for name, opened in networks.items():
        layer, field, clips, numbers = look(opened, chosen, args.layer, args.examples)
        fields[name] = (layer, field, numbers)
        rows.append({"network": name, "layer": layer.name, "resolution": len(field), "map": layer.shape[1],
                     "cell": layer.shape[1] // 2, **{k: float(f"{x:.4g}") for k, x in numbers.items()}})
        for video, frames, found in clips:
            scaled = _resized(found / max(np.percentile(found, BRIGHT), 1e-20), frames.shape[1])
            strips = seen.setdefault(video, [(overlay.strip(frames), (video,))])
            strips.append((overlay.strip(overlay.blend(frames, scaled)), (name, layer.name)))
    path = os.path.join(out, "receptive_field")
    end = first.split.name
    writers.write_csv(f"{path}_{end}.csv", rows)
    with writers.whole(f"{path}_{end}.npz") as part, open(part, "wb") as f:
        np.savez_compressed(f, **{n: field.astype(np.float32) for n, (_, field, _) in fields.items()})
    drawing.write(draw(fields), f"{path}_{end}")
    if seen:
        drawing.write(overlay.strips(list(seen.values()), f"|gradient| of the input, {BRIGHT} % of the "
                                     f"clip's lie below 1"), f"{path}_frames_{end}")
    print(tabulate.tabulate(rows, "keys", "github"))
    print(json.dumps({"receptive_field": f"{path}_{end}.csv", **{
        f"{row['network']}/{key}": row[key] for row in rows
        for key in ("area_50", "area_90", "side_share")}}))


def _resized(maps_THW, side: int) -> np.ndarray:
    return np.clip(np.asarray(jax.image.resize(
        jnp.asarray(maps_THW), (len(maps_THW), side, side), "bilinear", antialias=False)), 0, 1)


def main(argv=None) -> int:
    """The command line."""
    parser = side_by_side.parser("receptive_field", __doc__)
    parser.add_argument("--clips", type=int, default=128, help="videos, spread over the split; 0: all")
    parser.add_argument("--videos", default="", help="names instead, separated by commas")
    parser.add_argument("--examples", type=int, default=2, help="videos that are drawn with their frames")
    return side_by_side.run(parser, analyse, argv)


if __name__ == "__main__":
    sys.exit(main())
