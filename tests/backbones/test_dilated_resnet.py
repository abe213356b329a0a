"""Dilated ResNet-18 and dilated convolutions."""

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax import cost
from effvid_jax.backbones import blocks, make_backbone


def test_dilation_spreads_the_kernel():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 3, 9, 11, 4)), jnp.float32)
    kernel = rng.standard_normal((3, 3, 4, 5)).astype(np.float32)
    spread = np.zeros((5, 5, 4, 5), np.float32)
    spread[::2, ::2] = kernel
    dilated = blocks.Conv(5, (3, 3), 1, 2, dilation=2).apply({"params": {"kernel": kernel}}, x)
    plain = blocks.Conv(5, (5, 5), 1, 2).apply({"params": {"kernel": spread}}, x)
    np.testing.assert_allclose(dilated, plain, atol=1e-4)


def test_output_stride_and_cost():
    """VA-RED2's encoder: 10.6 GFLOPs at 224 pixels; without the classifier as many parameters as
    the encoder of CSAILVision/semantic-segmentation-pytorch."""
    model = make_backbone("dilated_resnet18", num_classes=150)
    found = cost.count(model, (1, 224, 224, 3))
    print(f"{found.gmacs:.3f} gmacs, {found.params:,} parameters")
    assert round(found.gmacs, 3) == 10.645
    assert found.params - 513 * 150 == 11_324_992
    _, features = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0],
                                 jnp.zeros((1, 2, 96, 64, 3)))
    assert [features[f"stage{s}"].shape[2:] for s in range(1, 5)] == [
        (24, 16, 64), (12, 8, 128), (12, 8, 256), (12, 8, 512)]


def test_dilations():
    """Of the 3x3 convolutions in stages 3 and 4: the first one replaces a stride and has half."""
    model = make_backbone("dilated_resnet18", num_classes=2).bind({})
    found = [[block.dilations for block in getattr(model, f"layer{s}")] for s in range(1, 5)]
    assert found == [[(1, 1), (1, 1)], [(1, 1), (1, 1)], [(1, 2), (2, 2)], [(2, 4), (4, 4)]]
    assert [getattr(model, f"layer{s}")[0].stride for s in range(1, 5)] == [1, 2, 1, 1]
