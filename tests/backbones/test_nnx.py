"""NNX programs can use the backbones through flax's bridge."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from effvid_jax.backbones import make_backbone


def test_bridge_gives_the_same_network():
    model = make_backbone("resnet18", num_classes=3, width=8, stem="small", stage_sizes=(1, 1))
    clip = jnp.ones((1, 2, 16, 16, 3))
    variables = model.init(jax.random.key(0), clip)
    module = nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(clip)
    paths = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(module, nnx.Param))}
    assert len(paths) == len(jax.tree.leaves(variables["params"]))
    logits, features = module(clip)
    assert logits.shape == (1, 3) and np.isfinite(logits).all() and "stage2" in features
