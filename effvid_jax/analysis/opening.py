"""What the commands of this room share: their flags, and the network and clips that these name.

    --workdir=RUN                        a trained network (of several stages, the last) on its own data
    --workdir=IMPORTED --config=FILE     imported weights on the data of a config
    --config=FILE --out=DIR              a network as it begins: config.init.checkpoint, or random

Fields of the config may be changed as for `main.py`: `--config.data.root=clips`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from absl import flags
from ml_collections import config_flags

import data_pipelines
from effvid_jax import cli, console, evaluate
from effvid_jax.errors import UserError
from effvid_jax.methods import Method, Variables, make_method
from effvid_jax.start import runs, saved_config
from effvid_jax.state import init_state
from effvid_jax.tasks import make_task


class Opened(NamedTuple):
    """A network with the clips that it is looked at with.

    Attributes:
        config: of the run, or of its last stage.
        workdir: of the trained network; '' for one that is not trained.
        step: at which it was saved; 0 for one that is not trained.
        method, variables: of the network, for inference.
        split: the videos.
        out: folder of what is written; it is there.
    """

    config: Any
    workdir: str
    step: int
    method: Method
    variables: Variables
    split: data_pipelines.Split
    out: str


def parser(name: str, doc: str) -> argparse.ArgumentParser:
    """The flags that every command has; a command adds its own.

    Args:
        name: of the module in this room.
        doc: its docstring.
    """
    found = argparse.ArgumentParser(
        prog=f"python -m effvid_jax.analysis.{name}", description=doc, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--workdir", default="", help="of a training run, or of imported weights")
    found.add_argument("--config", default="", metavar="FILE[:ARGS]", help="in place of the one in "
                       "--workdir; its fields may be changed by --config.group.field=value")
    found.add_argument("--split", default="val", help="whose clips are looked at")
    found.add_argument("--out", default="", help="folder for what is written; WORKDIR/analysis by default")
    return found


def command(parser: argparse.ArgumentParser, analyse, argv: Sequence[str] | None = None) -> int:
    """Parses the command line and calls `analyse(args, changes)`; the exit code, with mistakes as messages.

    `changes` are its '--config.field=value', ....
    """
    def start():
        args, rest = parser.parse_known_args(argv)
        if unknown := [text for text in rest if not text.startswith("--config.")]:
            parser.error(f"unknown arguments {' '.join(unknown)}")
        analyse(args, rest)

    return cli.run(start)


def run(parser: argparse.ArgumentParser, analyse, argv: Sequence[str] | None = None) -> int:
    """`command` for a single network: calls `analyse(args, opened)`."""
    return command(parser, lambda args, changes: analyse(
        args, open_network(args.workdir, args.config, changes, args.split, args.out)), argv)


def open_network(workdir: str, config_file: str = "", changes: Sequence[str] = (), split: str = "val",
                 out: str = "") -> Opened:
    """The network and the clips that a command line names; see the module docstring.

    Args:
        workdir: of a run or of imported weights; '' for the network of a config as it begins.
        config_file: FILE[:ARGS]; '' for the config of the workdir.
        changes: '--config.field=value', ....
        split: its name.
        out: folder for results; '' for `analysis` in the workdir of the network.

    Raises:
        UserError, DataError: whatever is missing, damaged or does not fit.
    """
    if not workdir and not config_file:
        raise UserError("--workdir=RUN is missing (or --config=FILE, for a network that is not trained).")
    if not workdir and not out:
        raise UserError("--out=DIR is missing: the folder for results; --config without --workdir needs it.")
    workdir, out = (os.path.abspath(path) if path else "" for path in (workdir, out))
    config = given_config(workdir, config_file, changes)
    if workdir:
        config, stage = runs.trained(config, workdir)
        method, variables, saved = evaluate.restore_for_inference(config, stage)
        opened = data_pipelines.open_split(config.data, split).with_targets(method.task.targets)
        found = Opened(config, stage, saved.step, method, variables, opened,
                       out or os.path.join(stage, "analysis"))
    else:
        config = runs.prepare(config, out)
        if names := runs.stage_names(config):
            config = runs.stage_config(config, names[-1], out)
        opened = data_pipelines.open_split(config.data, split)
        method = make_method(config, make_task(config, opened.class_names), inference=True)
        data = config.data
        state = init_state(method, optax.identity(), config,
                                 (1, data.num_frames, data.crop, data.crop, 3))
        console.say(f"a network that is not trained: {config.init.checkpoint or 'random weights'}")
        found = Opened(config, "", 0, method, state.variables, opened.with_targets(method.task.targets), out)
    os.makedirs(found.out, exist_ok=True)
    return found._replace(variables=jax.device_put(found.variables))


def given_config(workdir: str, config_file: str, changes: Sequence[str]):
    """The config of a command line; None for the unchanged one of a workdir."""
    if not config_file and not changes:
        return None
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", values, lock_config=True)
    file, given = config_file or f"{saved_config.__file__}:{workdir}", sys.argv
    try:
        cli.parse_flags(["analysis", f"--config={file}", *changes], values)  # which sets sys.argv
    finally:
        sys.argv = given
    return values.config


def some_clips(opened: Opened, count: int, what: str) -> Iterator[tuple[int, np.ndarray]]:
    """(number of a video, its middle view uint8 (T, side, side, 3)) of `count` videos spread over the split.

    Args:
        opened: see `open_network`.
        count: of videos; 0: all.
        what: is done with them, for the progress bar.

    Raises:
        DataError: too many videos that cannot be read; those that cannot are left out otherwise.
    """
    total = len(opened.split)
    numbers = np.unique(np.linspace(0, total - 1, min(count or total, total)).astype(int))
    with console.bar(len(numbers), what, "clip") as progress:
        for number in map(int, numbers):
            try:
                views = opened.split.views(number)
            except data_pipelines.VideoError as error:
                opened.split.broken.add([(number, error.name, error.reason)])
                continue
            yield number, views[len(views) // 2]
            progress.update()
