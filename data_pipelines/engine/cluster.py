"""The engine of a cluster: Ray Data hands out blocks, holds back who is too fast, and replaces the dead."""

import logging
import os
import pickle
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipelines.engine.base import Engine, Stage
from data_pipelines.errors import DataError
from data_pipelines.tools import num_cores

RETRIES = 2  # of a block whose process died
_PROJECT = str(Path(__file__).resolve().parent.parent.parent)


class Cluster(Engine):
    """See `choose.make_engine`; every stage is a pool of Ray actors."""

    def __init__(self, workers: int | None, address: str | None, devices: int | None):
        try:
            import ray.data
        except ImportError as error:
            raise DataError(f"--engine=ray needs Ray, and {error.name or 'it'} is not installed: pip install "
                            f"'ray[data]' (or 'effvid_jax[ray]').") from None
        self._ray, self._workers, self._address, self._devices = ray, workers, address, devices

    def each(self, stages: Sequence[Stage], blocks: Sequence[list]) -> Iterator[tuple[int, list]]:
        """See `Engine.each`.

        Raises:
            DataError: no such cluster, or too few cores.
        """
        if not blocks:
            return
        self._connect()
        data = self._data(blocks)
        for stage, (count, resources) in zip(stages, self._shares(stages), strict=True):
            pool = self._ray.data.ActorPoolStrategy(size=min(count, len(blocks)))
            with warnings.catch_warnings():  # 2.60: there is no other way yet to say how often to restart
                warnings.filterwarnings("ignore", message=".*ray_remote_args")
                data = data.map_batches(
                    _Actor, fn_constructor_args=(stage.work,), batch_size=None, batch_format="pyarrow",
                    compute=pool, ray_remote_args_fn=_restarts, **resources)
        tables = iter(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
        while (table := self._next(tables)) is not None:
            for number, value in zip(table["number"], table["value"]):
                kind, found = pickle.loads(value.as_buffer())
                if kind == "error":
                    raise found
                yield number.as_py(), found

    def _next(self, tables):
        """The next results, or None."""
        try:
            return next(tables, None)
        except self._ray.exceptions.ActorDiedError as error:
            missing = re.search("No module named '([^']+)'", str(error))
            why = f": {missing[1]} is missing there" if missing else ""
            raise DataError(f"processes of the Ray cluster cannot start{why}. Every machine of it needs this "
                            f"project and its requirements (docs/archive.md).") from error

    def _data(self, blocks: Sequence[list]):
        """A data set with a Ray block for each of ours."""
        context = self._ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = False
        context.max_errored_blocks = -1  # those of the dead; errors of the work come back as values
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it tells of the dead is long
        rows = [{"number": i, "value": pickle.dumps(("", block))} for i, block in enumerate(blocks)]
        return self._ray.data.from_items(rows, override_num_blocks=len(rows))

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        path = os.environ.get("PYTHONPATH", "")
        if _PROJECT not in path.split(os.pathsep):  # workers import what this process imports
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_PROJECT, path]))
        own = {} if self._address or os.environ.get("RAY_ADDRESS") else {
            "num_cpus": self._cores(), "include_dashboard": False}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of JAX: programs are started, nothing forks
                self._ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = self._address or os.environ.get("RAY_ADDRESS", "")
            words = " ".join(str(error).split())[:200]
            raise DataError(f"--address={where}: no Ray cluster can be reached there ({words}). `ray start "
                            f"--head` starts one.") from None

    def _cores(self) -> int:
        """Of a Ray of our own: one for every process that this command asks for, at least the machine's."""
        return max(num_cores(), (self._workers or 1) + (self._devices or 1))

    def _shares(self, stages: Sequence[Stage]) -> list[tuple[int, dict]]:
        """(number of actors, what each of them takes) of every stage.

        Raises:
            DataError: the cluster has not so much.
        """
        there = self._ray.cluster_resources()
        cores, kind = int(there.get("CPU", 0)), next((k for k in ("GPU", "TPU") if there.get(k, 0) >= 1), "")
        on_devices = sum(stage.device for stage in stages)
        devices = self._devices or (int(there[kind]) if kind else 1)
        if on_devices and kind and devices > there[kind]:
            raise DataError(f"--devices={devices}: this cluster has {there[kind]:g} of kind {kind}: give at "
                            f"most so many.")
        readers = self._workers or max(1, cores - on_devices * devices)
        if readers + on_devices * devices > cores:
            raise DataError(f"this cluster has {cores} cores; {readers} processes that read (--workers) and "
                            f"{on_devices * devices} that compute (--devices) take one each: give fewer.")
        each = {"GPU": {"num_gpus": 1}, "TPU": {"resources": {"TPU": 1}}, "": {}}[kind]
        several = max(1, len(stages) - on_devices)
        return [(devices, {"num_cpus": 1, **each}) if stage.device else
                (max(1, readers // several), {"num_cpus": 1}) for stage in stages]


def _restarts() -> dict:
    """How often Ray starts an actor anew, and does again what one was about to do."""
    return {"max_restarts": -1, "max_task_retries": RETRIES}


class _Actor:
    """A stage in a process of the cluster."""

    def __init__(self, work):
        self._work = work

    def __call__(self, table):
        import pyarrow

        values = []
        for value in table["value"]:
            kind, block = pickle.loads(value.as_buffer())
            if kind != "error":
                try:
                    block = self._work(block)
                except Exception as error:  # raised where the results are used
                    kind, block = "error", _portable(error)
            values.append(pickle.dumps((kind, block), pickle.HIGHEST_PROTOCOL))
        return pyarrow.table({"number": table["number"],
                              "value": pyarrow.array(values, pyarrow.large_binary())})


def _portable(error: Exception) -> Exception:
    """An error that another process can read."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
