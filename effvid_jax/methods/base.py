"""What the train loop asks of a method, and what methods share.

A paper is a `Method`: pure functions over `Variables`. The loop (`effvid_jax/train.py`) knows nothing
else of it; a frozen teacher is a part of `Variables` that rides along without a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from effvid_jax import cost
from effvid_jax.backbones import blocks, make_backbone
from effvid_jax.exits import executor, network

MEAN_RGB = (123.675, 116.28, 103.53)  # of 0-255 values; mmaction2's img_norm_cfg
STD_RGB = (58.395, 57.12, 57.375)


@flax.struct.dataclass
class Variables:
    """Everything a method's functions read.

    Attributes:
        params: trained parameters.
        stats: running statistics of normalisation layers ('batch_stats').
        frozen: parameters and statistics that never change, such as a teacher's; {} if none. Not part
            of checkpoints.
    """

    params: Any
    stats: Any
    frozen: Any = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class Prediction:
    """Scores of a batch with their cost.

    Attributes:
        logits: (B, K); for several views the logarithm of the mean probability.
        gmacs: (B,) multiply-adds in 10^9 that each example cost, all views together.
        extra: whatever else a method tells, one row per example; it goes to `Method.analyse`.
            'clip_answers' (B, V), the class each view would give, is the accuracy of single clips.
    """

    logits: Any
    gmacs: Any
    extra: Any = flax.struct.field(default_factory=dict)


class Adaptive(NamedTuple):
    """A network in segments, for `effvid_jax.exits.executor`: videos that are done really stop.

    Attributes:
        steps: the segments.
        score: logits (B, K) -> (B,).
        thresholds: variables -> (m,), one a segment.
        gmacs: (m,) cumulative cost of stopping after each segment.
        order: in which the frames of a clip are consumed.
        full: (variables, frames) -> logits: the same network without early exits, for comparison.
        full_gmacs: what that costs.
    """

    steps: Sequence[executor.Step]
    score: Callable
    thresholds: Callable
    gmacs: Any
    order: tuple[int, ...]
    full: Callable
    full_gmacs: float


class Method(NamedTuple):
    """A paper, as the train loop sees it.

    Attributes:
        init: (rng, clip_shape_BTHWC) -> Variables, with the frozen part loaded.
        loss: (params, variables, batch, rng) -> (scalar loss, (new stats, dict of scalars)).
        predict: (variables, batch) -> Prediction, for a batch with views (B,V,T,H,W,3).
        resolution: side in pixels that the evaluated network sees; 0: as the pipeline crops.
        references: predict functions of frozen networks by name ('teacher'); they are evaluated
            before training, so that a wrongly loaded one shows at step 0.
        calibrate: None, or (variables, rows) -> Variables: sets what is chosen on the held-out split
            'calib' of the training data, such as thresholds. Called once after the last step with
            `rows` as for `analyse`, and with None after restoring: the config may ask for another
            choice from what was recorded.
        analyse: None, or (rows, variables, workdir, split, class_names) -> dict of further metrics,
            called at the end of an evaluation; may write files into `workdir` ('' if none). `rows` has
            an array a name, with one row an example: 'name' (videos), 'id', 'label', 'scores' (N, K)
            probabilities, 'gmacs' (N,), and everything in `Prediction.extra`.
        adaptive: None, or the network in segments.
    """

    init: Callable
    loss: Callable
    predict: Callable
    resolution: int
    references: Mapping[str, Callable] = {}
    calibrate: Callable | None = None
    analyse: Callable | None = None
    adaptive: Adaptive | None = None


def normalise(video):
    """uint8 RGB (..., 3) -> float32 (x - mean) / std per channel, on the device.

    Floating-point clips pass through: they are taken as normalised.
    """
    if jnp.issubdtype(video.dtype, jnp.floating):
        return video
    return (video.astype(jnp.float32) - jnp.asarray(MEAN_RGB)) / jnp.asarray(STD_RGB)


def resize(x, size: int):
    """Bilinear resize of (..., H, W, C) to `size` x `size` (0: as it is), half-pixel, no antialias.

    Torch's `interpolate(mode='bilinear', align_corners=False)`, which ResKD uses for its student's
    input and for its features; `jax.image.resize` would antialias by default.
    """
    if not size or x.shape[-3:-1] == (size, size):
        return x
    return jax.image.resize(x, (*x.shape[:-3], size, size, x.shape[-1]), "bilinear", antialias=False)


def build_backbone(model, num_classes: int, **fields) -> nn.Module:
    """The module that a `config.model` describes.

    Args:
        model: config with `backbone`, `dropout`, `dtype`, `bn_groups` (0 = one group per device),
            `options` (further fields of the module), and maybe `exits` (see `backbones/exits.py`).
        num_classes: K.
        **fields: further fields of the module that no config can hold, such as `conv`.
    """
    common = dict(dropout=model.dropout, dtype=compute_dtype(model.dtype),
                  bn_groups=model.bn_groups or jax.device_count())
    make = partial(make_backbone, model.backbone, num_classes=num_classes, **common,
                   **_tuples(model.options), **fields)
    if not model.get("exits"):
        return make()
    return network.make_exit_net(model.exits, make, num_classes, **common)


def compute_dtype(name: str):
    """Module dtype of a config's 'float32' (None: follow the inputs) or 'bfloat16'."""
    known = {"float32": None, "bfloat16": jnp.bfloat16}
    if name not in known:
        raise ValueError(f"config.model.dtype={name!r}: expected one of {sorted(known)}.")
    return known[name]


def _tuples(options) -> dict[str, Any]:
    """Config options as hashable values: modules are static arguments of jit."""
    return {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in dict(options).items()}


def init_backbone(model: nn.Module, rng, clip_shape_BTHWC) -> tuple[Any, Any]:
    """Random (params, stats) of a backbone; one clip's shape is enough.

    Raises:
        ValueError: the clip is too small for the network.
    """
    shape = (1, *clip_shape_BTHWC[1:])
    cost.check_resolution(
        model, shape[1:], f"{type(model).__name__} (config.model.resolution, or config.data.crop if that "
        f"is 0)")
    variables = jax.jit(lambda key: model.init(key, jnp.zeros(shape)))(rng)
    return variables["params"], variables.get("batch_stats", {})


def predict_clips(model: nn.Module, resolution: int) -> Callable:
    """A `predict` for a plain network: every view is classified, probabilities are averaged.

    Returns:
        (variables of the network as a dict, batch) -> Prediction; `average_clips='prob'` of mmaction2.
    """

    def predict(variables, batch) -> Prediction:
        video = batch["video"]  # (B, V, T, H, W, 3)
        b, v = video.shape[:2]
        clips = resize(normalise(video.reshape(b * v, *video.shape[2:])), resolution)
        logits, _ = model.apply(variables, clips)
        logits = logits.astype(jnp.float32).reshape(b, v, -1)
        gmacs = cost.gmacs(model, clips.shape[1:]) * v
        return Prediction(mean_of_views(logits), jnp.full((b,), gmacs, jnp.float32), clip_answers(logits))

    return predict


def mean_of_views(logits_BV):
    """(B, V, ..., K) -> (B, ..., K): logarithm of the views' mean probability; logits of a single view."""
    return logits_BV[:, 0] if logits_BV.shape[1] == 1 else blocks.log_mean_softmax(logits_BV, axis=1)


def clip_answers(logits_BVK) -> dict[str, Any]:
    """What goes into `Prediction.extra` for the accuracy of single clips, if there are several views."""
    return {} if logits_BVK.shape[1] == 1 else {"clip_answers": logits_BVK.argmax(axis=-1)}


def batch_accuracy(logits_BK, labels_B, weights_B):
    """Top-1 of a training batch, as the reference logs it."""
    hit = (logits_BK.argmax(axis=-1) == labels_B).astype(jnp.float32)
    return (hit * weights_B).sum() / jnp.maximum(weights_B.sum(), 1e-9)
