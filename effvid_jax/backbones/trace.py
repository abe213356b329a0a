"""What a network computes, noted while it is traced: `effvid_jax.cost` reads multiply-adds from it.

The layers of `blocks.py` note themselves; nothing is compiled or run for that, and outside `recording`
noting does nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation of a traced forward pass.

    Attributes:
        kind: 'conv', 'linear', 'matmul' (a product of two activations), 'norm' (batch norm),
            'layer_norm', 'relu' (and ReLU6), 'act' (any other activation), 'max_pool', 'avg_pool'
            (a window), 'global_avg_pool' (PyTorch's adaptive pooling) or 'correlation' (elementwise
            products of neighbouring frames). The conventions of `effvid_jax.cost` treat each
            differently.
        path: module path, such as 'layer1_0/conv1' ('' for functions outside a module).
        in_shape: shape of the (first) input.
        out_shape: shape of the output.
        macs: multiply-adds of the products alone; 0 for everything that is no product.
        bias: whether a bias is added.
        kernel: kernel size of a convolution or pooling, else ().
        strides: stride per kernel axis of a convolution or pooling, else ().
    """

    kind: str
    path: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    macs: int = 0
    bias: bool = False
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()


_tapes: list[list[Op]] = []
_shapes_only = False


def shapes_only() -> bool:
    """Whether what is traced is never run, see `recording`."""
    return _shapes_only


@contextlib.contextmanager
def recording(shapes_only: bool = False):
    """Collects the `Op`s of everything traced inside, in order: `with recording() as tape: ...`.

    Args:
        shapes_only: leave out arithmetic that takes time to trace and changes no shape, for traces that
            are never run: half of the time of a deep network's. What is inside must not `jax.jit`
            functions that use this file's, whose trace would be remembered.
    """
    global _shapes_only
    tape: list[Op] = []
    before, _shapes_only = _shapes_only, shapes_only
    _tapes.append(tape)
    try:
        yield tape
    finally:
        _shapes_only = before
        _tapes[:] = [other for other in _tapes if other is not tape]  # another one may be equal


@contextlib.contextmanager
def silence():
    """Nothing traced inside is noted: for what is no part of a reference's forward pass."""
    tapes, _tapes[:] = _tapes[:], []
    try:
        yield
    finally:
        _tapes[:] = tapes


def note(kind: str, path, x, y, macs: int = 0, bias: bool = False, kernel=(), strides=()) -> None:
    """Adds an operation to the tapes that are recording; does nothing otherwise."""
    if _tapes:
        op = Op(kind, "/".join(path), tuple(x.shape), tuple(y.shape), int(macs), bias, tuple(kernel),
                tuple(strides))
        for tape in _tapes:
            tape.append(op)
