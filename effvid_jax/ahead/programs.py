"""The train and evaluation step of a config as programs for devices that need not be here, and what they say.

The steps are those that the train loop and the evaluation jit; shapes stand for arrays. Command: `report.py`.
"""

from __future__ import annotations

import collections
import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import data_pipelines
from effvid_jax import sharding
from effvid_jax.errors import UserError
from effvid_jax.methods import make_method
from effvid_jax.optim import make_optimizer
from effvid_jax.state import init_state
from effvid_jax.tasks import make_task
from effvid_jax.train import train_step_of

GIB, GB = 2**30, 1e9


class Chip(NamedTuple):
    """Peak rates of a TPU chip, as Google states them (docs.cloud.google.com/tpu/docs/v5e, v6e).

    Attributes:
        flops: bfloat16 operations a second; a float32 product is one of bfloat16 by default.
        bandwidth: of the memory, bytes a second.
        memory: bytes.
        links: of all links to other chips together, bytes a second.
        host: chips that share a host.
    """

    flops: float
    bandwidth: float
    memory: float
    links: float
    host: int


CHIPS = {"v5e": Chip(197e12, 819e9, 16 * GIB, 200e9, 8), "v6e": Chip(918e12, 1640e9, 32 * GIB, 448e9, 8)}
LOWERED = ("tpu", "cuda")  # without a compiler
_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_COLLECTIVE = re.compile(rf"= (\(?[a-z0-9]+\[.*?) ({'|'.join(_KINDS)})(?:-start)?\(")
_ARRAY = re.compile(r"([a-z]+)([0-9]+)(?:\w*)\[([0-9,]*)\]")


class Programs:
    """The train and evaluation step of one stage, with shapes in the place of arrays.

    Args:
        stage: its config; a batch that does not divide over the devices is refused.
        class_names: K names.
        mesh: the devices, which may be of a topology.

    Attributes:
        config: of the stage.
        mesh: the devices.
        batch_size, eval_batch_size: clips and videos of all devices together.
    """

    def __init__(self, stage, class_names, mesh):
        self.config, self.mesh, data = stage, mesh, stage.data
        self.batch_size, self.eval_batch_size = data.batch_size, data.eval_batch_size
        for field in ("batch_size", "eval_batch_size"):
            if data[field] % mesh.size:
                raise UserError(f"config.data.{field}={data[field]} does not divide over the {mesh.size} "
                                f"chips of the topology: give --config.data.{field}=N, a multiple of it.")
        task = make_task(stage, class_names)
        self.method = make_method(stage, task)
        tx = make_optimizer(stage.optim, 1000, 100_000)
        shape = (data.batch_size, data.num_frames, data.crop, data.crop, 3)
        self.state = jax.eval_shape(lambda: init_state(self.method, tx, stage, shape))
        self._step = train_step_of(self.method, tx, stage.seed, mesh)
        self.batch = {"video": jax.ShapeDtypeStruct(shape, jnp.uint8),
                      "mask": jax.ShapeDtypeStruct(shape[:1], jnp.float32),
                      **{name: jax.ShapeDtypeStruct((shape[0], *size), dtype)
                         for name, (size, dtype) in self.method.batch_fields.items()}}
        side, views = data.test_crop_size, data_pipelines.num_views(data)
        self.videos = {"video": jax.ShapeDtypeStruct(
            (data.eval_batch_size, views, data.num_frames, side, side, 3), jnp.uint8)}

    def _jitted(self, what: str):
        """(jitted function, arguments as shapes)."""
        whole, lies = sharding.replicated(self.mesh), sharding.of_state(self.state, self.mesh)
        cut = sharding.of_batch(self.mesh)
        if what == "train":
            function = jax.jit(self._step, donate_argnums=0, out_shardings=(lies, whole))
            return function, (_placed(self.state, lies), _placed(self.batch, cut))
        runner = self.method.runners()[self.method.runner]
        predict = sharding.apart(runner.predict or self.method.predict, self.mesh)
        variables = _placed(self.state.evaluated.replace(frozen={}), whole)
        return jax.jit(predict, out_shardings=whole), (variables, _placed(self.videos, cut))

    def compile(self, what: str) -> dict[str, Any]:
        """Compiles 'train' or 'eval' for the mesh; what is known of the program, see `facts`.

        Raises:
            jax.errors.JaxRuntimeError: it does not compile; too little memory is RESOURCE_EXHAUSTED.
        """
        begun = time.monotonic()
        function, shapes = self._jitted(what)
        found = facts(function.lower(*shapes).compile())
        return {**found, "compile_seconds": round(time.monotonic() - begun, 1)}

    def lower(self, what: str, platforms=LOWERED) -> dict[str, Any]:
        """Lowers 'train' or 'eval' for platforms, without a compiler for them."""
        begun = time.monotonic()
        function, shapes = self._jitted(what)
        exported = jax.export.export(function, platforms=platforms)(*shapes)
        return {"lowered": list(exported.platforms), "devices": exported.nr_devices,
                "megabytes": round(len(exported.mlir_module_serialized) / 1e6, 2),
                "lower_seconds": round(time.monotonic() - begun, 1)}


def _placed(tree, shardings):
    """Shapes with shardings; one for all of them, or a tree."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree,
                        shardings)


# --------------------------------------------------------------------------------------- what a program says
def facts(compiled) -> dict[str, Any]:
    """Per device: bytes of memory, operations, bytes moved, and collectives {kind: (number, bytes)}."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    arguments, results, aliased, temporary, code = (
        int(getattr(memory, f"{name}_size_in_bytes")) for name in
        ("argument", "output", "alias", "temp", "generated_code"))
    return {"memory": arguments + results - aliased + temporary + code, "arguments": arguments,
            "temporary": temporary, "flops": float(cost.get("flops", 0.0)),
            "bytes": float(cost.get("bytes accessed", 0.0)), "collectives": collectives(compiled.as_text())}


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """{kind: (number, bytes of their results)} of a compiled program."""
    found: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for shapes, kind in _COLLECTIVE.findall(text):
        arrays = _ARRAY.findall(shapes)
        if "-start(" in text and shapes.startswith("(") and kind in ("all-gather", "collective-permute"):
            arrays = arrays[len(arrays) // 2:]  # of a started one the operands are named as well
        size = sum(int(bits) // 8 * _product(dims) for _, bits, dims in arrays)
        found[kind][0] += 1
        found[kind][1] += size
    return {kind: (number, size) for kind, (number, size) in sorted(found.items())}


def _product(dims: str) -> int:
    size = 1
    for n in filter(None, dims.split(",")):
        size *= int(n)
    return size


def seconds(found: dict[str, Any], chip: Chip, chips: int) -> dict[str, float]:
    """Least seconds of a step at peak rates: of operations, of memory, of links, and of the step.

    A ring sends (n - 1) / n of an array, and an all-reduce twice that. Links work beside the rest, which
    either computes or waits for memory; so a step takes the longest of the three at best.
    """
    share = (chips - 1) / chips
    sent = sum(size * share * (2 if kind == "all-reduce" else 1)
               for kind, (_, size) in found["collectives"].items())
    out = {"compute": found["flops"] / chip.flops, "memory": found["bytes"] / chip.bandwidth,
           "links": sent / chip.links}
    return {**out, "step": max(out.values())}
