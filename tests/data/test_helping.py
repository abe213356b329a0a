"""Processes that help threads: the same results, and nothing is lost when one of them ends."""

import functools
import os
import pickle
import signal
import time

import pytest

from data_pipelines import helping, tools
from data_pipelines.synthetic import benchmark, boxes, moments, scenes


def numbers(main, item):
    """(process, item squared); 3 fails and 5 ends a process that is not the main one; 1000 always fails."""
    if item == 3 and os.getpid() != main:
        raise ValueError("not here")
    if item == 5 and os.getpid() != main:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 1000:
        raise ValueError("nowhere")
    time.sleep(0.005)
    return os.getpid(), item**2


def in_processes(monkeypatch, function, items, workers=3):
    monkeypatch.setattr(helping, "ITEMS_EACH", 1)
    return list(tools.parallel(function, items, workers, "testing", "item", processes=True))


def test_they_share_the_work(monkeypatch):
    found = in_processes(monkeypatch, functools.partial(numbers, 0), range(100, 160))
    assert [value for _, value in found] == [i**2 for i in range(100, 160)]
    shares = {process: sum(process == other for other, _ in found) for process, _ in found}
    assert len(shares) > 1 and shares.get(os.getpid(), 0) < 60, shares


def test_what_fails_or_ends_there_is_done_here(monkeypatch):
    function = functools.partial(numbers, os.getpid())
    found = in_processes(monkeypatch, function, [1, 2, 3, 4, 5, 6, *range(10, 90)])
    assert [value for _, value in found] == [i**2 for i in (1, 2, 3, 4, 5, 6, *range(10, 90))]
    with pytest.raises(ValueError, match="nowhere"):
        in_processes(monkeypatch, function, [1, 1000, *range(10, 40)])


def test_nothing_stays_behind(monkeypatch):
    started = []
    init = helping._Helper.__init__
    monkeypatch.setattr(helping._Helper, "__init__",
                        lambda self: (init(self), started.append(self._process))[0])
    with pytest.raises(KeyboardInterrupt), helping.helped(functools.partial(numbers, 0), 2) as call:
        assert call(7)[1] == 49
        raise KeyboardInterrupt
    with pytest.raises((AttributeError, pickle.PicklingError)), helping.helped(lambda item: item, 2):
        pass  # what cannot be sent there is a mistake here
    assert len(started) == 3 and all(process.returncode is not None for process in started)


def test_no_process_to_be_had(monkeypatch, tmp_path):
    function = functools.partial(numbers, os.getpid())
    monkeypatch.setattr(helping.sys, "executable", str(tmp_path / "nothing"))
    assert in_processes(monkeypatch, function, [7, 8]) == [(os.getpid(), 49), (os.getpid(), 64)]
    monkeypatch.setattr(helping.sys, "executable", "")
    assert in_processes(monkeypatch, function, [7, 8]) == [(os.getpid(), 49), (os.getpid(), 64)]


@pytest.mark.parametrize("kind", [benchmark, boxes, moments, scenes],
                         ids=["benchmark", "boxes", "moments", "scenes"])
def test_benchmarks_are_the_same_files(monkeypatch, tmp_path, kind):
    params = {"train_clips": 6, "val_clips": 3}
    kind.build(tmp_path / "alone", params, workers=1)
    monkeypatch.setattr(helping, "ITEMS_EACH", 1)
    kind.build(tmp_path / "helped", params, workers=2)
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
             for folder in (tmp_path / "alone", tmp_path / "helped")]
    assert files[0] == files[1] and len(files[0]) > 9
    for path in files[0]:
        assert (tmp_path / "alone" / path).read_bytes() == (tmp_path / "helped" / path).read_bytes(), path
