"""Two recurrences over the features of frames, a small one that always runs and a large one that a gate asks.

    b_t = relu(BN(W_b BN(s_t)));  (h', m')_t = LSTM(b_t)                              small, H' units
    q_t = W_g [b_t, h_(t-1), m_(t-1)];  action 0 (use) or 1 (skip) of q_t, straight-through
    used:     a_t = relu(BN(W_a BN(f_t)));  (h, m)_t = LSTM([a_t, b_t])               large, H units
    skipped:  the first H' entries of (h, m) become (h', m')_t, the others stay
    answer = W h_T
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from effvid_jax.backbones import blocks
from effvid_jax.policies import choice
from effvid_jax.policies.heads import LoopDense, Recurrent

USE, SKIP = 0, 1


class Projection(nn.Module):
    """relu(BN(W BN(x))) of features (B, T, C)."""

    features: int

    def setup(self):
        self.bn1, self.fc, self.bn2 = blocks.BatchNorm(), blocks.Dense(self.features), blocks.BatchNorm()

    def __call__(self, x, train: bool = False):
        return blocks.relu(self.bn2(self.fc(self.bn1(x, train)), train))


class TwoCells(nn.Module):
    """Both recurrences, the gate and the classifier, whole or frame by frame.

    Attributes:
        num_classes: K.
        large, small: H and H'; `small` is not larger.
        width: of a_t; that of b_t is `small`.
    """

    num_classes: int
    large: int = 2048
    small: int = 512
    width: int = 2048

    def setup(self):
        self.fine_input, self.coarse_input = Projection(self.width), Projection(self.small)
        self.fine_cell, self.coarse_cell = Recurrent(self.large), Recurrent(self.small)
        self.gate = LoopDense(2, self.small + 2 * self.large)
        self.fc = blocks.Dense(self.num_classes)

    def start(self, s_BTC, train: bool = False):
        """What is known before any gate: b (B, T, H'), and the small cell's states, two of (B, T, H')."""
        b_BTC = self.coarse_input(s_BTC, train)
        inputs, state, step = self.coarse_cell.loop(b_BTC)

        def body(state, x):
            state = step(state, x)
            return state, state

        return b_BTC, tuple(jnp.swapaxes(x, 0, 1) for x in jax.lax.scan(body, state, inputs)[1])

    def fine(self, f_BTC, train: bool = False):
        """a_t of features (B, T, C)."""
        return self.fine_input(f_BTC, train)

    def run(self, a_BTC, b_BTC, coarse, tau=1.0, noise_BTA=None):
        """All frames: logits (B, K), the gate's logits (B, T, 2), actions (B, T, 2), h_T (B, H)."""
        inputs, state, step = self.fine_cell.loop(jnp.concatenate([a_BTC, b_BTC], axis=-1))
        gate = self.gate(*b_BTC.shape[:2])

        def body(state, frame):
            x, b, coarse, noise = frame
            q = gate(jnp.concatenate([b, *state], axis=-1))
            action = choice.choose(jax.nn.log_softmax(q), tau, noise)
            return _merged(action, step(state, x), state, coarse), (q, action)

        noise = None if noise_BTA is None else jnp.swapaxes(noise_BTA, 0, 1)
        frames = inputs, *jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (b_BTC, coarse)), noise
        state, found = jax.lax.scan(body, state, frames)
        return self.fc(state[0]), *(jnp.swapaxes(x, 0, 1) for x in found), state[0]

    def asked(self, state, b_BC):
        """The gate's action (B, 2) at one frame, without noise."""
        q = self.gate(len(b_BC), 1)(jnp.concatenate([b_BC, *state], axis=-1))
        return choice.choose(jax.nn.log_softmax(q))

    def advance(self, state, action_BA, a_BC, b_BC, coarse):
        """The large state (h, m) after one frame; `coarse`: the small one's there."""
        loop = self.fine_cell.loop(jnp.concatenate([a_BC, b_BC], axis=-1)[:, None])
        return _merged(action_BA, loop.step(state, loop.inputs[0]), state, coarse)

    def classify(self, h_BC):
        """Logits (B, K)."""
        return self.fc(h_BC)

    def __call__(self, f_BTC, s_BTC, train: bool = False, tau=1.0, noise_BTA=None):
        """What `run` returns, of fine and coarse features of every frame."""
        b, coarse = self.start(s_BTC, train)
        return self.run(self.fine(f_BTC, train), b, coarse, tau, noise_BTA)


def _merged(action_BA, new, old, coarse):
    """The large state after a frame: stepped where it is used, else overwritten by the small one."""
    use, skip = action_BA[:, USE, None], action_BA[:, SKIP, None]
    return tuple(use * now + skip * jnp.concatenate([rough, before[:, rough.shape[-1]:]], axis=-1)
                 for now, before, rough in zip(new, old, coarse, strict=True))
