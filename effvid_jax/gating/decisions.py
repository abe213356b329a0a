"""What the decisions of a network's convolutions say: its cost per clip, and the signs of gates that fail.

Gates can fail in three ways. A *dead* layer has no weight left for some clip and gives zeros. *Collapsed*
gates decide the same for all clips ('varying_layers' = 0): the network is then a smaller static one. Gates
that are *not finite* make the loss not finite too.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from effvid_jax.gating import gates
from effvid_jax.gating.variants import Decision, gradient_of, together
from effvid_jax.losses import weighted_mean


def computed_share(decisions):
    """Share of the multiply-adds of all gated convolutions that is computed: (B,)."""
    total = sum(d.macs for d in decisions)
    return sum(d.ratio * (d.macs / total) for d in decisions)


def opening(decisions, leak: float):
    """Zero, (B,), whose gradient opens what is closed as that of `computed_share` closes what is open.

    `computed_share` has no gradient there: a closed variant costs nothing.

    Args:
        decisions: of all layers.
        leak: of the gates, see `gates.Gate`; it is made up for.
    """
    total, found = sum(d.macs for d in decisions), 0.0
    for d in decisions:
        for V in (d.V_c, d.V_t):
            for n in range(V.shape[1] - 1):
                largest = V[:, :n + 1].max(axis=1)
                found += (largest <= 0) * gradient_of(largest) * (d.macs / total / 2**(n + 1) / leak)
    return found


def clip_gmacs(decisions, static: float):
    """(cost without, cost of) cheap operations and gates, 10^9 multiply-adds, each (B,)."""
    saved = sum(d.macs / 1e9 * (1 - d.ratio) for d in decisions)  # `macs` alone may exceed 32 bits
    return static - saved, sum(d.overhead for d in decisions) / 1e9


def of_sides(found: Sequence[list[Decision]]) -> list[Decision]:
    """Decisions of several looks at the same clips, in other sizes, as those of one."""
    return [together(looks) for looks in zip(*found, strict=True)]


def is_dead(decision: Decision):
    """Clips for which nothing is left of a convolution: (B,)."""
    return ~((decision.V_c > 0).any(axis=1) & (decision.V_t > 0).any(axis=1))


def statistics(decisions, mask_B) -> dict:
    """Scalars to watch in training: what is computed, and the signs of gates that fail."""
    ratios_LB = jnp.stack([d.ratio for d in decisions])
    spread_L = (jnp.where(mask_B, ratios_LB, -jnp.inf).max(axis=1)
                > jnp.where(mask_B, ratios_LB, jnp.inf).min(axis=1))
    return {
        "gates/computed": weighted_mean(computed_share(decisions), mask_B),
        "gates/channel_weight": jnp.stack([d.V_c.mean() for d in decisions]).mean(),
        "gates/time_weight": jnp.stack([d.V_t.mean() for d in decisions]).mean(),
        "gates/dead": jnp.stack([weighted_mean(is_dead(d).astype(jnp.float32), mask_B)
                                 for d in decisions]).mean(),
        "gates/varying_layers": spread_L.mean(),
    }


def layer_names(params, marker: str = "gate/beta") -> list[str]:
    """Paths of the convolutions that have a parameter `marker`, in the order of `gates.collect`."""
    flat = {"/".join(str(k.key) for k in path) for path, _ in jax.tree.leaves_with_path(params)}
    found = {path.removesuffix(f"/{marker}") for path in flat if path.endswith(f"/{marker}")}
    return sorted(found, key=gates.natural_order)
