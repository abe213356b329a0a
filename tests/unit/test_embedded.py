"""Comparisons on the embedded benchmark: rows of results, and what is not finished yet."""

import json
import sys

import pytest

from benchmarks import embedded
from effvid_jax import results


def test_rows_replace_those_of_their_table(tmp_path):
    path = str(tmp_path / "results.csv")
    one = embedded.row("a: x: top-1 (%)", [50.0, 60.0], ".1f", "c.py:demo", "python b.py", [0, 1])
    params = embedded.row("a: x: params", [1234, 1234], ",.0f", "c.py:demo", "python b.py", [0, 1])
    other = embedded.row("b: y", [1.0], ".2f", "c.py", "python b.py", [0])
    assert (one["value"], one["spread"], one["seeds"]) == ("55.0", "7.1", "0,1")
    assert (params["value"], params["spread"]) == ("1,234", "")
    assert one["command"] == "python b.py --seeds 0,1"
    embedded.replace_table(path, "b", [other])
    embedded.replace_table(path, "a", [params])
    embedded.replace_table(path, "a", [one])
    assert [row["what"] for row in results.read_rows(path)] == ["b: y", "a: x: top-1 (%)"]


def test_only_finished_seeds_are_read(tmp_path):
    (tmp_path / "seed1" / "run").mkdir(parents=True)
    (tmp_path / "seed1" / "run" / "metrics.json").write_text(json.dumps({"val/top1": 0.5}))
    assert embedded.read(str(tmp_path), [0, 1], "run") == [{"val/top1": 0.5}]


def test_a_run_starts_as_a_user_would_and_only_once(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(embedded.subprocess, "run", lambda command, **_: started.append(command))
    embedded.train(str(tmp_path), 2, "run", "reskd_minik.py:demo", ["--config.run=student"])
    assert started[0][:3] == [sys.executable, "main.py", "--config=configs/reskd_minik.py:demo"]
    assert "--config.seed=2" in started[0] and started[0][-1] == "--config.run=student"
    (tmp_path / "seed2" / "run").mkdir(parents=True)
    (tmp_path / "seed2" / "run" / "metrics.json").write_text("{}")
    embedded.train(str(tmp_path), 2, "run", "reskd_minik.py:demo", [])
    assert len(started) == 1


def test_flags_after_ours_go_to_main(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["b.py", "--seeds", "3,4", "--config.train.num_steps=5"])
    args, extra = embedded.arguments("Title.\nmore", "runs/x")
    assert args.seeds == [3, 4] and extra == ["--config.train.num_steps=5"] and not args.collect
    with pytest.raises(SystemExit):
        monkeypatch.setattr(sys, "argv", ["b.py", "--help"])
        embedded.arguments("Title.\nmore", "runs/x")
