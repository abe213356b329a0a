"""An engine by its name."""

import argparse

from data_pipelines.engine.base import ENGINES, Engine
from data_pipelines.engine.local import Local, Threads
from data_pipelines.errors import DataError
from data_pipelines.tools import num_cores


def make_engine(name: str, workers: int | None = None, address: str | None = None,
                devices: int | None = None) -> Engine:
    """An engine.

    Args:
        name: one of `ENGINES`.
        workers: threads or processes that read videos; None: as many as there are cores, of a cluster as
            many as it has beside those of the devices.
        address: of a Ray cluster that runs ('auto': that of this machine); None: RAY_ADDRESS, or a Ray of
            this machine that ends with this command.
        devices: accelerators of the cluster to use; None: all.

    Raises:
        DataError: unknown, or Ray is not installed or not there.
    """
    if workers is not None and not 1 <= workers <= 10**5:
        raise DataError(f"--workers={workers}: expected at least 1 and at most 100000.")
    if name == "ray":
        from data_pipelines.engine.cluster import Cluster

        return Cluster(workers, address, devices)
    for flag, value in (("address", address), ("devices", devices)):
        if value is not None:
            raise DataError(f"--{flag}={value} has no meaning without --engine=ray: add it, or leave this "
                            f"one out.")
    if name not in ENGINES:
        raise DataError(f"--engine={name}: expected one of {', '.join(ENGINES)}.")
    return (Threads if name == "threads" else Local)(workers or num_cores())


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the tools."""
    parser.add_argument("--engine", choices=ENGINES, default="threads",
                        help="what does the work: threads (default), local processes, a Ray cluster")
    parser.add_argument("--workers", type=int, help="threads or processes; default: the number of cores")
    parser.add_argument("--address",
                        help="of a Ray cluster; default: RAY_ADDRESS, or a Ray of this machine")
