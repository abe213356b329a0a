"""A program starts again with huge pages, once."""

import os
import subprocess
import sys

import pytest

from effvid_jax import huge_pages

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = "from effvid_jax import huge_pages; huge_pages.use(); import os, sys; print(os.environ.get(" \
          "'GLIBC_TUNABLES'), sys.prefix, sys.argv[1:])"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.parametrize(("given", "wanted"), [(None, "glibc.malloc.hugetlb=1"), ("", ""), ("a=b", "a=b")])
def test_a_program_starts_again_in_the_same_environment(given, wanted):
    env = {k: v for k, v in os.environ.items() if k != huge_pages.SETTING}
    env |= {} if given is None else {huge_pages.SETTING: given}
    done = subprocess.run([sys.executable, "-c", PROGRAM, "--x=1", "y z"], cwd=ROOT, env=env, text=True,
                          capture_output=True, check=True)
    assert done.stdout == f"{wanted} {sys.prefix} ['--x=1', 'y z']\n"


def test_nothing_happens_elsewhere(monkeypatch):
    monkeypatch.setattr(huge_pages.sys, "platform", "darwin")
    monkeypatch.delenv(huge_pages.SETTING, raising=False)
    huge_pages.use()
    assert huge_pages.SETTING not in os.environ


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_a_notebook_does_not_start_again(monkeypatch):
    monkeypatch.setattr(huge_pages.sys, "argv", ["main.py"])
    monkeypatch.setattr(huge_pages.sys, "orig_argv", ["python", "-m", "ipykernel_launcher"])
    monkeypatch.setattr(huge_pages.os, "execv", lambda *_: pytest.fail("the kernel would be gone"))
    monkeypatch.delenv(huge_pages.SETTING, raising=False)
    huge_pages.use()
    assert huge_pages.SETTING not in os.environ
