"""What gates save on the clock: a network of gated convolutions against the static one inside it.

    realised     (1 - time ratio) / (1 - GMACs ratio): 1 if every multiply-add left out was time left out

Sides are timed in turns in one run. The static network is in its best form: batch norms folded or not, the
whole batch at once or clip by clip, on one device or each device its own clips, whichever is fastest; so is
the compact one. A CPU is several devices with `XLA_FLAGS=--xla_force_host_platform_device_count=2`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax import cost, sharding
from effvid_jax.gating import folding, gates
from effvid_jax.gating.decisions import clip_gmacs
from effvid_jax.speed import timing


class Costs(NamedTuple):
    """What N clips cost, one by one.

    Attributes:
        decisions: of every clip, {layer: `Decision` of one clip}.
        logits: (N, K) of the mixed form.
        gmacs: (N, 2) without, and of, cheap operations and gates.
        static: GMACs of a clip of the plain network.
    """

    decisions: list[dict[str, Any]]
    logits: Any
    gmacs: np.ndarray
    static: float


def plain_part(variables):
    """The variables of the static network inside those of the gated one."""
    def keep(tree):
        flat = flax.traverse_util.flatten_dict(tree, sep="/")
        return flax.traverse_util.unflatten_dict(
            {k: v for k, v in flat.items() if "/gate/" not in k and "/cheap_" not in k}, sep="/")

    return {name: keep(tree) for name, tree in variables.items()}


def costs(plain, mixed, variables, clips) -> Costs:
    """Costs of clips.

    Args:
        plain, mixed: backbones.
        variables: {'params', 'batch_stats'} of the gated one.
        clips: normalised, (N, T, H, W, 3).
    """
    static = cost.gmacs(plain, clips.shape[1:])
    whole = jax.jit(lambda v, x: mixed.apply(v, x, mutable=["gates"]))
    decisions, logits = [], []
    for one in clips:
        (y, _), state = whole(variables, one[None])
        decisions.append(gates.collect(state["gates"]))
        logits.append(y[0])
    gmacs = np.array([[float(x[0]) for x in clip_gmacs(list(d.values()), static)] for d in decisions])
    return Costs(decisions, jnp.stack(logits), gmacs, static)


def measure(plain, mixed, compact, variables, clips, found: Costs, batch: int, seconds: float,
            progress: Callable[[], Any] = lambda: None) -> tuple[list[dict], float, dict[str, timing.Timing]]:
    """Times all forms on the same clips.

    Args:
        plain, mixed, compact: backbones: the static network, and both forms of the gated one.
        variables: {'params', 'batch_stats'} of the gated one.
        clips: normalised, (N, T, H, W, 3); N a multiple of `batch`.
        found: of these clips, see `costs`.
        batch: clips at a time.
        seconds: to spend, compiling not counted.
        progress: called now and then.

    Returns:
        A row a form ('form', 'ms per clip', 'spread', 'clips/s', 'GMACs', 'time ratio', 'realised', which is
        None but for compact forms), the largest deviation of logits from the mixed form's, and the times.
    """
    count, shape = len(clips), clips.shape[1:]
    inside = _plain_variables(plain, variables, shape)
    batches = [clips[i:i + batch] for i in range(0, count, batch)]
    nets = {"static": (plain, inside), "static, folded": folding.fold(plain, inside, shape),
            "compact": folding.fold(compact, variables, shape), "mixed": (mixed, variables)}
    meshes = {"": sharding.make_mesh(devices=jax.devices()[:1])}
    if jax.device_count() > 1 and batch % jax.device_count() == 0:
        meshes[f", on {jax.device_count()} devices"] = sharding.make_mesh()
    placed = {where: [jax.device_put(x, sharding.of_batch(mesh)) for x in batches]
              for where, mesh in meshes.items()}
    functions, errors = {}, {}
    for name, (model, weights) in nets.items():
        forms = {"": lambda v, x, m=model: m.apply(v, x)[0]}
        if batch > 1 and name != "mixed":
            forms[", clip by clip"] = lambda v, x, m=model: jax.lax.map(
                lambda clip: m.apply(v, clip[None])[0][0], x)
        for (form, function), (where, mesh) in itertools.product(forms.items(), meshes.items()):
            function = functools.partial(jax.jit(sharding.apart(function, mesh)),
                                         sharding.replicate(weights, mesh))
            side = name + form + where
            functions[side] = lambda f=function, where=where: [f(x) for x in placed[where]]
            if "static" not in name:
                logits = np.concatenate(jax.device_get(functions[side]()))
                errors[side] = float(abs(logits - found.logits).max() / abs(logits).max())
            progress()
    times = timing.measure(functions, seconds=seconds, min_repeats=5, progress=progress)
    best = times[best_of(times, "static")]
    gmacs = found.gmacs.sum(axis=1).mean()
    saved = 1 - gmacs / found.static
    rows = [{
        "form": name, "ms per clip": 1e3 * t.median / count, "spread": t.spread,
        "clips/s": t.rate(count), "GMACs": found.static if "static" in name else gmacs,
        "time ratio": t.median / best.median,
        "realised": (1 - t.median / best.median) / saved if "compact" in name and saved else None,
    } for name, t in times.items()]
    return rows, max(errors.values()), times


def _plain_variables(plain, variables, shape):
    """Those inside the gated network's; ones where that is frozen (`gating/freezing.py`) and has less."""
    wanted = jax.eval_shape(lambda: plain.init(jax.random.key(0), jnp.zeros((1, *shape))))
    inside = plain_part(variables)
    same = jax.tree.structure(inside) == jax.tree.structure({name: wanted[name] for name in inside})
    if same and all(jax.tree.leaves(jax.tree.map(lambda a, b: a.shape == b.shape, inside, dict(wanted)))):
        return inside
    return jax.tree.map(lambda x: jnp.full(x.shape, 1e-3, x.dtype), dict(wanted))


def best_of(times, kind: str) -> str:
    """The fastest of the forms whose name begins with `kind`."""
    return min((name for name in times if name.startswith(kind)), key=lambda name: times[name].median)
