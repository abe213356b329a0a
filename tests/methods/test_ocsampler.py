"""OCSampler: costs, that it finds the frames that tell, what a classifier must be."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import ocsampler_actnet, ocsampler_minik
from effvid_jax.errors import UserError
from effvid_jax.methods import make_method, ocsampler
from effvid_jax.methods.base import Variables
from effvid_jax.methods.clips import resize_nearest
from effvid_jax.tasks import make_task


class Pixels(nn.Module):
    """A sampler of one stage that sees the mean colour of a frame."""

    num_stages = 1

    def run_stem(self, x, train=False):
        return x.mean(axis=(2, 3), keepdims=True)

    @nn.compact
    def run_stage(self, stage, x, train=False):
        return nn.Dense(8, name="stage")(x)


class Colours:
    """A classifier that is sure of class k where some frame has colour k."""

    exit_stages = (1,)

    def run_depths(self, x, start, stop, train=False):
        return x, {}

    def pool(self, depth, x, train=False):
        return x.mean(axis=(2, 3))

    def merged(self, pooled):
        return pooled.max(axis=1)

    def classify(self, k, merged, train=False):
        return 20 * merged


@pytest.fixture(scope="module")
def config():
    config = ocsampler_minik.get_config("tiny")
    config.data.num_frames = config.model.exits.frames = 10
    config.model.exits.update(dict(route=((10, 3),), order=tuple(range(10))))
    config.init.checkpoint = "given"
    return config


@pytest.mark.parametrize("chosen, published", [(4, 17.5), (5, 21.65), (6, 25.8)])
def test_cost_of_the_paper(chosen, published):
    config = ocsampler_actnet.get_config(f"chosen={chosen}")
    method = make_method(config, make_task(config, [str(k) for k in range(200)]), inference=True)
    found = method.gmacs
    print(chosen, found)
    assert abs(found["paper"] / published - 1) < 0.005
    assert found["sampler"] + found["classifier"] < found["paper"]  # which counts more than multiply-adds


@pytest.mark.parametrize("reward", ocsampler.REWARDS)
def test_it_finds_the_two_frames_that_tell(config, reward):
    """From 0.2, which is chance, to more than 0.8 of them; with labels and without."""
    with config.unlocked():
        config.method.update(dict(chosen=2, reward=reward))
    method = make_method(config, make_task(config, ["a", "b", "c"]))
    method.model, method.gmacs = ocsampler.OCSamplerNet(Pixels(), Colours(), 2), dict(sampler=0, classifier=0)
    rng, optimizer = np.random.default_rng(0), optax.sgd(0.5, 0.9)

    def clips(n):
        """Dark frames; two of ten have the colour of the class."""
        labels, x = rng.integers(0, 3, n), rng.uniform(0, 0.1, (n, 10, 1, 1, 3)).astype(np.float32)
        telling = np.array([np.sort(rng.permutation(10)[:2]) for _ in range(n)])
        x[np.arange(n)[:, None], telling, 0, 0, labels[:, None]] += 0.7
        return {"video": jnp.asarray(x), "label": jnp.asarray(labels), "mask": jnp.ones(n)}, telling

    def hits(params):
        batch, telling = clips(200)
        out = method.predict(Variables(params, {}), {"video": batch["video"][:, None]})
        chosen = np.asarray(out.extra["chosen"])[:, 0]
        return np.mean([np.isin(c, t).mean() for c, t in zip(chosen, telling)])

    params = method.model.init(jax.random.key(1), jnp.zeros((1, 10, 1, 1, 3)))["params"]
    params = jax.tree.map(jnp.zeros_like, params) | {"sampler": params["sampler"]}
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, batch, key):
        grads = jax.grad(lambda p: method.loss(p, Variables(p, {}), batch, key)[0])(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    before = hits(params)
    for i in range(60):
        params, state = step(params, state, clips(64)[0], jax.random.key(i))
    after = hits(params)
    print(reward, before, after)
    assert before < 0.4 and after > 0.8


def test_what_a_user_may_get_wrong(config):
    task = make_task(config, ["a", "b", "c"])

    def refused(words, path, value):
        changed = config.copy_and_resolve_references()
        group, _, name = path.rpartition(".")
        with changed.unlocked():
            (changed[group] if "." not in group else changed.model.exits)[name] = value
        with pytest.raises(UserError, match=words):
            make_method(changed, task)

    refused("config.method.classifier is empty: it names the workdir", "init.checkpoint", "")
    refused("config.optim.frozen='': the classifier of method 'ocsampler' stays as it is", "optim.frozen", "")
    refused("config.method.chosen=12: expected at most as many as a clip has", "method.chosen", 12)
    refused("config.method.reward='best': expected one of", "method.reward", "best")
    refused("config.model.exits: method 'ocsampler' needs a classifier with one exit", "model.exits.route",
            ((5, 3), (10, 3)))


def test_pixels_of_the_nearest_rule():
    x = jnp.arange(7.0)[None, None, :, None, None] * jnp.ones((1, 1, 7, 7, 1))
    assert resize_nearest(x, 3)[0, 0, :, 0, 0].tolist() == [0, 2, 4]  # floor(i * 7 / 3)
    assert resize_nearest(x, 0).shape == x.shape
