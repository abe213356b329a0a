"""Every convolution of every backbone on this machine: the form that is chosen, XLA's own, and the limit.

    python benchmarks/conv_forms.py --out runs/forms                          # all; again: goes on
    python benchmarks/conv_forms.py --out runs/forms --backbones resnet50 --sizes 64,112
    python benchmarks/conv_forms.py --out runs/forms --rows none --results docs/results.csv

A *geometry* is a map, a kernel, strides, padding, groups and dilation; networks share many. Each is timed
forwards and as its two gradients together, in the form that `effvid_jax/backbones/forms.py` chooses on this
platform and as XLA's plain convolution, in turns; the shortest of five counts. The limit is
max(operations / rate of a large matrix product, bytes of input, kernel and result / rate of a large copy),
twice that for the gradients, and no less than what the start of a program may take. Lines go to
`conv_forms.jsonl` in `--out`; printed are XLA's time over ours by kind and the geometries that are furthest
from their limit.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import math
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from effvid_jax.speed import host_memory

if __name__ == "__main__":
    host_memory.tune()

from unittest import mock

import jax
import jax.numpy as jnp
import tabulate

from effvid_jax import console
from effvid_jax.backbones import BACKBONES, forms, make_backbone, trace
from effvid_jax.reports import results

FILE = "conv_forms.jsonl"
SIZES = (16, 32, 64, 112, 224)
FRAMES = 8
SMALL = 2e-4  # seconds: below, a program's start is most of its time
"""Shapes of input and kernel, strides, padding, groups, dilation."""
Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], int, tuple[int, ...]]


def geometries(backbones, sizes, frames: int = FRAMES, batch: int = 1) -> dict[Geometry, list[str]]:
    """All convolutions of these networks, and who has them ('resnet50 at 64').

    Sizes that a network refuses are left out.
    """
    found: dict[Geometry, list[str]] = {}
    plain = forms.plain

    def note(owner, x, kernel, strides, padding, groups, dilation):
        geometry = (tuple(x.shape), tuple(kernel.shape), strides, padding, groups, dilation)
        if owner not in found.setdefault(geometry, []):
            found[geometry].append(owner)
        return plain(x, kernel, strides, padding, groups, dilation)

    for name in backbones:
        for size in sizes:
            model = make_backbone(name, num_classes=10)
            clip = jax.ShapeDtypeStruct((batch, frames, size, size, 3), jnp.float32)
            noting = functools.partial(note, f"{name} at {size}")
            try:
                with mock.patch.object(forms, "plain", noting), trace.recording(shapes_only=True):
                    jax.eval_shape(functools.partial(model.init, jax.random.key(0)), clip)
            except Exception as error:  # a map of no pixels, mostly
                print(f"{name} at {size}: left out ({type(error).__name__})", file=sys.stderr)
    return found


def kind(geometry: Geometry) -> str:
    """What the table groups by."""
    shape, kernel, strides, _, groups, _ = geometry
    sizes = kernel[:-2]
    if groups == shape[-1] == kernel[-1]:
        return f"depthwise {len(sizes)}-D"
    if groups > 1:
        return "grouped"
    if math.prod(sizes) == 1:
        return "1x1"
    out = jax.eval_shape(lambda: forms.plain(jnp.zeros(shape), jnp.zeros(kernel), *geometry[2:])).shape
    if math.prod(sizes) > math.prod(out[-1 - len(sizes):-1]):
        return "kernel larger than map"
    if len(sizes) == 3:
        return "1 in space" if sizes[1:] == (1, 1) else "1 in time" if sizes[0] == 1 else "3-D"
    return "strided" if max(strides) > 1 else "3x3 and larger"


def peaks(side: int = 2048, floats: int = 2**25, repeats: int = 5) -> tuple[float, float]:
    """(operations a second of a matrix product, bytes a second of a copy), the best of several."""
    a = jax.random.normal(jax.random.key(0), (side, side))
    x = jax.random.normal(jax.random.key(0), (floats,))
    return (2 * side**3 / best([jax.jit(jnp.dot)], a, a, repeats=repeats)[0],
            2 * x.nbytes / best([jax.jit(jnp.negative)], x, repeats=repeats)[0])


def best(functions, *args, repeats: int = 5) -> list[float]:
    """Shortest seconds of a call of each, in turns; short calls are repeated within a sample."""
    calls, times = [], []
    for function in functions:
        jax.block_until_ready(function(*args))
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        calls.append(max(1, round(2e-3 / (time.perf_counter() - start))))
        times.append(math.inf)
    for _ in range(repeats):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            jax.block_until_ready([function(*args) for _ in range(calls[i])])
            times[i] = min(times[i], (time.perf_counter() - start) / calls[i])
    return times


def measure(geometry: Geometry, rates: tuple[float, float], plain: bool = True, repeats: int = 5) -> dict:
    """Milliseconds of both directions in the chosen form (and plain), and over the limit."""
    shape, kernel_shape, *args = geometry
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], kernel_shape)
    sides = [forms.convolve, forms.plain] if plain else [forms.convolve]
    forward = [jax.jit(lambda x, w, side=side: side(x, w, *args)) for side in sides]
    dy = jax.random.normal(keys[2], jax.eval_shape(forward[0], x, kernel).shape)
    backward = [jax.jit(lambda x, w, dy, side=side: jax.vjp(lambda x, w: side(x, w, *args), x, w)[1](dy))
                for side in sides]
    macs = dy.size * math.prod(kernel_shape[:-1])
    limit = max(2 * macs / rates[0], (x.nbytes + kernel.nbytes + dy.nbytes) / rates[1])
    ours, ours_back = (best(f, *a, repeats=repeats) for f, a in ((forward, (x, kernel)),
                                                                 (backward, (x, kernel, dy))))
    found = {"gmacs": macs / 1e9, "limit_ms": 1e3 * limit, "forward_ms": 1e3 * ours[0],
             "backward_ms": 1e3 * ours_back[0], "forward_over_limit": ours[0] / max(limit, SMALL),
             "backward_over_limit": ours_back[0] / max(2 * limit, SMALL)}
    if plain:
        found |= {"plain_forward_ms": 1e3 * ours[1], "plain_backward_ms": 1e3 * ours_back[1]}
    return found


def read(path: str) -> dict[str, dict]:
    """Lines of an earlier run by geometry."""
    if not os.path.exists(path):
        return {}
    with open(path) as f:
        return {line["geometry"]: line for line in map(json.loads, f)}


def table(lines: list[dict]) -> list[dict]:
    """XLA's time over ours, and ours over the limit, by kind."""
    kinds = collections.defaultdict(list)
    for line in lines:
        kinds[line["kind"]].append(line)

    def spread(values):
        values = sorted(values)
        return f"{values[len(values) // 2]:.1f} ({values[0]:.1f} to {values[-1]:.1f})"

    return [{"kind": name, "geometries": len(group),
             **{f"{title}, {way}": spread([line[top] / line[bottom] for line in group])
                for title, tops, bottoms in (("XLA's ÷ ours", "plain_{}_ms", "{}_ms"),)
                for way in ("forward", "backward")
                for top, bottom in ((tops.format(way), bottoms.format(way)),)},
             **{f"ours ÷ limit, {way}": spread([line[f"{way}_over_limit"] for line in group])
                for way in ("forward", "backward")}}
            for name, group in sorted(kinds.items())]


def main(argv=None) -> None:
    """Measures what is missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", required=True, help=f"folder of {FILE}")
    parser.add_argument("--backbones", default=",".join(BACKBONES))
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="pixels")
    parser.add_argument("--rows", default="all", help="'none': only print and write what is there")
    parser.add_argument("--results", default="", help="csv file to write rows to (docs/results.csv)")
    args = parser.parse_args(argv)
    os.makedirs(args.out, exist_ok=True)
    path = os.path.join(args.out, FILE)
    lines = read(path)
    if args.rows != "none":
        found = geometries(args.backbones.split(","), [int(s) for s in args.sizes.split(",")])
        todo = [g for g in found if repr(g) not in lines]
        rates = peaks()
        print(f"{len(found)} geometries, {len(todo)} to measure; matrix product {rates[0] / 1e9:.0f} "
              f"GFLOP/s, copy {rates[1] / 1e9:.1f} GB/s", flush=True)
        with open(path, "a") as f, console.bar(len(todo), "forms", "geometry") as bar:
            for geometry in todo:
                line = {"geometry": repr(geometry), "kind": kind(geometry), "who": found[geometry],
                        **measure(geometry, rates), "gflops": rates[0] / 1e9, "gbytes": rates[1] / 1e9}
                lines[line["geometry"]] = line
                f.write(json.dumps(line) + "\n")
                f.flush()
                jax.clear_caches()
                bar.update()
    rows = table(list(lines.values()))
    print(tabulate.tabulate(rows, "keys", "github"))
    slow = sorted(lines.values(), key=lambda line: -max(line["forward_over_limit"],
                                                        line["backward_over_limit"]))
    for line in slow[:20]:
        print(f"{line['forward_over_limit']:5.1f} {line['backward_over_limit']:5.1f} of the limit: "
              f"{line['geometry']} ({', '.join(line['who'][:3])})")
    if args.results:
        who = sorted({name.split(" at ")[0] for line in lines.values() for name in line["who"]})
        sizes = sorted({int(name.split(" at ")[1]) for line in lines.values() for name in line["who"]})
        config = f"{'every backbone' if len(who) > 20 else ' '.join(who)} at {sizes} pixels, float32"
        results.replace_measured(args.results, [
            results.make_row(f"conv_forms: {row['kind']}: {column}", value, dataset="random maps",
                             config=config, command="python benchmarks/conv_forms.py", seeds=[0])
            for row in rows for column, value in row.items() if column != "kind"])


if __name__ == "__main__":
    main()
