"""Several processes as one run: who they are is said by what started them.

    TPU pods, SLURM, Kubernetes, Open MPI 4    jax finds the processes itself
    Open MPI 5    says who is who; where the first one is it does not, unless all are on one machine
    others        JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, which count everywhere

Of several processes on one machine SLURM and Open MPI give each the GPU of its number; elsewhere
JAX_LOCAL_DEVICE_IDS does. On a CPU they share the cores.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from typing import NoReturn

import jax

from effvid_jax.errors import Interrupted, UserError

_VARIABLES = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
_OPEN_MPI = {"num_processes": "OMPI_COMM_WORLD_SIZE", "process_id": "OMPI_COMM_WORLD_RANK"}
_LONGER = 60  # seconds that jax goes on waiting after us
_ADVICE = ("Start them with srun, mpirun or on a TPU pod, or set JAX_COORDINATOR_ADDRESS=HOST:PORT of the "
           "first process, JAX_NUM_PROCESSES and JAX_PROCESS_ID for each of them (docs/accelerators.md)")


def join(seconds: int = 300) -> None:
    """Connects this process with the others of its run; returns when all are there.

    jax waits in C++, where nothing interrupts it, and having waited long enough it ends the process with a
    stack trace. So it waits in a thread, longer than we do, and who gives up ends this process: of a run
    that has not begun there is nothing to save, and jax's own way out waits for the others again.

    Args:
        seconds: to wait for them; then, or at Ctrl-C, this process ends.

    Raises:
        UserError: nobody says who they are, or it cannot be; the address is taken.
    """
    found = described(os.environ)
    with contextlib.suppress(AttributeError):  # its handler would take SIGTERM away from ours
        jax.config.update("jax_enable_preemption_service", False)
    where = found.get("coordinator_address") or "the address that the cluster gives"
    ended = []

    def initialize():
        try:
            jax.distributed.initialize(**found, initialization_timeout=seconds + _LONGER)
            ended.append(None)
        except Exception as error:
            ended.append(error)

    waiting = threading.Thread(target=initialize, daemon=True)
    waiting.start()
    try:
        waiting.join(seconds)
    except (KeyboardInterrupt, Interrupted):
        _leave(130, "interrupted: the other processes of this run were not all there.")
    if not ended:
        who = found.get("num_processes", "the")
        _leave(1, f"error: --multihost: not all of {who} processes were at {where} within {seconds} s: does "
                  f"each of them run, with a number of its own, and can it reach this address?")
    if isinstance(ended[0], (ValueError, TypeError, KeyError)):  # of what is missing, or what a cluster says
        raise UserError(
            f"--multihost: it is not known who the processes of this run are ({_line(ended[0])}). {_ADVICE}; "
            f"without --multihost this process runs alone.") from ended[0]
    if isinstance(ended[0], (RuntimeError, OSError)):
        problem = f"the processes of this run cannot be joined ({_line(ended[0])}). {_ADVICE}."
        if re.search("[Aa]ddress already in use|Failed to add port|UNKNOWN: ", str(ended[0])):
            problem = f"{where} cannot be used on this machine ({_line(ended[0])}): choose another port."
        raise UserError(f"--multihost: {problem}") from ended[0]
    if ended[0] is not None:
        raise ended[0]


def _leave(code: int, message: str) -> NoReturn:
    print(f"\n{message}", file=sys.stderr, flush=True)
    os._exit(code)


def described(environ) -> dict:
    """What `jax.distributed.initialize` is to be told of what the environment says.

    Args:
        environ: the environment variables.

    Raises:
        UserError: a value that cannot be.
    """
    found = {name: whole_number(variable, environ) for name, variable in _VARIABLES.items()
             if variable in environ}
    address = environ.get("JAX_COORDINATOR_ADDRESS", "")
    if "OMPI_COMM_WORLD_SIZE" in environ and "OMPI_MCA_orte_hnp_uri" not in environ:  # Open MPI 5
        found = {name: whole_number(variable, environ) for name, variable in _OPEN_MPI.items()} | found
        if environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == environ["OMPI_COMM_WORLD_SIZE"]:
            # A port that all of them come to, and another job's do not.
            job = sum(map(ord, environ.get("PMIX_NAMESPACE", "")))
            address = address or f"localhost:{61440 + job % 4096}"
        elif not address:
            raise UserError(f"--multihost: Open MPI does not say where the first of its "
                            f"{environ['OMPI_COMM_WORLD_SIZE']} processes is: add "
                            f"-x JAX_COORDINATOR_ADDRESS=HOST:PORT to mpirun, a free port of the first host.")
        if "JAX_LOCAL_DEVICE_IDS" not in environ and "OMPI_COMM_WORLD_LOCAL_RANK" in environ:
            found["local_device_ids"] = [whole_number("OMPI_COMM_WORLD_LOCAL_RANK", environ)]
    if address:
        if not re.fullmatch(r".+:[0-9]{1,5}", address) or int(address.rsplit(":", 1)[1]) > 65535:
            raise UserError(f"JAX_COORDINATOR_ADDRESS={address}: expected the host and a free port of the "
                            f"first process, such as host0:1234.")
        found["coordinator_address"] = address
    count, index = (found.get(name) for name in _VARIABLES)
    if count is not None and index is not None and not index < count:
        raise UserError(f"JAX_PROCESS_ID={index}: expected less than the number of processes, {count} "
                        f"(JAX_NUM_PROCESSES); they count from 0.")
    return found


def whole_number(variable: str, environ=os.environ) -> int:
    """The value of an environment variable.

    Raises:
        UserError: it is no whole number.
    """
    text = environ.get(variable, "")
    if not text.isdecimal():
        raise UserError(f"{variable}={text}: expected a whole number (an environment variable, see "
                        f"docs/environment.md).")
    return int(text)


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200].rstrip(".")
