"""Data parallelism: one mesh axis over all devices, batches cut along it, everything else everywhere."""

from __future__ import annotations

import functools
import queue
import threading
import time

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from effvid_jax.errors import UserError


def make_mesh() -> jax.sharding.Mesh:
    """All devices along 'data'. `Auto` axes: explicit ones break integer-label losses on jax >= 0.11."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def replicated(mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


@functools.cache
def _identity(mesh):
    """A program that leaves a copy on every device; one a mesh, so that nothing is traced twice."""
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))


def replicate(tree, mesh):
    """Puts a copy of every array on every device of the mesh, never sharing memory with the input."""
    return _identity(mesh)(jax.tree.map(np.array, tree))


def shard_batch(batch, mesh):
    """This process's part of a global batch -> global arrays, cut along the batch axis.

    Raises:
        UserError: the batch does not divide over the devices.
    """
    local = jax.local_device_count()
    for name, x in batch.items():
        if x.shape[0] % local:
            raise UserError(
                f"the batch of {x.shape[0]} examples per process ({name}) does not divide over "
                f"{local} devices: choose config.data.batch_size and eval_batch_size as multiples of "
                f"{jax.device_count()}.")
    data = NamedSharding(mesh, PartitionSpec("data"))
    return {name: jax.make_array_from_process_local_data(data, x) for name, x in batch.items()}


def gather(tree, mesh):
    """Arrays that are cut over devices (of several processes, maybe), whole, as numpy arrays."""
    return jax.tree.map(np.asarray, tree if mesh.size == 1 else _identity(mesh)(tree))


class Prefetch:
    """Iterates over batches a few ahead, already on the devices; closed at the end of a `with` block.

    Yields `(batch on the devices, the same as numpy without its video)`: of the latter a process has its
    own rows only. Errors of the batches surface at `next`. Whoever opens the batches closes them.
    """

    def __init__(self, batches, mesh, depth: int = 2):
        self._queue: queue.Queue = queue.Queue(depth)
        self._stop = threading.Event()
        self._waited = 0.0
        self._mark = time.monotonic()
        self._thread = threading.Thread(target=self._fill, args=(batches, mesh), daemon=True)
        self._thread.start()

    def _fill(self, batches, mesh):
        try:
            for batch in batches:
                here = {name: x for name, x in batch.items() if name != "video"}
                if not self._put((shard_batch(batch, mesh), here)):
                    return
            self._put(StopIteration())
        except BaseException as error:  # handed to the consumer, who raises it
            self._put(error)

    def _put(self, item) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self):
        return self

    def __next__(self):
        start = time.monotonic()
        item = self._queue.get()
        self._waited += time.monotonic() - start
        if isinstance(item, BaseException):
            self._queue.put(item)
            raise item
        return item

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def wait_share(self) -> float:
        """Share of the time since the last call that `next` spent waiting for data."""
        now = time.monotonic()
        share = self._waited / max(now - self._mark, 1e-9)
        self._waited, self._mark = 0.0, now
        return min(share, 1.0)

    def close(self) -> None:
        """Stops reading ahead and lets go of the batches on the devices."""
        self._stop.set()
        self._thread.join(timeout=10)
        while not self._queue.empty():
            self._queue.get_nowait()
