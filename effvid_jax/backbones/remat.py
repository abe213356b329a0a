"""Rematerialisation: what is not kept of a block for its gradient is computed again when that is needed.

    mode        kept of a block                            price                             memory
    none        everything                                                                   largest
    products    its input, results of its products         normalisations, activations       between
    block       its input                                  the whole forward pass once more  smallest

Products are convolutions and linear layers. Values and gradients are the same; parameters keep their names.
Whole blocks: a residual block of a ResNet, a transformer block of a Swin. In evaluation nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from effvid_jax.backbones.trace import shapes_only
from effvid_jax.errors import UserError

_PRODUCT = "product"
_POLICIES: dict[str, Callable | None] = {
    "none": None, "products": jax.checkpoint_policies.save_only_these_names(_PRODUCT),
    "block": jax.checkpoint_policies.nothing_saveable}
MODES = tuple(_POLICIES)


def compiler_options(mode: str, platform: str = "") -> dict[str, str] | None:
    """Of `jax.jit` for a program with gradients, for a platform, this machine's by default.

    XLA's CPU compiler removes what keeps the two forward passes apart, finds them equal and keeps everything;
    GPUs and TPUs need nothing.
    """
    on_cpu = (platform or jax.default_backend()) == "cpu"
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if mode != "none" and on_cpu else None


def product(y):
    """Marks the result of a convolution or linear layer, which `products` keeps."""
    return checkpoint_name(y, _PRODUCT)


def run(block: nn.Module, x, train: bool, mode: str):
    """`block(x, train)`, with less kept for its gradient.

    Args:
        block: a module that is bound.
        x: its input.
        train: whether gradients may be wanted.
        mode: one of `MODES`.

    Raises:
        UserError: another mode.
    """
    if mode not in _POLICIES:
        raise UserError(f"remat={mode!r}: expected one of {', '.join(MODES)}.")
    if mode == "none" or not train or shapes_only():
        return block(x, train)
    return nn.remat(lambda module, x: module(x, True), policy=_POLICIES[mode])(block, x)
