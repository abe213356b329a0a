"""The config of a run: given or saved with it, whole or one of its stages."""

from __future__ import annotations

import os
import re

import ml_collections

from effvid_jax import checkpoint, published, writers
from effvid_jax.errors import UserError
from effvid_jax.methods import find_method
from effvid_jax.start import bounds

# Where `configs/` lies: a clone, or where the package is installed.
PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# What every mode reads of a saved config; `data_pipelines` says itself what it misses in `data`.
FIELDS = {
    "name": str, "note": str, "seed": int, "data": dict, "data.source": str, "data.root": str,
    "data.num_frames": int, "data.test_crop_size": int, "data.eval_batch_size": int, "data.num_threads": int,
    "model": dict, "model.backbone": str, "model.resolution": int, "model.options": dict, "method": dict,
    "method.name": str, "optim": dict, "train": dict, "init": dict, "init.step": int, "run": str,
    "stages": dict}


def prepare(config, workdir: str) -> ml_collections.ConfigDict:
    """The config of a run: given, with the embedded benchmark placed inside the workdir.

    Raises:
        UserError, DataError: no config, or a value that a field cannot have.
    """
    if config is None:
        raise UserError("--config=FILE is missing, for example --config=configs/reskd_minik.py:demo. "
                        "Configs: " + ", ".join(known_configs()) + ".")
    config = config.copy_and_resolve_references()
    bounds.check_values(config)
    bounds.require(config, "data.source", "data.root")
    if config.data.source.startswith("synthetic") and not config.data.root:
        config.data.root = os.path.join(workdir, "benchmark")
    return config


def trained(config, workdir: str) -> tuple[ml_collections.ConfigDict, str]:
    """(config, workdir) of something trained: the config that was saved with it unless one is given.

    A run of several stages stands for its last one.
    """
    names = stage_names(config) if config is not None else []
    saved = os.path.join(workdir, "config.json")
    if not os.path.isdir(workdir):
        raise UserError(f"--workdir={workdir} does not exist: give the folder of a training run.")
    directory = os.path.dirname(checkpoint.checkpoint_directory(workdir))
    if config is not None:
        config = prepare(config, workdir)
        return (stage_config(config, names[-1], workdir) if names else config), directory
    saved = os.path.join(directory, "config.json")
    if not os.path.exists(saved):
        raise UserError(f"{saved} is missing: give --config as well.")
    return read_config(saved), directory


def read_config(path: str) -> ml_collections.ConfigDict:
    """A whole `config.json` of a run.

    Raises:
        UserError: it is damaged, of imported weights, or lacks what other versions of this program wrote.
    """
    advice = "Give --config=FILE of the run as well: it is used instead."
    saved = writers.read_json(path, advice)
    if "data" not in saved and "model" in saved:
        raise UserError(f"{path} names a model but no data (imported weights): give --config=... with "
                        f"the data to use.")
    for name, kind in FIELDS.items():
        *parents, last = name.split(".")
        group = saved
        for parent in parents:
            group = group[parent]
        if last not in group or not isinstance(group[last], kind) or isinstance(group[last], bool):
            found = f"is {group[last]!r}"[:60] if last in group else "is missing"
            raise UserError(f"{path}: the field {name} {found}, expected is {kind.__name__}: it is damaged, "
                            f"or of another version. {advice}")
    try:
        config = ml_collections.ConfigDict(saved)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}). {advice}") from error
    config.init.step = 0  # was wanted once, by an earlier version's command
    return config


def stage_names(config) -> list[str]:
    """Stages of `config.run`, checked.

    Raises:
        UserError: a stage that the config does not have.
    """
    names = [name.strip() for name in config.run.split(",") if name.strip()]
    known = [*config.stages, "student"]
    for name in names:
        if name not in known:
            raise UserError(f"config.run={config.run!r}: no stage {name!r}; this config has {known}.")
    return names


def stage_config(config, name: str, workdir: str) -> ml_collections.ConfigDict:
    """The whole config of one stage of a run."""
    stage = config.copy_and_resolve_references()
    changes = stage.stages.get(name, ml_collections.ConfigDict())
    stage.run, stage.stages = "", ml_collections.ConfigDict()
    stage.name = f"{config.name} {name}"
    with stage.unlocked(), stage.ignore_type():  # types are checked, see `bounds.py`
        if "method" in changes:
            stage.method = ml_collections.ConfigDict()
        for name_of_whole in ("options", "exits"):  # replaced, not merged
            if name_of_whole in changes.get("model", {}):
                stage.model[name_of_whole] = ml_collections.ConfigDict()
        stage.update(changes)
    own, start = stage.init.get("checkpoint", ""), config.init.get("checkpoint", "")
    start = "" if own == "none" else own or start
    folders = {other: os.path.join(workdir, other) for other in config.stages}
    for field, other in find_method(stage.method.name).Settings.workdirs.items():
        if stage.method[field] == "" and other in folders:
            stage.method[field] = folders[other]
        folders[other] = stage.method[field]  # what is given stands for the stage
    if "checkpoint" in config.init:  # else that is told later
        stage.init.checkpoint = folders[start] if start in config.stages else start
    return stage


def check_starts(config, names) -> None:
    """A start that is given to all stages fits those that have no other.

    Args:
        config: with its stages.
        names: of the stages that are trained.

    Raises:
        UserError: a stage of another backbone than the config itself.
    """
    start, ours = config.init.get("checkpoint", ""), config.model.get("backbone", "")
    if len(names) < 2 or start in ("", published.WORD) or start in config.stages:
        return
    for name in names:
        stage = config.stages.get(name, {})
        theirs = stage.get("model", {}).get("backbone", ours)
        if theirs != ours and not stage.get("init", {}).get("checkpoint"):
            raise UserError(
                f"config.init.checkpoint={start!r} is what all stages start from, but stage {name} trains "
                f"{theirs!r}, not {ours!r}: give it weights of its own, "
                f"--config.stages.{name}.init.checkpoint=DIR, or =none to train it from scratch.")


def known_configs() -> list[str]:
    """Config files of the project, as a user of a clone names them."""
    folder = os.path.join(PROJECT, "configs")
    if not os.path.isdir(folder):
        return []
    return sorted(f"configs/{name}" for name in os.listdir(folder)
                  if re.fullmatch(r"[a-z]+_\w+\.py", name))
