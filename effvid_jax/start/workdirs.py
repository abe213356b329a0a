"""What a workdir remembers: the config of what was trained in it, against the one that a command gives.

A run that goes on (`check_resume`) may change how it is logged, saved and read; what changes the meaning of
its numbers is refused. An evaluation (`evaluation_name`) may change what it reads; its result then has a name
of its own, and what it would ignore is refused.

Fields that one side does not have are those of older or newer code, whose defaults are what the other means:
no difference.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import json
import os
import re
import zlib
from typing import Any, NamedTuple

import jax

from effvid_jax import checkpoint, stored
from effvid_jax.course import Course, Position
from effvid_jax.errors import UserError
from effvid_jax.methods import find_method
from effvid_jax.tasks import find_task, group_of

# Fields are dotted names, matched as in a shell. What only reads faster or slower changes no number.
_READING = ("name", "note", "data.eval_batch_size", "data.num_threads", "data.num_workers", "data.prefetch",
            "data.cache", "data.cache_gib", "data.max_broken_share", "data.views_per_pass")
# May change when a run goes on. `run` and `stages`: see `check_run`; every stage's folder compares its own.
_RESUME = (*_READING, "run", "stages.*", "data.root", "data.*_root", "data.*_list", "data.classes_file",
           "train.log_every_steps", "train.eval_every_epochs", "train.checkpoint_every_steps", "train.keep",
           "train.min_reference_ratio", "train.best", "train.patience", "train.min_change", "train.wandb",
           "train.fsdp", "init.step", "bench.*", "export.*", "evaluations.*", "model.remat",
           "train.validation.*")
# Not read by what uses a trained network: the network is the checkpoint's.
_TRAINING = ("model.*", "optim.*", "train.*", "bench.*", "export.*", "evaluations.*", "seed", "run",
             "stages.*", "init.checkpoint", "init.skip", "init.probe", "data.batch_size", "data.seed",
             "data.short_side", "data.train_crop", "data.crop", "data.snap_side", "data.short_sides",
             "data.flip", "data.randaugment", "data.randaugment_magnitude", "data.fixed_views")
_ANYWAY = "as --resume_anyway says, with other numbers"
# Which of the fields that say where videos are a source reads, for a split (S).
_SOURCES = {
    "list": ("S_root", "S_list", "list_format", "classes_file", "num_classes"),
    "folder": ("train_root", "S_root", "num_classes", "val_share", "split_seed"),
    "array_record": ("S_root", "S_list", "num_classes"),
    "tfds": ("S_root", "S_list", "tfds_name", "num_classes"),
    "synthetic": ("synthetic.*",), "synthetic_boxes": ("synthetic.*",),
    "synthetic_moments": ("synthetic.*",),
    "boxes": ("S_root", "S_list", "list_format", "classes_file", "num_classes"),
    "jhmdb": ("S_list", "num_classes"),
    "masks": ("S_root", "S_list", "classes_file", "num_classes", "mask_first"),
    "sceneparse": ("S_list", "classes_file", "num_classes"),
    "synthetic_scenes": ("synthetic.*",),
}
_WHERE = ("*_root", "*_list", "list_format", "frame_template", "start_index", "classes_file", "num_classes",
          "mask_first", "tfds_name", "val_share", "split_seed", "calib_share", "synthetic.*")
# What decides numbers and older code did not have: what it did then.
_THEN = {"data.snap_side": 0, "data.quality": 0, "data.mask_first": 0, "data.short_sides": [],
         "data.randaugment": 0, "data.randaugment_magnitude": 9.0, "data.fixed_views": 0,
         "train.ema": 0.0,
         "train.label_smoothing": 0.0, "train.mixup": 0.0, "train.cutmix": 0.0}
# Dicts whose fields differ between configs: here a field that only one side has is a difference.
_FREE = ("model.options.", "model.glance.options.", "model.exits.", "data.synthetic.", "task")


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
    return [f"{workdir}: going on {what}: {'; '.join(map(str, found))}" for what, found in (
        ("with other settings", free), (_ANYWAY, refused)) if found]


def check_devices(config, workdir: str, num_clips: int, anyway: bool = False) -> list[str]:
    """What is to be said when a run goes on with another number of devices; [] if there is nothing to train.

    Args:
        config, workdir, anyway: see `check_resume`.
        num_clips: of the training split.

    Raises:
        UserError: batch statistics of other parts of a batch than before.
    """
    step, saved = config.init.step or trained_step(workdir), saved_config(workdir) or {}
    old, new = _groups(workdir, 0), jax.device_count()
    if step is None or old == new:
        return []
    position = saved_position(workdir, step)
    if position is not None and position.step >= Course(config, num_clips, position).num_steps:
        return []
    groups, given = saved.get("model", {}).get("bn_groups", 0), config.model.bn_groups
    if _groups(workdir, groups) == _groups(None, given) or not _batch_statistics(workdir):
        return [f"{workdir}: computed on {old} devices before, on {new} now; batch statistics are taken as "
                f"before"]
    if groups or given:
        return []  # `check_resume` has refused or told it
    found = Difference("model.bn_groups", f"0, a part of a batch on each of {old} devices",
                       f"0 on {new}; --config.model.bn_groups={old} keeps the batch statistics")
    _refuse([found], workdir, f"is trained up to step {step} on other devices", anyway)
    return [f"{workdir}: going on {_ANYWAY}: {found}"]


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


def _batch_statistics(workdir: str) -> bool:
    """Whether the network here has any."""
    arrays = (_newest_meta(workdir) or {}).get("arrays")
    return not isinstance(arrays, dict) or any(name.startswith("stats/") for name in arrays)


def _groups(workdir: str | None, groups: int) -> int:
    """Parts of a batch with statistics of their own: here (`workdir` None), or of a run that is there."""
    if groups or workdir is None:
        return groups or jax.device_count()
    devices = (_read_json(os.path.join(workdir, "run.json")) or {}).get("devices")
    return len(devices) if devices else jax.device_count()


# ----------------------------------------------------------------------------------------- an evaluation
def evaluation_name(config, workdir: str, split: str, overrides=()) -> str:
    """What tells an evaluation from the training run's own, such as 'twice_sample-True'; '' if nothing does.

    Args:
        config: of the evaluation, without stages.
        workdir: of the network.
        split: that is scored.
        overrides: fields that the command line changed, in dotted names.

    Raises:
        UserError: a field that is changed and not read.
    """
    found = check_overrides(config, workdir, overrides)
    where = _read_of_data(config.data, split)
    unread = [d for d in found if d.field.startswith("data.") and not _matches(d.field[5:], where)
              and _matches(d.field[5:], _WHERE)]
    for one in unread:
        if one.field in overrides:
            raise UserError(f"config.{one.field}={_told(one.new)} is not read when split {split!r} of "
                            f"config.data.source={config.data.source!r} is scored: leave it away, or change "
                            f"{', '.join('config.data.' + name for name in where)}.")
    return _short([d for d in found if d not in unread])


def check_overrides(config, workdir: str, overrides=(), reads=()) -> list[Difference]:
    """What makes the use of a trained network another one than its config says, see `evaluation_name`.

    Args:
        config, workdir, overrides: see `evaluation_name`.
        reads: fields, as patterns, that this use reads and others do not.

    Raises:
        UserError: a field that only training reads, or another network than was trained.
    """
    saved = saved_config(workdir) or {}
    found = differences(saved, config, workdir) if "data" in saved else []
    known, changed = _flat(saved), {d.field for d in found}
    unread = (*_TRAINING, *_training_only(config))
    for field in overrides:
        same = field in known and field in _flat(checkpoint.to_json(config)) and field not in changed
        if _matches(field, unread) and not same and not _matches(field, reads):
            raise UserError(_unread(field, workdir))
    for one in found:
        network = tuple(f"{group_of(config)}.{name}" for name in find_task(config).of_the_network)
        if one.field in network or one.field.startswith("model.") and not one.field.startswith(
                    ("model.bn_groups", "model.dropout", "model.remat")):
            raise UserError(f"{one}, but the network comes from the checkpoint in {workdir}: give the config "
                            f"it was trained with, or none.")
    return [d for d in found if not _matches(d.field, (*unread, *_READING))]


def _unread(field: str, workdir: str) -> str:
    if field.startswith("model."):
        return (f"--config.{field} is not read here, the network comes from the checkpoint in {workdir}: "
                f"leave it away, or train such a network in a new --workdir.")
    if field == "run" or field.startswith("stages."):
        return (f"--config.{field} is not read here: the last stage is used; --workdir={workdir}, or another "
                f"stage's folder beside it, takes that stage.")
    return (f"--config.{field} is not read here, only where a network is trained, timed or exported: leave "
            f"it away.")


def _training_only(config) -> tuple[str, ...]:
    """Fields of `config.method` and of the task that only training reads."""
    return (*(f"method.{name}" for name in find_method(config.method.name).Settings.training_only),
            *(f"{group_of(config)}.{name}" for name in find_task(config).training_only))


def _read_of_data(data, split: str) -> list[str]:
    """Fields of `config.data` that say where the videos of a split are, as patterns without 'data.'."""
    held_out = data.get("calib_share", 0) and split in ("train", "calib")
    name = "train" if held_out else split
    read = [field.replace("S_", f"{name}_") for field in _SOURCES.get(data.source, _WHERE)]
    if "list_format" in read and data.list_format == "frames":
        read += ["frame_template", "start_index"]
    return read + (["calib_share", "split_seed"] if split in ("train", "calib") else [])


def _short(found: list[Difference]) -> str:
    """A part of a file's name that says what differs; a checksum stands for what does not fit into one."""
    parts = []
    for field, _, value in found:
        text = "-".join(map(str, value)) if isinstance(value, list) else str(value)
        last = os.path.splitext(os.path.basename(text))[0] if "/" in text else text
        plain = re.sub(r"[^\w.+-]+", "-", last)
        parts.append(f"{field.rpartition('.')[2]}-{plain[:40]}" + ("" if plain[:40] == text else _crc(text)))
    name = "_".join(parts)
    return name if len(name) <= 120 else name[:100] + _crc(name)


def _crc(text: str) -> str:
    return f"-{zlib.crc32(text.encode()):08x}"


# ---------------------------------------------------------------------------------------------- shared
def trained_step(workdir: str) -> int | None:
    """The newest step that is saved in a folder; None if there is none."""
    return max(_steps(workdir), default=None)


def saved_position(workdir: str, step: int) -> Position | None:
    """How far the run in a folder was when it saved a step; None if that cannot be told."""
    with contextlib.suppress(UserError):  # what cannot be read is passed by when the run goes on
        return stored.position_of(stored.read_meta(os.path.join(workdir, "checkpoints", str(step))))
    return None


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
    """With the fields that decide numbers and that older code did not have."""
    fields = ({} if "data.crop" not in fields else _THEN) | fields
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
