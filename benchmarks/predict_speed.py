"""Predictions of many videos against one at a time: `:demo`'s student and TSM-R50 at 8 x 112 x 112.

    python benchmarks/predict_speed.py --workdir runs/predict_speed --results docs/results.csv
    python benchmarks/predict_speed.py --clips 40 --rounds 1 --networks student

Sides are measured in turns over the same folder of embedded clips: *one at a time* reads a video, asks the
network about it, and goes on to the next; *as before* is what `--mode=predict` did until it had batches
(videos read ahead in threads, a call of the network each); *in batches* is what it does. *decoding* reads
all videos in the same threads and asks nobody; *batches alone* asks the network about batches that are in
memory. Weights are random, which changes no time. Printed at the end: the ratios, how far the probabilities
differ, and how much the memory of the process grew from the first quarter of a pass on.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import numpy as np

import data_pipelines
from configs import reskd_minik, supervised_minik
from effvid_jax.predict import Predictor
from effvid_jax.predict.many import Batch, Many, batch_size
from effvid_jax.reports import results
from effvid_jax.speed import bench, compilation_cache
from effvid_jax.start import runs
from tests.made import save_untrained


def student(workdir: str):
    """The config of the student of `configs/reskd_minik.py:demo`, as a network that needs no teacher."""
    config = runs.stage_config(reskd_minik.get_config("demo"), "student", workdir)
    with config.unlocked():
        config.method = supervised_minik.get_config("demo").method
    return config


def tsm(workdir: str):
    """TSM-R50, 8 frames of 112 x 112."""
    del workdir
    config = supervised_minik.get_config("backbone=tsm_resnet50,resolution=112")
    config.data.update(dict(test_short_side=128, test_crop_size=112, eval_batch_size=16))
    return config


NETWORKS = {"student": student, "tsm_resnet50": tsm}


def folder_of_clips(workdir: str, clips: int) -> str:
    """A folder of embedded clips, as the `:demo` configs train on."""
    params = student(workdir).data.synthetic.to_dict() | {"train_clips": 16, "val_clips": clips}
    root = os.path.join(workdir, f"clips_{clips}")
    data_pipelines.write_benchmark(root, params)
    return os.path.join(root, "val")


class Sides:
    """The ways to answer about all videos of a folder; each returns seconds, or (seconds, probabilities)."""

    def __init__(self, network: Predictor, paths: list[str], size: int):
        self.network, self.paths, self.size = network, paths, size
        clip = np.zeros((size, *network.reader.views(paths[0]).shape), np.uint8)
        for one in (clip[:1], clip):  # compiled before the clock runs
            network.finish(network.start(one), ["x"])

    def _reads(self):
        """The views of all videos, read ahead in threads; to be closed."""
        threads = self.network.num_threads
        return contextlib.closing(data_pipelines.in_order(
            self.network.reader.views, self.paths, threads, 2 * threads))

    def one_at_a_time(self):
        """Read, ask, next."""
        return [self.network.scored(path)[0] for path in self.paths]

    def as_before(self):
        """Read ahead in threads, and asked about one at a time."""
        with self._reads() as reads:
            return [self.network.scored_views(views)[0] for views in reads]

    def in_batches(self, memory=lambda: None):
        """What `--mode=predict` does."""
        many, found = Many(self.network, self.size), []
        for _, (scores, _) in many(self.paths):
            found.append(scores)
            memory()
        return found

    def decoding(self):
        """Read alone."""
        with self._reads() as reads:
            for _ in reads:
                pass

    def batches_alone(self):
        """Asked alone: as many batches, always of the same clips."""
        views = [self.network.reader.views(path) for path in self.paths[:self.size]]
        start, before = time.monotonic(), None
        for first in range(0, len(self.paths), self.size):
            names = self.paths[first:first + self.size]
            batch = Batch(self.network, names, views[:len(names)], self.size)
            if before:
                list(before.outcomes())
            before = batch
        list(before.outcomes())
        return time.monotonic() - start


def measure(name: str, paths: list[str], workdir: str, rounds: int) -> dict[str, float]:
    """Rates of all sides in videos per second, medians of the rounds."""
    folder = os.path.join(workdir, name)
    config = NETWORKS[name](workdir)
    if not os.path.exists(os.path.join(folder, "config.json")):
        save_untrained(config, [f"class {k}" for k in range(16)], folder)
    network = Predictor(folder)
    sides = Sides(network, paths, min(batch_size(network), len(paths)))
    ways = [("one at a time", sides.one_at_a_time), ("as before", sides.as_before),
            ("in batches", sides.in_batches), ("decoding", sides.decoding),
            ("batches alone", sides.batches_alone)]
    times: dict[str, list[float]] = {title: [] for title, _ in ways}
    scores = {}
    for i in range(rounds):
        for title, way in ways[::-1] if i % 2 else ways:
            start = time.monotonic()
            found = way()
            times[title].append(found if isinstance(found, float) else time.monotonic() - start)
            if isinstance(found, list):
                scores[title] = np.stack(found)
            print(f"{name}, round {i + 1}: {title} {len(paths) / times[title][-1]:.1f} videos/s", flush=True)
    seen: list[float] = []
    sides.in_batches(lambda: seen.append(resident()))
    quarter = seen[len(seen) // 4:]
    rates = {title: len(paths) / statistics.median(x) for title, x in times.items()}
    rates |= {"times one at a time": rates["in batches"] / rates["one at a time"],
              "times as before": rates["in batches"] / rates["as before"],
              "of the slower part": rates["in batches"] / min(rates["decoding"], rates["batches alone"]),
              "largest difference": float(np.abs(scores["in batches"] - scores["one at a time"]).max()),
              "growth (MiB)": (max(quarter) - quarter[0]) / 2**20}
    return rates


def resident() -> float:
    """Bytes that this process has in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", default="runs/predict_speed")
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--results", help="csv that gets the rows")
    args = parser.parse_args()
    compilation_cache.use(print)
    workdir = os.path.abspath(args.workdir)
    clips = folder_of_clips(workdir, args.clips)
    paths = sorted(os.path.join(folder, file) for folder, _, files in os.walk(clips) for file in files)
    rows = []
    for name in args.networks.split(","):
        rows.append({"network": name, **measure(name, paths, workdir, args.rounds)})
    print(bench.table(rows))
    if args.results:
        command = f"python benchmarks/predict_speed.py --clips {args.clips} --rounds {args.rounds}"
        results.replace_measured(args.results, [
            results.make_row(f"predict_speed: {row['network']}: {title}", f"{value:.4g}",
                             dataset=f"embedded benchmark ({args.clips} clips)", config=row["network"],
                             command=command, seeds=())
            for row in rows for title, value in row.items() if title != "network"])


if __name__ == "__main__":
    main()
