"""A few cases of `benchmarks/hostile.py`, in this process: the campaign runs thousands."""

import collections

import pytest

from benchmarks import hostile, hostile_configs, hostile_videos
from data_pipelines import ClipReader
from tests.data.clip_files import data_config


@pytest.mark.parametrize(("part", "count"), [("videos", 60), ("training", 1), ("weights", 30)])
def test_hostile_files_are_used_or_refused(tmp_path, part, count):
    hostile_videos.write_bases(str(tmp_path / "bases"))
    server = hostile.Server()
    cases = hostile.Cases(part, 7, str(tmp_path), server.port)
    found = [(*cases.run(number), number) for number in range(count)]
    print(collections.Counter(outcome for outcome, *_ in found))
    assert not [case for case in found if case[0] in hostile.FAULTS]
    assert server.count == 0 and {"training": "read", "weights": "refused", "videos": "refused"}[part] in {
        outcome for outcome, *_ in found}


def test_what_runs_and_who_connects_would_be_found_out(tmp_path):
    cases = hostile.Cases("weights", 7, str(tmp_path), 9)
    cases._weights = lambda number: (open(cases.canary, "w").close(), ("refused", ""))[1]
    assert cases.run(0)[0] == "execution"
    cases._weights = lambda number: 1 / 0
    outcome, text = cases.run(0)
    assert outcome == "traceback" and "ZeroDivisionError" in text
    rows = [{"part": "weights", "outcome": name, "gib": 0.1, "seconds": 1.0} for name in ("refused",
                                                                                          *hostile.FAULTS)]
    assert hostile.table(rows) == [["weights", 9, 0, 1, 0, *[1] * 8, "0.10", "1.0"]]


def test_what_reading_leaves_behind_is_found(tmp_path):
    """Of 15 damaged files, nothing; a reader that closes nothing, all."""
    bases = hostile_videos.write_bases(str(tmp_path / "bases"))
    paths = [hostile_videos.write(7, k, bases, str(tmp_path))[0] for k in range(15)]
    files, threads, memory = hostile_videos.left_behind(paths, [ClipReader(data_config()).views])
    print(f"{files} files, {threads} threads, {memory:.1f} MiB")
    assert files == threads == 0 and memory < 20
    kept = []
    assert hostile_videos.left_behind(paths[:5], [lambda path: kept.append(open(path, "rb"))])[0] == 5
    for file in kept:
        file.close()


def test_cases_are_functions_of_their_number():
    first, second = (hostile_configs.Fuzz(3).case(5)[1:] for _ in range(2))
    assert first == second != hostile_configs.Fuzz(3).case(6)[1:]
    assert hostile_configs.command(3, 5) == hostile_configs.command(3, 5)
    config = hostile_configs.forms()[0]
    assert not hostile_configs.too_large(config)
    config.data.batch_size = 4096
    assert hostile_configs.too_large(config) == "clips"
