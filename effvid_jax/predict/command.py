"""What `--mode=predict` does: finds videos, answers, and tells."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from data_pipelines import VideoError, is_stream
from effvid_jax import console, exported
from effvid_jax.drawn import along, answers
from effvid_jax.errors import Interrupted, NotFiniteError, UserError
from effvid_jax.predict.exported import Exported
from effvid_jax.predict.network import Network, short
from effvid_jax.predict.restored import Predictor
from effvid_jax.predict.rows import Rows, Timeline
from effvid_jax.predict.settings import Asked
from effvid_jax.signals import Signals


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
    network = open_network(workdir, config)
    check(network, asked)
    roots = {path: one for one in given for path in network.reader.find(one)}
    if asked.annotate and len(roots) > 1:
        raise UserError(f"--annotate={asked.annotate} is one file, and --video means {len(roots)} videos: "
                        f"annotate them one by one.")
    with contextlib.ExitStack() as stack:
        stream = network.stream() if asked.stream else None  # refused before a file is touched
        rows = stack.enter_context(Rows(asked.output)) if asked.output else None
        timeline = None
        if asked.timeline:
            timeline = stack.enter_context(Timeline(asked.timeline, network.class_names))
        teller = _Teller(network, as_json, rows, timeline)
        if asked.plays:
            _each(((path, None) for path in roots), len(roots), given,
                  lambda path, _: _play(network, stream, path, asked, teller))
        else:
            folder = os.path.join(os.path.abspath(workdir), along.FOLDER)
            _answer(network, roots, given, asked, folder, teller)


def check(network: Network, asked: Asked) -> None:
    """Raises UserError for what is asked of a network that does not answer so."""
    if isinstance(network, Exported) and not network.says_classes:
        raise UserError("this exported network does not answer with probabilities of classes: give "
                        "--workdir the run that it comes from.")
    for name in ("window", "stream", "timeline", "annotate"):
        if getattr(asked, name):
            network.check_classes(f"--{name}={getattr(asked, name)}")
    if asked.output and network.every and asked.output.lower().endswith(".csv"):
        raise UserError(f"--output={asked.output}: this network tells of frames, which are no rows of a "
                        f"table: take a name that ends with .jsonl.")


class _Teller:
    """Tells answers on standard output and in files."""

    def __init__(self, network: Network, as_json: bool, rows: Rows | None, timeline: Timeline | None):
        self._network, self._as_json, self._rows, self._timeline = network, as_json, rows, timeline

    def video(self, path: str, told: dict, row: bool = True) -> None:
        """The answer about a video; `row`: it goes into the file as well."""
        with Signals.held():  # whole lines only
            show(self._network, path, told, self._as_json)
            if row and self._rows:
                self._rows.add({"video": path, **told})

    def part(self, path: str, start: float, end: float, scores, told: dict,
             shown: bool | None = None) -> None:
        """The answer about some seconds; `shown`: whether people see it (None: as json lines as well)."""
        with Signals.held():
            if not self._as_json and shown is not False:
                span = f"{start:g} to {end:g} s" if end > start else f"{start:.2f} s"
                print(f"{path}, {span}: {_words(self._network, told)}", flush=shown is not None)
            if self._as_json or shown is None:
                print(json.dumps({"video": path, **told}, allow_nan=False), flush=True)
            if self._rows:
                self._rows.add({"video": path, **told})
            if self._timeline:
                self._timeline.add(path, start, end, scores)


def show(network, path: str, told: dict, as_json: bool) -> None:
    """Prints the answer about a video."""
    with Signals.held():  # whole lines only
        if not as_json:
            print(f"{path}: {_words(network, told)}")
        print(json.dumps({"video": path, **told}, allow_nan=False), flush=True)


def _words(network, told: dict) -> str:
    each = f", {told['gmacs_per_clip']:.3g} per clip" if "gmacs_per_clip" in told else ""
    left = f", exit {told['exit']} of {told['exits']}" if "exit" in told else ""
    return f"{network.words(told)} ({told['gmacs']:.3g} GMACs{each}{left})"


# ----------------------------------------------------------------------------- a video, or many, as a whole
def _answer(network: Network, roots: dict[str, str], given: list[str], asked: Asked, folder: str,
            teller: _Teller) -> None:
    """Answers about whole videos.

    Args:
        roots: path -> what of the command line named it.
        folder: where a task draws.
    """
    paths = list(roots)
    if len(paths) == 1:
        teller.video(paths[0], _one(network, paths[0], roots, asked, folder))
        return
    reads = _read_ahead(network, paths) if not network.every else ((path, None) for path in paths)
    with console.bar(len(paths), "predict", "video") as progress:

        def answer(path, reading):
            try:
                if network.every:
                    told = _drawn(network, path, folder, roots[path])
                else:
                    told = reading.result()
                    told = told if network.stops_early else network.classify(told, path)
                with progress.external_write_mode(file=sys.stdout):
                    teller.video(path, told)
            finally:
                progress.update()

        _each(reads, len(paths), given, answer)


def _one(network: Network, path: str, roots: dict[str, str], asked: Asked, folder: str) -> dict:
    """The answer about a single video."""
    if network.every and not is_stream(path):
        return _drawn(network, path, folder, roots[path])
    try:
        with network.reader.local(path) as stored:
            scores, told = network.scored(stored)
            if asked.annotate:
                _annotate(network, stored, scores, told, asked)
            return told
    except VideoError as error:
        if path != "-":
            raise
        raise VideoError("--video=-", error.reason) from None  # the temporary file's name says nothing


def _each(reads, count: int, given: list[str], answer) -> None:
    """Calls `answer(path, reading)`; of several, those that cannot be read or have no answer are named."""
    errors, unsound = [], []
    for path, reading in reads:
        try:
            answer(path, reading)
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


def _read_ahead(network: Network, paths: list[str]) -> Iterator[tuple[str, Future]]:
    """Yields (path, future) in order, a few clips being read at any time.

    The future is of a clip's views; of its answer where clips stop early, as what is read depends on it.
    """
    work = network if network.stops_early else network.reader.views
    threads = network.num_threads
    waiting: deque[tuple[str, Future]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for path in paths:
            waiting.append((path, pool.submit(work, path)))
            if len(waiting) > 2 * threads:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()


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


def _annotate(network: Network, path, scores, told: dict, asked: Asked) -> None:
    """Draws the answer about a whole video over all of its frames."""
    with (network.reader.play(path, asked.fps or 0.0) as played,
          answers.drawing(asked.annotate, played.fps) as drawing):
        for _ in drawing.seen(played):
            drawing.say(0.0, float("inf"), _guesses(network, scores), _note(told))


def _guesses(network: Network, scores) -> list[tuple[str, float]]:
    best = np.argsort(-scores, kind="stable")[:answers.SHOWN]
    return [(network.class_names[k], float(scores[k])) for k in best]


def _note(told: dict) -> str:
    left = f", exit {told['exit']} of {told['exits']}" if "exit" in told else ""
    return f"{told['gmacs']:.3g} GMACs{left}"


# --------------------------------------------------------------------- from the first frame to the last
def _play(network: Network, stream, path: str, asked: Asked, teller: _Teller) -> None:
    """Answers while a video is played: about windows, or after every frame of a stream.

    A signal ends it as the end of the video would, and is raised afterwards. So does a video that cannot be
    read on, of which as a whole nothing is said.
    """
    total, number, gmacs, stopped, start = 0.0, 0, 0.0, None, time.monotonic()
    with contextlib.ExitStack() as stack:
        played = stack.enter_context(network.reader.play(path, asked.fps or 0.0))
        if not played.knows_rate and not asked.fps:
            console.say(f"{path} does not tell how many frames it has a second: {played.fps:g} are assumed "
                        f"(--fps=N says it)")
        frames = _until(played, asked.seconds)
        drawing = None
        if asked.annotate:
            drawing = stack.enter_context(answers.drawing(asked.annotate, played.fps))
            frames = drawing.seen(frames)
        if stream is not None:
            parts = _of_stream(stream, frames, asked.every or stream.every)
        else:
            windows = played.windows(asked.window, asked.stride or asked.window, frames)
            parts = _of_windows(network, windows, path)
        try:
            for begin, end, scores, told, shown in parts:
                teller.part(path, begin, end, scores, told, shown)
                if drawing:
                    drawing.say(begin, end, _guesses(network, scores), _note(told))
                total, number, gmacs = total + scores, number + 1, gmacs + told["gmacs"]
        except (Interrupted, VideoError) as error:
            stopped = error
    if number and not isinstance(stopped, VideoError):
        counted = {"frames": number} if stream is not None else {"windows": number}
        told = {**network.answer(total / number), **counted, "gmacs": short(gmacs)}
        if stream is not None:
            median, slow = stream.latency()
            told |= {"milliseconds_median": median, "milliseconds_95": slow}
            console.say(f"{number} frames in {time.monotonic() - start:.1f} s; from a frame to its answer "
                        f"{median:g} ms (median), {slow:g} ms (95 %)")
        teller.video(path, told, row=False)
    if stopped:
        raise stopped


def _until(frames, seconds: float | None):
    """The frames of the first so many seconds."""
    for now, frame in frames:
        if seconds is not None and now >= seconds - 1e-6:
            return
        yield now, frame


def _of_windows(network: Network, windows, name: str):
    """(start, end, scores, what is told, shown) of every window."""
    for window in windows:
        part = network.part(window, name)
        yield part.start, part.end, part.scores, {"start": part.start, "end": part.end, **part.told}, None


def _of_stream(stream, frames, every: int):
    """As `_of_windows`, after every frame that the network sees; people see it where the answer changes."""
    stream.reset()
    best = None
    for i, (now, frame) in enumerate(frames):
        if i % every:
            continue
        scores = stream.push(frame)
        before, best = best, int(scores.argmax())
        yield now, now, scores, {"frame": i, "second": round(now, 3), **stream.told()}, best != before
