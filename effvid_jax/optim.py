"""Optimizers, learning-rate schedules and parameter groups of the published recipes.

Order of one SGD update, as in PyTorch: mean gradient -> clip by global norm -> add weight decay ->
momentum -> learning rate. Sources: mmcv 1.4.0 `lr_updater.py`, `optimizer.py` (runner/hooks) and
`default_constructor.py`; ResKD's `tsm_optimizer_constructor.py`, `rkd_optimizer_constructor.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from effvid_jax.errors import UserError

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine_epoch", "cosine", "step", "poly", "constant")
POLY_POWER = 0.9  # of CSAILVision/semantic-segmentation-pytorch


def _is_classifier(path: tuple[str, ...]) -> bool:
    return path[0] == "fc" or path[0].startswith("head_")


# Parameter groups: name -> (leaf kind, path) -> (learning-rate factor, weight-decay factor).
# Leaf kinds: 'weight', 'bias', 'norm' (scale and bias of a normalisation), 'table' (relative positions).
GROUPS: dict[str, Callable[[str, tuple[str, ...]], tuple[float, float]]] = {
    # One group. Also what every released ResKD student runs with: mmcv 1.4.0 returns before it reaches
    # the rule that RKDOptimizerConstructor writes down.
    "single": lambda kind, path: (1.0, 1.0),
    # TSMOptimizerConstructor (fc_lr5=False) of the teachers, and the written intent of the ResKD one.
    "tsm": lambda kind, path: {"bias": (2.0, 0.0), "norm": (1.0, 0.0)}.get(kind, (1.0, 1.0)),
    # The same with fc_lr5=True, TSM's own recipe when the classes are new ones: classifiers learn faster.
    "tsm_fc5": lambda kind, path: {
        "bias": (10.0 if _is_classifier(path) else 2.0, 0.0), "norm": (1.0, 0.0),
    }.get(kind, (5.0 if _is_classifier(path) else 1.0, 1.0)),
    # CSAILVision/semantic-segmentation-pytorch (`group_weight` in train.py): no decay of biases and norms.
    "weights": lambda kind, path: (1.0, 0.0) if kind in ("bias", "norm") else (1.0, 1.0),
    # VA-RED2 from a trained static network: gates that move as fast as weights close before the weights
    # have learned to do without them. Ours.
    "gates": lambda kind, path: (0.1, 0.0) if "gate" in path else (1.0, 1.0),
    # The same with AdamW, whose steps have one size whatever the gradient: what lets a gate's answers differ
    # between clips is noise at first and moves a tenth as fast, the bias that opens and closes it does not.
    "calm_gates": lambda kind, path: ((1.0 if path[-1] == "beta" else 0.1, 0.0) if "gate" in path else
                                      (1.0, 1.0)),
    # As `gates` where they come in when half of a run is over and the rate has fallen: a tenth of what is
    # left of it moves them too little to close. Ours.
    "late_gates": lambda kind, path: (0.5, 0.0) if "gate" in path else (1.0, 1.0),
    # LeapLabTHU/AdaFocusV2, scripts/train.sh, and Uni-AdaFocus, README: rates by sub-network.
    "adafocus_v2": lambda kind, path: ({"policy": 0.1, "glance": 0.5, "head": 5.0}.get(path[0], 1.0), 1.0),
    "uni_adafocus": lambda kind, path: ({
        "where": 0.2, "when": 0.2, "glance": 0.5, "aux": 0.5, "head_glance": 20.0, "head_focus": 20.0,
    }.get(path[0], 1.0), 1.0),
    # Video Swin as it executes: mmcv takes the longest matching key, so 'backbone' beats 'norm'.
    "swin": lambda kind, path: ((1.0, 1.0) if path[0] == "fc" else
                                (1.0, 0.0) if kind == "table" else (0.1, 1.0)),
}


def make_optimizer(config, steps_per_epoch: int, num_steps: int,
                   seen: Callable[[Any], Any] | None = None) -> optax.GradientTransformation:
    """The optimizer of a `config.optim`.

    Args:
        config: fields `name` ('sgd', 'adamw'), `lr`, `momentum`, `weight_decay`, `groups`, `clip_norm`
            (0 = off), `accumulate` (micro-steps per update), maybe `frozen` (see `hold`), and those of
            `make_schedule`.
        steps_per_epoch: micro-steps in one pass over the training split.
        num_steps: micro-steps of the whole run.
        seen: see `make_schedule`.

    Returns:
        A transformation whose updates are added to the parameters.

    Raises:
        UserError: unknown name, groups or schedule.
    """
    for field, known in (("name", OPTIMIZERS), ("groups", tuple(GROUPS))):
        if config[field] not in known:
            raise UserError(f"config.optim.{field}={config[field]!r}: expected one of {list(known)}.")
    schedule = make_schedule(config, steps_per_epoch, num_steps, seen)
    every = config.accumulate
    # The reference counts micro-steps ("iterations"): update n happens at iteration (n + 1) * k - 1.
    rate = schedule if every == 1 else lambda n: schedule((n + 1) * every - 1)
    decay = add_decay(config.weight_decay, config.groups)
    limit = float(config.clip_norm)  # an integer of more than 32 bits gets into no array
    steps = [clip_by_global_norm(limit)] if limit else []
    if config.name == "sgd":
        steps += [decay, optax.trace(config.momentum)]
    else:  # torch's AdamW: decoupled decay, scaled by the group's learning rate
        steps += [optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8), decay]
    steps += [scale_by_group(config.groups), optax.scale_by_learning_rate(rate)]
    if frozen := config.get("frozen", ""):  # nothing moves them, decay and momentum neither
        steps.append(optax.stateless(lambda updates, _: _where(frozen, jnp.zeros_like, updates)))
    tx = optax.chain(*steps)
    return tx if every == 1 else optax.MultiSteps(tx, every).gradient_transformation()


def make_schedule(config, steps_per_epoch: int, num_steps: int,
                  seen: Callable[[Any], Any] | None = None) -> Callable[[Any], Any]:
    """Learning rate as a function of the step.

    Args:
        config: `lr`; `schedule`: 'cosine_epoch' (constant inside an epoch: the reference's
            by_epoch=True), 'cosine' (every step), 'step' (times 0.1 at each of `milestones`, in epochs),
            'poly' (what is left of the run, to the power of 0.9) or 'constant'; `warmup_epochs`, linear per
            step from `warmup_ratio`.
        steps_per_epoch, num_steps: micro-steps.
        seen: step -> micro-step that the schedule is read at, where that is another one (`course.py`).

    Raises:
        UserError: an unknown schedule; no step at all, or more than an array can count.
    """
    if not 1 <= num_steps < 2**31:
        raise UserError(f"config.train.num_epochs and num_steps ask for {num_steps} steps, with "
                        f"{steps_per_epoch} steps per epoch: expected at least 1 and less than 2**31.")
    epochs = max(num_steps / steps_per_epoch, 1e-9)
    pi = math.pi

    def regular(step):
        epoch = step // steps_per_epoch
        if config.schedule == "cosine_epoch":
            return config.lr * 0.5 * (1 + jnp.cos(pi * jnp.minimum(epoch / math.ceil(epochs), 1.0)))
        if config.schedule == "cosine":
            return config.lr * 0.5 * (1 + jnp.cos(pi * jnp.minimum(step / num_steps, 1.0)))
        if config.schedule == "step":
            passed = sum(jnp.where(epoch >= m, 1.0, 0.0) for m in config.milestones)
            return config.lr * 0.1**passed
        if config.schedule == "poly":
            return config.lr * (1 - jnp.minimum(step / num_steps, 1.0)) ** POLY_POWER
        return config.lr * jnp.ones(())

    if config.schedule not in SCHEDULES:
        raise UserError(f"config.optim.schedule={config.schedule!r}: expected one of {list(SCHEDULES)}.")
    warmup_steps = config.warmup_epochs * steps_per_epoch

    def schedule(step):
        step = step if seen is None else seen(step)
        value = regular(step)
        if warmup_steps:
            k = (1 - jnp.minimum(step / warmup_steps, 1.0)) * (1 - config.warmup_ratio)
            value = value * (1 - k)
        return value

    return schedule


def hold(params, frozen: str):
    """Parameters of which those that `frozen` matches get no gradient: what only they need is not computed.

    Args:
        params: nested dicts.
        frozen: regular expression, searched for in paths such as 'layer1_0/conv1/kernel'; '' for none.
    """
    return _where(frozen, jax.lax.stop_gradient, params) if frozen else params


def check_frozen(params, frozen: str) -> None:
    """Raises UserError where `config.optim.frozen` matches no parameter, or all of them.

    Args:
        params: nested dicts of arrays or shapes.
        frozen: see `hold`.
    """
    paths = list(flax.traverse_util.flatten_dict(params, sep="/"))
    found = sum(re.search(frozen, path) is not None for path in paths)
    if frozen and found in (0, len(paths)):
        raise UserError(f"config.optim.frozen={frozen!r} matches {'all' if found else 'none'} of the "
                        f"{len(paths)} parameters, such as {paths[0]} and {paths[-1]}: expected a regular "
                        f"expression of those that stay as they are, or '' to train all.")


def _where(pattern: str, change: Callable[[Any], Any], tree):
    """`tree` with the leaves changed whose path the pattern is found in."""
    flat = flax.traverse_util.flatten_dict(tree, sep="/")
    return flax.traverse_util.unflatten_dict(
        {path: change(x) if re.search(pattern, path) else x for path, x in flat.items()}, sep="/")


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales all gradients by min(1, max_norm / (norm + 1e-6)): torch's `clip_grad_norm_`."""

    def update(updates, state, params=None):
        del params
        factor = jnp.minimum(1.0, max_norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def add_decay(weight_decay: float, groups: str) -> optax.GradientTransformation:
    """Adds `weight_decay` x (the group's factor) x parameter to each update."""

    def update(updates, state, params):
        factors = group_factors(params, groups)[1]
        return jax.tree.map(lambda g, p, f: g + (weight_decay * f) * p, updates, params, factors), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_group(groups: str) -> optax.GradientTransformation:
    """Multiplies each update by its group's learning-rate factor."""

    def update(updates, state, params):
        factors = group_factors(params, groups)[0]
        return jax.tree.map(lambda g, f: g * f, updates, factors), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def averaged(old, new, step, decay: float, every: int = 1):
    """Running averages after a step: decay x old + (1 - decay) x new.

    The decay of update n is min(decay, (1 + n) / (10 + n)), as of TensorFlow's ExponentialMovingAverage: the
    first weights, which are random, are soon forgotten.

    Args:
        old, new: trees of arrays; those that are no floating-point numbers are taken as they are.
        step: that was made, from 0.
        decay: in [0, 1).
        every: steps that make an update; between two of them nothing changes.
    """
    updates = (step + 1) // every
    kept = jnp.minimum(decay, (1 + updates) / (10 + updates))
    kept = kept if every == 1 else jnp.where((step + 1) % every == 0, kept, 1.0)

    def average(before, now):
        if not jnp.issubdtype(now.dtype, jnp.floating):
            return now
        return (kept * before + (1 - kept) * now).astype(now.dtype)

    return jax.tree.map(average, old, new)


def group_factors(params, groups: str):
    """Two trees like `params`: learning-rate factors and weight-decay factors of `GROUPS[groups]`."""
    flat = flax.traverse_util.flatten_dict(params)
    pairs = {path: GROUPS[groups](leaf_kind(path, flat), path) for path in flat}
    return tuple(flax.traverse_util.unflatten_dict({path: pair[i] for path, pair in pairs.items()})
                 for i in (0, 1))


def leaf_kind(path: tuple[str, ...], flat) -> str:
    """'norm' for the scale and bias of a normalisation, else 'bias', 'table' or 'weight'."""
    if path[:-1] + ("scale",) in flat:
        return "norm"
    if path[-1].endswith("bias_table"):
        return "table"
    return "bias" if path[-1] == "bias" else "weight"
