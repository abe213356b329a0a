"""The config of a run: given or saved with it, whole or one of its stages."""

from __future__ import annotations

import json
import os
import re

import ml_collections

from effvid_jax import checkpoint
from effvid_jax.errors import UserError
from effvid_jax.methods import find_method


def prepare(config, workdir: str) -> ml_collections.ConfigDict:
    """The config of a run: given, with the embedded benchmark placed inside the workdir.

    Raises:
        UserError: no config.
    """
    if config is None:
        raise UserError("--config=FILE is missing, for example --config=configs/reskd_minik.py:demo. "
                        "Configs: " + ", ".join(known_configs()) + ".")
    config = config.copy_and_resolve_references()
    if config.data.source == "synthetic" and not config.data.root:
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
    with open(saved) as f:
        config = ml_collections.ConfigDict(json.load(f))
    if "data" not in config:
        raise UserError(f"{saved} names a model but no data (imported weights): give --config=... with "
                        f"the data to use.")
    return config, directory


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
    with stage.unlocked():
        if "method" in changes:
            stage.method = ml_collections.ConfigDict()
        for name_of_whole in ("options", "exits"):  # replaced, not merged
            if name_of_whole in changes.get("model", {}):
                stage.model[name_of_whole] = ml_collections.ConfigDict()
        stage.update(changes)
    if stage.init.checkpoint in config.stages:  # another stage of this run
        stage.init.checkpoint = os.path.join(workdir, stage.init.checkpoint)
    for field, other in find_method(stage.method.name).Settings.workdirs.items():
        if not stage.method[field] and other in config.stages:
            stage.method[field] = os.path.join(workdir, other)
    return stage


def known_configs() -> list[str]:
    """Config files beside `main.py`, as a user names them."""
    folder = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "configs")
    if not os.path.isdir(folder):
        return []
    return sorted(f"configs/{name}" for name in os.listdir(folder)
                  if re.fullmatch(r"[a-z]+_\w+\.py", name))
