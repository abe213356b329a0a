"""One device in place of several (`:devices=1`): the same update from the same clips, in parts."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import supervised_minik
from effvid_jax.optim import make_optimizer
from tests.made import made

PARTS = 4


def updated(batches, bn_groups, accumulate):
    """Parameters and running statistics after the steps of some batches."""
    config = supervised_minik.get_config("tiny")
    config.model.update(dict(dropout=0.0, bn_groups=bn_groups))
    config.model.options.update(dict(width=8, stage_sizes=(1, 1), stage_strides=(1, 2)))
    config.optim.update(dict(accumulate=accumulate, clip_norm=0.5, weight_decay=0.01, schedule="constant"))
    method = made(config, list("abcde"))
    tx = make_optimizer(config.optim, 100, 100)
    side = config.data.crop
    variables = method.init(jax.random.key(0), (1, 4, side, side, 3))
    params, stats, state = variables.params, variables.stats, tx.init(variables.params)
    step = jax.jit(lambda params, stats, batch: jax.grad(method.loss, has_aux=True)(
        params, variables.replace(params=params, stats=stats), batch, jax.random.key(0)))
    update = jax.jit(tx.update)
    for batch in batches:
        gradient, (stats, _) = step(params, stats, batch)
        updates, state = update(gradient, state, params)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
    return params, stats, variables


def test_parts_of_a_batch_make_the_update_of_the_whole():
    """Gradients, clipping, decay and statistics of 2 clips; only the running averages move four times."""
    r = np.random.default_rng(0)
    whole = {"video": jnp.asarray(r.integers(0, 256, (8, 4, 64, 64, 3), dtype=np.uint8)),
             "label": jnp.arange(8) % 5, "mask": jnp.ones(8)}
    parts = [{name: x[2 * k:2 * k + 2] for name, x in whole.items()} for k in range(PARTS)]
    at_once, stats, start = updated([whole], bn_groups=PARTS, accumulate=1)
    in_parts, stats_in_parts, _ = updated(parts, bn_groups=1, accumulate=PARTS)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), at_once, start.params)
    assert max(jax.tree.leaves(moved)) > 1e-3
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), in_parts, at_once)

    def running(stats):
        return np.asarray(stats["bn1"]["mean"])

    # One update of 0.1 with the mean of all parts, or an update of 0.1 with each: 1 - 0.9^4 of the way.
    assert np.abs(running(stats_in_parts)).mean() > 2.5 * np.abs(running(stats)).mean()
