"""Runs that differ in an argument of a config file, each trained once: what a grid or comparison is made of.

A run that is finished is not trained again, and one that was stopped goes on, so that the same command can be
given until everything is there. Networks that a run needs and that its config trains as a stage (a teacher)
are trained once for all runs with the same one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from effvid_jax import checkpoint, cli, console
from effvid_jax.analysis import opening
from effvid_jax.errors import UserError
from effvid_jax.methods import find_method
from effvid_jax.start import runs, workdirs


def config_of(config_file: str, changes: Sequence[str], **arguments):
    """The config of a file with further arguments: `FILE[:ARGS]` and `resolution=112`.

    Args:
        config_file: as for `--config`.
        changes: '--config.field=value', ....
        **arguments: of the file; they must not be in `config_file` already.

    Raises:
        UserError: no such file, argument or field, or an argument that is given twice.
    """
    if not config_file:
        raise UserError("--config=FILE[:ARGS] is missing. Configs: " + ", ".join(runs.known_configs()) + ".")
    file, _, given = config_file.partition(":")
    for name in arguments:
        if any(part.partition("=")[0].strip() == name for part in given.split(",")):
            raise UserError(f"--config={config_file}: leave the argument {name} out, this command sets it.")
    parts = [part for part in given.split(",") if part] + [f"{name}={x}" for name, x in arguments.items()]
    return opening.given_config("", f"{file}:{','.join(parts)}", changes)


class Variants:
    """Trains runs into folders of a workdir.

    Args:
        workdir: of all of them; the embedded benchmark is built in it once.
    """

    def __init__(self, workdir: str):
        self.workdir = workdir
        self._shared: list[tuple[dict, str]] = []

    def placed(self, config):
        """The config with the embedded benchmark in the shared folder, without stages."""
        config = config.copy_and_resolve_references()
        if config.data.source.startswith("synthetic") and not config.data.root:
            config.data.root = os.path.join(self.workdir, "benchmark")
        return config

    def train(self, config, name: str) -> str:
        """Trains what a config describes, its last stage alone where it has several; returns the folder.

        Args:
            config: of the run.
            name: of the folder.
        """
        config = self.placed(config)
        for field, stage in find_method(config.method.name).Settings.workdirs.items():
            if not config.method[field] and stage in config.stages:
                other = runs.stage_config(config, stage, self.workdir)
                config.method[field] = self._other(other, stage, name)
        config.run = ""
        return self._train(config, os.path.join(self.workdir, name))

    def _other(self, config, stage: str, name: str) -> str:
        """The folder of a network that a run needs, trained."""
        wanted = checkpoint.to_json(config)
        for known, folder in self._shared:
            if known == wanted:
                return folder
        folder = os.path.join(self.workdir, stage if not self._shared else f"{stage}_{name}")
        self._shared.append((wanted, folder))
        return self._train(config, folder)

    def _train(self, config, folder: str) -> str:
        done = os.path.exists(os.path.join(folder, "metrics.json"))
        if done and not workdirs.check_resume(runs.prepare(config, folder), folder):
            return folder
        console.say(f"training {os.path.basename(folder)} ({folder})")
        cli.train(config, folder)
        return folder
