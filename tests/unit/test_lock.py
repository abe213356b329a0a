"""One run per workdir, with one host and several, with file systems that know locks and those that do not."""

import errno
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from configs import reskd_minik, supervised_minik
from effvid_jax import cli
from effvid_jax.errors import UserError
from effvid_jax.start import lock

ROOT = pathlib.Path(__file__).parents[2]
HOLDER = ("import sys, time; from effvid_jax.start import lock\n"
          "with lock.hold(sys.argv[1]): print('held', flush=True); time.sleep(60)")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for name, seconds in (("BEAT", 0.05), ("STALE", 0.5), ("_SETTLE", 0.1)):
        monkeypatch.setattr(lock, name, seconds)


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without locks."""
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)


def left(folder, machine, pid=1, **more):
    """What a run on `machine` left in a folder, or still holds."""
    says = {"host": "far-away", "pid": pid, "since": "2026-01-02 03:04:05 +0000", "command": "main.py --x",
            "machine": machine, "token": "theirs", **more}
    (folder / lock.NAME).write_text(json.dumps(says))
    return says


def test_the_second_is_told_who_is_first_and_a_killed_run_holds_nothing(tmp_path, capsys):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE,
                               text=True, cwd=ROOT)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="is in use by another run") as error, lock.hold(str(tmp_path)):
            pass
        text = str(error.value)
        print(text)
        for part in (f"process {process.pid}", socket.gethostname(), "since 20", "command: -c",
                     str(tmp_path)):
            assert part in text
        assert "\n" not in text
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert (tmp_path / lock.NAME).exists(), "what a killed run leaves is no lock"
    with lock.hold(str(tmp_path)):
        pass
    assert f"process {process.pid}" in capsys.readouterr().err
    assert not (tmp_path / lock.NAME).exists()


def test_a_lock_is_of_one_folder_and_ends_with_its_block(tmp_path):
    folder = tmp_path / "a" / "b"
    with pytest.raises(ZeroDivisionError), lock.hold(str(folder), str(tmp_path / "c")):
        with pytest.raises(UserError, match=f"process {os.getpid()}"), lock.hold(str(folder)):
            pass
        with lock.hold(str(tmp_path / "d")):
            (tmp_path / "d" / "result").write_text("kept")
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d"], "empty folders are not left behind"
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["result"]
    with lock.hold(str(folder)):
        pass


@pytest.mark.parametrize("locks", [True, False])
def test_another_host_is_alive_while_its_heart_beats(tmp_path, request, locks):
    if not locks:
        request.getfixturevalue("no_locks")
    left(tmp_path, "far-away some-boot")
    stop = threading.Event()

    def beat():
        while not stop.wait(0.05):
            os.utime(tmp_path / lock.NAME)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="host far-away, process 1, since 2026-01-02 .* main.py --x"):
            with lock.hold(str(tmp_path)):
                pass
    finally:
        stop.set()
        thread.join()
    start = time.monotonic()
    with lock.hold(str(tmp_path)):  # now it stands still
        assert time.monotonic() - start >= lock.STALE
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()


def test_a_lock_of_long_ago_needs_no_waiting(tmp_path):
    left(tmp_path, "far-away some-boot")
    os.utime(tmp_path / lock.NAME, (1e9, 1e9))
    start = time.monotonic()
    with lock.hold(str(tmp_path)):
        assert time.monotonic() - start < lock.STALE


def test_without_locks_the_process_counts(tmp_path, no_locks):
    born = lock._born(os.getpid())
    left(tmp_path, lock._machine(), os.getpid(), born=born)
    with pytest.raises(UserError, match=f"process {os.getpid()}"), lock.hold(str(tmp_path)):
        pass
    left(tmp_path, lock._machine(), os.getpid(), born=f"{born}0")  # the number is used again
    with lock.hold(str(tmp_path)):
        pass
    assert not (tmp_path / lock.NAME).exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", "\0\xff", '{"pid": "x", "machine": 3}', "{}"])
def test_a_file_that_says_nothing_is_nobodys(tmp_path, text):
    (tmp_path / lock.NAME).write_text(text)
    with lock.hold(str(tmp_path)):
        pass
    assert not list(tmp_path.iterdir())


def test_whoever_was_taken_for_dead_stops(tmp_path, monkeypatch, capfd):
    stopped = threading.Event()
    monkeypatch.setattr(lock.os, "_exit", lambda code: stopped.set())
    with lock.hold(str(tmp_path)):
        left(tmp_path, "far-away some-boot")
        assert stopped.wait(5)
    assert "in use by another run (host far-away" in capfd.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"--workdir={tmp_path}/file/run cannot be written"):
        with lock.hold(str(tmp_path / "file" / "run")):
            pass


@pytest.mark.parametrize("module, held", [
    (supervised_minik, ""), (reskd_minik, ""), (reskd_minik, "teacher")])
def test_training_holds_its_folder_and_those_of_its_stages(tmp_path, module, held):
    with lock.hold(str(tmp_path / held)), pytest.raises(UserError, match="in use by another run"):
        cli.train(module.get_config("tiny"), str(tmp_path))
    assert not list(tmp_path.iterdir()), "nothing was written"
