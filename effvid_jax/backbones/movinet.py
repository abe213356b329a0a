"""MoViNet A0 to A5: mobile video networks, as a whole clip at once ('base') or frame by frame ('stream').

Sources: MoViNets, arXiv 2103.11511; Atze00/MoViNet-pytorch (`movinets/models.py`, `config.py`), a third-party
port of the authors' TensorFlow code with their weights. Module names follow the port.

    clip (B,T,H,W,3) ─ conv1 1x3x3 ─ stage 1..5 ─ stage 6 (1x1x1) = features (B,T,h,w,480) ─ mean over T',h,w
                     ─ linear 2048, swish ─ logits

A block is shortcut(x) + alpha * project(squeeze(depthwise(expand(x)))), alpha a number that starts at 0. Time
is never reduced. Spatial padding is TensorFlow's SAME.

    stream   differs from base
             depthwise kernels are k x k, batch norm, activation, then kT x 1: time looks back only
             the squeeze-excitation reads the mean of all frames so far beside the present frame's
             hard swish, and clip(0.2 x + 0.5, 0, 1) as gate

A stream network answers for a clip what it answers after its last frame when the frames come one by one:

    model = make_backbone("movinet_a0_stream", num_classes=600)
    state = movinet.init_state(model, batch=1, size=172)
    step = jax.jit(functools.partial(movinet.step, model))
    for frames_BTHWC in video:  # any number of frames at a time
        state, logits_BK = step(variables, state, frames_BTHWC)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.backbones import blocks
from effvid_jax.backbones.backbone import Backbone
from effvid_jax.backbones.efficientnet_lite import both_sides, pad_rest
from effvid_jax.backbones.mobilenet_v2 import round_channels
from effvid_jax.backbones.x3d import SqueezeExcite
from effvid_jax.errors import UserError


class Stage(NamedTuple):
    """Channels, spatial stride of the first block, and of each block channels inside, kernel in time and in
    space."""

    features: int
    stride: int
    blocks: tuple[tuple[int, int, int], ...]


def _stage(features: int, stride: int, text: str) -> Stage:
    """'24:15 80:33x3' -> blocks: three of 80 channels with a kernel of 3 in time and 3x3 in space."""
    rows = []
    for word in text.split():
        inside, kernel = word.split(":")
        kernel, _, count = kernel.partition("x")
        rows += [(int(inside), int(kernel[0]), int(kernel[1]))] * int(count or 1)
    return Stage(features, stride, tuple(rows))


class Size(NamedTuple):
    """Channels of the stem and of the last map, and the stages."""

    stem: int
    last: int
    stages: tuple[Stage, ...]


SIZES: dict[str, Size] = {
    "a0": Size(8, 480, (
        _stage(8, 2, "24:15"), _stage(32, 2, "80:33x3"), _stage(56, 2, "184:53 112:33 184:33"),
        _stage(56, 1, "184:53 184:33x3"), _stage(104, 2, "384:53 280:15x2 344:15"))),
    "a1": Size(16, 600, (
        _stage(16, 2, "40:15 40:33"), _stage(40, 2, "96:33 120:33 96:33x2"),
        _stage(64, 2, "216:53 128:33 216:33 168:33 216:33"),
        _stage(64, 1, "216:53 216:33x2 128:33 128:15 216:33"),
        _stage(136, 2, "456:53 360:15x3 456:15 456:33 544:13"))),
    "a2": Size(16, 640, (
        _stage(16, 2, "40:15 40:33 64:33"), _stage(40, 2, "96:33 120:33 96:33x2 120:33"),
        _stage(72, 2, "240:53 160:33 240:33 192:33 240:33"),
        _stage(72, 1, "240:53 240:33x3 144:15 240:33"),
        _stage(144, 2, "480:53 384:15x2 480:15x2 480:33 576:13"))),
    "a3": Size(16, 744, (
        _stage(16, 2, "40:15 40:33 64:33 40:33"), _stage(48, 2, "112:33 144:33 112:33 112:15 144:33x2"),
        _stage(80, 2, "240:53 152:33 240:33 192:33 240:33"),
        _stage(88, 1, "264:53 264:33x3 160:15 264:33x3"),
        _stage(168, 2, "560:53 448:15x2 560:15x2 560:33 448:15x2 560:33 672:13"))),
    "a4": Size(24, 856, (
        _stage(24, 2, "64:15 64:33 96:33 64:33 96:33 64:33"),
        _stage(56, 2, "168:33x2 136:33x2 168:33x3 136:15 136:33"),
        _stage(96, 2, "320:53 160:33 320:33 192:33 320:33 160:33 320:33 256:33 320:33"),
        _stage(96, 1, "320:53 320:33x3 192:15 320:33x2 192:33 320:33x2"),
        _stage(192, 2, "640:53 512:15x2 640:15x2 640:33 512:15x2 640:15 768:15 640:15 640:33 768:33"))),
    "a5": Size(24, 992, (
        _stage(24, 2, "64:15x2 96:33 64:33 96:33 64:33"),
        _stage(64, 2, "192:53 152:33x3 192:33x3 152:33x2 192:33x2"),
        _stage(112, 2, "376:53 224:33 376:33x2 296:33 376:33 224:33 376:33x2 296:33 376:33x3"),
        _stage(120, 1, "376:53 376:33x3 224:15 376:33x2 224:33 376:33x3"),
        _stage(224, 2, "744:53 744:33 600:15x2 744:15x2 744:33 896:15 600:15x2 896:15 744:15 744:33 896:15 "
                       "600:15x2 744:15 744:33"))),
}


# --------------------------------------------------------------------------------------------- memory
def _kept(module: nn.Module, name: str, default):
    """What `module` has kept of earlier frames in the collection 'stream'."""
    return module.get_variable("stream", name) if module.has_variable("stream", name) else default


def _keep(module: nn.Module, **values) -> None:
    """Keeps values for later frames, where the collection is mutable."""
    if module.is_mutable_collection("stream") and not module.is_initializing():
        for name, value in values.items():
            module.put_variable("stream", name, value)


class CumulativeMean(nn.Module):
    """(B, T, C) -> means of all frames up to each one, those of earlier pieces of the stream included."""

    @nn.compact
    def __call__(self, x_BTC):
        b, t, c = x_BTC.shape
        wide = jnp.promote_types(jnp.float32, x_BTC.dtype)
        count_B = _kept(self, "count", jnp.zeros((b,), jnp.int32))
        sums = _kept(self, "sum", jnp.zeros((b, c), wide))[:, None] + jnp.cumsum(x_BTC.astype(wide), axis=1)
        _keep(self, count=count_B + t, sum=sums[:, -1])
        seen_BT = count_B[:, None] + jnp.arange(1, t + 1)
        return (sums / seen_BT[..., None]).astype(x_BTC.dtype)


class Past(nn.Module):
    """(B, T, h, w, C) -> (B, frames + T, h, w, C): maps before come first, zeros before a stream's first."""

    frames: int

    @nn.compact
    def __call__(self, x):
        before = _kept(self, "maps", jnp.zeros((x.shape[0], self.frames, *x.shape[2:]), x.dtype))
        x = jnp.concatenate([before, x], axis=1)
        _keep(self, maps=x[:, -self.frames:])
        return x


# --------------------------------------------------------------------------------------------- layers
def hard_gate(x):
    """clip(0.2 x + 0.5, 0, 1): TensorFlow's hard sigmoid."""
    blocks.note("act", (), x, x)
    return jnp.clip(0.2 * x + 0.5, 0, 1)


def _identity(x):
    return x


def same_avg_pool(x):
    """Means over 3x3 of stride 2, SAME padding is not counted: (B, T, H, W, C) -> half the size."""
    sizes = x.shape[-3:-1]
    pads = [blocks.same_padding(n, 3, 2) for n in sizes]
    inside = [np.convolve(np.ones(n), np.ones(3))[2 - before::2][:-(-n // 2)]  # positions within the map
              for n, (before, _) in zip(sizes, pads)]
    y = blocks.avg_pool(x, (1, 3, 3), (1, 2, 2), ((0, 0), *pads))
    return y * jnp.asarray(9 / np.outer(*inside), x.dtype)[..., None]


class Unit(nn.Module):
    """Convolution (kT, k, k), batch norm, activation; as `stream` k x k first, then kT x 1 over the past.

    Attributes:
        features, stride, groups: of the convolution; the stride is spatial.
        kernel: in time and in space.
        act: function after each batch norm.
        stream: see `MoViNet`.
        conv_type, norm: module classes.
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    groups: int = 1
    act: Callable = _identity
    stream: bool = False
    conv_type: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm

    def setup(self):
        (time, side), stride = self.kernel, self.stride
        inner = both_sides(side, stride)
        if not self.stream:
            self.conv = self.conv_type(self.features, (time, side, side), (1, stride, stride),
                                       (time // 2, inner, inner), self.groups)
        else:
            self.conv = self.conv_type(self.features, (side, side), stride, inner, self.groups)
            if time > 1:
                self.past = Past(time - 1)
                # As the reference has it, an image of frames times positions.
                self.conv_t = self.conv_type(self.features, (time, 1), 1, 0, self.groups)
                self.bn_t = self.norm()
        self.bn = self.norm()

    def __call__(self, x, train: bool = False):
        x = self.conv(pad_rest(x, self.kernel[1], self.stride), train)
        x = self.act(self.bn(x, train))
        if not self.stream or self.kernel[0] == 1:
            return x
        b, _, h, w, c = x.shape
        x = self.past(x).reshape(b, -1, h * w, c)
        return self.act(self.bn_t(self.conv_t(x, train).reshape(b, -1, h, w, c), train))


class StreamSqueeze(nn.Module):
    """Squeeze-excitation of every frame from its means and those of all frames so far."""

    hidden: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x_BTHWC):
        conv = partial(blocks.Conv, kernel_size=(1, 1), use_bias=True, dtype=self.dtype)
        now_BTC = blocks.global_avg_pool(x_BTHWC)
        so_far_BTC = CumulativeMean(name="mean")(now_BTC)
        y = jnp.concatenate([so_far_BTC, now_BTC], axis=-1)[:, :, None, None]
        y = blocks.hard_swish(conv(self.hidden, name="fc1")(y))
        return x_BTHWC * hard_gate(conv(x_BTHWC.shape[-1], name="fc2")(y))


class Block(nn.Module):
    """See the module docstring; (B,T,H,W,C) in and out."""

    in_features: int
    features: int
    inside: int
    kernel: tuple[int, int]
    stride: int
    stream: bool
    drop_path: float
    dtype: Any
    unit: blocks.ModuleDef

    def setup(self):
        act = blocks.hard_swish if self.stream else blocks.swish
        self.expand = self.unit(self.inside, act=act)
        self.deep = self.unit(self.inside, self.kernel, self.stride, self.inside, act)
        if self.stream:
            self.se = StreamSqueeze(round_channels(self.inside // 4 * 2), self.dtype)
        else:
            self.se = SqueezeExcite(round_channels(self.inside // 4), self.dtype, act=blocks.swish)
        self.project = self.unit(self.features)
        if self.stride > 1 or self.in_features != self.features:
            self.shortcut = self.unit(self.features)
        self.alpha = self.param("alpha", nn.initializers.zeros, ())
        self.drop_branch = blocks.DropPath(self.drop_path)

    def __call__(self, x, train: bool = False):
        y = self.project(self.se(self.deep(self.expand(x, train), train)), train)
        if self.stride > 1:
            x = same_avg_pool(x)
        if self.stride > 1 or self.in_features != self.features:
            x = self.shortcut(x, train)
        return blocks.once(x + self.alpha.astype(y.dtype) * self.drop_branch(y, train))


# --------------------------------------------------------------------------------------------- network
class MoViNet(Backbone):
    """MoViNet; see the module docstring for the flow.

    Attributes:
        num_classes: K.
        stages: see `Stage`.
        stage_sizes: how many blocks of each stage there are, the first ones; (): all of all stages.
        stem_features, last_features, hidden: channels of the stem, of the last map and of the linear layer
            before the classifier.
        width_mult: factor on all channels but the hidden ones (rounded to multiples of 8).
        stem: 'imagenet' (1x3x3 stride 2) or 'small' (1x3x3 stride 1, for clips of 32 to 64 pixels).
        stream: the causal network with a memory (collection 'stream'), see `step`.
        drop_path: block i of n (from 0) leaves its branch out at i/n of it in training, for whole clips.
        dropout: rate before the classifier.
        conv, norm: module classes; `conv` must keep the contract of `blocks.Conv`.
        bn_groups: see `blocks.BatchNorm.groups`.
        dtype: computation type (parameters stay float32).
    """

    num_classes: int
    stages: tuple[Stage, ...] = SIZES["a0"].stages
    stage_sizes: tuple[int, ...] = ()
    stem_features: int = SIZES["a0"].stem
    last_features: int = SIZES["a0"].last
    hidden: int = 2048
    width_mult: float = 1.0
    stem: str = "imagenet"
    stream: bool = False
    drop_path: float = 0.0
    dropout: float = 0.2
    conv: blocks.ModuleDef = blocks.Conv
    norm: blocks.ModuleDef = blocks.BatchNorm
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        if self.stem not in ("imagenet", "small"):
            raise UserError(f"stem={self.stem!r}: expected 'imagenet' or 'small'.")
        if len(self.stage_sizes) > len(self.stages):
            raise UserError(f"stage_sizes={self.stage_sizes}: there are {len(self.stages)} stages.")

        def scaled(channels: int) -> int:
            return round_channels(channels * self.width_mult)

        unit = partial(Unit, stream=self.stream, conv_type=partial(self.conv, dtype=self.dtype),
                       norm=partial(self.norm, groups=self.bn_groups, dtype=self.dtype, eps=1e-3))
        act = blocks.hard_swish if self.stream else blocks.swish
        channels, index = scaled(self.stem_features), 0
        self.conv1 = unit(channels, (1, 3), 2 if self.stem == "imagenet" else 1, act=act)
        sizes = self.stage_sizes or [len(stage.blocks) for stage in self.stages]
        for s, ((features, stride, rows), size) in enumerate(zip(self.stages, sizes)):
            blocks_of_stage = []
            for b, (inside, *kernel) in enumerate(rows[:size]):
                blocks_of_stage.append(Block(
                    channels, scaled(features), scaled(inside), tuple(kernel), stride if b == 0 else 1,
                    self.stream, self.drop_path * index / sum(sizes), self.dtype, unit))
                channels, index = scaled(features), index + 1
            setattr(self, f"layer{s + 1}", blocks_of_stage)
        self.conv7 = unit(scaled(self.last_features), act=act)
        if self.stream:
            self.mean = CumulativeMean()
        self.fc1 = blocks.Dense(self.hidden, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)
        self.fc = blocks.Dense(self.num_classes, dtype=self.dtype, kernel_init=nn.initializers.normal(0.01))

    @property
    def cumulative(self) -> bool:
        """Whether frames can come one by one, each answer being that for all frames so far."""
        return self.stream

    @property
    def num_stages(self) -> int:
        """Number of stages that `run_stage` accepts, 1-based; the last is the 1x1x1 convolution."""
        return len(self.stage_sizes or self.stages) + 1

    def run_stem(self, x_BTHWC, train: bool = False):
        """Clip -> map after the first convolution, at 1/2 ('imagenet') or all ('small') of the resolution."""
        return self.conv1(x_BTHWC, train)

    def run_stage(self, stage: int, x, train: bool = False):
        """Runs stage `stage` (1-based) on the map before it."""
        if stage == self.num_stages:
            return self.conv7(x, train)
        for block in getattr(self, f"layer{stage}"):
            x = block(x, train)
        return x

    def run_head(self, features_BTHWC, train: bool = False):
        """Last map -> (logits (B,K) of all frames so far, frame features (B,T,C))."""
        frames_BTC, clip_BC = blocks.clip_avg_pool(features_BTHWC)
        if self.stream:
            clip_BC = self.mean(frames_BTC)[:, -1]
        y = blocks.swish(self.fc1(clip_BC))
        return self.fc(self.drop(y, deterministic=not train)), frames_BTC

    def classify(self, features):
        """The head after pooling, on any (..., C): for logits per position or per frame."""
        return self.fc(blocks.swish(self.fc1(features)))


def init_state(model: MoViNet, batch: int, size: int | tuple[int, int]):
    """The memory of `batch` streams before their first frame: a tree of zeros.

    Args:
        model: a stream network.
        batch: number of streams.
        size: height and width in pixels, or the side of a square.

    Raises:
        UserError: a network that is not of the stream kind.
    """
    if not model.stream:
        raise UserError("this MoViNet sees whole clips: choose movinet_a0_stream or a larger stream network.")
    frame = jax.ShapeDtypeStruct((batch, 1, *blocks.per_axis(size, 2), 3), model.dtype or jnp.float32)

    def first(frame):
        variables = model.init(jax.random.key(0), frame)
        return model.apply(variables, frame, mutable=["stream"])[1]["stream"]

    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(first, frame))


def step(model: MoViNet, variables, state, frames_BTHWC):
    """(state after these frames, logits (B, K) of everything since the stream began).

    A pure function of arrays; compiled once for each T.

    Args:
        model: a stream network.
        variables: 'params' and 'batch_stats'.
        state: of `init_state`, or of the step before. Axis 0 of every leaf is the stream.
        frames_BTHWC: the next T frames, normalised.
    """
    (logits, _), kept = model.apply({**variables, "stream": state}, frames_BTHWC, mutable=["stream"])
    return kept["stream"], logits


def movinet(size: str, stream: bool = False, **options) -> MoViNet:
    """MoViNet of a size, 'a0' to 'a5'."""
    stem, last, stages = SIZES[size]
    return MoViNet(**{"stages": stages, "stem_features": stem, "last_features": last, "stream": stream,
                      **options})
