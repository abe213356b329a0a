"""Teachers: VideoMAE's files with either name for its biases, V-JEPA2's positions and pooler, CSN's kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.backbones import make_backbone, vit
from effvid_jax.errors import UserError
from effvid_jax.torch_import import convert, convert_with_report
from effvid_jax.torch_import.conversion import ImportMismatch
from tests.backbones.test_registry import random_variables

TINY = dict(width=12, heads=2, stages=(1,), patch=(2, 4, 4))
CLIP = jax.ShapeDtypeStruct((1, 4, 8, 8, 3), jnp.float32)


def video_mae_file(query: str, value: str) -> dict[str, np.ndarray]:
    """A state as `transformers` saves it, whose biases of queries and values are called so."""
    r, layer = np.random.default_rng(0), "videomae.encoder.layer.0."
    attention = layer + "attention.attention."
    shapes = {"videomae.embeddings.patch_embeddings.projection.weight": (12, 3, 2, 4, 4),
              "videomae.embeddings.patch_embeddings.projection.bias": (12,),
              **{f"{attention}{name}.weight": (12, 12) for name in ("query", "key", "value")},
              attention + query: (12,), attention + value: (12,),
              layer + "attention.output.dense.weight": (12, 12), layer + "attention.output.dense.bias": (12,),
              layer + "intermediate.dense.weight": (48, 12), layer + "intermediate.dense.bias": (48,),
              layer + "output.dense.weight": (12, 48), layer + "output.dense.bias": (12,),
              **{f"{layer}layernorm_{which}.{leaf}": (12,) for which in ("before", "after")
                 for leaf in ("weight", "bias")},
              "fc_norm.weight": (12,), "fc_norm.bias": (12,), "classifier.weight": (5, 12),
              "classifier.bias": (5,)}
    return {key: r.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def template():
    model = make_backbone("videomae_s", num_classes=5, **TINY)
    return jax.eval_shape(model.init, jax.random.key(0), CLIP)


@pytest.mark.parametrize("query,value", [("q_bias", "v_bias"), ("query.bias", "value.bias")])
def test_biases_of_videomae_are_read_under_either_name(template, query, value):
    state = video_mae_file(query, value)
    found = convert("videomae_s", state, template)["params"]["blocks_0"]["attn"]
    prefix = "videomae.encoder.layer.0.attention.attention."
    np.testing.assert_array_equal(found["query"]["bias"], state[prefix + query])
    np.testing.assert_array_equal(found["value"]["bias"], state[prefix + value])
    assert "bias" not in found["key"]


@pytest.mark.parametrize("query,value,missing", [
    ("q_bias", "v_b", "value/bias"), ("q", "value.bias", "query/bias")])
def test_a_bias_is_never_silently_zero(template, query, value, missing):
    """A file whose biases have a name that is not known is refused, as one without them is."""
    state = video_mae_file(query, value)
    for file in (state, {key: x for key, x in state.items() if not key.endswith((".v_b", ".q"))}):
        with pytest.raises(ImportMismatch, match=f"missing here .1.: blocks_0/attn/{missing}"):
            convert("videomae_s", file, template)
    twice = {**video_mae_file("q_bias", "v_bias"), **video_mae_file("query.bias", "value.bias")}
    with pytest.raises(ImportMismatch, match="unused in file .2."):
        convert("videomae_s", twice, template)


def test_the_predictor_of_vjepa2_is_left_out_of_a_file():
    model = make_backbone("vjepa2_l", num_classes=5, pooler_blocks=0, **TINY)
    template = jax.eval_shape(model.init, jax.random.key(0), CLIP)
    state = {"vjepa2.predictor.proj.weight": np.ones((2, 2), np.float32),
             "classifier.bias": np.ones(5, np.float32)}
    variables, report = convert_with_report("vjepa2_l", state, jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, np.float32), template), skip=("(?!fc/bias).*",))
    assert report.dropped == 1 and not report.left_out and variables["params"]["fc"]["bias"].all()


def test_rotary_positions_leave_lengths_and_the_first_token(rng):
    x = jnp.asarray(rng.standard_normal((2, 12, 3, 16)), jnp.float32)
    y = vit.rotate(x, (2, 2, 3))
    np.testing.assert_array_equal(y[:, 0], x[:, 0])
    np.testing.assert_array_equal(y[..., 12:], x[..., 12:])  # what is left of three times two pairs
    np.testing.assert_allclose(y[:, 6, :, 4:12], x[:, 6, :, 4:12], atol=1e-6)  # next frame, the same place
    assert np.abs(y[:, 6, :, :4] - x[:, 6, :, :4]).max() > 0.1


@pytest.mark.parametrize("name", ["videomae_s", "vjepa2_l"])
def test_a_clip_of_one_token_is_classified_as_its_position(name, rng):
    options = {"pooler_blocks": 1} if name == "vjepa2_l" else {}
    model = make_backbone(name, num_classes=5, **{**TINY, "patch": (2, 8, 8)}, **options)
    variables = random_variables(model, (1, 2, 8, 8, 3))
    clip = jnp.asarray(rng.standard_normal((2, 2, 8, 8, 3)), jnp.float32)
    logits, features = model.apply(variables, clip)
    scores = model.apply(variables, features["features"], method="classify")
    assert scores.shape == (2, 1, 1, 1, 5) and features["pooled"].shape == (2, 1, 12)
    np.testing.assert_allclose(scores[:, 0, 0, 0], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name,options,words", [
    ("ir_csn_50", dict(separation="it"), "separation='it'"),
    ("videomae_s", dict(heads=5), "width=384 is no multiple of heads=5"),
    ("uniformer_s", dict(depths=(1, 1)), "expected one for each of widths")])
def test_mistakes(name, options, words):
    with pytest.raises(UserError, match=words):
        jax.eval_shape(make_backbone(name, num_classes=2, **options).init, jax.random.key(0), CLIP)
