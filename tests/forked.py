"""`main.py` in processes forked from one that has imported most of it: imports take four seconds."""

import atexit
import multiprocessing
import os
import pathlib
import runpy
import sys
import tempfile

from tests.environment import environment

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IMPORTED = ["jax", "absl.app", "ml_collections.config_flags", "effvid_jax.cli", "effvid_jax.train",
            "effvid_jax.evaluate", "effvid_jax.predict", "data_pipelines.split"]  # in every mode or nearly so
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(IMPORTED)


class Command:
    """A command that runs.

    Args:
        args: of `main.py`.
        devices: virtual ones of the process.
        env: further environment.
    """

    def __init__(self, *args: str, devices: int = 2, **env: str):
        self._folder = tempfile.TemporaryDirectory()
        self._process = _PROCESSES.Process(target=_become_main, args=(
            self._folder.name, args, environment(devices, **env)))
        self._process.start()

    def wait(self, seconds: float = 600) -> tuple[int | None, str, str]:
        """(exit code, standard output, standard error) of its end; code None: it had to be killed."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
        with self._folder:
            return code, *((pathlib.Path(self._folder.name, name)).read_text() for name in ("out", "err"))


def main(*args: str, **options) -> tuple[int | None, str, str]:
    """Runs a command, see `Command`, to its end: (exit code, standard output, standard error)."""
    return Command(*args, **options).wait()


def message(stderr: str) -> str:
    """What a user reads: everything from 'error:' on; no traceback may come with it."""
    assert "Traceback" not in stderr, stderr
    assert "error: " in stderr, stderr
    return stderr[stderr.index("error: "):]


def _become_main(folder: str, args: tuple[str, ...], env: dict[str, str]) -> None:
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    sys.argv = [os.path.join(ROOT, "main.py"), *args]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which a process of multiprocessing leaves out
