"""Settings of every test: CPU, two virtual devices."""

import gc
import os
import sys
import tempfile

if sys.dont_write_bytecode:
    # Without bytecode every process that a test starts takes two to three seconds more to import what it
    # needs. Where none may be written beside the sources, it is kept elsewhere.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = os.path.join(
        tempfile.gettempdir(), f"effvid_jax_tests_bytecode_{os.getuid()}")
    sys.dont_write_bytecode = False
# Traced networks are many small objects that stay: to look through all of them for garbage as often as Python
# does by itself is 8% of the time of a test that trains.
gc.set_threshold(20_000, 20, 20)

from tests.environment import FUSION_EMITTERS, KNOWS_EMITTERS, ONE_PIECE, environment

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Programs are compiled once for all tests, subprocesses included.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR",
                      os.path.join(tempfile.gettempdir(), f"effvid_jax_tests_{os.getuid()}"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Most of the time goes into compiling, and next to none into the small networks that are compiled. The parity
# tests, which compare digits with other implementations, compile as a user does.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if KNOWS_EMITTERS and os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1":  # half of what is left
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{FUSION_EMITTERS}=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_PIECE}"
os.environ["XLA_FLAGS"] = environment(devices=2)["XLA_FLAGS"]

import numpy as np
import pytest
from absl import flags

flags.FLAGS.mark_as_parsed()  # grain's worker processes read flags


@pytest.fixture
def rng():
    """A numpy generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def benchmark_root(tmp_path_factory):
    """The embedded benchmark in the size of `:tiny`, built once: many tests train on it."""
    return str(tmp_path_factory.mktemp("benchmark"))


@pytest.fixture(scope="session")
def some_clip(benchmark_root):
    """Path of one validation clip of the embedded benchmark."""
    from data_pipelines.synthetic import ensure_built  # slow to import
    from tests.config_texts.__main__ import load

    data = load("supervised_minik", "tiny").data
    data.root = benchmark_root
    built = ensure_built(data)
    with open(built.val_list) as f:
        return f"{built.root}/{f.readline().split()[0]}"
