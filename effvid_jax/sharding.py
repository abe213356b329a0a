"""Which array lies where: one mesh over all devices, and every sharding of the project.

    mesh           devices as (data, fsdp); `config.train.fsdp` is the length of the second axis, 1 by default
    batches        cut along both axes: every device has its own clips
    parameters,    cut along `fsdp`: each of so many neighbours has a part of an array, all such groups have
    optimizer,     the same parts. Small arrays, and those that no axis divides, are whole everywhere; with
    averages,      `fsdp=1` all are
    frozen teacher
    statistics,    whole everywhere
    step, metrics

A step gathers the parameters (`gathered`), each device computes with its own clips, and gradients come back
as parts (`like_state`): an all-gather and a reduce-scatter in the place of an all-reduce. So what a device
keeps between steps is 1/fsdp of the state; activations are for `config.model.remat`. Evaluation makes whole
copies first (`whole`).

What the axes mean to XLA is `Auto`: explicit ones break integer-label losses on jax >= 0.11.
"""

from __future__ import annotations

import functools
import io
import math
import queue
import threading
import time

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from effvid_jax.errors import UserError

DATA, FSDP = "data", "fsdp"
SMALLEST = 2**12  # values of an array that is cut: smaller ones cost more to gather than to keep


# ------------------------------------------------------------------------------------------- what lies where
def make_mesh(fsdp: int = 1, devices=None) -> jax.sharding.Mesh:
    """The devices as (data, fsdp); neighbours share parameters.

    Args:
        fsdp: devices that share one copy of the parameters.
        devices: all of jax by default.

    Raises:
        UserError: `fsdp` does not divide their number.
    """
    devices = jax.devices() if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        raise UserError(f"config.train.fsdp={fsdp}: expected a divisor of the number of devices, "
                        f"{len(devices)}: so many share one copy of the parameters; 1: every device has all.")
    return jax.make_mesh((len(devices) // fsdp, fsdp), (DATA, FSDP), devices=devices,
                         axis_types=(jax.sharding.AxisType.Auto,) * 2)


def own_mesh() -> jax.sharding.Mesh:
    """The devices of this process alone: what it computes there waits for no other process."""
    return make_mesh(devices=jax.local_devices())


def replicated(mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def of_batch(mesh) -> NamedSharding:
    """The first axis cut over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def of_array(x, mesh) -> NamedSharding:
    """A parameter, or what is remembered of one: its longest axis that can be cut into equal parts is."""
    parts = mesh.shape[FSDP]
    axes = [i for i, size in enumerate(x.shape) if size % parts == 0]
    if parts == 1 or math.prod(x.shape) < SMALLEST or not axes:
        return replicated(mesh)
    axis = max(axes, key=lambda i: (x.shape[i], i))
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, FSDP))


def of_state(state, mesh):
    """Shardings in the place of the arrays of a `TrainState`, or of their shapes."""
    def cut(tree):
        return jax.tree.map(lambda x: of_array(x, mesh), tree)

    def everywhere(tree):
        return jax.tree.map(lambda x: replicated(mesh), tree)

    averaged = {name: (cut if name == "params" else everywhere)(tree)
                for name, tree in state.averaged.items()}
    return state.replace(step=replicated(mesh), params=cut(state.params), stats=everywhere(state.stats),
                         optimizer=cut(state.optimizer), frozen=cut(state.frozen), averaged=averaged)


# ----------------------------------------------------------------------------------------- to where it lies
@functools.cache
def _identity(mesh):
    """A program that leaves a copy on every device; one a mesh, so that nothing is traced twice."""
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))


def replicate(tree, mesh):
    """Puts a copy of every array on every device of the mesh, never sharing memory with the input."""
    return _identity(mesh)(jax.tree.map(_copied, tree))


def place(state, mesh):
    """Puts a `TrainState` where `of_state` says, never sharing memory with the input."""
    if mesh.shape[FSDP] == 1:
        return replicate(state, mesh)
    return jax.jit(lambda tree: tree, out_shardings=of_state(state, mesh))(jax.tree.map(_copied, state))


def _copied(x):
    elsewhere = isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
    return x if elsewhere else np.array(x)


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
    return {name: jax.make_array_from_process_local_data(of_batch(mesh), x) for name, x in batch.items()}


# ------------------------------------------------------------------------------------------- within a program
def gathered(tree, mesh):
    """Traced: arrays whole on every device, for the time that they are needed."""
    if mesh.shape[FSDP] == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, replicated(mesh)), tree)


def apart(function, mesh):
    """Of a function of (whole, rows, ...) one that each device runs on its own rows, with no word to others.

    XLA divides what treats all rows alike. Where rows go one by one, or several that are alike together
    (gates in compact form), it would collect all rows on every device and compute all of them there.

    Args:
        function: (what is whole on every device, *trees with an axis of rows first) -> such trees.
        mesh: the devices; None: one.
    """
    if mesh is None or mesh.size == 1:
        return function
    rows = PartitionSpec(mesh.axis_names)

    def on_own_rows(everywhere, *trees):
        return jax.shard_map(function, mesh=mesh, in_specs=(PartitionSpec(), *(rows,) * len(trees)),
                             out_specs=rows, check_vma=False)(everywhere, *trees)

    return on_own_rows


def like_state(tree, mesh):
    """Traced: gradients and other arrays in the shapes of parameters, cut as these are."""
    if mesh.shape[FSDP] == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, of_array(x, mesh)), tree)


# ------------------------------------------------------------------------------------------- whole, and back
def whole(tree, mesh):
    """Whole copies of what is cut, on every device; every process calls it. The rest stays as it is."""
    leaves, structure = jax.tree.flatten(tree)
    cut = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array) and not x.is_fully_replicated]
    for i, x in zip(cut, _identity(mesh)([leaves[i] for i in cut]) if cut else (), strict=True):
        leaves[i] = x
    return jax.tree.unflatten(structure, leaves)


def gather(tree, mesh):
    """Arrays that are cut over devices (of several processes, maybe), whole, as numpy arrays."""
    return jax.tree.map(np.asarray, tree if mesh.size == 1 else _identity(mesh)(tree))


def on_host(x) -> np.ndarray:
    """An array as numpy, from parts on several processes too: then every process calls it."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        x = _identity(x.sharding.mesh)(x)
    return np.asarray(x)


def own_share(number: int) -> range:
    """Which of so many examples are this process's, where each works alone: contiguous, in order."""
    index, count = jax.process_index(), jax.process_count()
    return range(number * index // count, number * (index + 1) // count)


def rows_of_all(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of every process one after the other; every process calls it, maybe without any rows.

    Args:
        rows: numeric arrays by name, a row an example.
    """
    if jax.process_count() == 1:
        return rows
    from jax.experimental import multihost_utils

    own = _packed(rows)
    sizes = multihost_utils.process_allgather(np.int32(len(own)))
    sent = multihost_utils.process_allgather(np.pad(own, (0, int(sizes.max()) - len(own))))
    return _joined([data[:size] for data, size in zip(sent, sizes, strict=True)])


def _packed(rows) -> np.ndarray:
    """Rows as bytes, which go between processes with every type they have."""
    file = io.BytesIO()
    np.savez(file, **rows)
    return np.frombuffer(file.getvalue(), np.uint8)


def _joined(packed) -> dict[str, np.ndarray]:
    parts = [np.load(io.BytesIO(data.tobytes())) for data in packed]
    names = dict.fromkeys(name for part in parts for name in part.files)
    return {name: np.concatenate([part[name] for part in parts if name in part.files]) for name in names}


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
