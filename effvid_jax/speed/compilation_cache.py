"""Compiled programs are kept for the next run: a full-size network starts in seconds then.

jax finds a program again by its text, options and versions, not by the processor that it was compiled for,
and clusters share home folders between machines. So each kind of processor has a folder of its own:
`~/.cache/effvid_jax/programs/<processor>` (`XDG_CACHE_HOME` is heeded). `JAX_COMPILATION_CACHE_DIR` names
another place, which is left alone; `JAX_ENABLE_COMPILATION_CACHE=false` keeps nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import zlib
from collections.abc import Callable

import jax

LIMIT = 4 * 2**30  # bytes of all processors' programs
SHORT = 0.3  # seconds of compiling, from which on a program is kept
LONG = 5.0  # seconds of compiling, from which on a user is told


def use(say: Callable[[str], None] = lambda text: None) -> str:
    """Keeps what this process compiles, unless jax was told where; returns the folder ('' for none).

    Args:
        say: is told what was compiled for long.
    """
    folder = jax.config.jax_compilation_cache_dir or ""
    if not jax.config.jax_enable_compilation_cache:
        folder = ""
    elif not folder:
        root = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "effvid_jax",
                            "programs")
        folder = os.path.join(root, processor())
        try:
            os.makedirs(folder, exist_ok=True)
            tidy(root, folder)
        except OSError:  # no home, a full or read-only one: nothing is kept
            folder = ""
        else:
            jax.config.update("jax_compilation_cache_dir", folder)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORT)
    kept = f"; kept for the next run in {folder}" if folder else ""

    def compiled(event: str, seconds: float, **more) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and seconds >= LONG:
            name = str(more.get("fun_name", "")).removeprefix("jit(").removesuffix(")")
            say(f"compiled {name if name.isidentifier() else 'a program'} in {seconds:.0f} s{kept}")

    jax.monitoring.register_event_duration_secs_listener(compiled)
    return folder


def processor() -> str:
    """Name of this machine's kind of processor: what code for it may not run on another one."""
    flags = ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as f:
        flags = next((line for line in f if line.startswith(("flags", "Features"))), "")
    told = " ".join(sorted(flags.split())) + platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def tidy(root: str, folder: str, limit: int = LIMIT) -> None:
    """Removes the programs that were used longest ago beyond `limit` bytes, and broken ones of `folder`.

    jax writes a program in place: a run that is killed meanwhile leaves half of one, which would be refused
    in every later run. Those written since the last look are read.
    """
    stamp = os.path.join(folder, "checked")
    last = os.stat(stamp).st_mtime if os.path.exists(stamp) else 0.0
    with open(stamp, "w"):
        pass
    files = []
    for path in (os.path.join(where, name) for where, _, names in os.walk(root) for name in names):
        with contextlib.suppress(OSError):  # another run's tidying was first
            stat = os.stat(path)
            if path.endswith("-cache"):
                if os.path.dirname(path) == folder and stat.st_mtime >= last - 1 and not _whole(path):
                    os.remove(path)
                else:
                    files.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
    excess = sum(size for _, size, _ in files) - limit
    for _, size, path in sorted(files):
        if excess <= 0:
            break
        with contextlib.suppress(OSError):
            os.remove(path)
        excess -= size


def _whole(path: str) -> bool:
    """Whether a program can be unpacked; if packed by another library than zlib (Python 3.14), it counts."""
    with open(path, "rb") as f:
        data = f.read()
    if data[:1] != b"\x78":
        return bool(data)
    try:
        zlib.decompress(data)
    except zlib.error:
        return False
    return True
