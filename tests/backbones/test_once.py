"""Residual streams: what a block's loops compute does not grow with the depth of the network."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.backbones import blocks, make_backbone


def largest_loop(program) -> int:
    """Operations of the largest fused loop of a program for this machine."""
    text = program.compile().as_text()
    found = re.findall(r"^%?fused_computation\S* \(.*\{\n((?:  .*\n)+)", text, re.MULTILINE)
    assert found, "XLA writes its programs in another way"
    return max(body.count("\n") for body in found)


def programs(name: str, **options):
    """(value, gradient) of a network in training, lowered for this machine."""
    model = make_backbone(name, num_classes=3, **options)
    clip = jax.ShapeDtypeStruct((1, 4, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), clip)

    def loss(params, rest, clip):
        (logits, _), _ = model.apply({**rest, "params": params}, clip, train=True, mutable=["batch_stats"],
                                     rngs={"dropout": jax.random.key(1)})
        return (logits**2).sum()

    rest = {name: tree for name, tree in variables.items() if name != "params"}
    return (jax.jit(lambda variables, clip: model.apply(variables, clip)[0]).lower(variables, clip),
            jax.jit(jax.grad(loss)).lower(variables["params"], rest, clip))


@pytest.mark.parametrize("name,shallow,deep", [
    ("resnet50", dict(stage_sizes=(2, 1)), dict(stage_sizes=(5, 1))),
    ("videomae_s", dict(stages=(1,) * 4), dict(stages=(2,) * 4)),
])
def test_loops_do_not_grow_with_depth(name, shallow, deep):
    small = dict(width=8) if name == "resnet50" else dict(width=8, heads=2, drop_path=0.2, patch=(2, 8, 8))
    for fewer, more in zip(programs(name, **small, **shallow), programs(name, **small, **deep)):
        assert largest_loop(more) <= largest_loop(fewer) + 8


def test_a_value_and_its_gradient_stay_as_they_are(rng):
    x = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    y, back = jax.vjp(jax.jit(lambda x: jnp.sin(blocks.once(x))), x)
    np.testing.assert_array_equal(y, jnp.sin(x))
    np.testing.assert_allclose(back(jnp.ones_like(y))[0], jnp.cos(x), rtol=1e-6)


def test_other_platforms_choose_for_themselves():
    step = jax.jit(jax.grad(lambda x: jnp.sin(blocks.once(x)).sum())).trace(jnp.ones(3))
    for platform, expected in (("cpu", 2), ("cuda", 0), ("tpu", 0)):
        text = step.lower(lowering_platforms=(platform,)).as_text()
        assert text.count('inlineable = "false"') == expected, platform
