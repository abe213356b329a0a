"""A program starts again with other settings of its memory, once."""

import os
import subprocess
import sys

import pytest

from effvid_jax.speed import host_memory

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = "from effvid_jax.speed import host_memory; host_memory.tune(); import os, sys; " \
          "print(os.environ.get('GLIBC_TUNABLES'), sys.prefix, sys.argv[1:])"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.parametrize(("given", "wanted"), [(None, host_memory.VALUE), ("", ""), ("a=b", "a=b")])
def test_a_program_starts_again_in_the_same_environment(given, wanted):
    env = {k: v for k, v in os.environ.items() if k != host_memory.SETTING}
    env |= {} if given is None else {host_memory.SETTING: given}
    done = subprocess.run([sys.executable, "-c", PROGRAM, "--x=1", "y z"], cwd=ROOT, env=env, text=True,
                          capture_output=True, check=True)
    assert done.stdout == f"{wanted} {sys.prefix} ['--x=1', 'y z']\n"


def test_nothing_happens_elsewhere(monkeypatch):
    monkeypatch.setattr(host_memory.sys, "platform", "darwin")
    monkeypatch.delenv(host_memory.SETTING, raising=False)
    host_memory.tune()
    assert host_memory.SETTING not in os.environ


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_a_notebook_does_not_start_again(monkeypatch):
    monkeypatch.setattr(host_memory.sys, "argv", ["main.py"])
    monkeypatch.setattr(host_memory.sys, "orig_argv", ["python", "-m", "ipykernel_launcher"])
    monkeypatch.setattr(host_memory.os, "execv", lambda *_: pytest.fail("the kernel would be gone"))
    monkeypatch.delenv(host_memory.SETTING, raising=False)
    host_memory.tune()
    assert host_memory.SETTING not in os.environ
