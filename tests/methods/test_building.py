"""Random values of a network that is to be trained."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.methods import building


@pytest.fixture
def as_a_user():
    """The compiler optimises, as it does outside the tests."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def test_a_hurried_compiler_draws_the_same_values_and_shapes_cost_nothing(as_a_user):
    model = nn.Sequential([nn.Conv(6, (3, 3)), nn.BatchNorm(use_running_average=True), nn.Dense(5)])
    shape, key = (1, 8, 8, 3), jax.random.key(3)
    params, stats = building.draw(model, key, shape)
    plain = jax.jit(model.init)(key, jnp.zeros(shape))
    jax.tree.map(np.testing.assert_array_equal, (params, stats), (plain["params"], plain["batch_stats"]))
    traced = jax.eval_shape(lambda: building.draw(model, key, shape))  # options are for a program of its own
    assert jax.tree.map(jnp.shape, traced) == jax.tree.map(jnp.shape, (params, stats))
