"""Batch norms of a trained network folded into the convolutions before them, for inference.

    model, variables = fold(model, variables, clip_shape)

conv(x) * s + (b - mean * s), s = scale / sqrt(var + eps): the factor goes into the kernel, which leaves a
bias. Of a gated convolution (`gates.py`) the factor goes into the shared kernel and into the
operations that make channels out of others: with s = 0 for a channel that others are made of, that layer
stays as it is. XLA fuses a batch norm into the ReLU after it, so this saves arithmetic and no pass over
memory: do not expect more than a percent or two.
"""

from __future__ import annotations

import math

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from effvid_jax.backbones import blocks
from effvid_jax.errors import UserError


class FoldedNorm(blocks.BatchNorm):
    """A bias where the batch norm has been folded (no 'scale' any more), else the batch norm."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        if self.is_initializing() or self.has_variable("params", "scale"):
            return super().__call__(x, train)
        if train:
            raise UserError(f"{'/'.join(self.path)} is folded into a convolution: a folded network only "
                             f"predicts.")
        y = x + self.get_variable("params", "bias")
        return y.astype(self.dtype or x.dtype)


def fold(model: nn.Module, variables, clip_shape) -> tuple[nn.Module, dict]:
    """The network with every batch norm folded that directly follows a convolution.

    Args:
        model: a backbone with a field `norm`.
        variables: {'params', 'batch_stats'}.
        clip_shape: (T, H, W, C).

    Returns:
        (model, variables) of the same function; running statistics that are left in `variables` are
        those of norms that could not be folded.
    """
    pairs = _pairs(model, variables, clip_shape)
    params, stats = (flax.traverse_util.flatten_dict(variables[name], sep="/")
                     for name in ("params", "batch_stats"))
    for conv, norm, eps in pairs:
        scale = params[f"{norm}/scale"] / jnp.sqrt(stats[f"{norm}/var"] + eps)
        made = [name for name in params if name.startswith(f"{conv}/cheap_c")]
        if made and not jnp.all(scale != 0):
            continue
        computed = params[f"{conv}/kernel"].shape[-1]  # fewer than the norm has, where frozen
        params[f"{conv}/kernel"] = params[f"{conv}/kernel"] * scale[:computed]
        for name in made:
            kernel = params[name]  # (side, side, 1, channels beyond the first k), from channel c mod k
            k = scale.size - kernel.shape[-1]
            source = jnp.tile(scale[:k], math.ceil(scale.size / k) - 1)[:kernel.shape[-1]]
            params[name] = kernel * (scale[k:] / source)
        # A convolution's own bias moves behind it: a gated one's bias is weighted like its channels.
        bias = params.get(f"{conv}/bias")
        if bias is not None:
            params[f"{conv}/bias"] = bias * scale[:computed]
        params[f"{norm}/bias"] = params[f"{norm}/bias"] - stats.pop(f"{norm}/mean") * scale
        del params[f"{norm}/scale"], stats[f"{norm}/var"]
    return _with_norm(model, FoldedNorm), {
        "params": flax.traverse_util.unflatten_dict(params, sep="/"),
        "batch_stats": flax.traverse_util.unflatten_dict(stats, sep="/")}


def _pairs(model, variables, clip_shape) -> list[tuple[str, str, float]]:
    """(path of a convolution, path of the norm that reads its output, eps)."""
    made_by, pairs = {}, []

    def watch(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == "__call__":
            path = "/".join(context.module.path)
            if isinstance(context.module, blocks.Conv):
                made_by[id(out)] = (path, out)  # holding `out` keeps its id unique
            elif isinstance(context.module, blocks.BatchNorm) and id(args[0]) in made_by:
                pairs.append((made_by[id(args[0])][0], path, context.module.eps))
        return out

    with nn.intercept_methods(watch):
        jax.eval_shape(lambda v: model.apply(v, jnp.zeros((1, *clip_shape))), variables)
    return pairs


def _with_norm(model, norm):
    """A copy of a backbone (of its inner one, for a TPN) with another norm class."""
    if hasattr(model, "norm"):
        return model.clone(norm=norm)
    return model.clone(backbone=_with_norm(model.backbone, norm))
