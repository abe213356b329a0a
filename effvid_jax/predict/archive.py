"""An archive: rows about very many videos as a csv file a block, on an engine of `data_pipelines.engine`.

    paths ─ chunks ─┬─ reader process ─┐
                    ├─ reader process ─┼─ network, one a device ─ rows ─ <archive>/rows-00000-of-00042.csv
                    └─ reader process ─┘

A chunk is what the network is asked about at once: a batch; of networks that stop early several. A block is a
file, which appears when the last of its chunks is answered, with its rows in the order of the paths. The same
command goes on with the blocks that are missing. Which engine does it changes no byte of the files.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Sequence

from data_pipelines import ClipReader, Stage, VideoError, make_engine, run_engine
from effvid_jax import console, writers
from effvid_jax.errors import UserError
from effvid_jax.predict.many import Batch, batch_size
from effvid_jax.predict.network import Network
from effvid_jax.predict.rows import flat, reason_of
from effvid_jax.predict.settings import Asked
from effvid_jax.predict.shards import Shards
from effvid_jax.signals import Signals
from effvid_jax.speed import compilation_cache

BATCHES = 4  # of a chunk whose videos stop early: those of several batches go on together
CHUNKS = 8  # of a block
INFO = "archive.json"
DIED = "the process that read it died"


class Reader:
    """The stage that decodes: paths -> (path, views uint8 (V, T, side, side, 3) or what is wrong) of each."""

    def __init__(self, reader: ClipReader):
        self._reader = reader

    def __call__(self, paths: list[str]) -> list[tuple]:
        return [(path, self._views(path)) for path in paths]

    def _views(self, path):
        try:
            return self._reader.views(path)
        except VideoError as error:
            return error


class Answers:
    """The stage that computes: what a reader found of some videos -> their rows.

    Args:
        open_it: makes the network, in the process that computes.
        size: videos of a batch.
    """

    def __init__(self, open_it, size: int):
        self._open_it, self._size, self._network = open_it, size, None

    def __call__(self, found: list[tuple]) -> list[dict]:
        if self._network is None:
            compilation_cache.use(console.say)
            self._network = self._open_it()
        names, views = zip(*found, strict=True)
        if self._network.stops_early:
            outcomes = self._in_segments(names, views)
        else:
            outcomes = Batch(self._network, names, views, self._size).outcomes()
        return [row(name, outcome) for name, outcome in zip(names, outcomes, strict=True)]

    def _in_segments(self, names, views):
        good = [i for i, one in enumerate(views) if not isinstance(one, VideoError)]
        answers = self._network.pooled(lambda k, positions: views[good[k]][0][list(positions)],
                                       [names[i] for i in good], self._size, 1)
        return [one if isinstance(one, VideoError) else next(answers) for one in views]


def row(name: str, outcome) -> dict:
    """What is said of a video, or why nothing is."""
    if isinstance(outcome, Exception):
        return {"video": name, "error": reason_of(outcome)}
    return {"video": name, **outcome[1]}


def predict_archive(network: Network, open_it, paths: Sequence[str], asked: Asked) -> dict:
    """Answers about all videos of an archive, into the folder `asked.archive`.

    Args:
        network: that answers.
        open_it: picklable, makes it again in another process.
        paths: of the videos.
        asked: what else there is to do.

    Returns:
        Numbers of videos, of those without an answer, of files, of rows that are new; videos a second since
        the first chunk was answered, over how many seconds, and the seconds until then.

    Raises:
        UserError: a folder that holds another archive or cannot be written, or an engine that cannot work.
    """
    size = batch_size(network, asked.batch_size)
    chunk = size * (BATCHES if network.stops_early else 1)
    block = asked.block or CHUNKS * chunk
    _begin(asked.archive, {
        "network": network.name, "clips": _checksum(repr(network.reader.choices())), "batch_size": size,
        "block": block, "videos": len(paths), "names": _checksum("\n".join(paths))})
    columns = [*flat({"video": "", **network.columns()}), "error"]
    shards = Shards(asked.archive, len(paths), block, columns)
    missing = shards.missing()
    if len(missing) < len(shards):
        console.say(f"continuing: {len(shards) - len(missing)} of {len(shards)} blocks are there")
    starts = [(start, min(start + chunk, end)) for first, end in map(shards.range, missing)
              for start in range(first, end, chunk)]
    if asked.engine == "ray":
        answers = Answers(open_it, size)
    else:
        answers = Answers(lambda: network, size)
    engine = make_engine(asked.engine or "local", asked.workers, asked.address, asked.devices)
    stages = [Stage(Reader(network.reader), lambda path: {"video": path, "error": DIED}),
              Stage(answers, device=True)]
    begin, marks = time.monotonic(), []
    done = len(paths) - sum(end - at for at, end in starts)
    with console.bar(len(paths), "predict", "video", done) as bar:
        for number, rows in run_engine(engine, stages, [list(paths[at:end]) for at, end in starts]):
            with Signals.held():  # whole files only
                shards.add(starts[number][0], rows)
            marks.append((time.monotonic(), len(rows)))
            bar.update(len(rows))
    return {"archive": asked.archive, "videos": len(paths), "broken": shards.broken(), "shards": len(shards),
            **_speed(begin, marks)}


def _speed(begin: float, marks: list[tuple[float, int]]) -> dict:
    """Numbers about `marks`, (time, rows) of every chunk."""
    if not marks:
        return {"new": 0}
    first, last = marks[0][0], marks[-1][0]
    since = sum(rows for _, rows in marks[1:])
    speed = {"videos_per_second": round(since / (last - first), 3)} if since else {}
    return {"new": since + marks[0][1], "start_seconds": round(first - begin, 2),
            "seconds": round(last - first, 2), **speed}


def _begin(folder: str, settings: dict) -> None:
    """Makes the folder; one that is there must hold the same archive."""
    path = os.path.join(folder, INFO)
    if os.path.exists(path):
        found = writers.read_json(path)
        differ = [f"{name}={found.get(name)!r} there, {value!r} now"
                  for name, value in settings.items() if found.get(name) != value]
        if differ:
            raise UserError(f"--archive={folder} holds the rows of another archive, network or batch size "
                            f"({'; '.join(differ)}): choose another folder, or delete it.")
        return
    if os.path.isdir(folder) and os.listdir(folder):
        raise UserError(f"--archive={folder} holds something else (no {INFO}): choose another folder.")
    with writers.writing(folder):
        os.makedirs(folder, exist_ok=True)
    writers.write_json(path, settings)


def _checksum(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogateescape"))
