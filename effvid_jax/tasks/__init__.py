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
    name = config.get("task", "classification")
    return lookup.find_class("config.task", name, Task, __name__, shared=("task",))(config, class_names)


__all__ = ["Task", "make_task"]
