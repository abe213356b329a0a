"""A backbone with exits along a route through the grid of frames x depth.

Dynamic Inference, arXiv 2002.03342: at checkpoint (n, d) a head reads the mean, over the n frames seen so
far, of what they look like at depth d; FrameExit's (arXiv 2104.13400) reads the largest value of each channel
(`merge='max'`), and gates beside the heads may read it before and after the newest frames (`gates`). The same
network runs in two forms with equal results:

    dense          module.apply(variables, clip)            all frames, all depths: training, simulation
    progressive    run_segment(module, variables, k, ...)   checkpoint after checkpoint: real early exit

They are equal if nothing at an early checkpoint depends on later frames: `shifts.OnlineShift` keeps
that, an ordinary temporal shift does not.

How an exit of a plain backbone looks is not published. Ours: pool, and before the last depth lift to
`exit_width` channels (linear, batch norm, ReLU); then one linear classifier a checkpoint. With 2048
channels after stages 2 and 3, three heads and 400 classes this gives the paper's parameter counts
(29.12 M and 48.12 M for ResNet-50 and -101), as 23 other designs do. FrameExit lifts at the last depth as
well (`lift_last`). MSDNet brings its own exits.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from effvid_jax.backbones import blocks, shifts
from effvid_jax.errors import UserError
from effvid_jax.exits import routes
from effvid_jax.exits.gate import ExitGate
from effvid_jax.exits.judge import Judge
from effvid_jax.exits.largest import largest
from effvid_jax.gating import surroundings

MERGES = ("mean", "max")

class ExitNet(nn.Module):
    """See the module docstring.

    Attributes:
        backbone: any backbone for routes along the depth; one that treats frames one by one, or
            exchanges channels by `shifts.OnlineShift`, for routes along the frames.
        num_classes: K.
        route: checkpoints, see `effvid_jax.exits.routes`.
        order: order in which frames are consumed; positions of a route count in it.
        group: frames of a group, as in the backbone's `shifts.OnlineShift`; 0: all.
        exit_stages: stage of the backbone behind each depth, from depth 1 on; 0 is the stem.
        exit_width: channels that exits before the last depth are lifted to; 0: no lift.
        lift_last: lifted at the last depth, too.
        merge: what becomes of the frames seen so far: their 'mean', or the largest value of each channel
            ('max').
        gates: widths of the gates, see `gate.ExitGate`, one after each checkpoint but the first; (): none.
        share_heads: one linear classifier a depth instead of one a checkpoint.
        dropout: rate before the classifiers.
        classifier_std: of the classifiers' initial weights.
        judge_width: hidden units of the heads that the rule 'learned' reads (`judge.py`); 0: no heads.
        bn_groups, dtype: see `blocks.BatchNorm`, `ResNet`.
    """

    backbone: nn.Module
    num_classes: int
    route: tuple[routes.Checkpoint, ...]
    order: tuple[int, ...]
    group: int
    exit_stages: tuple[int, ...]
    exit_width: int = 2048
    share_heads: bool = False
    dropout: float = 0.0
    classifier_std: float = 0.001
    lift_last: bool = False
    merge: str = "mean"
    gates: tuple[int, ...] = ()
    judge_width: int = 0
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        last = 0 if self.lift_last else self.exit_stages[-1]
        self.own_exits = hasattr(self.backbone, "pool_exit")
        lifts = self.exit_width and not self.own_exits
        depths = [d for d, stage in enumerate(self.exit_stages, 1) if stage != last]
        used = {c.depth for c in self.route}
        self.lift = {str(d): blocks.Dense(self.exit_width, dtype=self.dtype)
                     for d in depths if lifts and d in used}
        self.lift_bn = {d: blocks.BatchNorm(groups=self.bn_groups, dtype=self.dtype)
                        for d in self.lift}
        self.drop = nn.Dropout(self.dropout)
        heads = sorted(used) if self.share_heads else range(1, len(self.route) + 1)
        self.head = {str(h): blocks.Dense(
            self.num_classes, dtype=self.dtype,
            kernel_init=nn.initializers.normal(self.classifier_std)) for h in heads}
        self.gate_after = {str(h): ExitGate(self.gates, self.bn_groups, self.dtype)
                           for h in range(2, len(self.route) + 1) if self.gates}
        self.judge = {str(k): Judge(self.judge_width) for k in range(1, len(self.route) + 1)
                      if self.judge_width}

    @property
    def num_stages(self) -> int:
        """Stages of the backbone."""
        return self.exit_stages[-1]

    def run_depths(self, x, start: int, stop: int, train: bool = False):
        """Frames (`start` = 0: a clip; else the map or state at that depth) -> at depth `stop`."""
        maps = {}
        first = self.exit_stages[start - 1] if start else 0
        if not start:
            x = self.backbone.run_stem(x, train)
        for stage in range(first + 1, self.exit_stages[stop - 1] + 1 if stop else first + 1):
            x = maps[f"stage{stage}"] = self.backbone.run_stage(stage, x, train)
        return x, maps

    def pool(self, depth: int, state, train: bool = False):
        """State at a depth -> what the head reads of each frame (B, T, C)."""
        if self.own_exits:
            return self.backbone.pool_exit(self.exit_stages[depth - 1], state, train)
        x = blocks.global_avg_pool(state)
        if str(depth) in self.lift:
            x = blocks.relu(self.lift_bn[str(depth)](self.lift[str(depth)](x), train))
        return x

    def merged(self, pooled_BTC):
        """What a head reads (B, C), of what frames look like at its depth."""
        return largest(pooled_BTC) if self.merge == "max" else pooled_BTC.mean(axis=1)

    def ask(self, checkpoint: int, before_BC, merged_BC, train: bool = False):
        """Gate of a checkpoint (from 1): what its head reads, and the head before -> (B,), below 0: stop."""
        return self.gate_after[str(checkpoint + 1)](before_BC, merged_BC, train)

    def classify(self, checkpoint: int, merged_BC, train: bool = False):
        """Head of a checkpoint (from 0) on merged frames -> logits (B, K)."""
        name = self.route[checkpoint].depth if self.share_heads else checkpoint + 1
        return self.head[str(name)](self.drop(merged_BC, deterministic=not train))

    def sure(self, checkpoint: int, merged_BC, logits_BK):
        """Logit (B,) of the probability that the end answers as a checkpoint did with `logits_BK`."""
        return self.judge[str(checkpoint + 1)](merged_BC, logits_BK)

    def __call__(self, x_BTHWC, train: bool = False):
        """All frames through all depths.

        Args:
            x_BTHWC: normalised clip (B, T, H, W, 3), frames in natural order.
            train: batch statistics and dropout on.

        Returns:
            logits (B, K) of the last checkpoint, and a dict: 'checkpoints' (B, m, K) logits of all;
            'stage1'... the backbone's states, frames in natural order; 'features' the last map;
            'pooled' (B, T, C) what the last head reads of each frame; with judges 'sure' (B, m), see `sure`;
            with gates 'gates' (B, m - 1), see `ask`. Both are trained without a gradient to what they read.
        """
        assert x_BTHWC.shape[1] == len(self.order), (x_BTHWC.shape, self.order)
        x = x_BTHWC[:, jnp.array(self.order)]
        out, logits, read, sure = {}, {}, {}, {}
        pooled_BTC = None
        for depth in range(1, len(self.exit_stages) + 1):
            x, maps = self._next_depth(x, depth, train)
            out |= maps
            here = [(k, c.frames) for k, c in enumerate(self.route) if c.depth == depth]
            if here:
                most = max(frames for _, frames in here)
                seen = jax.tree.map(lambda a: a[:, :most], x)  # noqa: B023
                pooled_BTC = self.pool(depth, seen, train)
                before, old = None, 0
                for k, frames in here:
                    read[k] = before = (largest(pooled_BTC[:, old:frames], before) if self.merge == "max"
                                        else self.merged(pooled_BTC[:, :frames]))
                    logits[k], old = self.classify(k, read[k], train), frames
                    if self.judge_width:
                        sure[k] = self.sure(k, read[k], logits[k])
        back = jnp.argsort(jnp.array(self.order))
        out = {name: jax.tree.map(lambda a: a[:, back], maps) for name, maps in out.items()}
        last = out[f"stage{self.num_stages}"]
        out["features"] = jax.tree.leaves(last)[-1]  # of several scales the coarsest
        out["pooled"] = pooled_BTC[:, back]
        out["checkpoints"] = jnp.stack([logits[k] for k in range(len(self.route))], axis=1)
        if self.gates:
            read = jax.lax.stop_gradient(read)
            out["gates"] = jnp.stack([self.ask(k, read[k - 1], read[k], train)
                                      for k in range(1, len(self.route))], axis=1)
        if self.judge_width:
            out["sure"] = jnp.stack([sure[k] for k in range(len(self.route))], axis=1)
        return logits[len(self.route) - 1], out

    def _next_depth(self, x, depth: int, train: bool = False):
        """All frames from the depth before: gates see them in the pieces in which they will come."""
        with surroundings.pieces(routes.pieces(self.route, self.group, depth)):
            return self.run_depths(x, depth - 1, depth, train)

    def full(self, x_BTHWC):
        """The network without early exits: all frames, all depths, the last head alone -> logits (B, K).

        What full inference costs, and what early exits have to beat on the clock.
        """
        x = x_BTHWC[:, jnp.array(self.order)]
        for depth in range(1, len(self.exit_stages) + 1):
            x, _ = self._next_depth(x, depth)
        return self.classify(len(self.route) - 1, self.merged(self.pool(len(self.exit_stages), x)))


def make_exit_net(exits, make_backbone, num_classes: int, **options) -> ExitNet:
    """The network that a `config.model.exits` describes (see `configs/recipes/dynamic_inference.py`).

    Args:
        exits: config with `frames`, `scheme`, `route`, `order`, `groups`, `shift`, `shift_div`,
            `stages`, `width`, `share_heads`, `classifier_std`, and maybe `lift_last`, `merge`, `gates`,
            `judge`.
        make_backbone: (shift, or nothing) -> module.
        num_classes: K.
        options: further fields of `ExitNet`.

    Raises:
        UserError: a route, order or shift that does not fit frames or backbone.
    """
    frames = exits.frames
    plain = make_backbone()
    stages = tuple(exits.stages)
    own = hasattr(plain, "pool_exit")
    if not stages:  # every exit of its own, or the last three stages; for the figure's route all and the stem
        figure = exits.scheme == "unified6" and not exits.route
        first = 1 if own else 0 if figure else max(1, plain.num_stages - 2)
        stages = tuple(range(first, plain.num_stages + 1))
    if sorted(set(stages)) != list(stages) or stages[0] < own or stages[-1] != plain.num_stages:
        raise UserError(f"config.model.exits.stages={stages}: expected stages of the backbone in order, from "
                         f"{int(own)}{'' if own else ' (the stem)'}, ending with the last, "
                         f"{plain.num_stages}.")
    if exits.route:
        route = routes.check_route(exits.route, frames, len(stages))
    else:
        route = routes.scheme_route(exits.scheme, frames, len(stages))
    order = (routes.check_order(exits.order, frames) if exits.order else
             routes.frame_order(frames, exits.scheme))
    by_frames = route[0].frames < frames
    if by_frames and not hasattr(plain, "shift"):
        raise UserError(f"{type(plain).__name__} mixes frames inside, so its exits can only lie along "
                         f"the depth: use config.model.exits.scheme='depth', or a 2-D backbone.")
    groups = exits.groups or (1 if exits.scheme in ("depth", "input") else 2)
    if frames % groups:
        raise UserError(f"config.model.exits.groups={groups} does not divide {frames} frames.")
    kinds = {"online": partial(shifts.OnlineShift, group=frames // groups, div=exits.shift_div),
             "offline": partial(shifts.temporal_shift, div=exits.shift_div), "none": None}
    if exits.shift not in kinds:
        raise UserError(f"config.model.exits.shift={exits.shift!r}: expected one of {list(kinds)}.")
    backbone = make_backbone(shift=kinds[exits.shift]) if hasattr(plain, "shift") else plain
    gates, depths = tuple(exits.get("gates", ())), {checkpoint.depth for checkpoint in route}
    if gates and len(depths) > 1:
        raise UserError(f"config.model.exits.gates={gates} compare frames at one depth; this route has "
                        f"{len(depths)}: use a route along the frames, or gates=().")
    if gates and len(gates) != 2:
        raise UserError(f"config.model.exits.gates={gates}: expected two widths, or none.")
    return ExitNet(backbone, num_classes, route, order, frames // groups, stages, exits.width,
                   exits.share_heads, classifier_std=exits.classifier_std,
                   lift_last=exits.get("lift_last", False), merge=exits.get("merge", "mean"), gates=gates,
                   judge_width=exits.get("judge", 0), **options)


def run_segment(model: ExitNet, variables, k: int, state, frames_BTHWC, found: list | None = None):
    """From checkpoint `k - 1` to checkpoint `k` (from 0), for an executor.

    Args:
        model, variables: as for `model.apply`.
        k: which segment.
        state: what the segment before returned; {} for the first.
        frames_BTHWC: the normalised frames that are new in this segment, in the order of `model.order`
            (`segment.first` to `segment.frames`); without frames, T = 0 or None.
        found: gets the collection 'gates' of every pass over some depths, in order.

    Returns:
        The state for the next segment (arrays with the batch first; with gates also 'gate' (B,), the answer
        of the one that is asked here, with judges 'sure' (B,), see `ExitNet.sure`), and logits (B, K).
    """
    segment = routes.plan_segments(model.route, model.group)[k]
    stream = state.get("stream", {})

    def run(x, start, stop, stream):
        out, updated = model.apply({**variables, "stream": stream}, x, start, stop, method=_depths,
                                   mutable=["stream"] + ["gates"] * (found is not None))
        if found is not None:
            found.append(updated.get("gates", {}))
        return out, updated

    new, first = [], segment.first
    for start, stop, continued in segment.chunks:
        x, updated = run(frames_BTHWC[:, start - first:stop - first], 0, segment.join,
                         stream if continued else {})
        stream = updated.get("stream", {})
        new.append(x)
    new = _join(new)
    if segment.first and segment.depth > segment.join or not segment.chunks:
        together, updated = run(_join([state["maps"], new]), segment.join, segment.depth, {})
        stream = _merge(stream, updated.get("stream", {}))
        total, maps = None, together
        fresh = together
    else:
        fresh, total = new, state.get("total")
        maps = _join([state.get("maps"), new])
    pooled_BTC = model.apply(variables, segment.depth, fresh, method="pool")
    out = {"total": _total(model, total, pooled_BTC)}
    merged_BC = out["total"] if model.merge == "max" else out["total"] / segment.frames
    logits = model.apply(variables, k, merged_BC, method="classify")
    if model.gates and 0 < k < len(model.route) - 1:  # the last head answers without being asked
        before_BC = total if model.merge == "max" else total / segment.first
        out["gate"] = model.apply(variables, k, before_BC, merged_BC, method="ask")
    if model.judge_width:
        out["sure"] = model.apply(variables, k, merged_BC, logits, method="sure")
    if segment.keep:
        out["maps"] = maps
    if segment.stream:
        out["stream"] = stream
    return out, logits


def _total(model: ExitNet, total_BC, pooled_BTC):
    """What a segment keeps of the frames seen so far: their sum, or the largest values."""
    if model.merge == "max":
        return largest(pooled_BTC, total_BC)
    return (0.0 if total_BC is None else total_BC) + pooled_BTC.sum(axis=1)


def _depths(model: ExitNet, x, start: int, stop: int):
    return model.run_depths(x, start, stop)[0]


def _join(parts):
    """States of several pieces of a clip as one, along the frames."""
    parts = [part for part in parts if part is not None]
    if len(parts) < 2:
        return parts[0] if parts else None
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays, axis=1), *parts)


def _merge(ours, theirs):
    """Two nested dicts of different layers as one."""
    out = dict(ours)
    for name, value in theirs.items():
        both = isinstance(value, dict) and isinstance(out.get(name), dict)
        out[name] = _merge(out[name], value) if both else value
    return out
