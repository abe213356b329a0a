"""Golden cases: numbers of public reference implementations, and how weights and inputs are rebuilt.

A case is a JSON file that holds no weights: each tensor is a function of its key, its PyTorch shape, a
salt and a list of overrides (fill rule v1; rule 'package': those that a package of requirements.txt
installs), each input a function of shape and seed. Outputs were
computed by the unmodified reference in float64 and are kept to 9 significant digits; feature maps are
kept as mean, standard deviation and up to 64 samples ("fingerprint"). Checksums in the file tell
whether weights and input were rebuilt bit for bit.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = {True: 1e-6, False: 5e-5}  # by x64: largest allowed error in units of the stored spread

_POSITION_TABLES = re.compile(
    r"(bias_table|rel_pos_t|rel_pos_h|rel_pos_w|_token|_pos|pos_embed|pos_embedding)$")


class CaseError(ValueError):
    """A case file that is damaged, or whose weights or input cannot be rebuilt exactly."""


class Unsupported(ValueError):
    """A case of an architecture (or kind) that this project does not build."""


def load_case(path: str | Path) -> dict[str, Any]:
    """Reads a case; its fields are described in the module docstring and used below.

    Raises:
        CaseError: not a readable case.
    """
    try:
        case = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise CaseError(f"cannot read {path}: {error}") from error
    if not isinstance(case, dict) or not {"case", "kind"} <= case.keys():
        raise CaseError(f"{path} is not a golden case: it has no 'case' and 'kind'.")
    return case


# ------------------------------------------------------------------------------------ weights, input
def tensor(key: str, shape: Sequence[int], salt: str = "", overrides=()) -> np.ndarray:
    """Fill rule v1: the float32 tensor called `key`.

    One Philox generator per tensor, keyed by the CRC-32 of salt + key, draws in float64; the spread
    depends on the role that name and rank give away; overrides `[pattern, factor]` scale it.
    """
    shape = tuple(shape)
    rng = np.random.Generator(np.random.Philox(key=zlib.crc32((salt + key).encode())))
    if key.endswith("running_mean"):
        value = 0.1 * rng.standard_normal(shape)
    elif key.endswith("running_var"):
        value = 0.5 + 1.5 * rng.random(shape)
    elif _POSITION_TABLES.search(key):
        value = 0.5 * rng.standard_normal(shape)
    elif len(shape) < 2 and key.endswith("weight"):
        value = 0.5 + rng.random(shape)
    elif len(shape) < 2:
        value = 0.1 * rng.standard_normal(shape)
    else:
        gain = 1.0 if len(shape) == 2 else 2.0
        value = math.sqrt(gain / math.prod(shape[1:])) * rng.standard_normal(shape)
    for pattern, factor in overrides:
        if re.search(pattern, key):
            value = value * factor
    return np.asarray(value, np.float64).astype(np.float32)


def build_state(case: dict[str, Any]) -> dict[str, np.ndarray]:
    """All floating tensors of a case, float32 in PyTorch's layout, by key.

    Raises:
        CaseError: another fill rule, or a checksum that differs.
    """
    fill = case["fill"]
    if fill["rule"] not in ("v1", "package"):
        raise CaseError(f"fill rule {fill['rule']!r}: this runner knows 'v1' and 'package'.")
    published = _of_package(fill["package"]) if fill["rule"] == "package" else {}
    state, crc = {}, 0
    for key, shape, kind in case["state"]:
        if kind != "i":  # integer buffers are computed by the model
            state[key] = published[key] if published else tensor(
                key, shape, fill.get("salt", ""), fill.get("overrides", ()))
            crc = zlib.crc32(np.ascontiguousarray(state[key]).tobytes(), crc)
    _check_crc("weights", crc, fill)
    return state


def _of_package(name: str) -> dict[str, np.ndarray]:
    """The published weights that a package installs."""
    from effvid_jax import published
    from effvid_jax.torch_import import load_torch_state

    return load_torch_state(published.weights_file(name))


def build_input(case: dict[str, Any]) -> np.ndarray:
    """The float32 input of a case, channels last: (N, T, H, W, C) or (N, H, W, C).

    Noise, one colour per frame and 4x4 enlarged blocks, drawn in this order from one generator.

    Raises:
        CaseError: a checksum or the first values differ.
    """
    spec = case["input"]
    shape = tuple(spec["shape"])
    n, t, h, w, c = shape if len(shape) == 5 else (shape[0], 1, *shape[1:])
    rng = np.random.Generator(np.random.Philox(key=spec["seed"]))
    x = 0.5 * rng.standard_normal((n, t, h, w, c))
    x = x + rng.standard_normal((n, t, 1, 1, c))
    coarse = rng.standard_normal((n, t, 4, 4, c))
    rows, columns = np.arange(h) * 4 // h, np.arange(w) * 4 // w
    x = (x + coarse[:, :, rows][:, :, :, columns]).astype(np.float32).reshape(shape)
    _check_crc("input", zlib.crc32(np.ascontiguousarray(x).tobytes()), spec)
    first = np.asarray(spec.get("first8", ()))
    if not np.allclose(x.reshape(-1)[:first.size], first, rtol=1e-8, atol=1e-12):
        raise CaseError(f"input starts with {x.reshape(-1)[:first.size]}, the case says {first}.")
    return x


def build_normal(spec: dict[str, Any]) -> np.ndarray:
    """|standard normal| numbers of the generator keyed by a seed, float32: features in place of a clip.

    Raises:
        CaseError: as of `build_input`.
    """
    rng = np.random.Generator(np.random.Philox(key=spec["seed"]))
    x = np.abs(rng.standard_normal(tuple(spec["shape"]))).astype(np.float32)
    _check_crc("input", zlib.crc32(np.ascontiguousarray(x).tobytes()), spec)
    return x


def _check_crc(what: str, crc: int, spec) -> None:
    if "crc32" in spec and crc != spec["crc32"]:
        raise CaseError(f"rebuilt {what} have crc32 {crc}, the case says {spec['crc32']}: the file was "
                        f"edited, or this numpy draws other numbers.")


# --------------------------------------------------------------------------------------- comparisons
def positions(size: int, n: int = 64) -> np.ndarray:
    """Flat C-order positions of the samples that a fingerprint keeps of `size` values."""
    return np.arange(size) if size <= n else (np.arange(n, dtype=np.int64) * 2654435761) % size


def output_error(value, stored: dict[str, Any]) -> float:
    """max |value - reference| / spread of the reference; inf for another shape or non-finite values."""
    value, reference = np.asarray(value, np.float64), np.asarray(stored["values"])
    if list(value.shape) != list(stored["shape"]):
        return math.inf
    spread = stored.get("std") or reference.std() or 1.0
    return _finite(np.abs(value.reshape(-1) - reference.reshape(-1)).max() / spread)


def fingerprint_error(value, stored: dict[str, Any]) -> float:
    """Largest deviation of mean, spread and samples, in units of the spread; inf for another shape."""
    value = np.asarray(value, np.float64)
    if list(value.shape) != list(stored["shape"]):
        return math.inf
    sample = value.reshape(-1)[positions(value.size, len(stored["sample"]))]
    spread = stored["std"] or 1.0
    return _finite(max(abs(value.mean() - stored["mean"]), abs(value.std() - stored["std"]),
                       np.abs(sample - np.asarray(stored["sample"])).max()) / spread)


def relative_distance(values, reference) -> float:
    """|values - reference| / |reference| of two vectors, by their lengths."""
    reference = np.asarray(reference)
    return _finite(np.linalg.norm(np.asarray(values) - reference) / (np.linalg.norm(reference) or 1.0))


def relative_error(value: float, reference: float) -> float:
    """|value - reference| / |reference|, or the plain difference for a reference of 0."""
    return _finite(abs(float(value) - reference) / (abs(reference) or 1.0))


def _finite(error) -> float:
    return float(error) if np.isfinite(error) else math.inf
