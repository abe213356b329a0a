"""How redundant the feature maps of a network are along time and channels: the table of VA-RED2's appendix.

    python -m effvid_jax.analysis.redundancy --workdir=RUN
    python -m effvid_jax.analysis.redundancy --config=configs/va_red2_minik.py:static --out=DIR \\
        --config.init.checkpoint=IMPORTED

The paper (arXiv 2102.07887) gives three numbers per axis for I3D and R(2+1)D and no definition; ours are
these. A map is one channel of one frame of a convolution's output, before its batch norm (which changes
neither number but for the sign of its scale): m_tc with P positions. Its partners are

    along time       the same channel of the other frames,      {m_uc : u != t}
    along channels   the other channels of the same frame,      {m_td : d != c}

and its best partner the one with the largest correlation. Then

    CC     Pearson correlation with the best partner
    RMSE   root mean square difference to the same partner, both maps scaled to [0, 1] by their own least
           and largest value
    RP     share of maps whose CC is at least --threshold (0.85)

each a mean over the maps of a clip, over clips, and, for the network, over its layers. Constant maps have no
correlation: they neither count nor are partners ('constant' is their share). Layers without an axis (a single
frame, a single position) have no value on it. Of every video the middle view is looked at.

Writes `redundancy_<split>.csv` (a line a layer, the last one their mean), `.json` (the means, with what they
are of), `.png` and `.svg` (along the depth of the network).
"""

from __future__ import annotations

import json
import os
import re
import sys

import flax
import jax
import jax.numpy as jnp
import numpy as np
import tabulate

from effvid_jax import console, writers
from effvid_jax.analysis import drawing, opening
from effvid_jax.backbones import blocks
from effvid_jax.errors import UserError

AXES = {"time": (0, 2, 1), "channel": (2, 0, 1)}  # maps (T, P, C) with the axis of partners first, P last
MEASURES = ("cc", "rmse", "rp")


def similarity(maps_TPC, axis: str, threshold: float):
    """CC, RMSE and RP of a clip's maps along an axis; see the module docstring. Traced.

    Args:
        maps_TPC: T frames, P positions, C channels.
        axis: of `AXES`.
        threshold: of RP.

    Returns:
        (3,) means over maps; NaN if no map has a partner.
    """
    x_NOP = maps_TPC.astype(jnp.float32).transpose(AXES[axis])  # N: those that are compared, O: the others
    low, high = x_NOP.min(axis=2, keepdims=True), x_NOP.max(axis=2, keepdims=True)
    alive_ON = (high > low)[..., 0].T
    scaled = (x_NOP - low) / jnp.where(high > low, high - low, 1)
    z = scaled - scaled.mean(axis=2, keepdims=True)
    z /= jnp.maximum(jnp.sqrt(jnp.square(z).sum(axis=2, keepdims=True)), 1e-20)
    cc_ONN = jnp.einsum("nop,mop->onm", z, z, precision="highest")
    partner_ONN = alive_ON[:, None, :] & ~jnp.eye(len(z), dtype=bool)
    cc_ONN = jnp.where(partner_ONN, cc_ONN, -jnp.inf)
    best_ON, who_ON = cc_ONN.max(axis=2), cc_ONN.argmax(axis=2)
    other = jnp.take_along_axis(scaled, who_ON.T[..., None], axis=0)
    rmse_ON = jnp.sqrt(jnp.square(scaled - other).mean(axis=2)).T
    counts_ON = alive_ON & partner_ONN.any(axis=2)
    values = jnp.stack([best_ON, rmse_ON, best_ON >= threshold])
    return jnp.where(counts_ON, values, 0).sum(axis=(1, 2)) / counts_ON.sum()


def table(opened: opening.Opened, clips: int = 64, threshold: float = 0.85, layers: str = "") -> list[dict]:
    """The rows of the csv: one a layer, in the order of the network, and their mean.

    Args:
        opened: network and clips.
        clips: how many videos, spread over the split; 0: all.
        threshold: of RP.
        layers: regular expression of (whole) module paths; '': all convolutions.

    Raises:
        UserError: no convolution matches.
    """
    model, sight = opened.method.model, opened.method.sight

    order: dict[str, tuple[int, ...]] = {}  # of the network, as it is traced

    def wanted(module, name):
        path = "/".join(module.path)
        found = name == "__call__" and isinstance(module, blocks.Conv) and re.fullmatch(layers or ".*", path)
        if found:
            order.setdefault(path, ())
        return bool(found)

    @jax.jit
    def look(variables, clip):
        x = sight(clip[None])
        _, state = model.apply(variables.network, x, mutable=["intermediates", "gates"],
                               capture_intermediates=wanted)
        flat = flax.traverse_util.flatten_dict(state.get("intermediates", {}), sep="/")
        found = {}
        for path in order:
            y = flat[f"{path}/__call__"][0]
            if y.ndim == 5 and y.shape[2] * y.shape[3] > 1:
                order[path] = y.shape[1:]
                maps = y[0].reshape(y.shape[1], -1, y.shape[-1])
                constant = (maps.max(axis=1) == maps.min(axis=1)).mean()
                found[path] = jnp.stack([similarity(maps, axis, threshold) for axis in AXES]), constant
        return found

    seen = [jax.device_get(look(opened.variables, clip))
            for _, clip in opening.some_clips(opened, clips, "redundancy")]
    if not any(order.values()):
        raise UserError(f"--layers={layers or '.*'!r} matches no convolution of "
                        f"{opened.config.model.backbone} whose output is a map over space.")
    rows = []
    for name, (frames, height, width, channels) in ((n, shape) for n, shape in order.items() if shape):
        values_NAM = np.stack([one[name][0] for one in seen])  # clips, axes, measures
        rows.append({"layer": name, "frames": frames, "height": height, "width": width, "channels": channels,
                     **_named(_mean(values_NAM)), "constant": float(np.mean([one[name][1] for one in seen]))})
    means = np.array([[[row[f"{axis}_{measure}"] for measure in MEASURES] for axis in AXES] for row in rows])
    return [*rows, {"layer": "mean", **_named(_mean(means)),
                    "constant": float(np.mean([row["constant"] for row in rows]))}]


def _mean(values_NAM) -> np.ndarray:
    """Over the first axis, leaving out what is not there."""
    there = np.isfinite(values_NAM)
    with np.errstate(invalid="ignore"):
        return np.where(there, values_NAM, 0).sum(axis=0) / there.sum(axis=0)


def _named(values_AM) -> dict[str, float]:
    return {f"{axis}_{measure}": float(values_AM[a, m])
            for a, axis in enumerate(AXES) for m, measure in enumerate(MEASURES)}


def draw(rows, threshold: float):
    """CC, RMSE and RP of every layer, along the depth of the network."""
    rows = rows[:-1]
    figure = drawing.figure(max(6.5, 0.16 * len(rows) + 3), 8)
    x = np.arange(len(rows))
    titles = {"cc": "correlation (CC)", "rmse": "difference (RMSE)",
              "rp": f"CC ≥ {threshold:g}: share (RP)"}
    panels = figure.subplots(3, 1, sharex=True)
    for axes, measure in zip(panels, MEASURES):
        drawing.frame(axes)
        for i, (axis, marker) in enumerate(zip(AXES, "os")):
            values = [row[f"{axis}_{measure}"] for row in rows]
            axes.plot(x, values, "-", marker=marker, markersize=4, color=drawing.colour(i),
                      label=f"along {axis}s" if axis == "channel" else "along time")
        axes.set_ylabel(titles[measure], fontsize=9)
        axes.set_ylim(0, None if measure == "rmse" else 1.02)
    panels[0].legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0))
    every = -(-len(rows) // 40)
    panels[-1].set_xticks(x[::every], [console.one_line(row["layer"], 32) for row in rows[::every]],
                          rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    panels[-1].set_xlabel("convolution, in the order of the network")
    return figure


def analyse(args, opened: opening.Opened) -> None:
    """The command; see the module docstring."""
    rows = table(opened, args.clips, args.threshold, args.layers)
    path = os.path.join(opened.out, f"redundancy_{opened.split.name}")
    writers.write_csv(f"{path}.csv", [{name: _short(x) for name, x in row.items()} for row in rows])
    drawing.write(draw(rows, args.threshold), path)
    means = {name: x for name, x in rows[-1].items() if name != "layer"}
    writers.write_json(f"{path}.json", {
        "network": opened.config.model.backbone, "workdir": opened.workdir or "not trained",
        "step": opened.step, "split": opened.split.name, "clips": min(args.clips or len(opened.split),
                                                                     len(opened.split)),
        "threshold": args.threshold, "layers": len(rows) - 1, **means})
    lines = [[axis, *(means[f"{axis}_{measure}"] for measure in MEASURES)] for axis in AXES]
    print(tabulate.tabulate(lines, ("axis", "CC", "RMSE", "RP"), "github",
                            floatfmt=("", ".2f", ".3f", ".2f")))
    print(json.dumps({"redundancy": f"{path}.csv", **{name: _short(x) for name, x in means.items()}}))


def _short(x):
    if isinstance(x, float):
        return float(f"{x:.4g}") if np.isfinite(x) else None
    return x


def main(argv=None) -> int:
    """The command line."""
    parser = opening.parser("redundancy", __doc__)
    parser.add_argument("--clips", type=int, default=64, help="videos, spread over the split; 0: all")
    parser.add_argument("--threshold", type=float, default=0.85, help="of RP")
    parser.add_argument("--layers", default="", help="regular expression of module paths; all convolutions")
    return opening.run(parser, analyse, argv)


if __name__ == "__main__":
    sys.exit(main())
