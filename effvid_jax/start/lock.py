"""One run per workdir: a lock that ends with its process, whatever ends it.

No single sign of life works everywhere, so there are three, all of `DIR/run.lock`:

    the kernel's lock    gone with the process that had it; other hosts see it where the file system passes
                         locks on (NFS, most others), and forked children do not inherit it
    process number       on the same host, where the file system has no locks
    heartbeat            the file's time, renewed every `BEAT` seconds: between hosts whose file system does
                         not pass locks on. One that stands still for `STALE` seconds is a dead one's

What the file says (host, process, since when, command) is for whoever comes second.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import socket
import sys
import tempfile
import threading
import time
import uuid

import jax
import numpy as np

from effvid_jax import console
from effvid_jax.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: process number and heartbeat are left
    fcntl = None

NAME = "run.lock"
BEAT, STALE = 10.0, 60.0  # seconds
_SETTLE = 2.0  # seconds in which another host's claim on the same stale lock shows
_held: dict[str, int] = {}  # open files of this process: the kernel would let it take a lock twice


@contextlib.contextmanager
def hold(*folders: str):
    """Nobody else trains in these folders within the block; the first of several processes holds them.

    Raises:
        UserError: another run does (on every process), or a folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        problem = None
        if jax.process_index() == 0:
            try:
                for folder in folders:
                    stack.enter_context(_Lock(folder))
            except UserError as error:
                problem = error
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils  # they all start, or none does

            if int(multihost_utils.broadcast_one_to_all(np.int32(problem is not None))) and problem is None:
                problem = UserError(f"{folders[0]} cannot be used: the first process says why.")
        if problem is not None:
            raise problem
        yield


class _Lock:
    """The lock of one folder, which is made if it is not there (and removed again if it stays empty)."""

    def __init__(self, folder: str):
        self._folder = os.path.abspath(folder)
        self._path = os.path.join(self._folder, NAME)
        self._stop = threading.Event()

    def __enter__(self):
        try:
            self._made = _make(self._folder)
            self._fd, left = _acquire(self._path)
        except OSError as error:
            raise UserError(f"--workdir={self._folder} cannot be written ({error.strerror}): choose one "
                            f"that can be.") from error
        self._says = _write(self._fd)
        _held[os.path.realpath(self._path)] = self._fd
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        if left:
            console.say(f"{self._folder}: the run before ended without a word ({_who(left)}); this one takes "
                        f"over")
        return self

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            with contextlib.suppress(OSError):  # a server that is away for a while; a folder that was removed
                says = _read(self._fd)
                if says and says != self._says:
                    # This process stood still so long that another host took it for dead: two must not write.
                    os.write(2, f"\nerror: {_in_use(self._path, says)}\n".encode())
                    os._exit(1)
                os.utime(self._fd if os.utime in os.supports_fd else self._path)

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()
        del _held[os.path.realpath(self._path)]
        with contextlib.suppress(OSError):
            os.unlink(self._path)  # still locked: whoever has opened it by now finds it gone
        os.close(self._fd)
        for folder in self._made:
            try:
                os.rmdir(folder)
            except OSError:
                break


def _acquire(path: str) -> tuple[int, dict]:
    """(open and locked file, what a dead holder left in it).

    Raises:
        UserError: somebody alive holds it.
    """
    if (held := _held.get(os.path.realpath(path))) is not None:
        raise UserError(_in_use(path, _read(held)))
    dead, tries = {}, 10  # a file is empty for the moment between being made and being written
    while True:
        fd, new = _open(path)
        free, says = _lock(fd), _read(fd)
        state = "ours" if new and free is not False else _state(fd, path, free, says, dead, tries)
        if state == "ours":
            if new or (free and says.get("machine") == _machine()):
                return fd, says
            mine = _write(fd)  # another host may be claiming it as well, unseen by the kernel
            time.sleep(_SETTLE)
            if _read(fd) == mine:
                return fd, says
            state = "again"
        os.close(fd)
        if state == "busy" or (state == "ask" and _beats(path, says)):
            raise UserError(_in_use(path, says))
        if state == "ask":
            dead = says
        else:
            tries = max(tries - 1, 0)
            time.sleep(0.1)


def _state(fd: int, path: str, free: bool | None, says: dict, dead: dict, tries: int) -> str:
    """'ours', 'busy', 'again' (in between, look once more) or 'ask' (only its heartbeat can tell)."""
    if not _is_at(fd, path):
        return "again"  # its holder has just ended
    if not says and tries:
        return "again"
    if free is False:
        return "busy"
    if not says or says == dead:
        return "ours"
    if says.get("machine") == _machine():
        return "ours" if free or not _runs(says) else "busy"
    return "ask"


def _open(path: str) -> tuple[int, bool]:
    """(file descriptor, whether the file was made by this call)."""
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):  # removed in between
                return os.open(path, os.O_RDWR), False


def _lock(fd: int) -> bool | None:
    """Whether the kernel gave it to this process; None if this file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EAGAIN) else None
    return True


def _beats(path: str, says: dict) -> bool:
    """Whether the holder on another host is alive: waits until its heartbeat shows, `STALE` seconds at most.

    Clocks of hosts differ, so the file's times are compared with each other only. It is opened each time:
    network file systems look at the server then. Nothing may be locked here, closing would release it.
    """
    with tempfile.TemporaryFile(dir=os.path.dirname(path)) as now:
        if os.fstat(now.fileno()).st_mtime - os.stat(path).st_mtime > 10 * STALE:
            return False
    console.say(f"{path}: another host's lock ({_who(says)}); waiting up to {STALE:.0f} s for a sign of life")
    first, end = None, time.monotonic() + STALE
    while time.monotonic() < end:
        try:
            with open(path, "rb") as f:
                seen = f.read(), os.fstat(f.fileno()).st_mtime_ns
        except FileNotFoundError:
            return False
        if first is not None and seen != first:
            return True
        first = seen
        time.sleep(min(BEAT / 4, STALE / 4))
    return False


def _write(fd: int) -> dict:
    """Puts this process into the file; returns what it says."""
    says = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "command": shlex.join(sys.argv), "machine": _machine(), "born": _born(os.getpid()),
            "token": uuid.uuid4().hex}
    text = json.dumps(says).encode()
    os.pwrite(fd, text, 0)
    os.ftruncate(fd, len(text))
    os.fsync(fd)
    return says


def _read(fd: int) -> dict:
    """What the file says; {} if it is empty or no lock's."""
    try:
        says = json.loads(os.pread(fd, 2**16, 0))
    except ValueError:
        return {}
    return says if isinstance(says, dict) else {}


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _runs(says: dict) -> bool:
    """Whether the process that wrote this, on this host, is still there."""
    pid = says.get("pid")
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, TypeError, OverflowError):
        return False
    return _born(pid) == says.get("born")


def _born(pid: int) -> str:
    """When a process started, in the kernel's ticks: numbers of processes are used again. '' if unknown."""
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat") as f:
        return f.read().rpartition(")")[2].split()[19]
    return ""


def _machine() -> str:
    """Host name with what tells one boot from the next, and one container from another."""
    boot = ""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as f:
        boot = f.read().strip()
    return f"{socket.gethostname()} {boot}".strip()


def _who(says: dict) -> str:
    known = {name: says.get(name, "unknown") for name in ("host", "pid", "since", "command")}
    return "host {host}, process {pid}, since {since}, command: {command}".format(**known)


def _in_use(path: str, says: dict) -> str:
    return (f"--workdir={os.path.dirname(path)} is in use by another run ({_who(says)}): wait for it, stop "
            f"it, or use another --workdir.")


def _make(folder: str) -> list[str]:
    """Makes a folder; returns those that were not there, innermost first."""
    missing = []
    while folder and not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    if missing:
        os.makedirs(missing[0], exist_ok=True)
    return missing
