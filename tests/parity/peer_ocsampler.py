"""OCSampler's released modules (MCG-NJU/OCSampler) against `effvid_jax/methods/ocsampler.py`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from effvid_jax.policies import policy_gradient, subset

SOURCES = ("MCG-NJU/OCSampler",)
OPS = ("ocsampler_policy_loss",)


def run(case, state, inputs):
    """See `peers.py`."""
    arch, chosen = case["arch"], inputs["chosen"]
    reward = inputs["scores"].max(axis=1) - inputs["baseline_scores"].max(axis=1)  # labels are not read

    def loss(p):
        of_set = subset.set_probability(p, chosen)
        return policy_gradient.policy_loss(of_set, reward, p, arch["explore_rate"]).mean(), of_set

    (value, of_set), gradient = jax.value_and_grad(loss, has_aux=True)(inputs["probabilities"])
    return {"subset_probability": of_set, "mean_subset_probability": of_set.mean()[None], "reward": reward,
            "loss": jnp.reshape(value, (1,)), "grad_probabilities": gradient}
