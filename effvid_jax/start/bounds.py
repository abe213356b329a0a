"""Type and bounds of every field of a config, and what of a run can be checked before it starts.

Each field is described once: those of `config.data` in `data_pipelines/options.py`, those of `config.method`
in the `Settings` of the method, all others in `FIELDS`. `check_values` looks at values alone and takes no
time; `check_run` builds the network too, without arrays, and knows the devices.
"""

from __future__ import annotations

import difflib
import json
import math
import re

import jax

import data_pipelines
from data_pipelines import Field, shown
from effvid_jax import best, model_fields, published, weights_and_biases
from effvid_jax.backbones import remat
from effvid_jax.errors import UserError
from effvid_jax.exits import network, routes
from effvid_jax.methods import check_method, find_method
from effvid_jax.optim import GROUPS, OPTIMIZERS, SCHEDULES, check_frozen, make_optimizer
from effvid_jax.start.validation import during_training
from effvid_jax.tasks import find_task, group_of

_PIXELS, _STEPS = Field.integer(0, 2**14), Field.integer(0, 2**31 - 1)
_OFTEN, _EPOCHS = Field.integer(1, 2**31 - 1), Field.number(0, 1e9)

FIELDS: dict[str, Field] = {
    "name": Field.text(), "note": Field.text(),
    "seed": Field.integer(-2**31, 2**32 - 1),  # jax takes 32 bits: 2**32 would be seed 0 again
    "run": Field.text(), "stages": Field.group(), "task": Field.text(), "evaluations": Field.group(),
    "data": Field.group(), "model": Field.group(), "method": Field.group(), "optim": Field.group(),
    "train": Field.group(), "init": Field.group(), "bench": Field.group(),
    "model.backbone": Field.text(),  # `make_backbone` knows the names
    "model.resolution": _PIXELS, "model.dropout": Field.number(0, below=1),
    "model.dtype": Field.choice(*model_fields.DTYPES), "model.bn_groups": Field.integer(0, 2**20),
    "model.remat": Field.choice(*remat.MODES),
    "model.options": Field.group(), "model.exits": Field.group(),
    "model.exits.frames": Field.integer(1, 256), "model.exits.scheme": Field.choice(*routes.SCHEMES),
    "model.exits.route": Field.many(Field.many(Field.integer(0, 256))),
    "model.exits.order": Field.many(Field.integer(0, 256)), "model.exits.groups": Field.integer(0, 256),
    "model.exits.shift": Field.choice("online", "offline", "none"),
    "model.exits.shift_div": Field.integer(1, 2**14), "model.exits.stages": Field.many(Field.integer(0, 256)),
    "model.exits.width": Field.integer(0, 2**16), "model.exits.share_heads": Field.flag(),
    "model.exits.classifier_std": Field.number(0, 1e3), "model.exits.lift_last": Field.flag(),
    "model.exits.merge": Field.choice(*network.MERGES), "model.exits.judge": Field.integer(0, 2**14),
    "model.exits.gates": Field.many(Field.integer(1, 2**16)),
    "model.glance": Field.group(), "model.glance.backbone": Field.text(),
    "model.glance.resolution": _PIXELS, "model.glance.options": Field.group(),
    "method.name": Field.text(),
    "optim.name": Field.choice(*OPTIMIZERS), "optim.lr": Field.number(0, 1e6),
    "optim.momentum": Field.number(0, below=1), "optim.weight_decay": Field.number(0, 1e6),
    "optim.groups": Field.choice(*GROUPS), "optim.frozen": Field.pattern(),
    "optim.clip_norm": Field.number(0, 1e30),
    "optim.accumulate": Field.integer(1, 2**20), "optim.schedule": Field.choice(*SCHEDULES),
    "optim.milestones": Field.many(_EPOCHS), "optim.warmup_epochs": _EPOCHS,
    "optim.warmup_ratio": Field.number(0, 1),
    "train.num_epochs": _EPOCHS, "train.num_steps": _STEPS, "train.log_every_steps": _OFTEN,
    "train.eval_every_epochs": _EPOCHS, "train.checkpoint_every_steps": _OFTEN,
    "train.keep": Field.integer(1, 10**6),  # 0 would remove every checkpoint
    "train.min_reference_ratio": Field.number(0, 1e6), "train.validation": Field.group(),
    "train.best": Field.text(), "train.patience": _STEPS, "train.min_change": Field.number(0, 1e6),
    "train.ema": Field.number(0, below=1), "train.label_smoothing": Field.number(0, below=1),
    "train.mixup": Field.number(0, 1e3), "train.cutmix": Field.number(0, 1e3), "train.wandb": Field.text(),
    "train.fsdp": Field.integer(1, 2**20),
    "train.validation.test_clips": Field.integer(0, 10**4),
    "train.validation.test_crop": Field.choice("", "center", "three"),
    "train.validation.test_short_side": _PIXELS, "train.validation.test_crop_size": _PIXELS,
    "train.validation.eval_batch_size": Field.integer(0, 2**20),
    "init.checkpoint": Field.text(), "init.skip": Field.pattern(), "init.step": _STEPS,
    "init.probe": Field.flag(),
    "export": Field.group(), "export.format": Field.choice("jax", "savedmodel"),
    "bench.seconds": Field.number(above=0, most=1e6), "bench.batch_size": Field.integer(0, 2**20),
    "bench.threads": Field.many(Field.integer(1, 1024)), "bench.workers": Field.many(Field.integer(0, 1024)),
    "bench.resolutions": Field.many(Field.integer(1, 2**14)),
}
# Not in every config: of somebody's own, or younger than old workdirs.
OPTIONAL = ("task", "evaluations", "model.exits", "model.glance", "model.remat", "train.validation",
            "bench", "export", "name", "note", "optim.frozen", "init.probe",
            *(f"train.{name}" for name in ("best", "patience", "min_change", "ema", "label_smoothing",
                                           "mixup", "cutmix", "wandb", "fsdp")))
# Of a backbone: what grows without end takes memory and time without end. Names not here: `_OPTION`.
_OPTIONS = {**dict.fromkeys(("stage_sizes", "depths", "num_heads"), Field.many(Field.integer(1, 256))),
            **dict.fromkeys(("dropout", "drop_path"), Field.number(0, below=1)),
            "classifier_std": Field.number(0, 1e3)}
_OPTION = Field.number(-2**16, 2**16)


def check_values(config, complete: bool = False) -> None:
    """Looks at the value of every field of a config, or of one of its stages.

    Args:
        config: a resolved config; fields that are not known here are not looked at.
        complete: fields that are missing are an error.

    Raises:
        UserError, DataError: the first field with a wrong type or out of its bounds.
    """
    for path, field in FIELDS.items():
        group, _, name = path.rpartition(".")
        inside = _find(config, group)
        if inside is None or name not in inside:
            if complete and not _is_optional(path):
                raise _missing(path)
            continue
        if problem := field.problem(inside[name]):
            raise UserError(f"config.{path}={shown(inside[name])}: expected {problem}.")
    data_pipelines.check_fields(dict(config.get("data", {}).items()))
    for group in ("model", "model.glance"):
        for name, value in (_find(config, f"{group}.options") or {}).items():
            _check_option(f"config.{group}.options.{name}", value, _OPTIONS.get(name))
    for name, epochs in config.get("evaluations", {}).items():
        if problem := _EPOCHS.problem(epochs):
            raise UserError(f"config.evaluations.{name}={shown(epochs)}: expected {problem} (epochs between "
                            f"two evaluations; 0: at the end only).")
    task, group = find_task(config), group_of(config)
    for name, value in config.get(group, {}).items() if task.bounds else ():
        if name not in task.bounds:
            raise UserError(f"config.{group}.{name}={shown(value)} is no field of this task. Close matches: "
                            f"{difflib.get_close_matches(name, task.bounds)}. All: {list(task.bounds)}.")
        if problem := task.bounds[name].problem(value):
            raise UserError(f"config.{group}.{name}={shown(value)}: expected {problem}.")
    if "method" in config and "name" not in config.method:
        raise UserError("config.method.name is missing: start from a config of configs/.")
    if "method" in config and not config.get("run"):  # else a stage's, which is looked at with its name
        find_method(config.method.name).Settings.read(config.method)
    for name, stage in config.get("stages", {}).items():
        if problem := Field.group().problem(stage):
            raise UserError(f"config.stages.{name}={shown(stage)}: expected {problem}.")
        try:
            check_values(stage)
        except (UserError, data_pipelines.DataError) as error:
            raise type(error)(f"stage {name}: {error}") from error


def kind_of(path: str) -> str:
    """What a field may hold, in words: 'an integer'; '' if it is not known here."""
    group, _, name = path.partition(".")
    field = FIELDS.get(path) or (data_pipelines.data_fields.get(name) if group == "data" else None)
    return field.kind if field else ""


def _find(config, path: str):
    """The group of fields at a path; None if it is not there."""
    for name in filter(None, path.split(".")):
        config = config.get(name) if hasattr(config, "get") else None
    return config if hasattr(config, "keys") else None


def _is_optional(path: str) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in OPTIONAL)


def _check_option(path: str, value, field: Field | None) -> None:
    """An option of a backbone: plain values, and sequences of them."""
    if field is None and isinstance(value, (list, tuple)):
        if len(value) > 256:
            raise UserError(f"{path}={shown(value)}: expected at most 256 entries.")
        for entry in value:
            _check_option(path, entry, None)
        return
    if field is None and (isinstance(value, (bool, str)) or value is None):
        return
    if problem := (field or _OPTION).problem(value):
        raise UserError(f"{path}={shown(value)}: expected {problem}.")


def require(config, *paths: str) -> None:
    """Raises UserError for the first of these fields that a config lacks.

    Args:
        config: a config.
        paths: such as 'data.source'.
    """
    for path in paths:
        group, _, name = path.rpartition(".")
        if name not in (_find(config, group) or ()):
            raise _missing(path)


def _missing(path: str) -> UserError:
    return UserError(f"config.{path} is missing: start from the defaults of configs/recipes/base.py.")


def check_run(config) -> None:
    """Everything that can be wrong with a run, or a stage of one, before its data is opened.

    Args:
        config: a resolved config without stages.

    Raises:
        UserError, DataError: a value, values that clash, or a network that cannot be built.
    """
    check_values(config, complete=True)
    data, train, optim = config.data, config.train, config.optim
    data_pipelines.check_config(data, jax.process_count())
    if not train.num_steps and not train.num_epochs:
        raise UserError("config.train.num_steps=0 and config.train.num_epochs=0: one of them must say how "
                        "long to train; --mode=eval scores what is trained already.")
    if 0 < train.num_steps < optim.accumulate:
        raise UserError(f"config.optim.accumulate={optim.accumulate}: one update takes that many steps, more "
                        f"than config.train.num_steps={train.num_steps}: nothing would be trained.")
    if match := re.fullmatch("<(.*)>", config.init.checkpoint):  # a recipe's word for what it cannot know
        raise UserError(f"config.init.checkpoint is not given: this config starts from {match[1]}. Give it "
                        f"with --config.init.checkpoint=DIR.")
    if config.init.checkpoint == published.WORD:
        field = f"config.init.checkpoint={published.WORD!r}"
        published.weights_file(published.package_of(config.model.backbone, field), field)
    devices = jax.device_count()
    for field in ("batch_size", "eval_batch_size"):
        _check_divides(f"config.data.{field}", data[field], devices, f"the {devices} devices of this machine")
    if devices % (fsdp := train.get("fsdp", 1)):
        raise UserError(f"config.train.fsdp={fsdp} does not divide the {devices} devices of this machine: so "
                        f"many of them share one copy of parameters and optimizer. Choose a divisor; 1: each "
                        f"has all.")
    _check_validation(config, devices)
    if config.model.bn_groups:
        _check_divides("config.data.batch_size", data.batch_size, config.model.bn_groups,
                       f"the parts of config.model.bn_groups={config.model.bn_groups}")
    make_optimizer(optim, steps_per_epoch=100, num_steps=1000)
    best.check(config)
    weights_and_biases.check(train.get("wandb", ""))
    _check_mixing(config)
    _check_network(config)


def _check_validation(config, devices: int) -> None:
    """What evaluations during training change: fields that exist, and that go with the rest of the data."""
    group = "train.validation."
    for name, value in config.train.get("validation", {}).items():
        if group + name not in FIELDS:
            known = ", ".join(path.removeprefix(group) for path in FIELDS if path.startswith(group))
            raise UserError(f"config.{group}{name}={shown(value)} is no field of it. Known: {known}.")
    during = during_training(config)
    if during is config:
        return
    try:
        data_pipelines.check_config(during.data, jax.process_count())
    except data_pipelines.DataError as error:
        raise data_pipelines.DataError(
            f"config.train.validation, with what it leaves to config.data: {error}") from error
    _check_divides(f"config.{group}eval_batch_size", during.data.eval_batch_size, devices,
                   f"the {devices} devices of this machine")
    _check_network(during)


def _check_mixing(config) -> None:
    """What changes the answer to a clip, or where it lies, is for tasks that know it."""
    asked = {f"config.train.{name}": config.train.get(name, 0)
             for name in ("mixup", "cutmix", "label_smoothing")}
    asked["config.data.randaugment"] = config.data.get("randaugment", 0)
    for field, value in asked.items():
        if value and not find_task(config).mixes:
            raise UserError(f"{field}={value} is for the task 'classification': what config.task="
                            f"{config.get('task', '')!r} is asked lies in the picture, and would stay "
                            f"behind. Set it to 0.")
    for field in ("config.train.mixup", "config.train.cutmix"):
        if asked[field] and config.data.batch_size < 2:
            raise UserError(f"{field}={asked[field]} mixes clips of a batch in pairs: expected "
                            f"config.data.batch_size of 2 or more.")


def _check_divides(field: str, value: int, parts: int, what: str) -> None:
    if value % parts:
        below = value // parts * parts
        near = f"{below} or {below + parts}" if below else str(parts)
        raise UserError(f"{field}={value} does not divide over {what}: choose a multiple, such as {near}.")


_BUILT: set[str] = set()  # what `_check_network` has built, as text: stages have networks in common


def _check_network(config) -> None:
    """Builds the network of a config for the clips of training, and of evaluation where they are others.

    Raises:
        UserError: what method or backbone refuse, or a network that does not fit into this machine.
    """
    data = config.data
    asked = [config.get("task"), dict(config.get(group_of(config), {}))]
    of_start = [config.optim.get("frozen", ""), config.init.get("probe", False)]
    text = json.dumps([*asked, *of_start, config.model.to_dict(), config.method.to_dict(), data.num_frames,
                       data.crop, data.test_crop_size, data.multi_label], default=str)
    if text in _BUILT:
        return
    sides = (data.crop,) if config.model.resolution else dict.fromkeys((data.crop, data.test_crop_size))
    try:
        for side in sides:
            variables = check_method(config, (1, data.num_frames, side, side, 3))
    except UserError:
        raise
    except Exception as error:  # options are as free as a backbone's code; EFFVID_TRACEBACK=1 shows where
        raise UserError(
            f"{_network(config)} cannot be built for {data.num_frames} frames of {data.crop} pixels: "
            f"{' '.join(str(error).split())[:300] or 'nothing more is known'} ({type(error).__name__})."
        ) from error
    check_frozen(variables.params, of_start[0])
    if of_start[1]:
        _check_probe(config, variables.params)
    needed, memory = (sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(variables)),
                      data_pipelines.memory_bytes())
    if needed > memory:
        raise UserError(f"{_network(config)} has arrays of {needed / 2**30:,.0f} GiB, this machine a memory "
                        f"of {memory / 2**30:,.0f}: choose a smaller one.")
    _BUILT.add(text)


def _check_probe(config, params) -> None:
    """Raises UserError where there is no classifier that could begin as a fitted one (`probe.py`)."""
    problem = ""
    if not find_task(config).class_scores or config.data.multi_label:
        problem = "what is fitted tells one class a video, which is not what this run asks of its network"
    elif set(params.get("fc", ())) != {"kernel", "bias"}:
        problem = f"{_network(config)} has no single linear classifier"
    elif not config.init.checkpoint:
        problem = "random weights see nothing: name a start, such as config.init.checkpoint='pretrained'"
    if problem:
        raise UserError(f"config.init.probe=True: {problem}. Leave it at False.")


def _network(config) -> str:
    return (f"config.model: {config.model.backbone!r} with the options "
            f"{shown(config.model.options.to_dict())}")
