"""A classifier that is fitted before training, and parameters that stay as they are."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import dynamic_k400, localise_jhmdb, supervised_actnet, supervised_folder
from effvid_jax import optim, probe
from effvid_jax.backbones import blocks, make_backbone
from effvid_jax.errors import UserError
from effvid_jax.start import bounds


@pytest.fixture(scope="module")
def clouds():
    """Three classes of 30 rows with 8 features of very different sizes."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = rng.normal(size=(90, 8)) + 1.5 * np.eye(8)[y]
    return (x * np.logspace(-3, 3, 8)).astype(np.float32), y


def test_the_classifier_is_the_best_one(clouds):
    """No gradient is left of cross-entropy + decay / 2 * |W|^2 over standardised features."""
    x, y = clouds
    found, decay = probe.fit(x, y, 0.1, 3), 0.1
    std = x.std(axis=0)
    weights = np.asarray(found.kernel) * std[:, None]
    logits = x @ np.asarray(found.kernel) + np.asarray(found.bias)
    error = np.asarray(jax.nn.softmax(logits)) - np.eye(3)[y]
    gradient = ((x - x.mean(axis=0)) / std).T @ error / len(y) + decay * weights
    assert np.abs(gradient).max() < 1e-3 and np.abs(error.mean(axis=0)).max() < 1e-3
    assert found.right(x, y) > 0.8


def test_the_decay_is_chosen_on_rows_that_are_held_out(clouds):
    x, y = clouds
    decay, share = probe.choose(x, y, 3)
    assert decay in probe.DECAYS and 0.7 < share < 1
    noise = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    assert probe.choose(noise, y, 3)[1] < 0.55, "what is fitted to is not what is scored"


@pytest.mark.parametrize("config, changes, wanted", [
    (supervised_folder.get_config(), {}, "random weights see nothing.*config.init.checkpoint"),
    (supervised_actnet.get_config(), {"init.checkpoint": "a"}, "not what this run asks"),
    (localise_jhmdb.get_config("static"), {"init.checkpoint": "a"}, "not what this run asks"),
    (dynamic_k400.get_config("backbone=resnet50"), {"init.checkpoint": "a"}, "no single linear classifier"),
], ids=["start", "labels", "task", "exits"])
def test_networks_that_it_is_not_for(config, changes, wanted):
    config.update_from_flattened_dict(changes)
    params = {"head_0": {}} if config.model.get("exits") else {"fc": {"kernel": 0, "bias": 0}}
    with pytest.raises(UserError, match=rf"config\.init\.probe=True: .*{wanted}"):
        bounds._check_probe(config, params)


# ------------------------------------------------------------------------------- what is not trained
PARAMS = {"conv1": {"kernel": jnp.ones(3)}, "bn1": {"scale": jnp.ones(3)}, "fc": {"bias": jnp.ones(2)}}


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_nothing_moves_what_is_frozen(name):
    """Neither gradients nor decay, nor momentum."""
    config = supervised_folder.get_config("pretrained").optim
    config.update(dict(name=name, frozen="conv1|bn", weight_decay=0.1, schedule="constant"))
    config.warmup_epochs = 0.0
    tx = optim.make_optimizer(config, 10, 100)
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert not updates["conv1"]["kernel"].any() and not updates["bn1"]["scale"].any()
    assert updates["fc"]["bias"].all()
    gradient = jax.grad(lambda p: sum(x.sum() for x in jax.tree.leaves(optim.hold(p, "conv1|bn"))))(PARAMS)
    assert not gradient["conv1"]["kernel"].any() and gradient["fc"]["bias"].all()


@pytest.mark.parametrize("frozen, wanted", [("layer9", "none of the 3"), (".", "all of the 3")])
def test_expressions_that_mean_nothing(frozen, wanted):
    optim.check_frozen(PARAMS, "conv1")
    optim.check_frozen(PARAMS, "")
    with pytest.raises(UserError, match=rf"config\.optim\.frozen='{frozen}' matches {wanted} parameters"):
        optim.check_frozen(PARAMS, frozen)


def test_batch_norms_that_keep_their_statistics():
    """All of a recipe's network; with `partial_bn` all but the first."""
    def frozen(**options):
        network, found = make_backbone("tsm_efficientnet_lite0", num_classes=2, **options), []

        def note(call, args, kwargs, context):
            if isinstance(context.module, blocks.BatchNorm):
                found.append(context.module.frozen)
            return call(*args, **kwargs)

        with nn.intercept_methods(note):
            jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 2, 32, 32, 3)))
        return found

    assert all(frozen(frozen_bn=True)) and not any(frozen())
    assert frozen(partial_bn=True) == [False] + [True] * (len(frozen()) - 1)
    assert supervised_folder.get_config("pretrained").model.options.frozen_bn
