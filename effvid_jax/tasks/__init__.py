"""What a network is asked, one file each; `make_task` picks by `config.task`, by default 'classification'."""

from __future__ import annotations

from collections.abc import Sequence

from effvid_jax import lookup
from effvid_jax.tasks.task import Task


def make_task(config, class_names: Sequence[str]) -> Task:
    """The `Task` of a config.

    Args:
        config: a resolved config. `config.task` names a file of this folder, or a module by its dotted path.
        class_names: of the data set, in the order of its labels.

    Raises:
        UserError: unknown name, with close matches; or what the task itself refuses.
    """
    return find_task(config)(config, class_names)


def find_task(config) -> type[Task]:
    """The class of a config's task; its group of fields is `config.<group_of(config)>`, if there are any.

    Raises:
        UserError: unknown name, with close matches.
    """
    name = config.get("task", "classification")
    return lookup.find_class("config.task", name, Task, __name__, shared=("task",))


def group_of(config) -> str:
    """Name of the group of fields that belongs to the task of a config."""
    return config.get("task", "classification").rpartition(".")[2]


__all__ = ["Task", "find_task", "group_of", "make_task"]
