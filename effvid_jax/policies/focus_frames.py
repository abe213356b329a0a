"""Which of many candidate frames to look at closely: where a density over time says, without repetition.

The frames are quantiles of the density, so nothing is drawn and no gradient is lost that there was: there is
none through a whole number. What teaches the density is the expectation below, which has one.

Axes: B clips, G places in time at which the density is known, S candidates, F chosen, K classes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def quantile_frames(weights_BG, num_candidates: int, num_chosen: int, rng=None):
    """Frames at which the cumulative weight reaches (i + u) / F, in order, none twice: int32 (B, F).

    The weight of a place is spread evenly over its S / G candidates, so the cumulative weight is piecewise
    linear. Equal frames move on by one, up to the last candidates.

    Args:
        weights_BG: non-negative, adding up to 1.
        num_candidates, num_chosen: S and F, at most S.
        rng: draws u in [0, 1); None: u = 1/2.
    """
    w = jax.lax.stop_gradient(weights_BG)
    b, g = w.shape
    sums = jnp.concatenate([jnp.zeros((b, 1), w.dtype), jnp.cumsum(w, axis=1)], axis=1).at[:, -1].set(1.0)
    u = 0.5 if rng is None else jax.random.uniform(rng, (b, num_chosen), w.dtype)
    wanted_BF = jnp.broadcast_to((jnp.arange(num_chosen, dtype=w.dtype) + u) / num_chosen, (b, num_chosen))
    at = (sums[:, :, None] >= wanted_BF[:, None]).argmax(axis=1).clip(1, g) - 1
    low, high = (jnp.take_along_axis(sums, i, axis=1) for i in (at, at + 1))
    share = (wanted_BF - low) / jnp.maximum(high - low, jnp.finfo(w.dtype).tiny)
    frames = jnp.floor((at + share) / g * num_candidates).astype(jnp.int32)
    # frames_i = max(frames_i, frames_{i-1} + 1), all at once: less i they do not fall.
    steps = jnp.arange(num_chosen, dtype=jnp.int32)
    return jnp.minimum(jax.lax.cummax(frames - steps, axis=1), num_candidates - num_chosen) + steps


def expected_answer(rng, weights_BG, logits_BGK, terms: int, draws: int = 128):
    """Mean logits of frames drawn by weight without replacement, with a gradient to weights and logits.

    The i-th of `terms` frames is in expectation the weighted mean of those that are left when i have been
    drawn: those are drawn, the mean is exact (Uni-AdaFocus's Monte Carlo estimate).

    Args:
        rng: draws; not read with one term.
        weights_BG: probabilities.
        logits_BGK: of every frame.
        terms: frames.
        draws: of each term, which are averaged.

    Returns:
        (B, K).
    """
    total = jnp.einsum("bg,bgk->bk", weights_BG, logits_BGK) / jax.lax.stop_gradient(
        weights_BG.sum(axis=1, keepdims=True))
    for gone in range(1, terms):
        b, g = weights_BG.shape
        noise = jax.random.gumbel(jax.random.fold_in(rng, gone), (b, draws, g))
        order = -(jnp.log(jnp.maximum(jax.lax.stop_gradient(weights_BG), 1e-30))[:, None] + noise)
        left = weights_BG[:, None] * (order.argsort(axis=-1).argsort(axis=-1) >= gone)  # the first are drawn
        share = left / jnp.maximum(jax.lax.stop_gradient(left.sum(axis=-1, keepdims=True)), 1e-30)
        total = total + jnp.einsum("bg,bgk->bk", share.mean(axis=1), logits_BGK)
    return total / terms
