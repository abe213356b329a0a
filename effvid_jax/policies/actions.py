"""An action for every frame, skips among them, and answers made of the frames that are looked at.

Action i < P: predictor i answers for the frame. Action P + j: this frame is left out, and so are the
`skips[j]` - 1 that follow; while they are, action and hidden state stay as they were at the first of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax import plots, writers
from effvid_jax.policies import choice
from effvid_jax.policies.heads import Loop, LoopDense, Recurrent


class SkippingPolicy(nn.Module):
    """A recurrent policy that may skip frames; children `cell` and `scores`.

    Attributes:
        features: H, of the cell's state.
        actions: A, the skips included.
        skips, hold_cell: see `with_skips`.
        cell_type: see `heads.Recurrent.cell`.
    """

    features: int
    actions: int
    skips: tuple[int, ...] = ()
    hold_cell: bool = False
    cell_type: str = "lstm"

    def setup(self):
        self.cell = Recurrent(self.features, self.cell_type)
        self.scores = LoopDense(self.actions, self.features)

    def __call__(self, x_BTC, tau=1.0, noise_BTA=None):
        """What `with_skips` returns, of features of frames."""
        score = self.scores(*x_BTC.shape[:2])
        return with_skips(self.cell.loop(x_BTC), score, self.skips, tau, noise_BTA, self.hold_cell)


def with_skips(loop: Loop, score: Callable, skips: Sequence[int], tau=1.0, noise_BTA=None,
               hold_cell: bool = False):
    """Runs a recurrent policy that may skip frames.

    Args:
        loop: the recurrence, see `heads.Recurrent.loop`; the first array of its state is h.
        score: h (B, H) -> logits (B, A); the last actions of A are the skips.
        skips: frames that each skip leaves out.
        tau, noise_BTA: see `choice.choose`; the noise may be None.
        hold_cell: all of the state stays during a skip, not h alone (AR-Net's released code: h alone).

    Returns:
        logits (B, T, A) and the cell's own h (B, T, H), of every frame as if it were not skipped, and actions
        (B, T, A), one-hot with a gradient.
    """
    def body(carry, frame):
        state, before, left_B = carry
        x, noise = frame
        new = loop.step(state, x)
        logits = score(new[0])
        action = choice.choose(choice.log_probabilities(logits), tau, noise)
        skipping = left_B > 0
        action = jnp.where(skipping[:, None], before, action)
        held = [jnp.where(skipping[:, None], old, now) if i == 0 or hold_cell else now
                for i, (old, now) in enumerate(zip(state, new, strict=True))]
        asked_B = jnp.asarray(lengths)[action.argmax(axis=-1)]
        left_B = jnp.maximum(jnp.where(skipping, left_B, asked_B) - 1, 0)
        return (tuple(held), action, left_B), (logits, action, new[0])

    b = loop.inputs.shape[1]
    shape = jax.eval_shape(score, loop.state[0])
    lengths = np.array([0] * (shape.shape[-1] - len(skips)) + list(skips), np.int32)
    start = loop.state, jnp.zeros(shape.shape, shape.dtype), jnp.zeros((b,), jnp.int32)
    noise = None if noise_BTA is None else jnp.swapaxes(noise_BTA, 0, 1)
    _, found = jax.lax.scan(body, start, (loop.inputs, noise))
    logits, taken, hidden = (jnp.swapaxes(x, 0, 1) for x in found)
    return logits, hidden, taken


def combine(actions_BTP, logits_BTPK):
    """Mean logits over the frames that are looked at: sum r z / max(1, sum r), (B, K); zeros without one.

    Args:
        actions_BTP: of the predictors alone; all zero for a frame that is left out.
        logits_BTPK: of every predictor on every frame; what is not taken is multiplied by zero.
    """
    seen_B = actions_BTP.sum(axis=(1, 2))
    total_BK = jnp.einsum("btp,btpk->bk", actions_BTP, logits_BTPK)
    return total_BK / jnp.maximum(seen_B, 1)[:, None]


def analyse(rows, names: Sequence[str], task, workdir: str, split: str) -> dict[str, float]:
    """Which actions were taken: 'usage_<name>' (their sum is 1), and 'blind', the share of videos without one
    frame that is looked at, whose answer is no answer.

    Writes `usage_<split>.csv` and `.png`: shares per class; `workdir` '': none.

    Args:
        rows: see `Method.analyse`; read here: 'usage' (N, A), shares of the actions of each video, and
            'seen' (N,), frames that are looked at.
        names: of the A actions.
        task: says what kinds of videos to compare (`Task.groups`).
        workdir, split: where, and of what.
    """
    shares_NA = np.asarray(rows["usage"], np.float64)
    if workdir:
        groups = task.groups(rows)
        means_KA = np.stack([shares_NA[mine].mean(axis=0) for _, mine in groups])
        path = os.path.join(workdir, f"usage_{split}")
        writers.write_lines(path + ".csv", [
            ["class", *names],
            *([group, *(f"{x:.4f}" for x in means)] for (group, _), means in zip(groups, means_KA))])
        writers.write_bytes(path + ".png", plots.heat_map(
            means_KA, [group for group, _ in groups], names, "share of the frames with this action"))
    shares = shares_NA.mean(axis=0)
    return {f"usage_{name}": float(x) for name, x in zip(names, shares, strict=True)} | {
        "blind": float((np.asarray(rows["seen"]) == 0).mean())}
