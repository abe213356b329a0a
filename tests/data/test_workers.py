"""Worker processes: signals, deaths of one side or the other, shared memory."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from data_pipelines import DataError, make_pipeline
from data_pipelines.batches import workers
from tests.data.clip_files import class_folders, data_config

ROOT = pathlib.Path(__file__).parents[2]
MAIN = """
import sys, time
from data_pipelines import make_pipeline
from tests.data.clip_files import data_config

batches = make_pipeline(data_config(root=sys.argv[1], num_workers=1), "train")
kept = [next(batches) for _ in range(3)]
print("reading", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    class_folders(root / "train", {"a": 6, "b": 6})
    class_folders(root / "val", {"a": 1, "b": 1})
    return str(root)


def main(clips, seconds):
    """A process with a worker, which has its standard output and error too."""
    process = subprocess.Popen([sys.executable, "-c", MAIN, clips, str(seconds)], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "reading\n", process.stderr.read()
    return process


def test_workers_end_with_a_killed_main_process(clips):
    process = main(clips, 60)
    process.send_signal(signal.SIGKILL)
    start = time.monotonic()
    process.communicate(timeout=30)  # the pipes are closed when the last one has gone
    assert time.monotonic() - start < 15


def test_batches_that_are_kept_and_never_closed_leak_nothing(clips):
    _, said = main(clips, 0).communicate(timeout=60)
    assert not said


def test_a_worker_leaves_signals_to_its_parent_and_its_death_is_one_line(clips):
    before = set(multiprocessing.active_children())
    with make_pipeline(data_config(root=clips, num_workers=1), "train") as batches:
        next(batches)
        worker, = set(multiprocessing.active_children()) - before
        for number in (signal.SIGINT, signal.SIGTERM):  # as a terminal does, and whoever stops a job
            os.kill(worker.pid, number)
        for _ in range(4):
            batch = next(batches)
        assert all(type(x).__module__ == "numpy" for x in batch.values()), "none in shared memory"
        os.kill(worker.pid, signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(DataError, match=r"config.data.num_workers=1 .* was killed \(SIGKILL\)") as error:
            for _ in range(20):
                next(batches)
        assert "\n" not in str(error.value) and time.monotonic() - start < 20
    assert not set(multiprocessing.active_children()) - before


@pytest.mark.parametrize(("code", "wanted"), [
    (-signal.SIGBUS, "died .SIGBUS.*--shm-size"), (-signal.SIGSEGV, "died .SIGSEGV.*check_videos"),
    (-99, "died .signal 99"), (1, "exit code 1.*stands above.*__main__")])
def test_every_end_of_a_worker_says_what_to_do(code, wanted):
    error = RuntimeError(f"Worker process was terminated unexpectedly with exit code {code}. Search the logs "
                         f"above for the source of the crash.")
    with pytest.raises(DataError, match=wanted):
        raise workers.death(error, 4)
    assert workers.death(RuntimeError("another one"), 4) is None
