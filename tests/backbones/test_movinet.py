"""MoViNet: a stream answers frame by frame what it answers for the clip, and looks back only."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.backbones import make_backbone, movinet
from effvid_jax.errors import UserError
from effvid_jax.methods.base import Variables
from effvid_jax.methods.streaming import streaming
from tests.backbones.test_registry import random_clip, random_variables

NARROW = dict(width_mult=0.25, stage_sizes=(1, 1, 1), hidden=16, stem="small")  # kernels of 1, 3 and 5 frames
SHAPE = (2, 6, 20, 20, 3)


def test_a_stream_answers_frame_by_frame_what_it_answers_for_the_clip():
    model = make_backbone("movinet_a0_stream", num_classes=5, **NARROW)
    variables, x = random_variables(model, SHAPE), random_clip(SHAPE)
    assert set(variables) == {"params", "batch_stats"}, "a memory is no variable of the network"
    step = jax.jit(functools.partial(movinet.step, model))
    state, answers = movinet.init_state(model, 2, 20), []
    for t in range(6):
        state, logits = step(variables, state, x[:, t:t + 1])
        answers.append(logits)
    assert step._cache_size() == 1, "a state has the shapes and types of the one before"
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(state)), "a row a stream"
    whole = jax.jit(lambda x: model.apply(variables, x)[0])(x)
    np.testing.assert_allclose(answers[-1], whole, rtol=1e-4, atol=1e-5)
    assert np.abs(answers[0] - whole).max() > 1e-3  # the past counts
    _, first = step(variables, movinet.init_state(model, 2, 20), x[:, :1])
    np.testing.assert_array_equal(first, answers[0])  # another video starts anew


def test_predict_streams_it():
    """What `Stream` runs: two crops of a video frame by frame, and the mean of their answers."""
    model = make_backbone("movinet_a0_stream", num_classes=5, **NARROW | dict(stage_sizes=(1, 1)))
    variables, x = random_variables(model, SHAPE), random_clip(SHAPE)
    method = types.SimpleNamespace(model=model, sight=lambda clip: clip, task=types.SimpleNamespace(
        mean_of_views=lambda logits_BVK: logits_BVK.mean(axis=1)))
    network = Variables(variables["params"], variables["batch_stats"])
    found = streaming(method, network, x[:, 0].shape, 4, jnp.float32)
    step, state = jax.jit(lambda state, frame: found.step(network, state, frame)), found.start
    for t in range(6):  # more than the T of a clip
        state, answer = step(state, x[:, t])
    whole = jax.jit(lambda x: model.apply(variables, x)[0])(x)
    np.testing.assert_allclose(answer, whole.mean(axis=0), rtol=1e-4, atol=1e-5)
    assert 0 < found.gmacs < 1
    with pytest.raises(UserError, match="MoViNet looks at several frames at once"):
        method.model = make_backbone("movinet_a0", num_classes=5, **NARROW)
        streaming(method, network, x[:, 0].shape, 4)


def test_streams_of_a_batch_are_independent():
    """A row of the state can be set to zero, or moved to another batch."""
    mean = movinet.CumulativeMean()
    x = jnp.asarray([[[1.0], [3.0]], [[5.0], [7.0]]])
    _, kept = mean.apply({}, x, mutable=["stream"])
    new = jax.tree.map(lambda leaf: leaf.at[1].set(0), kept)
    found, _ = mean.apply(new, jnp.asarray([[[5.0]], [[4.0]]]), mutable=["stream"])
    np.testing.assert_allclose(found[..., 0], [[3.0], [4.0]])


def test_means_do_not_count_what_padding_adds():
    for side in (4, 5):
        y = movinet.same_avg_pool(jnp.ones((1, 1, side, side, 2)))
        assert y.shape == (1, 1, -(-side // 2), -(-side // 2), 2)
        np.testing.assert_allclose(y, 1, rtol=1e-6)


def test_mistakes():
    with pytest.raises(UserError, match="sees whole clips: choose movinet_a0_stream"):
        movinet.init_state(make_backbone("movinet_a0", num_classes=2), 1, 64)
    for options, words in ((dict(stem="typo"), "stem='typo'"), (dict(stage_sizes=(1,) * 6), "5 stages")):
        model = make_backbone("movinet_a0", num_classes=2, **options)
        with pytest.raises(UserError, match=words):
            jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1, 64, 64, 3)))
