"""MSDNet on clips: a grid of layers x scales with an exit after every block.

Sources: Multi-Scale Dense Networks, arXiv 1703.09844; `models/msdnet.py` of kalviny/MSDNet-PyTorch,
whose module names are kept (indices from 0). Frames are classified one by one and averaged. The
network that Dynamic Inference (arXiv 2002.03342) calls MSDNet-38 is `base=7, step=7`.

    scale 0 (fine)    ─ L1 ─ L2 ─ ... dropped after a third of the layers, and so on
    scale 1             ╲ ╲    ╲
    scale 2              each node sees its own scale and the next finer one, one layer earlier
    scale 3 (coarse)  ─ L1 ─ ... ─ L7 ─ exit 1 ─ ... ─ L14 ─ exit 2 ─ ...

A node concatenates its input with what it computes (DenseNet): identity, from the finer scale (a
stride-2 convolution), from its own scale. Where the grid loses its finest scale, a 1x1 transition
halves the channels of the others.

The network is cut into segments for executors that stop early:

    state = run_stem(clip);  for k in 1..5:  state = run_stage(k, state);  run_exit(k, state)

`lazy=True` computes a node only when an exit needs it: exit k reads the coarsest scale alone, so
the last layers of the finer scales wait for the next segment. Same numbers, cheaper early exits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from effvid_jax.backbones import blocks, shifts
from effvid_jax.errors import UserError


# ----------------------------------------------------------------------------------------- geometry
class Layer(NamedTuple):
    """One dense layer (a column of the grid).

    Attributes:
        block: which block it belongs to, from 0.
        index: its place in the reference's list of that block.
        width: input channels of scale s are `width * scale_factors[s]`.
        finest: first scale that it computes.
        drops: whether the layer before had one scale more, which feeds this one for the last time.
        transition: width after the transition that follows it; 0: none.
    """

    block: int
    index: int
    width: int
    finest: int
    drops: bool
    transition: int

    def reads_finer(self, scale: int) -> bool:
        """Whether the node at `scale` has a path from the scale before."""
        return self.drops or scale > self.finest


class Segment(NamedTuple):
    """What a block computes: `nodes` (layer from 1, scale) in order; scales that it hands on."""

    nodes: tuple[tuple[int, int], ...]
    kept: tuple[int, ...]


def plan_layers(block_sizes: Sequence[int], num_scales: int, width: int, growth: int,
                reduction: float, prune: str) -> list[Layer]:
    """All dense layers in order.

    Args:
        block_sizes: dense layers per block.
        num_scales: S.
        width: see `Layer.width`, for the first layer; it grows by `growth` per layer.
        reduction: share of the channels that a transition keeps; 0: no transitions.
        prune: 'max' drops a scale every ceil(layers / S) layers, each time with a transition; 'min'
            drops scales at the very end only, with transitions after 1/3 and 2/3 of the layers.
    """
    layers, total = [], sum(block_sizes)
    for block, size in enumerate(block_sizes):
        index = 0 if block else 1  # the first block begins with the stem
        for _ in range(size):
            number = len(layers) + 1
            if prune == "max":
                interval = math.ceil(total / num_scales)
                before = num_scales - max(0, number - 2) // interval
                after = num_scales - (number - 1) // interval
                shrink = before > after
            else:
                before, after = (min(num_scales, total - number + n) for n in (2, 1))
                shrink = number in (total // 3, 2 * total // 3)
            transition = int(reduction * (width + growth)) if shrink else 0
            layers.append(
                Layer(block, index, width, num_scales - after, before > after, transition))
            width = transition or width + growth
            index += 2 if transition else 1
    return layers


def plan_segments(layers: Sequence[Layer], num_scales: int, lazy: bool) -> list[Segment]:
    """The order of evaluation, one segment per block.

    A scale is only ever as far as the coarser ones demand, so one map per scale is all the state.
    """
    done = [0] * num_scales  # layers computed at each scale

    def advance(scale: int, layer: int):
        while done[scale] < layer:
            number = done[scale] + 1
            if layers[number - 1].reads_finer(scale):
                yield from advance(scale - 1, number - 1)
                assert done[scale - 1] == number - 1
            done[scale] = number
            yield number, scale

    per_block = []
    for block in range(layers[-1].block + 1):
        numbers = [n for n, layer in enumerate(layers, 1) if layer.block == block]
        if lazy:
            targets = [(num_scales - 1, numbers[-1])]
        else:  # coarsest first: it reads the finer map of the layer before
            targets = [(s, n) for n in numbers
                       for s in reversed(range(layers[n - 1].finest, num_scales))]
        nodes = tuple(node for target in targets for node in advance(*target))
        complete = range(layers[numbers[-1] - 1].finest, num_scales)
        per_block.append((nodes, {num_scales - 1} if lazy else set(complete)))

    segments, needed = [], set()
    for nodes, own in reversed(per_block):
        segments.insert(0, Segment(nodes, tuple(sorted(own | needed))))
        needed |= {s for _, s in nodes}
        needed |= {s - 1 for number, s in nodes if layers[number - 1].reads_finer(s)}
    return segments


# ------------------------------------------------------------------------------------------- layers
class ConvNormRelu(nn.Module):
    """Convolution, batch norm, ReLU."""

    features: int
    kernel: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = False
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm

    def setup(self):
        self.conv_layer = self.conv(self.features, (self.kernel,) * 2, self.stride, self.padding,
                                    use_bias=self.use_bias, name="conv")
        self.bn = self.norm()

    def __call__(self, x, train: bool = False):
        return blocks.relu(self.bn(self.conv_layer(x, train), train))


class Branch(nn.Module):
    """1x1 bottleneck to `inner` channels, then 3x3 to `features`, each with batch norm and ReLU."""

    inner: int
    features: int
    stride: int = 1
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm

    def setup(self):
        self.conv1 = self.conv(self.inner, (1, 1))
        self.bn1 = self.norm()
        self.conv2 = self.conv(self.features, (3, 3), self.stride, 1)
        self.bn2 = self.norm()

    def __call__(self, x, train: bool = False):
        x = blocks.relu(self.bn1(self.conv1(x, train), train))
        return blocks.relu(self.bn2(self.conv2(x, train), train))


class Node(nn.Module):
    """One scale of one layer: [input, from the finer scale, from this scale] on the channel axis.

    Attributes:
        features: channels that are added; half of them come from the finer scale if there is one.
        inner: bottleneck width of the path from this scale.
        inner_down: bottleneck width of the path from the finer scale; 0: no such path.
        shift: see `MSDNet.shift`.
    """

    features: int
    inner: int
    inner_down: int = 0
    shift: Callable | None = None
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm

    def setup(self):
        self.shift_same = shifts.make_shift(self.shift)
        self.shift_finer = shifts.make_shift(self.shift)
        features = self.features // 2 if self.inner_down else self.features
        if self.inner_down:
            self.conv_down = Branch(self.inner_down, features, 2, self.conv, self.norm)
        self.conv_normal = Branch(self.inner, features, 1, self.conv, self.norm)

    def __call__(self, same, finer=None, train: bool = False):
        parts = [same]
        if self.inner_down:
            parts.append(self.conv_down(self.shift_finer(finer), train))
        parts.append(self.conv_normal(self.shift_same(same), train))
        return jnp.concatenate(parts, axis=-1)


class DenseLayer(nn.Module):
    """The nodes of one layer, finest scale first; called one node at a time."""

    nodes: tuple[dict[str, int], ...]
    make_node: blocks.ModuleDef = Node

    def setup(self):
        self.layers = [self.make_node(**node) for node in self.nodes]

    def __call__(self, number: int, same, finer=None, train: bool = False):
        return self.layers[number](same, finer, train)


class Transition(nn.Module):
    """A 1x1 convolution per scale, finest first; called one scale at a time."""

    features: tuple[int, ...]
    unit: blocks.ModuleDef = ConvNormRelu

    def setup(self):
        self.m = [self.unit(features, 1) for features in self.features]

    def __call__(self, number: int, x, train: bool = False):
        return self.m[number](x, train)


class Stem(nn.Module):
    """Clip -> one map per scale, each computed from the finer one."""

    features: tuple[int, ...]
    kind: str = "imagenet"
    unit: blocks.ModuleDef = ConvNormRelu

    def setup(self):
        first = (self.unit(self.features[0], 7, 2, 3, True) if self.kind == "imagenet" else
                 self.unit(self.features[0], 3, 2 if self.kind == "small" else 1, 1))
        self.layers = [first] + [self.unit(features, 3, 2, 1) for features in self.features[1:]]

    def __call__(self, x, train: bool = False):
        maps = []
        for number, layer in enumerate(self.layers):
            x = layer(x, train)
            if number == 0 and self.kind == "imagenet":
                x = blocks.max_pool(x, (3, 3), (2, 2), (1, 1))
            maps.append(x)
        return maps


class Exit(nn.Module):
    """Two 3x3 convolutions of stride 2, a 2x2 mean and a linear layer, for each frame."""

    num_classes: int
    features: int
    dropout: float = 0.0
    unit: blocks.ModuleDef = ConvNormRelu
    dtype: Any = None

    def setup(self):
        self.m = [self.unit(self.features, 3, 2, 1), self.unit(self.features, 3, 2, 1)]
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype)

    def __call__(self, x_BTHWC, train: bool = False):
        """(B, T, h, w, C) -> logits (B, T, K), and what the linear layer reads (B, T, C')."""
        pooled = self.pool(x_BTHWC, train)
        return self.fc(self.drop(pooled, deterministic=not train)), pooled

    def pool(self, x_BTHWC, train: bool = False):
        """(B, T, h, w, C) -> what the linear layer reads (B, T, C')."""
        x = x_BTHWC
        for unit in self.m:
            x = unit(x, train)
        x = blocks.avg_pool(x, (2, 2), (2, 2), (0, 0))
        if 0 in x.shape:
            raise UserError(f"the clip is too small for this MSDNet: an exit got a map of "
                             f"{x_BTHWC.shape[2]}x{x_BTHWC.shape[3]} and needs 5x5, so the "
                             f"ImageNet network with 4 scales needs 129 pixels or more.")
        if x.shape[2:4] == (1, 1):  # always so in the reference; larger clips leave more positions
            return x.reshape(*x.shape[:2], -1)
        return blocks.global_avg_pool(x)


# ------------------------------------------------------------------------------------------ network
class MSDNet(nn.Module):
    """MSDNet; see the module docstring for the grid and the segments.

    Attributes:
        num_classes: K, of every exit.
        num_blocks: exits.
        base, step: dense layers of the first and of each further block.
        step_mode: 'even', or 'lin_grow': block i (from 0) has `step * i + 1` layers.
        channels: channels of the stem at scale 0, before `scale_factors`.
        growth: channels that a layer adds at scale 0.
        scale_factors: factor on channels and growth per scale; its length is the number of scales.
        bottleneck_factors: width of 1x1 bottlenecks over their output, per scale.
        reduction, prune: see `plan_layers`.
        stem: 'imagenet' (7x7 stride 2 with bias, max-pool), 'cifar' (3x3 stride 1) or 'small' (3x3
            stride 2, for clips of 64 pixels or so).
        head_channels: channels inside an exit; 0: those of its input (ImageNet), 128 for CIFAR.
        lazy: compute nodes when an exit needs them, see the module docstring.
        shift: None, or a function of (B,T,H,W,C) or a module class (`shifts.OnlineShift`), applied to
            what the convolutions of a node read, not to the channels that are passed on.
        dropout: rate before each exit's linear layer (the image network has none).
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        partial_bn: all batch norms outside the stem are frozen, see `blocks.BatchNorm.frozen`.
        bn_groups: see `blocks.BatchNorm.groups`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    num_blocks: int = 5
    base: int = 7
    step: int = 7
    step_mode: str = "even"
    channels: int = 32
    growth: int = 16
    scale_factors: tuple[int, ...] = (1, 2, 4, 4)
    bottleneck_factors: tuple[int, ...] = (1, 2, 4, 4)
    reduction: float = 0.5
    prune: str = "max"
    stem: str = "imagenet"
    head_channels: int = 0
    lazy: bool = False
    shift: Callable | None = None
    dropout: float = 0.0
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    partial_bn: bool = False
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        for field, known in (("step_mode", ("even", "lin_grow")), ("prune", ("max", "min")),
                             ("stem", ("imagenet", "cifar", "small"))):
            value = getattr(self, field)
            if value not in known:
                raise UserError(f"{field}={value!r}: expected one of {list(known)}.")
        if len(self.scale_factors) != len(self.bottleneck_factors):
            raise UserError(f"scale_factors={self.scale_factors} and bottleneck_factors="
                             f"{self.bottleneck_factors}: expected one entry per scale in both.")

        sizes = [self.base] + [self.step if self.step_mode == "even" else self.step * i + 1
                               for i in range(1, self.num_blocks)]
        self.plan = plan_layers(sizes, self.num_scales, self.channels, self.growth, self.reduction,
                                self.prune)
        # Initialisation visits every node, so that a lazy network has the parameters of a full one.
        self.segments = plan_segments(self.plan, self.num_scales,
                                      self.lazy and not self.is_initializing())
        conv = partial(self.conv, dtype=self.dtype)
        norm = partial(self.norm, groups=self.bn_groups, dtype=self.dtype)
        stem_unit = partial(ConvNormRelu, conv=conv, norm=norm)
        norm = partial(norm, frozen=True) if self.partial_bn else norm
        unit = partial(ConvNormRelu, conv=conv, norm=norm)
        make_node = partial(Node, shift=self.shift, conv=conv, norm=norm)

        modules = [[] for _ in sizes]
        stem = tuple(self.channels * factor for factor in self.scale_factors)
        modules[0].append(Stem(stem, self.stem, stem_unit))
        widths = {}
        for layer in self.plan:
            scales = range(layer.finest, self.num_scales)
            modules[layer.block].append(
                DenseLayer(tuple(self._node(layer, s) for s in scales), make_node))
            if layer.transition:
                features = tuple(layer.transition * self.scale_factors[s] for s in scales)
                modules[layer.block].append(Transition(features, unit))
            widths[layer.block] = layer.transition or layer.width + self.growth
        self.blocks = modules
        self.classifier = [
            Exit(self.num_classes, self.head_channels or width * self.scale_factors[-1],
                 self.dropout, unit, self.dtype) for width in widths.values()]

    def _node(self, layer: Layer, scale: int) -> dict[str, int]:
        """Channels of a `Node`."""
        features = self.growth * self.scale_factors[scale]
        down = layer.reads_finer(scale)
        out = features // 2 if down else features

        def inner(s):
            return min(layer.width * self.scale_factors[s], out * self.bottleneck_factors[s])

        return {"features": features, "inner": inner(scale),
                "inner_down": inner(scale - 1) if down else 0}

    @property
    def num_scales(self) -> int:
        """Number of scales; the last is the coarsest, which the exits read."""
        return len(self.scale_factors)

    @property
    def num_stages(self) -> int:
        """Number of segments, and of exits, that `run_stage` and `run_exit` accept, 1-based."""
        return self.num_blocks

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> state: a dict of maps (B, T, h, w, C), 'scale0' (finest) and so on."""
        maps = self.blocks[0][0](x_BTHWC, train)
        return {f"scale{s}": x for s, x in enumerate(maps)}

    def run_stage(self, stage: int, state, train: bool = False):
        """State before block `stage` (1-based) -> state after it, ready for `run_exit(stage)`."""
        maps, segment = dict(state), self.segments[stage - 1]
        for number, scale in segment.nodes:
            layer = self.plan[number - 1]
            finer = maps[f"scale{scale - 1}"] if layer.reads_finer(scale) else None
            x = self.blocks[layer.block][layer.index](
                scale - layer.finest, maps[f"scale{scale}"], finer, train)
            if layer.transition:
                x = self.blocks[layer.block][layer.index + 1](scale - layer.finest, x, train)
            maps[f"scale{scale}"] = x
        return {f"scale{s}": maps[f"scale{s}"] for s in segment.kept}

    def run_exit(self, stage: int, state, train: bool = False):
        """Exit `stage` (1-based) -> (frame logits (B,T,K), what its linear layer reads (B,T,C))."""
        return self.classifier[stage - 1](state[f"scale{self.num_scales - 1}"], train)

    def pool_exit(self, stage: int, state, train: bool = False):
        """What the linear layer of exit `stage` (1-based) reads, (B, T, C)."""
        return self.classifier[stage - 1].pool(state[f"scale{self.num_scales - 1}"], train)

    def run_head(self, state, train: bool = False):
        """The last exit -> (logits (B, K), what its linear layer reads (B, T, C))."""
        logits_BTK, pooled_BTC = self.run_exit(self.num_stages, state, train)
        return logits_BTK.mean(axis=1), pooled_BTC

    def classify(self, features):
        """The linear layer of the last exit alone, on any (..., C) of the kind in 'pooled'."""
        return self.classifier[-1].fc(features)

    def __call__(self, x_BTHWC, train: bool = False):
        """Forward pass through all exits.

        Args:
            x_BTHWC: normalised clip (B, T, H, W, 3).
            train: batch statistics and dropout on; needs the 'dropout' rng and mutable
                'batch_stats'.

        Returns:
            logits (B, K) of the last exit, averaged over frames, and a dict: 'exit1'... (B, T, K)
            logits per frame of each exit; 'stage1'... (B, T, h, w, C) the coarsest map after each
            block; 'features' (the last one); 'pooled' (B, T, C) what the last linear layer reads.
            If not `lazy`, also all scales after the stem ('stem_scale0', ...) and after each block
            ('stage1_scale0', ...).
        """
        state = self.run_stem(x_BTHWC, train)
        coarsest = f"scale{self.num_scales - 1}"
        out = {} if self.lazy else {f"stem_{name}": x for name, x in state.items()}
        for k in range(1, self.num_stages + 1):
            state = self.run_stage(k, state, train)
            out[f"stage{k}"] = out["features"] = state[coarsest]
            if not self.lazy:
                out.update({f"stage{k}_{name}": x for name, x in state.items()})
            out[f"exit{k}"], out["pooled"] = self.run_exit(k, state, train)
        return out[f"exit{self.num_stages}"].mean(axis=1), out


def msdnet(**options):
    """MSDNet-38: 5 exits, 35 dense layers, 4 scales (options change any of it)."""
    return MSDNet(**options)
