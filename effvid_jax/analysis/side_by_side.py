"""Several networks on the same videos: what commands of this room share that compare before against after.

    --workdir=RUN                          every stage of a run (teacher, baseline, student), or the only one
    --workdir=RUN --stages=baseline,student
    --workdir=RUN/baseline,OTHER_RUN       any trained networks
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence

import numpy as np

import data_pipelines
from effvid_jax import checkpoint, console
from effvid_jax.analysis import layers, opening
from effvid_jax.errors import UserError
from effvid_jax.start import runs
from effvid_jax.start.workdirs import trained_step


def parser(name: str, doc: str) -> argparse.ArgumentParser:
    """The flags of `opening.parser`, where `--workdir` may name several, with `--stages` and `--layer`."""
    found = opening.parser(name, doc)
    found.add_argument("--stages", default="", help="of runs with stages: which; all of them by default")
    found.add_argument("--layer", default="", help="name of a layer; the last map by default. One that is "
                       "not there lists those that are")
    return found


def run(parser: argparse.ArgumentParser, analyse, argv: Sequence[str] | None = None) -> int:
    """Parses the command line and calls `analyse(args, networks, out)`; the exit code."""
    def start(args, changes):
        networks = open_networks(args.workdir, args.stages, args.config, changes, args.split)
        out = os.path.abspath(args.out or os.path.join(args.workdir.split(",")[0], "analysis"))
        os.makedirs(out, exist_ok=True)
        analyse(args, networks, out)

    return opening.command(parser, start, argv)


def open_networks(workdirs: str, stages: str = "", config_file: str = "", changes: Sequence[str] = (),
                  split: str = "val") -> dict[str, opening.Opened]:
    """{name: network} that a command line names; see the module docstring.

    Args:
        workdirs: folders, separated by commas.
        stages: of runs with stages: names, separated by commas; '': all that are trained.
        config_file, changes, split: see `opening.open_network`.

    Raises:
        UserError, DataError: nothing trained there, an unknown stage, or what `open_network` refuses.
    """
    folders = [folder for workdir in filter(None, workdirs.split(",")) for folder in _stages(workdir, stages)]
    if not folders:
        raise UserError("--workdir=RUN is missing: a trained run, or several separated by commas.")
    found = {}
    for folder in folders:
        opened = opening.open_network(folder, config_file, changes, split, out=folder)
        name = os.path.basename(os.path.normpath(folder))
        parent = os.path.basename(os.path.dirname(os.path.abspath(folder)))
        found[name if name not in found else f"{parent}/{name}"] = opened
    if len(found) < len(folders):
        raise UserError(f"--workdir={workdirs}: networks of equal names cannot be told apart in a picture: "
                        f"rename a folder.")
    return found


def _stages(workdir: str, stages: str) -> list[str]:
    """Folders of the trained stages of a run; the folder itself where it has none."""
    wanted, path = [name for name in stages.split(",") if name], os.path.join(workdir, "config.json")
    if not os.path.exists(path) or trained_step(workdir) is not None:
        return [workdir]
    names = runs.stage_names(runs.read_config(path))
    if unknown := set(wanted) - set(names):
        raise UserError(f"--stages={stages}: {workdir} has no stage {' or '.join(sorted(unknown))}; it has "
                        f"{', '.join(names) or 'none'}.")
    folders = [os.path.join(workdir, name) for name in wanted or names]
    there = [folder for folder in folders if trained_step(folder) is not None]
    if wanted and len(there) < len(folders) or not there:
        raise checkpoint.CheckpointError(f"{', '.join(f for f in folders if f not in there) or workdir}: not "
                                         f"trained yet.")
    return there


def network_of(opened: opening.Opened) -> tuple[layers.Network, int]:
    """The network with its layers, and the side of its input in pixels."""
    data = opened.config.data
    side = opened.method.resolution or data.test_crop_size
    return layers.network_of(opened.method, opened.variables, (data.num_frames, side, side, 3)), side


def numbers(opened: opening.Opened, count: int, videos: str = "") -> list[int]:
    """Numbers of videos: `count` spread over the split (0: all), or those of the names in `videos`.

    Raises:
        UserError: a name that the split does not have.
    """
    split = opened.split
    if not videos:
        total = len(split)
        return np.unique(np.linspace(0, total - 1, min(count or total, total)).astype(int)).tolist()
    known = {split.entry(i).name: i for i in range(len(split))}
    for name in videos.split(","):
        if name not in known:
            raise UserError(f"--videos={name}: the split {split.name!r} has no such video; the first is "
                            f"{next(iter(known))}.")
    return [known[name] for name in videos.split(",")]


def views(opened: opening.Opened, chosen: Sequence[int], what: str) -> Iterator[tuple[int, np.ndarray]]:
    """(number, views uint8 (V, T, side, side, 3)) of chosen videos; unreadable ones are left out."""
    with console.bar(len(chosen), what, "clip", leave=False) as progress:
        for number in chosen:
            try:
                found = opened.split.views(number)
            except data_pipelines.VideoError as error:
                opened.split.broken.add([(number, error.name, error.reason)])
            else:
                yield number, found
            progress.update()


def as_input(opened: opening.Opened, views_VTHWC):
    """Views as the network sees them: normalised, and resized to its resolution. Traced."""
    return opened.method.sight(views_VTHWC)
