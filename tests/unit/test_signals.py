"""SIGINT and SIGTERM: the first one saves, a second one ends the process, at any time."""

import gc
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from effvid_jax import cli, evaluate, export, predict, recovery
from effvid_jax.errors import Interrupted
from effvid_jax.reports import report
from effvid_jax.signals import Signals, told

ROOT = pathlib.Path(__file__).parents[2]
BUSY = ("import hashlib; from effvid_jax.signals import Signals\n"
        "with Signals() as signals, signals.steps():\n"
        "    print('steps', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha1', b'', b'', 2**31 - 1)")  # hears no Python, as compiling does


def waiting(number=None):
    """Batches that never come; a signal does."""
    if number is not None:
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
    queue.Queue().get(timeout=20)
    yield "a batch"


def heard(capfd, wanted):
    """Whether what is said comes within a moment."""
    text, end = "", time.monotonic() + 5
    while wanted not in text and time.monotonic() < end:
        text += capfd.readouterr().err
        time.sleep(0.01)
    return text == f"\n{wanted}; again to quit at once\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_a_wait_and_is_answered(number, capfd):
    before, threads = signal.getsignal(number), threading.active_count()
    with pytest.raises(Interrupted, match=number.name), Signals() as signals, signals.steps():
        assert signals.next(iter(["a batch"])) == "a batch" and not signals.caught
        assert signals.next(waiting(number)) is None and signals.caught == number.name
        assert signals.next(waiting()) is None, "and no other one begins"
        assert heard(capfd, f"{number.name}: saving")
    assert signal.getsignal(number) == before and signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() <= threads + 1  # the timer's, maybe


def test_between_waits_a_signal_is_remembered(capfd):
    with pytest.raises(Interrupted, match="is saved"), Signals() as signals, signals.steps():
        signal.raise_signal(signal.SIGTERM)
        assert signals.caught == "SIGTERM" and heard(capfd, "SIGTERM: saving")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_where_there_is_nothing_to_save_a_signal_stops_at_once(number):
    with pytest.raises(Interrupted, match="same command again"), Signals():
        signal.raise_signal(number)
        raise AssertionError("not reached")
    with pytest.raises(Interrupted, match="same command again"), Signals() as signals:
        with signals.steps():
            pass
        signal.raise_signal(number)


def test_who_catches_whatever_is_wrong_does_not_catch_a_signal():
    """A checkpoint that was being read when it came was taken for a damaged one, and set aside."""
    with pytest.raises(Interrupted), Signals():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception as error:
            raise AssertionError from error


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_any_second_signal_quits(second):
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, cwd=ROOT)
    with process:
        assert process.stdout.readline() == "steps\n"
        process.send_signal(signal.SIGTERM)
        said = process.stderr.readline() + process.stderr.readline()
        assert said == "\nSIGTERM: saving; again to quit at once\n"
        process.send_signal(second)
        try:
            assert process.wait(timeout=20) == 128 + second
        finally:
            process.kill()


class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


class Node:
    """Something that is in a circle, for the collector."""


@pytest.mark.parametrize("place", ["destructor", "collector", "weakref"])
def test_a_signal_where_python_forgets_what_is_raised(place, recwarn):
    """jax has a callback of the garbage collector: a run that heard SIGTERM in it went on."""
    def collected(phase, info):
        if phase == "start":
            signal.raise_signal(signal.SIGTERM)

    def begin():
        if place == "collector":
            gc.callbacks.append(collected)
            try:
                gc.collect()
            finally:
                gc.callbacks.remove(collected)
        elif place == "weakref":
            node = Node()
            node.itself = node
            kept.append(weakref.ref(node, lambda _: signal.raise_signal(signal.SIGTERM)))
            del node
            gc.collect()
        else:
            Dying()

    kept: list = []
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(Interrupted, match="SIGTERM"), Signals():
        begin()
        time.sleep(5)
        raise AssertionError("not reached")
    assert signal.getsignal(signal.SIGALRM) == before
    assert not [w for w in recwarn if "Interrupted" in str(w.message)]


def test_a_forked_child_dies_as_usual_and_tells_nobody(capfd):
    with Signals() as signals, signals.steps():
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(1)
        time.sleep(0.1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        time.sleep(0.1)
        assert not signals.caught and not capfd.readouterr().err


# --------------------------------------------------------------------------------- the other modes
def test_a_signal_waits_for_what_is_held_and_ends_a_command_with_one_line(capfd):
    done = []

    def main():
        with Signals.held(), Signals.held():
            signal.raise_signal(signal.SIGTERM)
            done.append(1)
        done.append(2)

    assert told(main) == 130 and done == [1] and told(lambda: 3) == 3
    assert "\ninterrupted: stopped by SIGTERM; start the same command again.\n" in capfd.readouterr().err


def content(folder):
    """{path: bytes} of every file below."""
    return {path: path.read_bytes() for path in sorted(pathlib.Path(folder).rglob("*")) if path.is_file()}


def stop(start):
    """A function that does the same after a SIGTERM has come."""
    def stopped(*arguments, **named):
        signal.raise_signal(signal.SIGTERM)
        return start(*arguments, **named)
    return stopped


def command(mode, tiny_run, val_videos):
    folder = os.path.dirname(next(iter(val_videos.values())))
    return {"eval": lambda: cli.eval(None, tiny_run), "report": lambda: cli.report(None, tiny_run),
            "predict": lambda: cli.predict(None, tiny_run, folder, True),
            "export": lambda: cli.export(None, tiny_run)}[mode]


@pytest.mark.parametrize(("mode", "where"), [
    ("eval", (evaluate.Evaluator, "_whole")), ("eval", (recovery, "read")),
    ("eval", (evaluate, "write_result")), ("report", (report, "page")),
    ("predict", (predict.Predictor, "scored_views")),
    ("export", (evaluate, "restore_for_inference"))], ids=lambda x: x if isinstance(x, str) else x[1])
def test_every_mode_ends_with_one_line_and_nothing_half_written(
        mode, where, tiny_run, val_videos, monkeypatch, capfd):
    start, before = command(mode, tiny_run, val_videos), content(tiny_run)
    monkeypatch.setattr(*where, stop(getattr(*where)))
    assert cli.run(start) == 130
    said = capfd.readouterr().err
    assert said.count("\ninterrupted: stopped by SIGTERM; start the same command again.") == 1, said
    assert "Traceback" not in said and "damaged" not in said
    after = content(tiny_run)
    if where[1] != "write_result":  # the predictions are those that were there, told again
        assert after == before
    assert after.keys() == before.keys()


def test_files_that_belong_together_are_all_written_or_none(tiny_run, val_videos, monkeypatch, capfd):
    """A signal waits for them; a disk that is full leaves those that were there."""
    start = command("export", tiny_run, val_videos)
    folder = os.path.join(tiny_run, "export")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    try:
        with monkeypatch.context() as patch:
            patch.setattr(np, "savez", stop(np.savez))
            assert cli.run(start) == 130 and "Traceback" not in capfd.readouterr().err
        assert export.load(folder).info["step"] == 6
        before = content(folder)
        assert len(before) == 4
        monkeypatch.setattr(np, "savez", full)
        assert cli.run(start) == 1 and content(folder) == before
    finally:
        shutil.rmtree(folder)
