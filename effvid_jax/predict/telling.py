"""Tells answers: on standard output, for people and as json, and in files."""

from __future__ import annotations

import json

from effvid_jax.predict.network import Network
from effvid_jax.predict.rows import Rows, Timeline, reason_of
from effvid_jax.signals import Signals


class Teller:
    """Tells answers on standard output and in files."""

    def __init__(self, network: Network, as_json: bool, rows: Rows | None, timeline: Timeline | None):
        self._network, self._as_json, self._rows, self._timeline = network, as_json, rows, timeline

    def video(self, path: str, told: dict, row: bool = True) -> None:
        """The answer about a video; `row`: it goes into the file as well."""
        with Signals.held():  # whole lines only
            show(self._network, path, told, self._as_json)
            if row and self._rows:
                self._rows.add({"video": path, **told})

    def failure(self, path: str, error: Exception) -> None:
        """Of several videos one that has no answer is a row with its reason; nothing is printed."""
        if self._rows:
            with Signals.held():
                self._rows.add({"video": path, "error": reason_of(error)})

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
    left += f", {told['ms']:.3g} ms{' (the deadline)' if told['cut'] else ''}" if "ms" in told else ""
    return f"{network.words(told)} ({told['gmacs']:.3g} GMACs{each}{left})"
