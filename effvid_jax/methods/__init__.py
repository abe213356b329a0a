"""The papers, one file each, and what they are compared with; `make_method` picks by `config.method.name`."""

from __future__ import annotations

import jax

from effvid_jax import lookup
from effvid_jax.methods.base import Adaptive, Method, MethodSettings, Prediction, Runner, Variables
from effvid_jax.tasks import Task, make_task

# Files here that are no method.
SHARED = ("base", "building", "clips", "early_exits", "exiting", "frame_networks", "gated", "gated_exits",
          "looking", "parts", "schedule", "settings", "sides", "stop_settings", "stops", "stored_teacher",
          "streaming", "teacher", "uni_adafocus_net")


def find_method(name: str) -> type[Method]:
    """The class of a method: of a file in this folder, or of a module given by its dotted path.

    Raises:
        UserError: unknown name, with close matches.
    """
    return lookup.find_class("config.method.name", name, Method, __name__, SHARED)


def make_method(config, task: Task, inference: bool = False) -> Method:
    """The `Method` of a config.

    Args:
        config: a resolved config.
        task: what the network is asked, see `effvid_jax.tasks.make_task`.
        inference: only `predict` is wanted; frozen networks are not loaded.

    Raises:
        UserError: unknown name, with close matches; or what the method itself refuses.
    """
    method = find_method(config.method.name)
    return method.inference(config, task) if inference else method(config, task)


def check_method(config, clip_shape) -> Variables:
    """Builds what a config trains, without arrays, data and frozen networks: variables that are shapes.

    Args:
        config: a resolved config.
        clip_shape: (B, T, H, W, 3).

    Raises:
        UserError: what `make_method` refuses, or a network that does not fit the clips.
    """
    method = find_method(config.method.name)
    method.Settings.read(config.method).check(config)
    network = method.inference(config, make_task(config, ["some class", "another"]))
    network.check_calibration()
    return jax.eval_shape(lambda: network.init(jax.random.key(0), clip_shape))


__all__ = ["Adaptive", "Method", "MethodSettings", "Prediction", "Runner", "Variables", "check_method",
           "find_method", "make_method"]
