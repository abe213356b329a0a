"""Videos played from their first frame to their last: windows, streams, answers drawn over all frames."""

from __future__ import annotations

import contextlib
import time

import numpy as np

from data_pipelines import VideoError
from effvid_jax import console
from effvid_jax.drawn import answers
from effvid_jax.errors import Interrupted
from effvid_jax.predict.network import Network, short
from effvid_jax.predict.settings import Asked
from effvid_jax.predict.telling import Teller


def play(network: Network, stream, path: str, asked: Asked, teller: Teller) -> None:
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


def annotate(network: Network, path, scores, told: dict, asked: Asked) -> None:
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
