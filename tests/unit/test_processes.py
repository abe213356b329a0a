"""Several processes stop at the same point, whichever of them hears a signal; one that fails is followed.

The store is a dict here, and processes are threads; real ones are in `tests/test_resume.py`.
"""

import random
import threading
import time

import pytest

from effvid_jax import processes

# A thread that ends its process does not go on; here it raises.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Store:
    """The part of jax's client that is used."""

    def __init__(self):
        self._values, self._changed = {}, threading.Condition()

    def key_value_set(self, key, value):
        with self._changed:
            if key in self._values:
                raise RuntimeError("ALREADY_EXISTS")
            self._values[key] = value
            self._changed.notify_all()

    def key_value_try_get(self, key):
        if key not in self._values:
            raise RuntimeError(f"NOT_FOUND: {key}")
        return self._values[key]

    def blocking_key_value_get(self, key, milliseconds):
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._values, milliseconds / 1000):
                raise RuntimeError("DEADLINE_EXCEEDED")
            return self._values[key]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(processes, "_LOOK", 0.002)
    monkeypatch.setattr(processes, "_GRACE", 0.01)
    ends = []

    def end(code):
        ends.append(code)
        raise SystemExit  # of the thread

    monkeypatch.setattr(processes.os, "_exit", end)
    monkeypatch.setattr("multiprocessing.util._exit_function", lambda: None)
    return ends


def run(seed, count=3, points=4000, lead=3):
    """Where each of `count` processes stops; none is more than `lead` points ahead, as steps of a run are."""
    rng, store = random.Random(seed), Store()
    ours = [processes._Peers(store, i, count) for i in range(count)]
    passed, stops, moved = [0] * count, [None] * count, threading.Condition()
    signals = {rng.randrange(count): rng.randint(1, 60) for _ in range(rng.randint(1, count))}
    waits = [rng.choice([0, 0.0005, 0.003]) for _ in range(count)]

    def main(i):
        for n in range(1, points):
            if n == signals.get(i):
                ours[i].tell(f"SIG{i}")
            time.sleep(waits[i])
            with moved:
                assert moved.wait_for(lambda n=n: min(passed) >= n - lead, timeout=20), "one stopped early"
                passed[i] = n
                moved.notify_all()
            if name := ours[i].point():
                stops[i] = n, name
                return

    threads = [threading.Thread(target=main, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in ours:
        one.end()
    return stops, signals


@pytest.mark.parametrize("seed", range(12))
def test_all_stop_at_the_same_point(quick, seed):
    stops, signals = run(seed)
    assert len(set(stops)) == 1 and stops[0] is not None, (stops, signals)
    assert stops[0][1] in {f"SIG{i}" for i in signals}
    assert not quick


def test_without_a_signal_nobody_stops_or_waits(quick):
    one = processes._Peers(Store(), 0, 2)
    start = time.perf_counter()
    assert not any(one.point() for _ in range(10_000))
    assert time.perf_counter() - start < 1  # 10,000 steps
    one.end()


def test_who_fails_takes_the_others_along_and_the_first_goes_last(quick, capfd):
    store = Store()
    ours = [processes._Peers(store, i, 3) for i in range(3)]
    with pytest.raises(SystemExit):
        ours[1].fail(1, "no space left on device", gone=False)
    for one in (ours[0], ours[2]):
        one._thread.join(timeout=10)
    ours[1].end()
    assert quick == [1, 1, 1]
    said = capfd.readouterr().err
    assert said.count("error: process 1 of this run has ended, and this one with it: no space left") == 2


def test_a_process_that_does_not_answer_is_not_waited_for_for_ever(quick, monkeypatch, capfd):
    monkeypatch.setattr(processes, "_ANSWER", 0.05)
    one = processes._Peers(Store(), 0, 2)
    one.tell("SIGTERM")
    one._thread.join(timeout=10)
    assert quick == [1] and "not every process of this run answers" in capfd.readouterr().err


def test_one_process_has_no_thread_and_no_store():
    before = threading.active_count()
    processes.start()
    assert not processes.several() and not processes.point() and threading.active_count() == before
    processes.tell("SIGTERM"), processes.fail(1, "nothing happens")
