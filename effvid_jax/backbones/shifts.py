"""Temporal shift (TSM, Lin et al., ICCV 2019, arXiv 1811.08383): neighbouring frames mix at no cost."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from effvid_jax.errors import UserError


def temporal_shift(x, div: int = 8):
    """Offline temporal shift (TSM, arXiv 1811.08383 §3): mixes neighbouring frames at no cost.

    Channels [0, C//div) come from frame t+1, [C//div, 2*(C//div)) from frame t-1, zeros beyond the
    clip's ends, the rest stays.

    Args:
        x: (B, T, H, W, C).
        div: a 1/div share of the channels moves in each direction.

    Returns:
        (B, T, H, W, C).
    """
    fold = x.shape[-1] // div
    zeros = jnp.zeros_like(x[:, :1, ..., :fold])
    ahead = jnp.concatenate([x[:, 1:, ..., :fold], zeros], axis=1)
    behind = jnp.concatenate([zeros, x[:, :-1, ..., fold:2 * fold]], axis=1)
    return jnp.concatenate([ahead, behind, x[..., 2 * fold:]], axis=-1)


class OnlineShift(nn.Module):
    """One-sided temporal shift (TSM §4, "online"): a frame reads the frame before it, never a later one.

    Channels [0, C//div) come from the previous frame of the same group of frames, zeros for the first of
    a group; the rest stays. What is computed for the first frames therefore stays true when more
    frames arrive, which an early exit needs (Dynamic Inference, arXiv 2002.03342).

    A clip can arrive in pieces: apply with `mutable=['stream']`, and hand the returned collection
    'stream' to the next piece of the same group. A piece without 'stream' starts a group.

    Attributes:
        group: frames of a group; 0: all frames are one group.
        div: C//div channels are shifted.
    """

    group: int = 0
    div: int = 8

    @nn.compact
    def __call__(self, x_BTHWC):
        """(B, T, H, W, C) -> same shape. Positions count from the start of the piece."""
        x, fold = x_BTHWC, x_BTHWC.shape[-1] // self.div
        if not fold:
            return x
        moved, parts = x[..., :fold], []
        continued = self.has_variable("stream", "last")
        group = (not continued and self.group) or x.shape[1]
        for start in range(0, x.shape[1], group):
            before = (self.get_variable("stream", "last")[:, None] if continued else
                      jnp.zeros_like(moved[:, :1]))
            parts += [before, moved[:, start:min(start + group, x.shape[1]) - 1]]
        if self.is_mutable_collection("stream") and not self.is_initializing():
            self.put_variable("stream", "last", moved[:, -1])
        return jnp.concatenate([jnp.concatenate(parts, axis=1), x[..., fold:]], axis=-1)


KINDS = {"online": OnlineShift, "offline": temporal_shift, "none": None}


def named(shift):
    """A shift that is given as a word, as configs can, and any other one as it is.

    Raises:
        UserError: an unknown word.
    """
    if not isinstance(shift, str):
        return shift
    if shift not in KINDS:
        raise UserError(f"shift={shift!r}: expected one of {', '.join(KINDS)}.")
    return KINDS[shift]


def make_shift(shift):
    """A temporal shift as a function, in a module's `setup`: shifts with a state are module classes.

    Args:
        shift: None, a word of `KINDS`, a function of (B,T,H,W,C), or a module class (or a `partial` of one).
    """
    shift = named(shift)
    if shift is None:
        return lambda x: x
    kind = getattr(shift, "func", shift)
    return shift() if isinstance(kind, type) and issubclass(kind, nn.Module) else shift
