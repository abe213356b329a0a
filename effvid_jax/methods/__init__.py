"""The papers, one file each, and what they are compared with; `make_method` picks by `config.method.name`."""

from __future__ import annotations

import difflib

import jax

from effvid_jax.methods import cgnet, dynamic_inference, pruning, reskd, supervised, va_red2
from effvid_jax.methods.base import Method, Prediction, Variables

METHODS = {"supervised": supervised.make, "reskd": reskd.make,
           "dynamic_inference": dynamic_inference.make, "va_red2": va_red2.make,
           "pruning": pruning.make, "cgnet": cgnet.make}

# What a trained network of a method is when it only predicts, where that is something simpler: a
# distilled student needs no teacher any more.
AT_INFERENCE = {"reskd": "supervised"}


def make_method(config, class_names, inference: bool = False) -> Method:
    """The `Method` of a config.

    Args:
        config: a resolved config.
        class_names: K names, in the order of the labels.
        inference: only `predict` is wanted; frozen networks are not loaded.

    Raises:
        ValueError: unknown name, with close matches; or what the method itself refuses.
    """
    name = config.method.name
    if name not in METHODS:
        raise ValueError(f"config.method.name={name!r} is unknown. Close matches: "
                         f"{difflib.get_close_matches(name, METHODS)}. All: {sorted(METHODS)}.")
    return METHODS[AT_INFERENCE.get(name, name) if inference else name](config, class_names)


def check_method(config, clip_shape) -> None:
    """Builds what a config trains, without arrays, data and frozen networks.

    Args:
        config: a resolved config.
        clip_shape: (B, T, H, W, 3).

    Raises:
        ValueError: what `make_method` refuses, or a network that does not fit the clips.
    """
    if config.method.name == "reskd":
        reskd.check_settings(config.method)
    method = make_method(config, ["some class", "another"], inference=True)
    jax.eval_shape(lambda: method.init(jax.random.key(0), clip_shape))


__all__ = ["METHODS", "Method", "Prediction", "Variables", "check_method", "make_method"]
