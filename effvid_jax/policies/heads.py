"""Heads that decide: a recurrent one over frames, with PyTorch's cells, and a linear one per frame.

A cell is PyTorch's LSTMCell or GRUCell: its order of gates and both biases, so that published weights fit.

    LSTM   i, f, g, o = W x + b + U h + d;   c' = s(f) c + s(i) tanh(g);   h' = s(o) tanh(c')
    GRU    r, z, n:  r = s(Wr x + br + Ur h + dr), z alike,  n = tanh(Wn x + bn + r (Un h + dn));
           h' = (1 - z) n + z h
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from effvid_jax.backbones import blocks, trace
from effvid_jax.errors import UserError


def lstm(state, x, product: Callable):
    """(h, c) after an input W x + b (B, 4 H); `product`: h -> U h + d."""
    h, c = state
    i, f, g, o = jnp.split(x + product(h), 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru(state, x, product: Callable):
    """(h,) after an input W x + b (B, 3 H); `product`: h -> U h + d."""
    h, = state
    x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(product(h), 3, axis=-1)
    z = jax.nn.sigmoid(x_z + h_z)
    return ((1 - z) * jnp.tanh(x_n + jax.nn.sigmoid(x_r + h_r) * h_n) + z * h,)


CELLS = {"lstm": (lstm, 4, 2), "gru": (gru, 3, 1)}  # function, gates, arrays of the state


class Loop(NamedTuple):
    """A recurrence that is ready to run over frames, in a loop of the caller's.

    Attributes:
        inputs: (T, B, ...), W x + b of every frame.
        state: before the first frame: a tuple of (B, H), h first.
        step: (state, inputs of a frame) -> state.
    """

    inputs: Any
    state: tuple
    step: Callable


class LoopDense(nn.Module):
    """A linear layer as a function, for the body of a loop, where no module can be called.

    Attributes:
        features: of its output.
        inputs: of its input.
        times: how often a clip runs through it, for the count of multiply-adds.
    """

    features: int
    inputs: int

    @nn.compact
    def __call__(self, batch: int, times: int) -> Callable:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.inputs, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        shapes = [jax.ShapeDtypeStruct((batch, times, n), kernel.dtype) for n in (self.inputs, self.features)]
        trace.note("linear", self.path, *shapes, batch * times * math.prod(kernel.shape), True)
        return lambda x: x @ kernel.astype(x.dtype) + bias.astype(x.dtype)


class Recurrent(nn.Module):
    """A cell that runs over frames; children `input` (W, b) and `hidden` (U, d).

    Attributes:
        features: H, of the state.
        cell: a key of `CELLS`.
        dtype: of W x + b, and so of the state.
    """

    features: int
    cell: str = "lstm"
    dtype: Any = None

    def setup(self):
        if self.cell not in CELLS:
            raise UserError(f"cell={self.cell!r}: expected one of {list(CELLS)}.")
        width = CELLS[self.cell][1] * self.features
        self.input = blocks.Dense(width, dtype=self.dtype)
        self.hidden = LoopDense(width, self.features)

    def loop(self, x_BTC, state: tuple | None = None) -> Loop:
        """The recurrence over frames, after a state or from zeros; nothing but W x has run."""
        cell, _, arrays = CELLS[self.cell]
        b, t, _ = x_BTC.shape
        inputs, product = self.input(x_BTC), self.hidden(b, t)
        state = state or (jnp.zeros((b, self.features), inputs.dtype),) * arrays
        return Loop(jnp.swapaxes(inputs, 0, 1), state, lambda state, x: cell(state, x, product))

    def __call__(self, x_BTC, state: tuple | None = None):
        """h after every frame, (B, T, H), and the state after the last one."""
        inputs, state, step = self.loop(x_BTC, state)

        def body(state, x):
            state = step(state, x)
            return state, state[0]

        state, outputs = jax.lax.scan(body, state, inputs)
        return jnp.swapaxes(outputs, 0, 1), state


class FrameLinear(nn.Module):
    """Scores of every frame by itself: (B, T, C) -> (B, T, A); child `fc`.

    Attributes:
        features: A.
    """

    features: int = 1

    def setup(self):
        self.fc = blocks.Dense(self.features)

    def __call__(self, x_BTC):
        return self.fc(x_BTC)
