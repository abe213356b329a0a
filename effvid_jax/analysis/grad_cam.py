"""Grad-CAM of a layer, networks side by side: where the evidence for a class lies, over the frames.

    python -m effvid_jax.analysis.grad_cam --workdir=runs/demo                 # teacher, baseline, student
    python -m effvid_jax.analysis.grad_cam --workdir=RUN --stages=baseline,student --videos=NAME,NAME

ResKD (arXiv 2209.12797), Fig. 4(b), before against after distillation, by the rules of its repository's tool
(mmaction2 0.20, `utils/gradcam_utils.py`; Selvaraju et al., ICCV 2017):

    p_k             softmax of the logits, mean over views; k is the label, or with --target=answer what the
                    network says
    A (T', h, w, C) the layer's map of a view
    weight (T', C)  = mean over positions of d p_k / d A, a frame at a time
    M (T', h, w)    = ReLU(sum over channels of weight x A), resized trilinearly to the frames (T, H, W)
    heat            = (M - min) / (max - min + 1e-20), over the whole clip
    picture         = half heat in viridis (bright yellow: most), half frame; in grey, which the tool does
                      not do, so that all colour is heat

The middle view is drawn. Writes `grad_cam_<split>.png` and `.svg`, and `.csv`: a line a video and network
with what was asked (`target`), its probability, and where the heat lies (`centre_x`, `centre_y`: its centre
of mass, in shares of the picture from the upper left; `area_50`: the smallest share of all pixels that holds
half of it). A map without positive evidence is empty: its heat is 0.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import tabulate

from effvid_jax import writers
from effvid_jax.analysis import drawing, layers, overlay, side_by_side
from effvid_jax.errors import UserError

TARGETS = ("label", "answer")


def heat(apply: Callable, layer: layers.Layer, variables, clips_VTHWC, target, side: int):
    """Grad-CAM of all views of a video. Traced.

    Args:
        apply, layer: of a `layers.Network`.
        variables: for `apply`.
        clips_VTHWC: views, normalised, as the network sees them.
        target: class k; below 0 for the network's answer.
        side: of the frames that the heat is drawn over.

    Returns:
        heat (V, T, side, side) in [0, 1], probabilities (K,), class k.
    """
    v, t = clips_VTHWC.shape[:2]

    def score(added):
        logits, map_ = layers.with_map(apply, layer, variables, clips_VTHWC, added)
        p = jax.nn.softmax(logits).mean(axis=0)
        k = jnp.where(target < 0, jnp.argmax(p), target)
        return p[k], (map_, p, k)

    gradient, (map_, p, k) = jax.grad(score, has_aux=True)(jnp.zeros((v, *layer.shape), layer.dtype))
    weight = gradient.astype(jnp.float32).mean(axis=(2, 3), keepdims=True)
    found = jax.nn.relu((weight * map_.astype(jnp.float32)).sum(axis=-1))
    found = layers.in_time(layer, found)
    found = jax.image.resize(found, (v, t, side, side), "trilinear", antialias=False)
    low, high = (f(found, axis=(1, 2, 3), keepdims=True) for f in (jnp.min, jnp.max))
    return (found - low) / (high - low + 1e-20), p, k


def measures(heat_THW: np.ndarray) -> dict[str, float]:
    """`centre_x`, `centre_y`, `area_50` of the module docstring; NaN where the heat is empty."""
    values = np.asarray(heat_THW, np.float64)
    total = values.sum()
    if not total > 0:
        return dict.fromkeys(("centre_x", "centre_y", "area_50"), float("nan"))
    places = (np.arange(values.shape[1]) + 0.5) / values.shape[1]
    held = np.cumsum(np.sort(values.reshape(-1))[::-1]) / total
    return {"centre_x": float(values.sum(axis=(0, 1)) @ places / total),
            "centre_y": float(values.sum(axis=(0, 2)) @ places / total),
            "area_50": float((np.searchsorted(held, 0.5 - 1e-12) + 1) / values.size)}


def look(opened, chosen: list[int], layer_name: str, target: str):
    """Yields entry, layer, frames uint8 (T, side, side, 3), heat (T, side, side), answer, k, p_k."""
    network, _ = side_by_side.network_of(opened)
    layer, side = network.layer(layer_name), opened.config.data.test_crop_size

    @jax.jit
    def one(variables, views_VTHWC, k):
        clips = side_by_side.as_input(opened, views_VTHWC)
        return heat(network.apply, layer, variables, clips, k, side)

    for number, views in side_by_side.views(opened, chosen, f"Grad-CAM of {layer.name}"):
        entry = opened.split.entry(number)
        k = entry.labels[0] if target == "label" else -1
        found, p, k = jax.device_get(one(opened.variables.network, views, k))
        middle = len(views) // 2
        yield entry, layer, views[middle], found[middle], int(p.argmax()), int(k), float(p[k])


def analyse(args, networks, out: str) -> None:
    """The command; see the module docstring."""
    first = next(iter(networks.values()))
    chosen, rows = side_by_side.numbers(first, args.clips, args.videos), []
    seen: dict[str, list] = {}
    for name, opened in networks.items():
        classes = opened.method.task.class_names
        if not opened.method.task.class_scores:
            raise UserError("config.task: Grad-CAM asks for a class, and this task has no scores of classes.")
        for entry, layer, frames, found, answer, k, p in look(opened, chosen, args.layer, args.target):
            strips = seen.setdefault(entry.name, [
                (overlay.strip(frames), (entry.name, f"true: {classes[entry.labels[0]]}"))])
            said = (f"says {classes[k]}, {p:.0%}",) if answer == k else (
                f"says {classes[answer]}", f"{classes[k]}: {p:.0%}")
            strips.append((overlay.strip(overlay.blend(frames, found)), (name, *said)))
            rows.append({"video": entry.name, "network": name, "layer": layer.name, "target": classes[k],
                         "prob": float(f"{p:.4g}"), "answer": classes[answer],
                         **{key: float(f"{x:.4g}") for key, x in measures(found).items()}})
    if not rows:
        raise UserError(f"none of the {len(chosen)} chosen videos of {first.split.name!r} can be read.")
    path = os.path.join(out, f"grad_cam_{first.split.name}")
    writers.write_csv(f"{path}.csv", rows)
    drawing.write(overlay.strips(list(seen.values()), "Grad-CAM, least to most of the clip"), path)
    print(tabulate.tabulate(rows, "keys", "github"))
    told = {"grad_cam": f"{path}.csv"}
    for name in networks:
        areas = [row["area_50"] for row in rows if row["network"] == name and np.isfinite(row["area_50"])]
        told[f"{name}/area_50"] = float(f"{np.mean(areas):.4g}") if areas else None
    print(json.dumps(told))


def main(argv=None) -> int:
    """The command line."""
    parser = side_by_side.parser("grad_cam", __doc__)
    parser.add_argument("--clips", type=int, default=4, help="videos, spread over the split; 0: all")
    parser.add_argument("--videos", default="", help="names instead, separated by commas")
    parser.add_argument("--target", default="label", choices=TARGETS, help="which class is asked for")
    return side_by_side.run(parser, analyse, argv)


if __name__ == "__main__":
    sys.exit(main())
