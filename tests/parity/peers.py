"""Parity of the other systems of the papers' tables (`kind: "peer_forward"`, `"peer_train"`, `"peer_op"`).

One module a system, `peer_<name>.py` beside this file, found by its name; a new system adds a file:

    SOURCES = ("owner/repository", ...)     of the cases that it knows: their `source.repo`
    OPS = ("name", ...)                     of the `peer_op` cases that it knows: their `op`; () for none
    def run(case, state, inputs): ...       in the precision that is set, never a cast to float32

`run` is given the weights in PyTorch's layout ({} for an operation) and the inputs by name, arrays of the
precision that is checked. It returns arrays by name, everything that the case names:

    peer_forward, peer_op   those of `outputs` and `features`
    peer_train              'losses', 'grad' and 'running_stats_after', each a dict as in the case, with
                            'norms' {group: number} and 'samples' {key: whole gradient in PyTorch's layout}

Whole numbers (an output without `std`) are decisions: they must be equal.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests import parity
from tests.parity import golden
from tests.parity.forward import precision


def find(case: dict[str, Any]):
    """The module of a case's system.

    Raises:
        golden.Unsupported: no module knows it.
    """
    source = case["source"]["repo"]
    for found in pkgutil.iter_modules(parity.__path__):
        if not found.name.startswith("peer_"):
            continue
        module = importlib.import_module(f"{parity.__name__}.{found.name}")
        known = case["op"] in module.OPS if case["kind"] == "peer_op" else source.split("github.com/")[
            -1] in module.SOURCES
        if known:
            return module
    raise golden.Unsupported(f"the operation {case['op']}" if case["kind"] == "peer_op" else source)


def build_inputs(case: dict[str, Any], dtype) -> dict[str, np.ndarray]:
    """The inputs of a case by name: stored ones, or rebuilt by their rule; whole numbers stay whole.

    Raises:
        golden.CaseError: an unknown rule, or a checksum that differs.
    """
    found = {}
    for name, spec in case["inputs"].items():
        rule = spec.get("rule", "")
        if "values" in spec:
            values = np.asarray(spec["values"]).reshape(spec["shape"])
        elif rule == "golden_input":
            values = golden.build_input({"input": spec})
        elif rule.startswith("|standard_normal|"):
            values = golden.build_normal(spec)
        else:
            raise golden.CaseError(f"input {name} by the rule {rule!r}, which is not known.")
        found[name] = values.astype(dtype if values.dtype.kind == "f" else np.int32)
    return found


def check(case: dict[str, Any], x64: bool) -> tuple[float, list[str]]:
    """Compares a case; what is returned is as of `forward.check`."""
    module = find(case)
    dtype = np.float64 if x64 else np.float32
    with precision(x64):
        state = golden.build_state(case) if "state" in case else {}
        inputs = {name: jnp.asarray(x) for name, x in build_inputs(case, dtype).items()}
        found = jax.device_get(module.run(case, state, inputs))
    return (_check_training if case["kind"] == "peer_train" else _check_outputs)(case, found, x64)


def _check_outputs(case, found, x64: bool):
    errors, problems = [0.0], []
    stored = [("feature ", name, spec) for name, spec in case.get("features", {}).items()]
    # Of features the reference's own single-precision error is not stored: that of what they lead to counts.
    least_exact = max(_limit(spec, x64) for spec in case["outputs"].values())
    for kind, name, spec in [*stored, *(("", name, spec) for name, spec in case["outputs"].items())]:
        if name not in found:
            problems.append(f"no counterpart of {kind or 'output '}{name}")
            continue
        value = np.asarray(found[name])
        if "values" in spec and "std" not in spec:
            if value.tolist() != np.reshape(spec["values"], spec["shape"]).tolist():
                errors.append(math.inf)
                problems.append(f"{name} {value.tolist()}, not {spec['values']}")
            continue
        if x64 and value.dtype != np.float64:
            problems.append(f"{name} was computed in {value.dtype}, not in float64")
        error = golden.fingerprint_error(value, spec) if kind else golden.output_error(value, spec)
        errors.append(error)
        if error > (least_exact if kind else _limit(spec, x64)):
            problems.append(f"{kind}{name} e={error:.1e} {value.shape} against {tuple(spec['shape'])}")
    return max(errors), problems


def _limit(spec, x64: bool) -> float:
    """In single precision the reference itself may be further off than usual (crops' coordinates)."""
    own = 0.0 if x64 or not spec.get("std") else 10 * spec.get("f32_max_abs_err", 0.0) / spec["std"]
    return max(golden.TOLERANCE[x64], own)


def _check_training(case, found, x64: bool):
    """Losses and sizes of gradients relative to their own; samples of gradients to the gradient's norm.

    In single precision a loss on crops at the places that the policy chose is held to no more than the
    weights' own rounding allows: in float64, one rounding of every weight (6e-8 of it) moves that of
    `peer_step_adafocus_v2` by 5e-4 to 3e-3 and the total by 1e-4 to 3e-4, and the losses without such crops
    by 5e-7. So the bounds on those are what it does at most, and float64 decides.
    """
    on_chosen_crops = {"total": 3e-4, "policy_checkpoints": 2.5e-3, "policy_local": 7e-4}
    if not x64:  # switching rectifiers make single-precision gradients noise
        case = {**case, "grad": {}, "running_stats_after": {}}
    errors, problems = [0.0], []

    def add(name, error, single=1e-4):
        errors.append(error)
        if error > (1e-6 if x64 else single):
            problems.append(f"{name} e={error:.1e}")

    for name, value in case["losses"].items():
        add(f"loss {name}", golden.relative_error(found["losses"][name], value),
            single=on_chosen_crops.get(name, 1e-4))
    for name, value in case["grad"].get("norms", {}).items():
        add(f"gradient of {name}", golden.relative_error(found["grad"]["norms"][name], value))
    for name, spec in case["grad"].get("samples", {}).items():
        value = np.asarray(found["grad"]["samples"][name])
        if list(value.shape) != spec["shape"]:
            problems.append(f"gradient of {name} {value.shape}, not {tuple(spec['shape'])}")
            continue
        add(f"norm of the gradient of {name}", golden.relative_error(np.linalg.norm(value), spec["norm"]))
        sample = value.reshape(-1)[golden.positions(value.size, len(spec["sample"]))]
        add(f"gradient of {name}", golden.relative_distance(sample, spec["sample"]))
    for name, values in case["running_stats_after"].items():
        value = np.asarray(found["running_stats_after"][name]).reshape(-1)
        add(name, golden.relative_distance(value[golden.positions(value.size, len(values))], values))
    return max(errors), problems
