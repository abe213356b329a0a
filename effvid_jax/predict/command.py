"""What `--mode=predict` does: finds videos, answers, and tells."""

from __future__ import annotations

import contextlib
import functools
import glob
import json
import os
import sys

import jax

from data_pipelines import VideoError, is_stream
from effvid_jax import console, exported
from effvid_jax.drawn import along
from effvid_jax.errors import NotFiniteError, UserError
from effvid_jax.predict import played
from effvid_jax.predict.archive import predict_archive
from effvid_jax.predict.exported import Exported
from effvid_jax.predict.many import Many, batch_size
from effvid_jax.predict.network import Network
from effvid_jax.predict.restored import Predictor
from effvid_jax.predict.rows import Rows, Timeline
from effvid_jax.predict.settings import Asked
from effvid_jax.predict.telling import Teller


def is_export(path: str) -> bool:
    """Whether this folder is what `--mode=export` wrote."""
    return os.path.exists(os.path.join(path, exported.INFO))


def open_network(path: str, config=None) -> Network:
    """The network of a workdir or of an export folder.

    Args:
        path: of it.
        config: how clips are read; None: as the network was trained or exported.

    Raises:
        UserError: neither is there, or what is there is damaged.
    """
    return Exported(path) if is_export(path) else Predictor(path, config)


def predict(config, workdir: str, video: str | list[str], as_json: bool, asked: Asked | None = None) -> None:
    """Prints one JSON object per video on standard output, and unless `as_json` a readable line before it.

    Of videos that are cut into windows also one for every window, before that of the video, which has the
    mean of all. Of a stream one for every frame if `as_json`, otherwise a readable line where the answer
    changes.

    What a task draws (`Task.draw`) of videos that it is asked about along is written into
    `<workdir>/predictions`.

    Args:
        config: how clips are read; None of an exported network.
        workdir: of a trained network, or of an exported one.
        video: a file, a folder of them, a pattern, '-' or 'camera:0'; or several of those.
        as_json: nothing but JSON on standard output.
        asked: what else there is to do.

    Raises:
        UserError: something that cannot be asked for.
        VideoError: nothing could be read. In a folder, single broken files are named on standard error
            and left out.
        NotFiniteError: the network's scores of a video. In a folder all others are answered first.
    """
    given, asked = [video] if isinstance(video, str) else list(video), asked or Asked()
    asked.check(given)
    if asked.engine == "ray":  # the devices are for those that compute, and this process does not
        jax.config.update("jax_platforms", "cpu")
    network = open_network(workdir, config)
    check(network, asked)
    roots = {path: one for one in given for path in network.reader.find(one)}
    if asked.annotate and len(roots) > 1:
        raise UserError(f"--annotate={asked.annotate} is one file, and --video means {len(roots)} videos: "
                        f"annotate them one by one.")
    if asked.archive:
        again = functools.partial(open_network, workdir, config)
        print(json.dumps(predict_archive(network, again, list(roots), asked)), flush=True)
        return
    with contextlib.ExitStack() as stack:
        stream = network.stream() if asked.stream else None  # refused before a file is touched
        rows = None
        if asked.output:
            several = len(roots) > 1 and not asked.plays and not network.every
            rows = stack.enter_context(Rows(asked.output, network.columns() if several else None))
        timeline = None
        if asked.timeline:
            timeline = stack.enter_context(Timeline(asked.timeline, network.class_names))
        teller = Teller(network, as_json, rows, timeline)
        if asked.plays:
            _each(((path, None) for path in roots), len(roots), given,
                  lambda path, _: played.play(network, stream, path, asked, teller))
        else:
            folder = os.path.join(os.path.abspath(workdir), along.FOLDER)
            _answer(network, roots, given, asked, folder, teller)


def check(network: Network, asked: Asked) -> None:
    """Raises UserError for what is asked of a network that does not answer so."""
    if isinstance(network, Exported) and not network.says_classes:
        raise UserError("this exported network does not answer with probabilities of classes: give "
                        "--workdir the run that it comes from.")
    for name in ("window", "stream", "timeline", "annotate", "archive"):
        if getattr(asked, name):
            network.check_classes(f"--{name}={getattr(asked, name)}")
    if asked.output and network.every and asked.output.lower().endswith(".csv"):
        raise UserError(f"--output={asked.output}: this network tells of frames, which are no rows of a "
                        f"table: take a name that ends with .jsonl.")


# ----------------------------------------------------------------------------- a video, or many, as a whole
def _answer(network: Network, roots: dict[str, str], given: list[str], asked: Asked, folder: str,
            teller: Teller) -> None:
    """Answers about whole videos.

    Args:
        roots: path -> what of the command line named it.
        folder: where a task draws.
    """
    paths = list(roots)
    if len(paths) == 1:
        teller.video(paths[0], _one(network, paths[0], roots, asked, folder))
        return
    many = Many(network, batch_size(network, asked.batch_size))
    outcomes = ((path, None) for path in paths) if network.every else many(paths)
    with console.bar(len(paths), "predict", "video") as progress:

        def answer(path, outcome):
            try:
                if network.every:
                    told = _drawn(network, path, folder, roots[path])
                elif isinstance(outcome, Exception):
                    teller.failure(path, outcome)
                    raise outcome
                else:
                    told = outcome[1]
                with progress.external_write_mode(file=sys.stdout):
                    teller.video(path, told)
            finally:
                progress.update()

        _each(outcomes, len(paths), given, answer)
    if not network.every:
        console.say(many.summary())


def _one(network: Network, path: str, roots: dict[str, str], asked: Asked, folder: str) -> dict:
    """The answer about a single video."""
    if network.every and not is_stream(path):
        return _drawn(network, path, folder, roots[path])
    try:
        with network.reader.local(path) as stored:
            scores, told = network.scored(stored)
            if asked.annotate:
                played.annotate(network, stored, scores, told, asked)
            return told
    except VideoError as error:
        if path != "-":
            raise
        raise VideoError("--video=-", error.reason) from None  # the temporary file's name says nothing


def _each(outcomes, count: int, given: list[str], answer) -> None:
    """Calls `answer(path, found)`; of several, those that cannot be read or have no answer are named."""
    errors, unsound = [], []
    for path, found in outcomes:
        try:
            answer(path, found)
        except VideoError as error:
            if count == 1:
                raise
            errors.append(error)
            console.say(f"skipped: {error}")
        except NotFiniteError as error:
            if count == 1:
                raise
            unsound.append(error)
            console.say(f"no answer: {error}")
    if errors and len(errors) == count:
        raise VideoError(" ".join(f"--video={one}" for one in given[:3]),
                         f"none of the {count} videos can be read; the first: {errors[0]}")
    if errors:
        console.say(f"{len(errors)} of {count} videos were skipped")
    if unsound:
        console.say(f"{len(unsound)} of {count} videos have no answer; the first:")
        raise unsound[0]


def _drawn(network: Predictor, path: str, folder: str, root: str) -> dict:
    """What is told of a video that is asked about along, with the files that show it."""
    root = os.path.dirname(_before_magic(root)) if glob.has_magic(root) and not os.path.exists(root) else root
    with network.reader.open(path) as opened:
        said = network.along(opened, path)
        files = along.draw(network.task, opened, said, os.path.join(folder, along.name_of(path, root)))
    return {**along.answer(network.task, said), **files}


def _before_magic(pattern: str) -> str:
    """The beginning of a pattern up to the first character that stands for others."""
    return pattern[:min(pattern.find(c) for c in "*?[" if c in pattern)]
