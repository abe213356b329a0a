"""What a gate sees of the maps it decides about: one number or more for each channel of a clip.

VA-RED2's gate (arXiv 2102.07887) sees a mean over frames and positions. That is the same whether a clip moves
or stands still, and whether a map is flat or full of detail: nothing is left of the redundancy that it is to
decide about. The other inputs are ours; `docs/va_red2.md` says what they change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from effvid_jax.errors import UserError

INPUTS = ("mean", "difference", "deviation")


def parse(text: str) -> tuple[str, ...]:
    """'difference+mean' -> ('mean', 'difference'): words of `INPUTS`, in its order.

    Raises:
        UserError: another word, a word twice, or none.
    """
    words = text.split("+")
    if set(words) - set(INPUTS) or len(set(words)) < len(words):
        raise UserError(f"gate_inputs={text!r}: expected one of {', '.join(INPUTS)}, or several of them "
                        f"joined by '+', such as 'mean+difference'.")
    return tuple(word for word in INPUTS if word in words)


def seen(x, sees: Sequence[str]):
    """What a gate sees of maps (B, T, H, W, C), (B, T, C) or (B, H, W, C): (B, C times len(sees)).

    'mean'        over frames and positions, the paper's
    'difference'  mean of |x[t + 1] - x[t]|: how much of it moves; 0 for a clip of one frame
    'deviation'   standard deviation over the positions of a frame, its mean over frames: how much it varies
                  in space

    Raises:
        UserError: differences of images, or deviations of maps without positions.
    """
    in_time, wide = x.ndim in (3, 5), jnp.promote_types(jnp.float32, x.dtype)
    space = tuple(range(2 if in_time else 1, x.ndim - 1))
    for word, fits in (("difference", in_time), ("deviation", bool(space))):
        if word in sees and not fits:
            raise UserError(f"gate_inputs='{'+'.join(sees)}': maps of shape {x.shape[1:]} have no "
                            f"{'frames' if space else 'positions'} to take the {word} over.")
    found = []
    for word in sees:
        if word == "mean":
            found.append(x.mean(axis=tuple(range(1, x.ndim - 1)), dtype=wide))
        elif word == "difference":
            moved = jnp.abs(jnp.diff(x.astype(wide), axis=1)).sum(axis=tuple(range(1, x.ndim - 1)))
            found.append(moved / max(1, math.prod(x.shape[1:-1]) - math.prod(x.shape[2:-1])))
        else:  # the smallest number keeps the gradient of a constant map finite
            deviation = jnp.sqrt(x.astype(wide).var(axis=space) + 1e-10)
            found.append(deviation.mean(axis=1) if in_time else deviation)
    return found[0] if len(found) == 1 else jnp.concatenate(found, axis=-1)


def operations(shape: Sequence[int], sees: Sequence[str]) -> int:
    """Operations of `seen` for a clip (T, H, W, C), as they are charged to the gate.

    The mean is free, as pooling is everywhere in the count of a network; of what we add, every number that is
    subtracted or squared counts as a multiply-add.
    """
    size = math.prod(shape)
    return ("difference" in sees) * (size - size // shape[0]) + ("deviation" in sees) * size


class RunningNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) over clips with running statistics, in training too: (B, C) -> (B, C).

    Unlike a batch norm it lets a clip be seen alike whatever stands beside it in the batch. Small numbers,
    such as frame differences, and large ones weigh the same afterwards.

    Attributes:
        momentum: share of the old statistics that a training step keeps.
        eps: added to the variance.
    """

    momentum: float = 0.9
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x, train: bool):
        mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:], jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, x.shape[-1:], jnp.float32)
        y = (x - mean.value) * jax.lax.rsqrt(var.value + self.eps)
        if train and not self.is_initializing():
            for running, now in ((mean, x.mean(axis=0)), (var, x.var(axis=0))):
                running.value = (self.momentum * running.value
                                 + (1 - self.momentum) * jax.lax.stop_gradient(now))
        return y
