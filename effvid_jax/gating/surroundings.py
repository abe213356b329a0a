"""What surrounds gated convolutions while a network is traced, and no field of theirs can say.

    pieces    frames that are computed apart where a clip arrives piece by piece (`effvid_jax/exits/`): a gate
              decides about each of them by what it sees of it, as it will when the later ones are not there
    used      how far gates are in use, a number from 0 to 1 that may be traced: 0 is the plain convolution,
              1 the gated one, and in between weights move from one to the other

Outside of both a clip is one piece, and gates are in use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import jax.numpy as jnp

_pieces: list[Sequence[tuple[int, int]]] = []
_used: list = []


@contextlib.contextmanager
def pieces(bounds: Sequence[tuple[int, int]]):
    """What is traced inside gets its frames in pieces (start, stop), one after the other."""
    _pieces.append(bounds)
    try:
        yield
    finally:
        _pieces.pop()


@contextlib.contextmanager
def used(share):
    """What is traced inside has gates that are in use as far as this; None: all the way."""
    _used.append(share)
    try:
        yield
    finally:
        _used.pop()


def cut(x):
    """Maps (B, T, ...) as a list of their pieces; of one without time, or without pieces, that alone."""
    if not _pieces or x.ndim not in (3, 5) or len(_pieces[-1]) == 1:
        return [x]
    bounds = _pieces[-1]
    assert bounds[-1][1] == x.shape[1], (bounds, x.shape)
    return [x[:, start:stop] for start, stop in bounds]


def as_used(V, sizes: Sequence[int]):
    """Weights (B, sum(sizes)) of a gate, of one axis after the other, as far as gates are in use."""
    if not _used or _used[-1] is None:
        return V
    share = jnp.asarray(_used[-1], V.dtype)
    plain = jnp.concatenate([jnp.eye(1, size, dtype=V.dtype) for size in sizes], axis=1)
    return jnp.where(share >= 1, V, plain + share * (V - plain))
