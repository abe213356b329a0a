"""VA-RED2 on the clock: how much of the multiply-adds that gates save is saved in time.

    python benchmarks/va_red2_speed.py                           # R(2+1)D-18, 8 and 16 frames of 112x112
    python benchmarks/va_red2_speed.py --batch 32 --frames 8 --resolution 56
    python benchmarks/va_red2_speed.py --batch 32 --frames 16 --dtype bfloat16 --positions 262144   # GPU

realised = (1 - time ratio) / (1 - GMACs ratio), cheap operations and gates counted. The static network is
in its best form: batch norms folded or not, the whole batch at once or clip by clip, whichever is faster.
Times are taken in turns in one run (`effvid_jax/speed/timing.py`). Weights are random and gates are set: in
every layer the gate's last bias is moved until a share `--open` of the clips computes all channels, and
(independently) all frames; the decisions are then made by the gates from the clips, layer by layer. The
paper's own best is 0.46 (its R(2+1)D-18 at 16 frames 0.40; batch size and device are not known).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import flax
import jax
import jax.numpy as jnp
import numpy as np
import tabulate

from effvid_jax.backbones import facts, make_backbone
from effvid_jax.gating import gates, variants
from effvid_jax.model_fields import compute_dtype
from effvid_jax.reports import results
from effvid_jax.speed import gated_bench, host_memory, timing


def networks(args):
    """(plain, mixed, compact) backbones."""
    make = functools.partial(make_backbone, args.backbone, num_classes=200, dropout=0.0,
                             dtype=compute_dtype(args.dtype))
    conv = functools.partial(gates.GatedConv, layers=gates.layers_of(args.backbone),
                             search_space=args.search_space, cheap_kernel=args.cheap_kernel,
                             positions=args.positions)
    return make(), make(conv=conv), make(conv=functools.partial(conv, form="compact"))


def draw(model, shape):
    """Random variables: kernels that keep the variance, statistics and norms at 0 and 1."""
    r = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape))))

    def value(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return (r.normal(size=leaf.shape) * np.prod(leaf.shape[:-1])**-0.5).astype(np.float32)
        if name.startswith("cheap_c"):
            return (r.normal(size=leaf.shape) / leaf.shape[0]).astype(np.float32)
        return np.full(leaf.shape, name in ("scale", "var") or name.startswith("cheap_t"), np.float32)

    return jax.tree.map_with_path(value, {name: shapes[name] for name in ("params", "batch_stats")})


def set_gates(model, variables, clips, share: float, rounds: int = 4):
    """Moves every gate's biases so that each variant but the last is open for `share` of the clips.

    The last one is open for all. Layers depend on each other: a few rounds settle them.
    """
    def look(variables, clip):
        _, state = model.apply(variables, clip[None], mutable=["gates", "intermediates"],
                               capture_intermediates=lambda m, _: m.name == "fc2")
        flat = flax.traverse_util.flatten_dict(state["intermediates"], sep="/")
        return {k.removesuffix("/fc2/__call__"): v[0][0] for k, v in flat.items()}

    look = jax.jit(look)
    for _ in range(rounds):
        seen = [look(variables, clip) for clip in clips]
        flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
        for path in seen[0]:
            values = np.stack([one[path] for one in seen])  # (N, outputs)
            beta = -np.quantile(values, 1 - share, axis=0)
            S = values.shape[1] // 2  # both axes are gated
            last = np.arange(2 * S) % S == S - 1
            flat[path + "/beta"] = np.where(last, 0.5 - values.min(axis=0), beta).astype(np.float32)
        variables = {**variables, "params": flax.traverse_util.unflatten_dict(flat, sep="/")}
    return variables


def run_once(args, frames: int, batch: int) -> dict:
    """All sides at one clip length and batch size."""
    shape = (frames, args.resolution, args.resolution, 3)
    plain, mixed, compact = networks(args)
    count = max(batch, args.clips)
    r = np.random.default_rng(1)
    clips = jnp.asarray((r.normal(size=(count, *shape)) * np.exp(r.normal(size=(count, 1, 1, 1, 3)))
                         + r.normal(size=(count, frames, 1, 1, 3))).astype(np.float32))
    variables = set_gates(mixed, draw(mixed, shape), clips, args.open)
    costs = gated_bench.costs(plain, mixed, variables, clips)
    gmacs, static = costs.gmacs.sum(axis=1), costs.static
    rows, error, times = gated_bench.measure(plain, mixed, compact, variables, clips, costs, batch,
                                             args.seconds)
    best, ratio = gated_bench.best_of(times, "static"), gmacs.mean() / static
    print(f"\n{args.backbone}, {frames} frames of {args.resolution}x{args.resolution}, batch {batch}: static "
          f"{static:.2f} GMACs, dynamic {gmacs.mean():.2f} (from {gmacs.min():.2f} to {gmacs.max():.2f}; of "
          f"these cheap operations and gates {costs.gmacs[:, 1].mean():.3f}), ratio {ratio:.3f}; against "
          f"'{best}'; largest deviation from the mixed form {error:.1e}")
    print(tabulate.tabulate(rows, "keys", "github", floatfmt=".3f"), flush=True)
    found = {"frames": frames, "batch": batch, "resolution": args.resolution, "static_gmacs": static,
             "gmacs": gmacs.mean(), "gmacs_ratio": ratio, "rows": rows,
             "realised": max(row["realised"] for row in rows if row["realised"] is not None)}
    if args.profile:
        found["profile"] = profile(args, plain, compact, variables, costs.decisions, clips, times, best,
                                   count)
    return found


def profile(args, plain, compact, variables, decisions, clips, times, best, count) -> dict:
    """Where the time goes, for one clip: convolutions alone at the decided sizes, and the rest."""
    layers = {}

    def watch(call, a, kwargs, context):
        if isinstance(context.module, gates.GatedConv) and context.method_name == "_layer":
            layer = call(*a, **kwargs)
            layers["/".join(context.module.path)] = (layer, a[0].shape)
            return layer
        return call(*a, **kwargs)

    with flax.linen.intercept_methods(watch):
        jax.eval_shape(lambda v: compact.apply(v, clips[:1]), variables)
    sides, used = {}, {}
    flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    for path, (layer, in_shape) in layers.items():
        x = jnp.ones(in_shape, layer.dtype)
        layer.kernel, layer.bias = jnp.asarray(flat[path + "/kernel"], layer.dtype), None
        for d in decisions:
            i, j = (int(variants.first_open(V, len(set(counts)))[0]) for V, counts in (
                (d[path].V_c, layer.channels), (d[path].V_t, layer.frames)))
            used[path, i, j] = used.get((path, i, j), 0) + 1 / len(decisions)
        for i, j in {(0, 0)} | {(i, j) for p, i, j in used if p == path}:
            f = jax.jit(lambda x, layer=layer, i=i, j=j: layer._convolve(
                x, layer.kernel[..., :layer.channels[i]], None, j))
            sides[path, i, j] = functools.partial(f, x)
    alone = timing.measure(sides, seconds=args.seconds, min_repeats=3)
    full = sum(t.median for (_, i, j), t in alone.items() if (i, j) == (0, 0))
    part = sum(share * alone[key].median for key, share in used.items())
    ideal = sum(share * alone[p, 0, 0].median * layers[p][0].channels[i] / layers[p][0].channels[0]
                * layers[p][0].frames[j] / layers[p][0].frames[0] for (p, i, j), share in used.items())
    static = times[best].median / count
    name = min((n for n in times if n.startswith("compact")), key=lambda n: times[n].median)
    dynamic = times[name].median / count
    rest = static - full
    rows = [("gated convolutions", full, part, f"{ideal * 1e3:.1f} if time went with multiply-adds"),
            ("everything else", rest, rest, "as in the static network"),
            ("gates, cheap operations, dispatch", 0.0, dynamic - part - rest, "the difference"),
            ("whole", static, dynamic, "")]
    print("\n" + tabulate.tabulate([(n, 1e3 * a, 1e3 * b, c) for n, a, b, c in rows],
                                   ("part (ms per clip)", "static", name, ""), "github", floatfmt=".1f"))
    return {n: [a, b] for n, a, b, _ in rows} | {"ideal": ideal}


def result_rows(args, found) -> list[dict[str, str]]:
    """Rows of `docs/results.csv`."""
    config = f"{args.backbone}, search space {args.search_space}, {args.dtype}, gates set to {args.open:g}"
    rows = []
    for one in found:
        what = (f"va_red2_speed: {args.cheap_kernel}x{args.cheap_kernel} cheap operations, {one['frames']} x "
                f"{one['resolution']}², batch {one['batch']}")
        best = min((r for r in one["rows"] if r["realised"] is not None), key=lambda r: r["ms per clip"])
        rows += [results.make_row(f"{what}: {column}", value, dataset="random clips", config=config,
                                  command=results.this_command(), seeds=[0])
                 for column, value in (("GMACs ratio", f"{one['gmacs_ratio']:.3f}"),
                                       ("time ratio", f"{best['time ratio']:.3f}"),
                                       ("realised", f"{one['realised']:.2f}"))]
    return rows


def main(argv=None) -> None:
    """Prints tables, then one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbone", default="r2plus1d_18_vared", choices=facts.gated_backbones())
    parser.add_argument("--frames", default="8,16")
    parser.add_argument("--resolution", type=int, default=112)
    parser.add_argument("--batch", default="1")
    parser.add_argument("--clips", type=int, default=8, help="different clips for small batches")
    parser.add_argument("--open", type=float, default=0.5, help="share of clips that compute everything")
    parser.add_argument("--search-space", type=int, default=2)
    parser.add_argument("--cheap-kernel", type=int, default=3)
    parser.add_argument("--positions", type=int, default=2048, help="of a group, see gates.GatedConv")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--seconds", type=float, default=60.0, help="to spend on each measurement")
    parser.add_argument("--profile", action="store_true", help="also: where the time goes")
    parser.add_argument("--results", default="", help="csv file to write rows to (docs/results.csv)")
    args = parser.parse_args(argv)
    try:
        found = [run_once(args, int(frames), int(batch)) for batch in args.batch.split(",")
                 for frames in args.frames.split(",")]
    except ValueError as error:
        sys.exit(f"va_red2_speed: {error}")
    if args.results:
        results.replace_measured(args.results, result_rows(args, found))
    print(json.dumps(found, default=float))


if __name__ == "__main__":
    host_memory.tune()
    main()
