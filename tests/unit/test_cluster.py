"""Processes of one run: who they are, from what started them, and one line where that cannot be known."""

import os
import socket
import subprocess
import sys

import jax
import pytest

from effvid_jax.errors import UserError
from effvid_jax.start import cluster
from tests.environment import environment

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
       "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
OWN = {"JAX_COORDINATOR_ADDRESS": "host0:1234", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
SAID = {"coordinator_address": "host0:1234", "num_processes": 2, "process_id": 1}


def test_what_the_environment_says():
    assert cluster.described({}) == {}, "jax looks for a TPU pod, SLURM, Kubernetes"
    assert cluster.described(OWN) == SAID
    found = cluster.described({**MPI, "JAX_COORDINATOR_ADDRESS": "host0:1"})
    assert found == {"coordinator_address": "host0:1", "num_processes": 4, "process_id": 3,
                     "local_device_ids": [1]}
    assert cluster.described({**MPI, "OMPI_MCA_orte_hnp_uri": "1;tcp://h:1"}) == {}, "jax reads Open MPI 4"
    one_host = {**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "PMIX_NAMESPACE": "prterun-7@1"}
    assert cluster.described(one_host)["coordinator_address"].startswith("localhost:6")
    assert "local_device_ids" not in cluster.described({**one_host, "JAX_LOCAL_DEVICE_IDS": "0"})


@pytest.mark.parametrize(("environ", "words"), [
    (MPI, "Open MPI does not say where the first of its 4 processes is: add -x JAX_COORDINATOR_ADDRESS"),
    ({**OWN, "JAX_COORDINATOR_ADDRESS": "host0"}, "JAX_COORDINATOR_ADDRESS=host0: expected the host and a"),
    ({**OWN, "JAX_COORDINATOR_ADDRESS": "host0:99999"}, "JAX_COORDINATOR_ADDRESS=host0:99999"),
    ({**OWN, "JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID=2: expected less than the number of processes, 2"),
    ({**OWN, "JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES=two: expected a whole number"),
])
def test_what_cannot_be_is_one_line(environ, words):
    with pytest.raises(UserError) as caught:
        cluster.described(environ)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("error", "words"), [
    (ValueError("coordinator_address should be defined."), "it is not known who the processes of this run"),
    (RuntimeError("UNKNOWN: Failed to add port to server"), "host0:1234 cannot be used on this machine"),
    (RuntimeError("another one"), "cannot be joined (another one)")])
def test_what_jax_says_is_one_line(monkeypatch, error, words):
    def initialize(**given):
        assert given["num_processes"] == 2 and given["initialization_timeout"] > 9
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    for name, value in OWN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="--multihost: ") as caught:
        cluster.join(9)
    assert words in str(caught.value) and "\n" not in str(caught.value)


JOIN = """
import jax
from effvid_jax.start import cluster
cluster.join(60)
print(jax.process_index(), jax.process_count(), jax.device_count(), jax.local_device_count())
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def joined(environments, code=JOIN):
    """(exit codes, outputs, errors) of processes with these variables."""
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment(2, **env),
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                 for env in environments]
    try:
        outputs = [p.communicate(timeout=120) for p in processes]
    finally:
        for p in processes:
            p.kill()
    return [p.returncode for p in processes], *zip(*outputs, strict=True)


@pytest.mark.slow  # eight processes that import jax
def test_real_processes_find_each_other():
    port = free_port()
    slurm = {"SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2",
             "SLURM_STEP_NUM_NODES": "1", "JAX_COORDINATOR_PORT": str(port)}
    mpi4 = {"OMPI_MCA_orte_hnp_uri": f"{port * 4096}.0;tcp://127.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "2"}
    mpi5 = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_NAMESPACE": f"job {port}"}
    for common, own in ((slurm, "SLURM_PROCID SLURM_LOCALID"),
                        (mpi4, "OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_LOCAL_RANK"),
                        (mpi5, "OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_LOCAL_RANK")):
        codes, outputs, errors = joined([{**common, **dict.fromkeys(own.split(), str(i))} for i in range(2)])
        assert codes == [0, 0], errors
        assert [out.split() for out in outputs] == [["0", "2", "4", "2"], ["1", "2", "4", "2"]]


@pytest.mark.parametrize("number", ["0", "1"])  # the first waits for the others, the others for the first
def test_who_waits_in_vain_says_so_in_one_line(number):
    lonely = {**OWN, "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_PROCESS_ID": number}
    codes, _, errors = joined([lonely], JOIN.replace("60", "2"))
    assert codes == [1] and "not all of 2 processes were at localhost" in errors[0], errors
    assert "Traceback" not in errors[0] and "stack trace" not in errors[0], errors[0]


def test_waiting_can_be_interrupted():
    """As in `main.py`, whose handler counts although whoever starts it may ignore SIGINT (a script's `&`)."""
    lonely = {**OWN, "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}"}
    code = """
import os, signal, threading
from effvid_jax.signals import Signals
from effvid_jax.start import cluster
with Signals("nothing is lost."):
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    cluster.join(60)
"""
    codes, _, errors = joined([lonely], code)
    assert codes == [130] and "interrupted: the other processes" in errors[0], errors
    assert "Traceback" not in errors[0] and "stack trace" not in errors[0], errors[0]
