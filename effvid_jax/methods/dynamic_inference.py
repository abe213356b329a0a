"""Dynamic Inference: exits along a route through the grid of frames x depth; easy videos stop early.

Wu et al., "Dynamic Inference: A New Approach Toward Efficient Video Action Recognition", CVPR Workshops
2020, arXiv 2002.03342. No code was published; what the paper leaves open is a field of the config.

    route          checkpoints (frames seen, depth), see `effvid_jax/exits/routes.py`
    network        `effvid_jax/exits/network.py`: head k reads the mean over the frames seen so far
    training       one pass over all frames and depths, every checkpoint read from prefixes:
                   L = sum_k w_k CE(logits_k, y)  [+ distillation from the last checkpoint, ours, off]
    stopping       the first k whose score reaches its threshold answers, `effvid_jax/exits/stopping.py`;
                   thresholds from a held-out part of the training videos, for a budget of GMACs
    inference      `predict` computes everything and applies the rule; `adaptive` gives the segments to
                   `effvid_jax/exits/executor.py`, which really stops. Same answers.

The cost of an answer counts all that was computed for it, the heads on the way included. "Full" is the
same network with the last head alone, which is cheaper than the last checkpoint.
"""

from __future__ import annotations

import csv
import functools
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tabulate

from effvid_jax import console, cost, plots
from effvid_jax.backbones import trace
from effvid_jax.exits import executor, routes, stopping
from effvid_jax.exits.network import run_segment
from effvid_jax.losses import cross_entropy, soft_kl, weighted_mean
from effvid_jax.methods import base

RECORD = "stopping"  # in `Variables.stats`: thresholds, and the calibration videos' scores


def make(config, class_names) -> base.Method:
    """The method of a config; reads `config.model`, `config.method` and the size of clips.

    Raises:
        ValueError: a route, order, rule, weight, threshold or budget that does not fit.
    """
    if not config.model.get("exits"):
        raise ValueError("config.model.exits is empty: method 'dynamic_inference' needs a network with "
                         "exits; start from a config of configs/dynamic_*.py.")
    model = base.build_backbone(config.model, len(class_names))
    settings, resolution, m = config.method, config.model.resolution, len(model.route)
    frames = config.model.exits.frames
    if config.data.num_frames != frames:
        raise ValueError(f"config.data.num_frames={config.data.num_frames}, but the route of this "
                         f"network is for {frames} frames (config.model.exits.frames).")
    if settings.rule not in stopping.RULES:
        raise ValueError(f"config.method.rule={settings.rule!r}: expected one of "
                         f"{list(stopping.RULES)}.")
    weights = tuple(settings.loss_weights) or (1.0,) * m
    for name, values in (("loss_weights", weights), ("thresholds", tuple(settings.thresholds))):
        if values and len(values) != m:
            raise ValueError(f"config.method.{name} has {len(values)} entries; this route has {m} "
                             f"checkpoints: {[tuple(c) for c in model.route]}.")
    rule = stopping.RULES.index(settings.rule)
    side = resolution or config.data.test_crop_size
    costs, full_cost = route_costs(model, (frames, side, side, 3))

    def init(rng, clip_shape):
        params, stats = base.init_backbone(model, rng, clip_shape)
        thresholds = jnp.array([stopping.NEVER] * (m - 1) + [-stopping.NEVER], jnp.float32)
        record = {"thresholds": thresholds, "count": jnp.zeros((), jnp.int32),
                  "scores": jnp.zeros((settings.calibration_videos, m, len(stopping.RULES))),
                  "hits": jnp.zeros((settings.calibration_videos, m), bool)}
        return base.Variables(params, {**stats, RECORD: record})

    def loss(params, variables, batch, rng):
        clips = base.resize(base.normalise(batch["video"]), resolution)
        (_, features), updated = model.apply(
            {"params": params, "batch_stats": running(variables.stats)}, clips, train=True,
            rngs={"dropout": rng}, mutable=["batch_stats"])
        logits_BmK, last_BK = features["checkpoints"], features["checkpoints"][:, -1]
        value, scalars = 0.0, {}
        for k, weight in enumerate(weights):
            here = logits_BmK[:, k]
            ce = weighted_mean(cross_entropy(here, batch["label"]), batch["mask"])
            value += weight * ce
            if settings.distill_weight and k < m - 1:
                kl = soft_kl(here, jax.lax.stop_gradient(last_BK), settings.distill_temperature)
                value += settings.distill_weight * weighted_mean(kl, batch["mask"])
            scalars[f"loss_{k + 1}"] = ce
            scalars[f"top1_{k + 1}"] = base.batch_accuracy(here, batch["label"], batch["mask"])
        scalars |= {"loss": value, "top1": scalars[f"top1_{m}"]}
        stats = {**updated.get("batch_stats", {}), RECORD: variables.stats[RECORD]}
        return value, (stats, scalars)

    def predict(variables, batch) -> base.Prediction:
        video = batch["video"]  # (B, V, T, H, W, 3)
        b, v = video.shape[:2]
        clips = base.resize(base.normalise(video.reshape(b * v, *video.shape[2:])), resolution)
        _, features = model.apply(network(variables), clips)
        logits = features["checkpoints"].astype(jnp.float32).reshape(b, v, m, -1)
        # Views are averaged at every checkpoint; a video stops with all of its views.
        logits = base.mean_of_views(logits)
        scores = stopping.scores(logits)
        taken = stopping.exits_taken(scores[..., rule], variables.stats[RECORD]["thresholds"])
        gmacs = v * jnp.asarray(costs, jnp.float32)[taken]
        return base.Prediction(
            jnp.take_along_axis(logits, taken[:, None, None], axis=1)[:, 0], gmacs,
            {"exit": taken, "stop_scores": scores, "answers": logits.argmax(axis=-1)})

    def calibrate(variables, rows):
        record = variables.stats[RECORD]
        if rows is not None:
            size, n = settings.calibration_videos, len(rows["label"])
            chosen = np.linspace(0, n - 1, min(size, n)).round().astype(int)
            found = {"scores": rows["stop_scores"], "hits": rows["answers"] == rows["label"][:, None]}
            record = {**record, "count": jnp.asarray(len(chosen), jnp.int32), **{
                name: jnp.asarray(np.resize(values[chosen], (size, *values.shape[1:])))
                for name, values in found.items()}}
        if record["thresholds"].shape != (m,):
            raise ValueError(f"the checkpoint holds {record['thresholds'].shape[0]} thresholds; this "
                             f"route has {m} checkpoints: they belong to another network.")
        if settings.thresholds:
            found = np.array(settings.thresholds, np.float32)
        elif count := int(record["count"]):
            found = stopping.thresholds_for_budget(
                np.asarray(record["scores"])[:count, :, rule], np.asarray(record["hits"])[:count],
                costs, budget(settings, full_cost), settings.search)
        else:
            return variables  # never calibrated: nothing stops early
        record = {**record, "thresholds": jnp.asarray(found, jnp.float32)}
        return base.Variables(variables.params, {**variables.stats, RECORD: record}, variables.frozen)

    def analyse(rows, variables, workdir, split, class_names):
        del class_names
        out = {"full_gmacs": full_cost}
        out |= {f"exit{k + 1}_share": float((rows["exit"] == k).mean()) for k in range(m)}
        if "answers" not in rows:
            return out
        hits = rows["answers"] == rows["label"][:, None]
        out |= {"full_top1": float(hits[:, -1].mean())}
        out |= {f"exit{k + 1}_top1": float(hits[:, k].mean()) for k in range(m)}
        record = jax.device_get(variables.stats[RECORD])
        if workdir and (count := int(record["count"])):
            known = record["scores"][:count, :, rule], record["hits"][:count]
            curves = {search: stopping.sweep(*known, rows["stop_scores"][..., rule], hits, costs, search)
                      for search in stopping.SEARCHES}
            chosen = stopping.Point(0, float(rows["gmacs"].mean()), float(
                hits[np.arange(len(hits)), rows["exit"]].mean()))
            full = stopping.Point(0, full_cost, out["full_top1"])
            heads = [stopping.Point(0, c, out[f"exit{k + 1}_top1"]) for k, c in enumerate(costs)]
            write_curve(workdir, split, curves, {
                "full inference": [full], "everything stops at one checkpoint": heads,
                "chosen": [chosen]})
            console.say(curve_table(curves[settings.search], chosen, full))
        return out

    def step(k):
        def run(variables, state, frames):
            frames = None if frames is None else base.resize(base.normalise(frames), resolution)
            return run_segment(model, network(variables), k, state, frames)
        return run

    segments = routes.plan_segments(model.route, model.group)
    adaptive = base.Adaptive(
        [executor.Step(step(k), s.first, s.frames) for k, s in enumerate(segments)],
        lambda logits: stopping.scores(logits)[:, rule],
        lambda variables: variables.stats[RECORD]["thresholds"], costs, model.order,
        lambda variables, clips: model.apply(
            network(variables), base.resize(base.normalise(clips), resolution), method="full"),
        full_cost)
    return base.Method(init, loss, predict, resolution, calibrate=calibrate, analyse=analyse,
                       adaptive=adaptive)


def running(stats):
    """Statistics of the normalisation layers alone."""
    return {name: value for name, value in stats.items() if name != RECORD}


def network(variables) -> dict:
    """What `model.apply` takes."""
    return {"params": variables.params, "batch_stats": running(variables.stats)}


def budget(settings, full_gmacs: float) -> float:
    """Mean GMACs per video that a config allows."""
    if settings.budget_gmacs:
        return float(settings.budget_gmacs)
    if not 0 < settings.budget:
        raise ValueError(f"config.method.budget={settings.budget}: expected a share of the cost of full "
                         f"inference, such as 0.5.")
    return settings.budget * full_gmacs


@functools.lru_cache(maxsize=32)
def route_costs(model, clip_shape: tuple[int, ...], convention: str = "macs"):
    """What stopping at each checkpoint costs, all segments before it included.

    Args:
        model: an `ExitNet`.
        clip_shape: (T, H, W, 3) of the network's input.
        convention: see `effvid_jax.cost`.

    Returns:
        (m,) cumulative GMACs, and GMACs of full inference with the last head alone.
    """
    rule = cost.CONVENTIONS[convention]
    t, *image = clip_shape
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(
        (1, *clip_shape), jnp.float32))
    total, costs, state = 0, [], {}
    for k, segment in enumerate(routes.plan_segments(model.route, model.group)):
        frames = jax.ShapeDtypeStruct((1, segment.frames - segment.first, *image), jnp.float32)
        with trace.recording() as tape:
            state, _ = jax.eval_shape(partial(run_segment, model, k=k), variables, state=state,
                                      frames_BTHWC=frames)
        total += sum(rule(op) for op in tape)
        costs.append(total / 1e9)
    with trace.recording() as tape:
        jax.eval_shape(partial(model.apply, method="full"), variables, jax.ShapeDtypeStruct(
            (1, t, *image), jnp.float32))
    return np.array(costs), sum(rule(op) for op in tape) / 1e9


def curve_table(points, chosen, full) -> str:
    """The curve as text: at most ten operating points, the chosen one and full inference."""
    distinct = sorted({(p.gmacs, p.accuracy): p for p in points}.values(), key=lambda p: p.gmacs)
    some = [distinct[i] for i in np.unique(np.linspace(0, len(distinct) - 1, 10).round().astype(int))]
    lines = [("thresholds swept", p) for p in some] + [("chosen", chosen), ("full inference", full)]
    return tabulate.tabulate(
        [[name, p.gmacs, f"{p.gmacs / full.gmacs:.0%}", f"{p.accuracy:.1%}"] for name, p in lines],
        ["", "mean GMACs per video", "of full", "top-1"], floatfmt=".3g")


def write_curve(workdir: str, split: str, curves, marks) -> None:
    """Accuracy against mean cost: `exits_<split>.csv`, `exits_<split>.png`.

    Args:
        workdir, split: where.
        curves: {search: points}.
        marks: {name: single points}.
    """
    path = os.path.join(workdir, f"exits_{split}")
    with open(path + ".csv", "w", newline="") as f:
        table = csv.writer(f)
        table.writerow(["what", "parameter", "gmacs", "top1"])
        for name, points in {**curves, **marks}.items():
            table.writerows([name, f"{p.parameter:.4g}", f"{p.gmacs:.6g}", f"{p.accuracy:.4f}"]
                            for p in points)
    with open(path + ".png", "wb") as f:
        f.write(plots.exit_curve(curves, marks))
