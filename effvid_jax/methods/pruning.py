"""Weight-level pruning: a plain network without its smallest weights, which VA-RED2 is compared with.

VA-RED2's Table 7 (arXiv 2102.07887) shows it at the cost of the dynamic network; how it was done is not
known. Ours: of every pruned convolution the same share of weights is kept, those of largest magnitude
(Han et al., arXiv 1506.02626), chosen anew in every step: the others are zeros in the forward pass and
still receive gradients, so that a weight can return (Lin et al., arXiv 2006.07253). A multiply-add with
such a zero is not counted. Scattered zeros make no ordinary device faster: this saving is one on paper.
"""

from __future__ import annotations

import dataclasses
import math
import re
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines import Field
from effvid_jax.backbones import blocks, trace
from effvid_jax.gating import gates
from effvid_jax.methods import base
from effvid_jax.methods.supervised import Supervised


class PrunedConv(blocks.Conv):
    """`blocks.Conv` without its smallest weights where `layers` matches its path.

    Attributes:
        layers: regular expression of (whole) module paths.
        keep: share of the weights that stay.
    """

    layers: str = ""
    keep: float = 1.0

    @nn.compact
    def __call__(self, x, train: bool = False):
        if not re.fullmatch(self.layers, "/".join(self.path)):
            return super().__call__(x, train)
        with trace.silence():
            y = super().__call__(x, train)
        products = math.prod(y.shape) * math.prod(self.kernel_size) * x.shape[-1] // self.groups
        self.note(x, y, round(self.keep * products))
        return y

    def effective_kernel(self, shape):
        kernel = super().effective_kernel(shape)
        if not re.fullmatch(self.layers, "/".join(self.path)):
            return kernel
        size = jnp.abs(kernel)
        least = jnp.sort(size.ravel())[-max(1, round(self.keep * kernel.size))]
        return kernel + jax.lax.stop_gradient(jnp.where(size >= least, kernel, 0) - kernel)


class Pruning(Supervised):
    """The method of a config; reads `config.model` and `config.method`.

    Raises:
        UserError: a backbone without a list of layers, or a share out of its range.
    """

    @dataclasses.dataclass(frozen=True)
    class Settings(base.MethodSettings):
        """Ours, see the module docstring."""

        layers: str = ""  # regular expression of pruned layers; "": those that VA-RED2 gates
        keep: float = 0.61  # of R(2+1)D-18 this leaves 19.9 of 27.7 GMACs, as in the paper's Table 7

        bounds: ClassVar = {"layers": Field.pattern(), "keep": Field.number(above=0, most=1)}

    def _fields(self):
        layers = gates.layers_of(self.config.model.backbone, self.settings.layers)
        return {"conv": partial(PrunedConv, layers=layers, keep=self.settings.keep)}
