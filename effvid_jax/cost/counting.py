"""Static cost of a network: multiply-adds per layer, from shapes alone.

    python -m effvid_jax.cost --backbone tsm_resnet50 --input 8x224x224 --classes 174
    python -m effvid_jax.cost --backbone resnet50 --input 16x112x112 --convention mmcv --json

The forward pass is traced abstractly (`jax.eval_shape`) while the layers note what they compute on a
tape (`backbones.trace.recording`); nothing is compiled or run. One multiply-add counts as one, and
`gmacs` are 10^9 of them, for a whole clip times its test views.

What papers call "GFLOPs" differs, so the rule is a choice. n = elements of the layer's input, m = of
its output, k = positions of its window:

    convention  | conv            linear         attention  batch/layer norm  ReLU  max/avg/adaptive pool
    macs        | products        products       0          0 / 0             0     0 / 0 / 0
    macs_attn   | products        products       products   0 / 0             0     0 / 0 / 0
    mmcv        | products+bias   products       0          2n / 2n           n     n / n / n
    msdnet      | products        products+bias  0          0 / 0             n     km / km / n
    thop        | products+bias   products       0          2n / 0            0     0 / m / (k+1)m

`mmcv` is mmcv 1.4's `get_model_complexity_info`, which made the tables of ResKD (arXiv 2209.12797);
`msdnet` is `op_counter.py` of MSDNet-PyTorch, behind Dynamic Inference (arXiv 2002.03342); `thop` is
the pytorch-OpCounter of January 2020 (0.0.31), which fits VA-RED2's (arXiv 2102.07887).
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import re
import sys
import threading
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from effvid_jax.backbones import make_backbone, trace
from effvid_jax.errors import UserError

_POOLS = ("max_pool", "avg_pool", "global_avg_pool")


def _macs(op: trace.Op) -> int:
    return op.macs if op.kind in ("conv", "linear") else 0


def _macs_attn(op: trace.Op) -> int:
    return op.macs


def _mmcv(op: trace.Op) -> int:
    if op.kind == "conv":
        return op.macs + op.bias * math.prod(op.out_shape)
    if op.kind in ("norm", "layer_norm"):
        return 2 * math.prod(op.in_shape)
    if op.kind == "relu" or op.kind in _POOLS:
        return math.prod(op.in_shape)
    return op.macs if op.kind == "linear" else 0


def _msdnet(op: trace.Op) -> int:
    if op.kind == "linear":
        return op.macs + op.bias * math.prod(op.out_shape)
    if op.kind in ("relu", "global_avg_pool"):
        return math.prod(op.in_shape)
    if op.kind in ("max_pool", "avg_pool"):
        return math.prod(op.kernel) * math.prod(op.out_shape)
    return op.macs if op.kind == "conv" else 0


def _thop(op: trace.Op) -> int:
    if op.kind == "conv":
        return op.macs + op.bias * math.prod(op.out_shape)
    if op.kind == "norm":
        return 2 * math.prod(op.in_shape)
    if op.kind == "avg_pool":
        return math.prod(op.out_shape)
    if op.kind == "global_avg_pool":
        return (math.prod(op.kernel) + 1) * math.prod(op.out_shape)
    return op.macs if op.kind == "linear" else 0


CONVENTIONS: dict[str, Callable[[trace.Op], int]] = {
    "macs": _macs, "macs_attn": _macs_attn, "mmcv": _mmcv, "msdnet": _msdnet, "thop": _thop}


@dataclasses.dataclass(frozen=True)
class Layer:
    """One line of the table: an operation of a single view.

    Attributes:
        block: first part of the module path ('layer1_0'); functions belong to the block before them.
        name: module path, or the kind in brackets for functions such as '(relu)'.
        kind: see `trace.Op.kind`.
        out_shape: without the batch axis.
        macs: count in the chosen convention.
        params: learned values of the module.
    """

    block: str
    name: str
    kind: str
    out_shape: tuple[int, ...]
    macs: int
    params: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of one clip.

    Attributes:
        macs: total over layers and views.
        params: learned values; `stats`: running statistics.
        layers: see `Layer`; for one view.
        convention, views: as asked for.
    """

    macs: int
    params: int
    stats: int
    layers: tuple[Layer, ...]
    convention: str
    views: int

    @property
    def gmacs(self) -> float:
        """Total in 10^9."""
        return self.macs / 1e9


def count(model: nn.Module, input_shape: Sequence[int], convention: str = "macs",
          views: int = 1) -> Cost:
    """Counts one clip through `model`.

    Args:
        model: a backbone, called as `model(clip_BTHWC, train=False)`.
        input_shape: (T, H, W, C) of a view.
        convention: a key of `CONVENTIONS`.
        views: clips times crops that are averaged at test time.

    Returns:
        A `Cost`.

    Raises:
        UserError: unknown convention, non-positive sizes, or an empty map in the network.
    """
    if convention not in CONVENTIONS:
        raise UserError(f"convention={convention!r}: expected one of {sorted(CONVENTIONS)}.")
    if views < 1:
        raise UserError(f"views={views}: expected 1 or more.")
    tape, variables = traced(model, input_shape)
    empty = next((op for op in tape if 0 in op.out_shape), None)
    if empty is not None:
        raise _too_small(model, input_shape, empty, "has an empty output")

    params = variables.get("params", {})
    rule, layers, block = CONVENTIONS[convention], [], ""
    for op in tape:
        block = op.path.split("/")[0] if op.path else block
        layers.append(Layer(block, op.path or f"({op.kind})", op.kind, op.out_shape[1:], rule(op),
                            _size(_at(params, op.path)) if op.path else 0))
    return Cost(views * sum(layer.macs for layer in layers), _size(params),
                _size(variables.get("batch_stats", {})), tuple(layers), convention, views)


def gmacs(model: nn.Module, input_shape: Sequence[int]) -> float:
    """10^9 multiply-adds (convention 'macs') of one clip (T, H, W, C)."""
    return count(model, input_shape).gmacs


def check_resolution(model: nn.Module, input_shape: Sequence[int], name: str = "") -> None:
    """Raises where a clip is too small for a network; costs a trace, so call it before any work.

    Too small means that some map is empty, or that a strided layer meets a map with fewer positions
    than its stride: beyond that point the network sees padding only.

    Args:
        model: a backbone.
        input_shape: (T, H, W, C).
        name: what to call the network in the message; its class by default.

    Raises:
        UserError: naming the resolution, the network, the first layer that fails and the smallest
            square that fits.
    """
    failure = _first_failure(traced(model, input_shape)[0])
    if failure is not None:
        raise _too_small(model, input_shape, *failure, name=name)


def _first_failure(tape: list[trace.Op]):
    """(operation, reason) of the first layer that a clip is too small for, or None."""
    for op in tape:
        if 0 in op.out_shape:
            return op, "has an empty output"
        size, strides = op.in_shape[-3:-1], op.strides[-2:]
        if any(n < s for n, s in zip(size, strides)):
            return op, f"would shrink a map of {size[0]}x{size[1]} by {strides[0]}x{strides[1]}"
    return None


def _too_small(model, input_shape, op: trace.Op, reason: str, name: str = "") -> UserError:
    t, h, w, c = input_shape

    def fits(size):
        return _first_failure(traced(model, (t, size, size, c))[0]) is None

    smallest = bisect.bisect_left(range(1025), True, lo=1, key=fits)
    advice = (f"it needs at least {smallest}x{smallest} pixels" if smallest < 1025
              else f"no resolution helps with {t} frames")
    return UserError(f"resolution {h}x{w} is too small for {name or type(model).__name__}: "
                      f"{op.path or op.kind} {reason}; {advice}.")


def traced(model: nn.Module, input_shape: Sequence[int]):
    """Tape and abstract variables of a forward pass over one clip (T, H, W, C)."""
    shape = tuple(int(n) for n in input_shape)
    if len(shape) != 4 or min(shape) < 1:
        raise UserError(f"input shape {tuple(input_shape)}: expected 4 positive sizes (T, H, W, C).")
    return _cached_trace(model, shape)


@functools.lru_cache(maxsize=32)
def _cached_trace(model: nn.Module, shape: tuple[int, ...]):
    def init():
        return model.init(jax.random.key(0), jnp.zeros((1, *shape)))

    zeros = functools.cache(jnp.zeros)  # one per shape for the whole trace
    with trace.recording(shapes_only=True) as tape, parameters_without_values(zeros):
        try:
            variables = jax.eval_shape(init)
        except (TypeError, ValueError, ZeroDivisionError):
            if not any(0 in op.out_shape for op in tape):
                raise
            variables = {}  # the trace broke off at an empty map, which the caller reports
    return tape, variables


@contextlib.contextmanager
def parameters_without_values(zeros: Callable = jnp.zeros):
    """Inside, modules of this thread get zeros for new parameters, for abstract evaluation only.

    Tracing initialisers is half of the time of a trace; applying a module traces them again.

    Args:
        zeros: makes them from a shape (and a type).
    """
    original, owner = nn.Module.param, threading.get_ident()

    def param(module, name, init_fn, *args, **kwargs):
        if threading.get_ident() != owner or kwargs or not (args and isinstance(args[0], tuple)):
            return original(module, name, init_fn, *args, **kwargs)
        if not module.has_variable("params", name):
            module.put_variable("params", name, zeros(*args))
        return module.get_variable("params", name)

    nn.Module.param = param
    try:
        yield
    finally:
        nn.Module.param = original


def _at(tree, path: str):
    for part in path.split("/"):
        tree = tree.get(part, {})
    return tree


def _size(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


# ----------------------------------------------------------------------------------------- command
def table(cost: Cost) -> str:
    """Layers that cost something or have parameters, grouped by block, with subtotals and a total."""
    one_view = max(cost.macs // cost.views, 1)
    row = "{:34} {:>16} {:>20} {:>11} {:>6}".format
    lines = [row("layer", "output", f"{cost.convention}", "params", "share")]
    for block, group in itertools.groupby(cost.layers, key=lambda layer: layer.block):
        group = list(group)
        macs = sum(layer.macs for layer in group)
        lines.append(row(block, "", f"{macs:,}", f"{sum(g.params for g in group):,}",
                         f"{macs / one_view:.1%}"))
        lines += [row("  " + g.name, "x".join(map(str, g.out_shape)), f"{g.macs:,}",
                      f"{g.params:,}", "")
                  for g in group if (g.macs or g.params) and (len(group) > 1 or g.name != block)]
    views = f", {cost.views} views" if cost.views > 1 else ""
    lines.append(row("total" + views, "", f"{cost.macs:,}", f"{cost.params:,}", ""))
    lines.append(f"{cost.gmacs:.3f} gmacs, {cost.params / 1e6:.2f} M parameters "
                 f"(convention {cost.convention}{views})")
    return "\n".join(lines)


def _parse_input(text: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if match is None or "0" in [n.lstrip("0") or "0" for n in match.groups()]:
        raise UserError(f"--input {text!r}: expected TxHxW with positive numbers (frames, height, "
                         f"width), such as 8x224x224.")
    return tuple(int(n) for n in match.groups())


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module docstring. Exits with a one-line message on a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m effvid_jax.cost",
                                     description="Static cost of a backbone.")
    parser.add_argument("--backbone", required=True, help="name, such as resnet50")
    parser.add_argument("--input", required=True, help="TxHxW, such as 8x224x224")
    parser.add_argument("--classes", type=int, default=400)
    parser.add_argument("--convention", default="macs", choices=CONVENTIONS)
    parser.add_argument("--views", type=int, default=1, help="clips times crops")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # nothing runs: do not wait for an accelerator

    try:
        if args.classes < 1:
            raise UserError(f"--classes {args.classes}: expected 1 or more.")
        model = make_backbone(args.backbone, num_classes=args.classes)
        clip = (*_parse_input(args.input), 3)
        check_resolution(model, clip, args.backbone)
        cost = count(model, clip, args.convention, args.views)
    except ValueError as error:
        sys.exit(f"effvid_jax.cost: {error}")
    if args.json:
        print(json.dumps({
            "backbone": args.backbone, "gmacs": cost.gmacs, "params": cost.params,
            "convention": args.convention, "input": list(clip[:3]), "classes": args.classes,
            "views": args.views}))
    else:
        print(table(cost))
