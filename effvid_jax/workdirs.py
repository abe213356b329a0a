"""What a workdir remembers: the config of what was trained in it, against the one that a command gives.

A run that goes on (`check_resume`) may change how it is logged, saved and read; what changes the meaning of
its numbers is refused.

Fields that one side does not have are those of older or newer code, whose defaults are what the other means:
no difference.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import json
import os
from typing import Any, NamedTuple

import jax

from effvid_jax import checkpoint
from effvid_jax.errors import UserError
from effvid_jax.methods import find_method

# Fields are dotted names, matched as in a shell. What only reads faster or slower changes no number.
_READING = ("name", "note", "data.eval_batch_size", "data.num_threads", "data.num_workers", "data.prefetch",
            "data.cache", "data.cache_gib", "data.max_broken_share")
# May change when a run goes on. `run` and `stages`: see `check_run`; every stage's folder compares its own.
_RESUME = (*_READING, "run", "stages.*", "data.root", "data.*_list", "data.classes_file",
           "train.log_every_steps", "train.eval_every_epochs", "train.checkpoint_every_steps", "train.keep",
           "train.min_reference_ratio", "init.step", "bench.*", "evaluations.*")
# Dicts whose fields differ between configs: here a field that only one side has is a difference.
_FREE = ("model.options.", "model.exits.", "data.synthetic.", "task")


class Difference(NamedTuple):
    """A field with the value that was saved and the one that is given; None: not there."""

    field: str
    old: Any
    new: Any

    def __str__(self):
        return f"config.{self.field} was {_told(self.old)}, now {_told(self.new)}"


# ------------------------------------------------------------------------------------------ a run goes on
def check_resume(config, workdir: str, anyway: bool = False) -> list[str]:
    """What is to be said when a run goes on with another config than it was saved with; [] without a run.

    Args:
        config: of the run, without stages.
        workdir: its folder.
        anyway: `--resume_anyway`: nothing is refused.

    Raises:
        UserError: fields that change what the numbers of the run mean.
    """
    step, saved = trained_step(workdir), saved_config(workdir)
    if step is None or saved is None:
        return []
    if "data" not in saved:
        raise UserError(f"--workdir={workdir} holds imported weights: train in a new --workdir, from them "
                        f"with --config.init.checkpoint={workdir}.")
    free, refused = [], []
    for found in differences(saved, config, workdir):
        if found.field == "model.bn_groups" and _groups(workdir, found.old) == _groups(None, found.new):
            continue  # the number of devices, in words
        if found.field in ("train.num_steps", "train.num_epochs"):
            if (kind := _length(saved, checkpoint.to_json(config), found.field)) is not None:
                (refused if kind else free).append(found)
            continue
        (free if _matches(found.field, _RESUME) else refused).append(found)
    _refuse(refused, workdir, f"is trained up to step {step} with another config", anyway)
    lines = [f"{workdir}: going on {what}: {'; '.join(map(str, found))}" for what, found in (
        ("with other settings", free), ("as --resume_anyway says, with other numbers", refused)) if found]
    old, new = _groups(workdir, 0), jax.device_count()
    if not config.model.bn_groups and old != new and not any("bn_groups" in line for line in lines):
        lines.append(f"{workdir}: batch statistics are taken per device (config.model.bn_groups=0), of "
                     f"which there were {old} and are {new}: --config.model.bn_groups={old} keeps them")
    return lines


def check_run(config, workdir: str, anyway: bool = False) -> None:
    """The same for the outside of a run with stages: it stays one, and keeps its last stage.

    Raises:
        UserError: stages where there were none, the other way round, or without the trained last one.
    """
    saved = saved_config(workdir)
    if saved is None or "data" not in saved:
        return
    old, new = (_stages(run) for run in (saved.get("run", ""), config.run))
    if old == new:
        return
    folders = [os.path.join(workdir, name) for name in old] or [workdir]
    if any(trained_step(folder) is not None for folder in folders):
        kept = old and new and (old[-1] in new or trained_step(folders[-1]) is None)
        _refuse([] if kept else [Difference("run", ",".join(old), ",".join(new))], workdir,
                "holds a run of other stages", anyway)


def check_classes(class_names, workdir: str, anyway: bool = False) -> None:
    """The classes of the data are those that the network here was trained with.

    Raises:
        UserError: other names, another number or another order of them.
    """
    old, new = (_newest_meta(workdir) or {}).get("class_names"), list(class_names)
    if not old or old == new or trained_step(workdir) is None:
        return
    i = next((i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]),
             min(len(old), len(new)))
    first = " and ".join(f"{what} {names[i]!r}" if i < len(names) else f"{what} no such class"
                         for what, names in (("was", old), ("is now", new)))
    if len(old) != len(new) or not anyway:
        raise UserError(f"--workdir={workdir} is trained with {len(old)} classes, the data has {len(new)}; "
                        f"class {i} {first}: use a new --workdir, or the data it was trained with"
                        f"{'' if len(old) != len(new) else ', or --resume_anyway to go on here'}.")


def check_length(step: int, num_steps: int, workdir: str) -> None:
    """Raises UserError for a run that is already past its end."""
    if step > num_steps:
        raise UserError(f"--workdir={workdir} is trained up to step {step}, the config asks for {num_steps} "
                        f"(config.train.num_steps, num_epochs): ask for more, or use a new --workdir.")


def _refuse(found: list[Difference], workdir: str, what: str, anyway: bool) -> None:
    if found and not anyway:
        raise UserError(f"--workdir={workdir} {what}: {'; '.join(map(str, found))}. That changes what "
                        f"its numbers mean: use a new --workdir, the old values, or --resume_anyway to go on "
                        f"here.")


def _length(saved: dict, given: dict, field: str) -> bool | None:
    """Whether a run gets shorter; None where the field does not count, since steps win over epochs."""
    steps = "train.num_steps"
    old, new = (_flat(x).get(steps, 0) for x in (saved, given))
    if field != steps:
        return None if old or new else _flat(given)[field] < _flat(saved)[field]
    return bool(old and new and new < old)


def _groups(workdir: str | None, groups: int) -> int:
    """Parts of a batch with statistics of their own: here (`workdir` None), or of a run that is there."""
    if groups or workdir is None:
        return groups or jax.device_count()
    devices = (_read_json(os.path.join(workdir, "run.json")) or {}).get("devices")
    return len(devices) if devices else jax.device_count()


# ---------------------------------------------------------------------------------------------- shared
def trained_step(workdir: str) -> int | None:
    """The newest step that is saved in a folder; None if there is none."""
    return max(_steps(workdir), default=None)


def saved_config(workdir: str) -> dict | None:
    """The config that a folder's network was trained with, as json values; None if it cannot be told."""
    config = _read_json(os.path.join(workdir, "config.json"))
    return config if config is not None else (_newest_meta(workdir) or {}).get("config")


def differences(saved, given, workdir: str) -> list[Difference]:
    """Fields of both configs that differ, by name.

    Args:
        saved, given: configs.
        workdir: of the run; paths within it are the same when it has moved.
    """
    old, new = (_with_defaults(_flat(checkpoint.to_json(config))) for config in (saved, given))
    free = tuple(prefix for prefix in _FREE if _is_free(prefix, old))
    return [Difference(name, old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys())
            if (name in old and name in new or name.startswith(free))
            and old.get(name) != new.get(name) and not _moved(old.get(name), new.get(name), workdir)]


def _is_free(prefix: str, old: dict) -> bool:
    """A network with exits that was saved by older code may lack a field of theirs."""
    return prefix != "model.exits." or not any(name.startswith(prefix) for name in old)


def _flat(config, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value; an empty dict has no entry."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _with_defaults(fields: dict[str, Any]) -> dict[str, Any]:
    """With the settings of the method that older code did not have."""
    if not fields.get("method.name"):
        return fields
    known = dataclasses.fields(find_method(fields["method.name"]).Settings)
    known = {f"method.{field.name}": field.default for field in known}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()
            if value is not dataclasses.MISSING} | fields


def _moved(old, new, workdir: str) -> bool:
    """Whether two paths are the same, or the same place in a workdir (of a stage, maybe) that has moved."""
    if not isinstance(old, str) or not isinstance(new, str) or not old or not new or os.sep not in new:
        return False
    old, new = os.path.abspath(old), os.path.abspath(new)
    for base in (os.path.abspath(workdir), os.path.dirname(os.path.abspath(workdir))):
        if new.startswith(base + os.sep) and old.endswith(new.removeprefix(base)):
            return True
    return old == new


def _stages(run: str) -> list[str]:
    return [name.strip() for name in run.split(",") if name.strip()]


def _steps(workdir: str) -> list[int]:
    folder = os.path.join(workdir, "checkpoints")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def _newest_meta(workdir: str) -> dict | None:
    """What the newest readable checkpoint says about itself."""
    for step in reversed(_steps(workdir)):
        meta = _read_json(os.path.join(workdir, "checkpoints", str(step), "meta", "metadata"))
        if meta is not None:
            return meta
    return None


def _read_json(path: str) -> dict | None:
    """A json object; None where there is no readable one: whoever needs the file complains."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as f:
        found = json.load(f)
        return found if isinstance(found, dict) else None
    return None


def _matches(field: str, patterns) -> bool:
    return any(fnmatch.fnmatchcase(field, pattern) for pattern in patterns)


def _told(value) -> str:
    return "not set" if value is None else json.dumps(value)
