"""The environment of tests and of the processes that they start. Imports nothing that reads it."""

import importlib.metadata
import os

FUSION_EMITTERS = "xla_cpu_use_fusion_emitters"
# XLA ends a process that is given a flag it does not know, and jaxlib 0.12 does not know this one any more.
KNOWS_EMITTERS = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11)
EVERY_OPTIMISATION = {FUSION_EMITTERS: True} if KNOWS_EMITTERS else {}  # of the options of a compilation
# Two workers keep two cores busy: compiled in one piece instead of 32, programs take less of them; tests that
# compile much take 14 % less time.
ONE_PIECE = "--xla_cpu_parallel_codegen_split_count=1"
_DEVICES = "--xla_force_host_platform_device_count"


def environment(devices: int = 2, **more: str) -> dict[str, str]:
    """Of a process with so many virtual devices whose programs are compiled as the tests' own."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_DEVICES)]
    flags = " ".join(dict.fromkeys([*flags, f"{_DEVICES}={devices}"]))  # compiled programs are known by them
    return os.environ | {"XLA_FLAGS": flags} | more


def as_a_user() -> dict[str, str]:
    """Of a process whose programs are compiled with every optimisation."""
    found = environment(JAX_DISABLE_MOST_OPTIMIZATIONS="0")
    found["XLA_FLAGS"] = found["XLA_FLAGS"].replace(f"--{FUSION_EMITTERS}=false", "")
    return found
