"""MobileNetV3 and MobileNetV4: which blocks exchange frames, how one is deepened, what heads read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.backbones import make_backbone, mobilenet_v3
from effvid_jax.backbones.mobilenet_v3 import Conv, Residual
from effvid_jax.errors import UserError
from tests.backbones.test_registry import random_clip, random_variables

CLIP = jax.ShapeDtypeStruct((1, 2, 64, 64, 3), jnp.float32)


@pytest.mark.parametrize("name,widths", [
    ("mobilenet_v3_large", [24, 40, 40, 80, 80, 80, 112, 160, 160]),
    ("mobilenet_v3_small", [24, 40, 40, 48, 96, 96]),
    ("mobilenet_v4_conv_small", [96] * 5 + [128] * 5),
])
def test_blocks_with_a_shortcut_and_an_expansion_are_shifted(name, widths):
    calls = []

    def shift(x):
        calls.append(x.shape)
        return x

    jax.eval_shape(make_backbone(name, num_classes=2, shift=shift).init, jax.random.key(0), CLIP)
    assert [shape[-1] for shape in calls] == widths


def test_tsm_shifts_an_eighth_each_way_and_averages_logits():
    for name in ("tsm_mobilenet_v3_small", "tsm_mobilenet_v4_conv_small"):
        model = make_backbone(name, num_classes=2)
        assert model.consensus == "logits" and model.shift is not None
        assert make_backbone(name.removeprefix("tsm_"), num_classes=2).shift is None


def test_a_deeper_network_repeats_what_timm_repeats():
    """mobilenetv3_large_150d: 1.2 times as many blocks, rounded up, of which the first rows get fewest."""
    stages = mobilenet_v3.deepened(mobilenet_v3.STAGES["large"][0], 1.2)
    assert [[row.count for row in stage] for stage in stages] == [[2], [1, 2], [4], [1, 2, 2], [3], [4], [2]]
    assert mobilenet_v3.deepened(stages, 1.0) == stages


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "tsm_mobilenet_v4_conv_small"])
def test_the_head_classifies_maps_frames_and_clips(name):
    stages = ((Residual(1, 3, 2, 2, 8, True) if "v3" in name else Conv(3, 2, 8),), (Conv(1, 1, 8),))
    model = make_backbone(name, num_classes=5, stages=stages, stem_features=8, head_features=8)
    shape = (2, 3, 16, 16, 3)
    variables, x = random_variables(model, shape), random_clip(shape)
    logits, features = jax.jit(model.apply)(variables, x)
    classify = jax.jit(lambda f: model.apply(variables, f, method="classify"))
    frames = classify(features["pooled"])
    assert classify(features["features"]).shape == (2, 3, 4, 4, 5)
    np.testing.assert_allclose(frames.mean(axis=1), logits, rtol=1e-4, atol=1e-5)
    means = features["features"].mean(axis=(2, 3))
    np.testing.assert_allclose(means, features["pooled"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("field", ["stem", "consensus"])
def test_mistyped_options(field):
    model = make_backbone("mobilenet_v4_conv_small", num_classes=2, **{field: "typo"})
    with pytest.raises(UserError, match=f"{field}='typo'"):
        jax.eval_shape(model.init, jax.random.key(0), CLIP)
