"""Variables of networks for tests."""

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax import cost
from effvid_jax.backbones import trace

OPEN, SHUT = 20.0, -20.0  # values of a gate's beta whose weight is exactly 1 and 0


def shapes_of(module, x):
    """Shapes of a module's variables, without the arithmetic that takes time to trace and changes none."""
    with trace.recording(shapes_only=True), cost.parameters_without_values():
        return jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.asarray(x)))


def draw(module, x):
    """Random variables of a module; its own initialisers take seconds to compile."""
    r = np.random.default_rng(1)
    shapes = shapes_of(module, x)

    def value(path, leaf):
        scale = 1 / np.sqrt(max(1, np.prod(leaf.shape[:-1]))) if path[-1].key == "kernel" else 0.3
        offset = 0.0 if path[-1].key == "kernel" else 1.0
        return (offset + scale * r.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree.map_with_path(lambda path, leaf: abs(value(path, leaf)) if path[-1].key == "var"
                                  else value(path, leaf), shapes)
