"""Speed of every part, in one run: `--mode=bench --config=... --workdir=DIR`.

    decode      clips/s of reading the frames of a clip, by threads
    pipeline    clips/s of whole batches, by threads and worker processes
    train       clips/s of the train step of every stage, data on the device
    inference   clips/s and GMACs by resolution: the shape of ResKD's Table 4 (arXiv 2209.12797)
    loop        share of the train loop's time that goes to waiting for data
    advice      what to set, and the share of time that the device would wait for data then

Times of one machine say little about another, so every table has ratios, to its first row where nothing
else is said. Nothing has to be trained or
prepared: weights are random, and of the embedded benchmark a few clips are written. Parts that run
functions in turns are timed by `effvid_jax/speed/timing.py`; pipelines are opened and closed in turns.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tabulate

import data_pipelines
from effvid_jax import checkpoint, console, cost, sharding, writers
from effvid_jax.methods import base, building, find_method, make_method
from effvid_jax.optim import make_optimizer
from effvid_jax.speed import advice, exit_bench, timing
from effvid_jax.start import runs
from effvid_jax.tasks import Task, make_task

CPU_PIXELS = 2**20  # of a batch: 32 clips of 8 frames of 64 x 64
TABLE_4 = (224, 144, 112, 96, 72, 56)
SHARES = {"decode": 0.15, "pipeline": 0.35, "train": 0.2, "inference": 0.2, "loop": 0.1}  # of the time
EXITS_SHARE = 0.3  # on top, for networks with early exits


def bench(config, workdir: str) -> dict:
    """Measures everything in about `config.bench.seconds`, compiling not counted.

    Args:
        config: a resolved config; its last stage is benchmarked where it has several.
        workdir: gets `bench.json`.

    Returns:
        `{"decode": [row, ...], "pipeline": [...], "train": [...], "inference": [...], "loop": [...],
        "advice": [...]}`, and "exits" for a network with early exits.

    Raises:
        UserError, DataError: anything wrong with config or data.
    """
    os.makedirs(workdir, exist_ok=True)
    config = _small_benchmark(config)
    class_names = data_pipelines.open_split(config.data, "train").class_names
    result: dict[str, Any] = {"config": config.name, "environment": writers.environment()}
    # Open until the end: the loop runs the step that was compiled for its own table.
    with (tempfile.TemporaryDirectory() as folder,
          console.bar(len(SHARES) + _stops_early(config), "bench", "table") as progress):
        steps = {}

        def tick():
            if time.time() - progress.last_print_t > progress.mininterval:
                progress.refresh()
                progress.last_print_t = time.time()

        def run(name: str, title: str, measure: Callable[[float, Callable[[], Any]], list[dict]],
                share: float | None = None):
            progress.set_postfix_str(name)
            result[name] = measure(config.bench.seconds * (share or SHARES[name]), tick)
            with progress.external_write_mode(file=sys.stdout):
                print(f"\n{title}\n{table(result[name])}", flush=True)
            progress.update()

        run("decode", "Decoding alone (files in the page cache)",
            lambda seconds, tick: decode(config, seconds, tick))
        run("pipeline", "Whole pipeline: files to batches, nothing cached",
            lambda seconds, tick: pipeline(config, seconds, tick))

        def train(seconds, tick):
            steps.update(train_sides(config, workdir, folder, class_names))
            return train_rates(steps, seconds, tick)

        run("train", f"Train step, data on the device, {jax.device_count()} {jax.devices()[0].platform}",
            train)
        run("inference", f"Inference of {config.model.backbone} by resolution, data on the device",
            lambda seconds, tick: inference(
                config.model, make_task(config, class_names), resolutions(config), config.data.num_frames,
                _batch_size(config, config.data.eval_batch_size), seconds=seconds, progress=tick))
        if _stops_early(config):
            run("exits", "Early exits with random weights: R = measured over promised speed-up",
                lambda seconds, tick: exits(config, class_names, seconds, tick), EXITS_SHARE)
        run("loop", "Train loop of the last stage: does the step wait for data?",
            lambda seconds, tick: loop(config, *list(steps.items())[-1], result["train"][-1], seconds))
    platform = jax.devices()[0].platform
    result["advice"] = advice.rows(result["pipeline"], result["train"], platform)
    print(f"\nWhat to set, and how long the device waits for data then\n{table(result['advice'])}\n"
          + "\n".join(advice.remarks(result["advice"], platform)), flush=True)
    writers.write_text(os.path.join(workdir, "bench.json"), json.dumps(result, indent=2))
    return result


def table(rows: Sequence[dict]) -> str:
    """Rows with the same keys as text."""
    headers = [key.replace("_per_second", "/s").replace("_", " ") for key in rows[0]]
    return tabulate.tabulate([list(row.values()) for row in rows], headers, floatfmt=".4g")


# ------------------------------------------------------------------------------------------- data
def decode(config, seconds: float, progress=lambda: None, clips: int = 16) -> list[dict]:
    """Reads the test frames of the same few clips with 1, 2, 4, ... threads.

    Raises:
        DataError: no clip can be read.
    """
    split = data_pipelines.open_split(config.data, "train")
    chosen = _readable(split, clips)
    with contextlib.ExitStack() as stack:
        sides = {}
        for n in thread_counts(config):
            pool = stack.enter_context(ThreadPoolExecutor(n))
            sides[n] = lambda pool=pool: list(
                pool.map(lambda i: split.test_frames(i).shape, chosen))
        times = timing.measure(sides, seconds=seconds, progress=progress)
    rate = {n: t.rate(len(chosen)) for n, t in times.items()}
    return [{"threads": n, "clips_per_second": rate[n], "ratio": rate[n] / rate[min(rate)],
             "frames_per_second": rate[n] * config.data.num_frames, "spread": t.spread}
            for n, t in times.items()]


def _readable(split: data_pipelines.Split, count: int) -> list[int]:
    """Up to `count` clips that can be read, spread over the split."""
    spread = np.unique(np.linspace(0, len(split) - 1, min(len(split), 4 * count)).astype(int))
    chosen = []
    for index in np.random.default_rng(0).permutation(spread).tolist():
        with contextlib.suppress(data_pipelines.VideoError):
            split.test_frames(index)
            chosen.append(index)
        if len(chosen) == count:
            break
    if not chosen:
        raise data_pipelines.DataError(f"none of {len(spread)} clips of {split.description} can be "
                                       f"read; `{split.check_command}` says why.")
    return chosen


def thread_counts(config) -> list[int]:
    """`config.bench.threads`, or 1, 2, 4, ... up to twice the cores (16 at most)."""
    most = min(16, 2 * (os.cpu_count() or 1))
    return list(config.bench.threads) or [n for n in (1, 2, 4, 8, 16) if n <= most]


def pipeline(config, seconds: float, progress=lambda: None) -> list[dict]:
    """Clips per second of `Split.batches`; each combination is opened twice, in turns, if there is time.

    The first batches, which wait for threads and processes to start, are not counted.
    """
    cores, rounds = os.cpu_count() or 1, 2 if seconds > 10 else 1
    sides = [(n, 0) for n in thread_counts(config)]
    sides += [(max(cores, w), w) for w in config.bench.workers if w]
    found: dict[tuple[int, int], list[float]] = {side: [] for side in sides}
    for i in range(rounds):
        for side in sides if i % 2 == 0 else reversed(sides):
            found[side].append(_pipeline_rate(config, *side, seconds / rounds / len(sides)))
            progress()
    rates = {side: statistics.mean(values) for side, values in found.items()}
    return [{"threads": threads, "worker_processes": workers, "clips_per_second": rate,
             "ratio": rate / rates[sides[0]]} for (threads, workers), rate in rates.items()]


def _pipeline_rate(config, threads: int, workers: int, seconds: float) -> float:
    """Clips per second of one pipeline, measured for about `seconds`."""
    data = config.data.copy_and_resolve_references()
    data.update(dict(num_threads=threads, num_workers=workers, prefetch=max(2, threads), cache="none",
                     batch_size=min(data.batch_size, 8)))
    with data_pipelines.open_split(data, "train").batches() as batches:
        for _ in range(data.prefetch):  # what was read ahead while nobody counted
            next(batches)
        start, count = time.perf_counter(), 0
        while count < data.prefetch or time.perf_counter() - start < seconds:
            next(batches)
            count += 1
        return count * data.batch_size / (time.perf_counter() - start)


# ------------------------------------------------------------------------------------------- steps
class Step:
    """A compiled train step with a state of its own and a batch on the device.

    Attributes:
        batch_size: of the batch.
        config: of the stage.
        mesh: the devices.
        task: of the stage.
    """

    def __init__(self, config, class_names: Sequence[str]):
        from effvid_jax.state import first_state
        from effvid_jax.train import jit_train_step

        self.config, self.mesh = config, sharding.make_mesh(config.train.get("fsdp", 1))
        data = config.data
        self.batch_size = _batch_size(config, data.batch_size)
        shape = (self.batch_size, data.num_frames, data.crop, data.crop, 3)
        self.task = make_task(config, class_names)
        method = make_method(config, self.task)
        tx = make_optimizer(config.optim, 100, 10**6)
        variables = random_values(jax.eval_shape(lambda: method.init(jax.random.key(0), shape)))
        self.state = sharding.place(first_state(config, variables, tx.init(variables.params)), self.mesh)
        targets = {name: np.zeros((self.batch_size, *size), dtype)
                   for name, (size, dtype) in method.batch_fields.items()}
        self.batch = sharding.shard_batch({
            "video": random_clips(shape), "mask": np.ones(self.batch_size, np.float32),
            "id": np.arange(self.batch_size), **targets}, self.mesh)
        self._step = jit_train_step(method, tx, config.seed, self.mesh, self.state)

    def __call__(self, batch=None):
        """One update; returns its scalars, still computing."""
        self.state, scalars = self._step(self.state, self.batch if batch is None else batch)
        return scalars


def train_sides(config, workdir: str, folder: str, class_names: Sequence[str]) -> dict[str, Step]:
    """A `Step` for every stage of the config, or for the one run it is.

    Args:
        config: a resolved config.
        workdir: where a trained teacher may be.
        folder: where another stage's network is put with random weights, such as a teacher that is missing.
        class_names: K names.
    """
    names = runs.stage_names(config)
    stages = {name: runs.stage_config(config, name, workdir) for name in names} or {"run": config}
    for stage in stages.values():
        for field, other in find_method(stage.method.name).Settings.workdirs.items():
            stage.method[field] = stand_in(config, other, stage.method[field], folder, class_names)
    return {name: Step(stage, class_names) for name, stage in stages.items()}


def stand_in(config, name: str, workdir: str, folder: str, class_names: Sequence[str]) -> str:
    """The workdir of another stage's network: `workdir`, or one below `folder` with random weights.

    Args:
        config: a resolved config.
        name: of the other stage.
        workdir: where a trained one may be.
        folder, class_names: see `train_sides`.
    """
    if _has_checkpoint(workdir):
        return workdir
    directory = os.path.join(folder, name)
    if not os.path.isdir(directory):
        _random_stage(config, name, directory, class_names)
    return directory


def _has_checkpoint(directory: str) -> bool:
    try:
        return bool(directory) and bool(checkpoint.checkpoint_directory(directory))
    except checkpoint.CheckpointError:
        return False


def _random_stage(config, name: str, directory: str, class_names: Sequence[str]) -> None:
    stage = runs.stage_config(config, name, directory)
    model = building.build_network(stage.model, make_task(stage, class_names))
    clip = (1, stage.data.num_frames, stage.data.crop, stage.data.crop, 3)
    checkpoint.save_imported(directory, random_variables(model, clip), stage, class_names)


def train_rates(steps: dict[str, Step], seconds: float, progress=lambda: None) -> list[dict]:
    """Steps of all stages in turns."""
    times = timing.measure(steps, seconds=seconds, progress=progress)
    rates = {name: times[name].rate(step.batch_size) for name, step in steps.items()}
    first = next(iter(rates))
    return [{"stage": name, "method": step.config.method.name, "backbone": step.config.model.backbone,
             "pixels": step.config.model.resolution or step.config.data.crop, "batch": step.batch_size,
             "clips_per_second": rates[name], "ratio": rates[name] / rates[first],
             "spread": times[name].spread} for name, step in steps.items()]


def loop(config, name: str, step: Step, alone: dict, seconds: float) -> list[dict]:
    """The train loop's own parts, reading ahead and stepping, on the config's pipeline.

    Args:
        config: of the whole run.
        name: of the stage.
        step: its compiled step.
        alone: row of the step alone, to compare with.
        seconds: how long to run.
    """
    from effvid_jax.log import Log

    rows = []
    for cache in dict.fromkeys(("none", config.data.cache)):
        data = step.config.data.copy_and_resolve_references()
        data.update(dict(cache=cache, batch_size=step.batch_size))
        with data_pipelines.open_split(data, "train", step.task.targets).batches() as batches:
            if cache != "none":  # the first pass fills the cache, the others are what takes the time
                for _ in range(batches.steps_per_epoch):
                    next(batches)
            with contextlib.closing(sharding.Prefetch(batches, step.mesh)) as ahead:
                for _ in range(data.prefetch + 4):  # what was read ahead while nobody was waiting
                    jax.block_until_ready(step(next(ahead)[0]))
                ahead.wait_share()
                count, start, pending = 0, time.perf_counter(), []
                while count < 5 or time.perf_counter() - start < seconds:
                    pending.append(step(next(ahead)[0]))
                    count += 1
                    if len(pending) > Log.lag:  # as the train loop does: it looks back at finished steps
                        jax.block_until_ready(pending.pop(0))
                jax.block_until_ready(pending)
                share, rate = ahead.wait_share(), count * step.batch_size / (time.perf_counter() - start)
        rows.append({"stage": name, "frames": "decoded" if cache == "none" else "from the cache",
                     "threads": data.num_threads, "worker_processes": data.num_workers,
                     "clips_per_second": rate, "ratio_to_step_alone": rate / alone["clips_per_second"],
                     "wait_share": share})
    return rows


# --------------------------------------------------------------------------------------- inference
def resolutions(config) -> list[int]:
    """`config.bench.resolutions`, or those of Table 4 scaled to the config's own crop for 224."""
    scaled = [max(16, round(r * config.data.crop / 224 / 4) * 4) for r in TABLE_4]
    return list(config.bench.resolutions) or list(dict.fromkeys(scaled))


def inference(model_config, task: Task, sides: Sequence[int], num_frames: int, batch_size: int, *,
              seconds: float, progress=lambda: None) -> list[dict]:
    """One network with random weights at several resolutions, in turns, on one device.

    Args:
        model_config: a `config.model`.
        task: what it is asked.
        sides: resolutions; ratios are to the first one.
        num_frames: T.
        batch_size: of every resolution.
        seconds: to spend on measuring.
        progress: called now and then.

    Raises:
        UserError: a resolution too small for the network.
    """
    model = building.build_network(model_config, task)
    gmacs = {}
    for side in sides:
        clip = (num_frames, side, side, 3)
        cost.check_resolution(model, clip, model_config.backbone)
        gmacs[side] = cost.gmacs(model, clip)
    variables = random_variables(model, (1, num_frames, min(sides), min(sides), 3))
    predict = partial(base.predict_views, model, task, base.Sight.of(model_config))
    times = timing.measure(
        {side: predict_side(predict, variables, (batch_size, 1, num_frames, side, side, 3))
         for side in sides}, seconds=seconds, progress=progress)
    rates = {side: t.rate(batch_size) for side, t in times.items()}
    first = sides[0]
    return [{"resolution": side, "gmacs": gmacs[side], "clips_per_second": rates[side],
             "gmacs_divided_by": gmacs[first] / gmacs[side], "ratio": rates[side] / rates[first],
             "spread": times[side].spread} for side in sides]


def exits(config, class_names: Sequence[str], seconds: float, progress=lambda: None) -> list[dict]:
    """What early exits save on the clock, see `exit_bench.measure`."""
    config = config.copy_and_resolve_references()
    config.model.exits.classifier_std = 0.5  # random scores that differ between clips
    method = make_method(config, make_task(config, class_names))
    segments = next(runner.segments for runner in method.runners().values() if runner.segments)
    batch, side = _batch_size(config, config.data.eval_batch_size), config.data.test_crop_size
    shape = (4 * batch, config.data.num_frames, side, side, 3)
    variables = method.init(jax.random.key(0), shape)
    return exit_bench.measure(segments, variables, random_clips(shape, contrast=True), batch,
                               seconds=seconds, progress=progress)


def _stops_early(config) -> bool:
    """Whether the network has several exits; one is no early one."""
    exits = config.model.get("exits")
    return bool(exits) and len(exits.get("route", ())) != 1


def predict_side(predict, variables, shape: Sequence[int]) -> Callable[[], Any]:
    """`predict` compiled, on random clips (B,V,T,H,W,3) that lie on the device: for `timing.measure`."""
    compiled, video = jax.jit(predict), jax.device_put(random_clips(shape))
    variables = jax.device_put(variables)
    return lambda: compiled(variables, {"video": video})


def random_variables(model, clip_shape: Sequence[int]) -> dict[str, Any]:
    """Variables of a backbone for timing only; nothing is compiled, which initialising would be."""
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(tuple(clip_shape))))
    return {"batch_stats": {}, **random_values(variables)}


def random_values(shapes):
    """Harmless values for a tree of shapes: statistics that normalise nothing, small weights."""
    rng = np.random.default_rng(0)

    def value(path, x):
        name = str(getattr(path[-1], "key", ""))
        if name in ("scale", "var"):
            return np.ones(x.shape, x.dtype)
        return 0.02 * rng.standard_normal(x.shape, np.float32).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(value, shapes)


def random_clips(shape: Sequence[int], contrast: bool = False) -> np.ndarray:
    """uint8 noise: some devices are faster on zeros. With `contrast` clips differ, and so do their scores."""
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, tuple(shape), np.uint8)
    return clips // rng.integers(1, 8, (shape[0], 1, 1, 1, 1), np.uint8) if contrast else clips


# ------------------------------------------------------------------------------------------ set-up
def _batch_size(config, wanted: int) -> int:
    """Clips of a batch: `config.bench.batch_size`, or `wanted`, on a CPU so many that a step is short."""
    data, devices = config.data, jax.device_count()
    size = config.bench.batch_size or wanted
    if not config.bench.batch_size and jax.devices()[0].platform == "cpu":
        size = min(size, max(1, CPU_PIXELS // (data.num_frames * data.crop**2)))
    return -(-size // devices) * devices


def _small_benchmark(config):
    """The config, with fewer clips of the embedded benchmark where it uses that."""
    config = config.copy_and_resolve_references()
    if config.data.source.startswith("synthetic"):
        config.data.synthetic.update(dict(
            train_clips=min(config.data.synthetic.train_clips, 192), val_clips=16))
    return config
