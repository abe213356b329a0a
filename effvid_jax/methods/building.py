"""The network that a config describes, its random variables, and a trained one that teaches it."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from effvid_jax import checkpoint, cost
from effvid_jax.backbones import make_backbone, rematerialised
from effvid_jax.errors import UserError
from effvid_jax.exits import network
from effvid_jax.heads import Headed
from effvid_jax.model_fields import module_fields
from effvid_jax.tasks import Task


def build_backbone(model, num_classes: int, **fields) -> nn.Module:
    """The module that a `config.model` describes.

    Args:
        model: config with `backbone`, `dropout`, `dtype`, `bn_groups` (0 = one group per device),
            `options` (further fields of the module), and maybe `exits` (see `exits/network.py`) and
            `remat` (see `backbones/remat.py`).
        num_classes: K.
        **fields: further fields of the module that no config can hold, such as `conv`.

    Raises:
        UserError: an unknown backbone or type, or what the backbone refuses.
    """
    if (mode := model.get("remat", "none")) != "none":
        if model.backbone not in (known := rematerialised()):
            raise UserError(f"config.model.remat={mode!r} is not known to {model.backbone!r}, only to "
                            f"{', '.join(known)}: leave it at 'none'.")
        fields["remat"] = mode
    common = module_fields(model)
    make = partial(make_backbone, model.backbone, num_classes=num_classes, **common,
                   **_tuples(model.options), **fields)
    if not model.get("exits"):
        return make()
    return network.make_exit_net(model.exits, make, num_classes, **common)


def build_network(model, task: Task, **fields) -> nn.Module:
    """The network of a config for a task: the backbone, with the task's head if that has one.

    Args:
        model: see `build_backbone`.
        task: what the network is asked.
        **fields: see `build_backbone`.

    Raises:
        UserError: see `build_backbone`.
    """
    backbone, head = build_backbone(model, task.num_outputs, **fields), task.head(model)
    return backbone if head is None else Headed(trunk=backbone, head=head)


def _tuples(options) -> dict[str, Any]:
    """Config options as hashable values: modules are static arguments of jit."""
    return {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in dict(options).items()}


def init_backbone(model: nn.Module, rng, clip_shape_BTHWC) -> tuple[Any, Any]:
    """Random (params, stats) of a backbone; one clip's shape is enough.

    Raises:
        UserError: the clip is too small for the network.
    """
    shape = (1, *clip_shape_BTHWC[1:])
    cost.check_resolution(
        model, shape[1:], f"{type(model).__name__} (config.model.resolution, or config.data.crop if that "
        f"is 0)")
    return draw(model, rng, shape)


def draw(model: nn.Module, rng, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Random (params, stats) of a module that reads one array, nothing else computed.

    The program runs once: a CPU's compiler takes a quarter of the time for it, and the same values come out,
    if it optimises little (ResNet-18: 5 s where it was 13 to 20).
    """
    traced = isinstance(jnp.zeros(()), jax.core.Tracer)  # for shapes alone: nothing is compiled
    slow = jax.default_backend() == "cpu" and not jax.config.read("jax_disable_most_optimizations")
    options = {"xla_backend_optimization_level": 1} if slow and not traced else None
    variables = jax.jit(lambda key: model.init(key, jnp.zeros(shape)), compiler_options=options)(rng)
    return variables["params"], variables.get("batch_stats", {})


def load_teacher(workdir: str, class_names):
    """(`checkpoint.Saved`, variables) of a trained network that teaches.

    Args:
        workdir: `config.method.teacher`.
        class_names: of the data.

    Raises:
        UserError: no teacher named, none there, or one with other classes or another order of them.
    """
    if not workdir:
        raise UserError(
            "config.method.teacher is empty: it names the workdir of a trained teacher. Train one with "
            "the supervised config of this data set (its docstring has the command), import one with "
            "python -m effvid_jax.torch_import, or train it in the same run with "
            "--config.run=teacher,student.")
    saved, variables = checkpoint.load_variables(workdir)
    where = f"config.method.teacher={workdir!r}"
    if saved.num_classes != len(class_names):
        raise UserError(
            f"{where} has {saved.num_classes} classes, the data has {len(class_names)}: distillation "
            f"compares class by class; use a teacher trained on this data.")
    unnamed = all(name.isdigit() for name in saved.class_names)  # imported weights know only numbers
    differ = [pair for pair in zip(saved.class_names, class_names) if pair[0] != pair[1]]
    if differ and not unnamed:
        raise UserError(
            f"{where} names {len(differ)} of its classes differently, the first is {differ[0][0]!r} "
            f"where the data has {differ[0][1]!r}: teacher and data must have the same classes in the "
            f"same order.")
    return saved, variables
