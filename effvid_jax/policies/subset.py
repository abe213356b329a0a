"""A few frames of a clip by scores: the best ones, or drawn ones with the probability of their set.

    top_frames(scores, n)           the n largest, in temporal order: inference
    draw_frames(rng, p, n)          n without replacement, in temporal order: exploration
    set_probability(p, chosen)      that such a draw gives these frames, in whatever order

Nothing here has a gradient to the choice; `set_probability` has one to the probabilities, which is what
`policy_gradient.py` needs. The frames that a density over time asks for are in `focus_frames.py`.

Axes: B examples, T frames, n chosen ones.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np


def top_frames(scores_BT, n: int):
    """Indices (B, n) of the largest scores, growing; the earlier one of equals."""
    return jnp.sort(jax.lax.top_k(scores_BT, n)[1], axis=-1)


def draw_frames(rng, probabilities_BT, n: int):
    """Indices (B, n), growing: drawn one after the other, each in proportion to what is left.

    The largest of log p + Gumbel noise are such a draw (Kool et al., arXiv 1903.06059, section 2.3).

    Args:
        rng: key.
        probabilities_BT: not negative; a frame with 0 is drawn last.
        n: frames of an example.
    """
    log_p = jnp.log(jnp.maximum(probabilities_BT, jnp.finfo(probabilities_BT.dtype).tiny))
    return top_frames(log_p + jax.random.gumbel(rng, log_p.shape, log_p.dtype), n)


def even_frames(num_frames: int, n: int) -> tuple[int, ...]:
    """The middles of n segments, as TSN samples: (1, 3, 5, 7) of 8 by 4."""
    return tuple(int((i + 0.5) * num_frames / n) for i in range(n))


def set_probability(probabilities_BT, chosen_Bn):
    """Probability (B,) that drawing n frames without replacement gives this set, exactly.

    It is the sum over all orders of prod_i p_i / (1 - what was drawn before), summed here over the 2^n
    subsets that a draw may have reached instead of the n! orders.

    Args:
        probabilities_BT: of a single draw; sum 1.
        chosen_Bn: different frames of each example.
    """
    p_Bn = jnp.take_along_axis(probabilities_BT, chosen_Bn, axis=1)
    n, least = chosen_Bn.shape[1], jnp.finfo(p_Bn.dtype).eps
    reached, drawn = jnp.ones_like(p_Bn[:, :1]), jnp.zeros_like(p_Bn[:, :1])  # of the empty set
    before = [()]
    for size in range(1, n + 1):
        sets = list(itertools.combinations(range(n), size))
        last = np.array(sets)  # (sets, size): whichever member was drawn last
        rest = np.array([[before.index((*s[:i], *s[i + 1:])) for i in range(size)] for s in sets])
        ways = reached[:, rest] * p_Bn[:, last] / jnp.maximum(1 - drawn[:, rest], least)
        reached, drawn, before = ways.sum(axis=-1), drawn[:, rest[:, 0]] + p_Bn[:, last[:, 0]], sets
    return reached[:, 0]
