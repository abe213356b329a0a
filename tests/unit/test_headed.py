"""A head in place of the classifier: paths of the backbone's parameters stay, gates find their layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax import cost
from effvid_jax.backbones import blocks, make_backbone
from effvid_jax.heads import Headed


class Map(nn.Module):
    """A 1x1 convolution over the last map, mean over time."""

    @nn.compact
    def __call__(self, maps, train: bool = False):
        return blocks.Conv(3, (1, 1), name="point")(maps["features"].mean(axis=1), train)


def test_the_backbone_stays_what_it_was():
    plain = make_backbone("resnet18", num_classes=5, width=8, stage_sizes=(1, 1), stage_strides=(1, 2))
    headed, clip = Headed(trunk=plain, head=Map()), jnp.ones((2, 3, 32, 32, 3))
    ours, theirs = (model.init(jax.random.key(0), clip) for model in (headed, plain))
    params, wanted = dict(ours["params"]), dict(theirs["params"])
    assert set(params.pop("head")) == {"point"}
    wanted.pop("fc")
    assert jax.tree.structure(params) == jax.tree.structure(wanted)
    variables = {"params": {**params, "head": ours["params"]["head"]}, "batch_stats": ours["batch_stats"]}
    outputs, maps = headed.apply(variables, clip)
    _, same = plain.apply({"params": {**params, "fc": theirs["params"]["fc"]},
                           "batch_stats": ours["batch_stats"]}, clip)
    assert outputs.shape == (2, 4, 4, 3) and headed.num_stages == plain.num_stages
    np.testing.assert_array_equal(maps["features"], same["features"])
    np.testing.assert_array_equal(maps["pooled"], same["pooled"])
    extra = cost.gmacs(headed, (3, 32, 32, 3)) - cost.gmacs(plain, (3, 32, 32, 3))
    pixels, channels = 4 * 4, maps["features"].shape[-1]
    np.testing.assert_allclose(extra * 1e9, pixels * channels * 3 - channels * 5, rtol=1e-4)
