"""Timing, and the benchmark of a tiny config from one end to the other."""

import json
import os
import types

import numpy as np
import pytest

from benchmarks import resolution
from configs import dynamic_k400, reskd_minik, supervised_minik
from effvid_jax import cli
from effvid_jax.speed import advice, bench, timing
from effvid_jax.tasks import make_task


class Clock:
    """A clock that only moves when told to; `call(seconds)` is a function that takes so long."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(timing, "time", types.SimpleNamespace(perf_counter=lambda: self.now))

    def call(self, name, seconds):
        def function():
            self.calls.append(name)
            self.now += seconds

        return function


def test_sides_are_timed_in_turns(monkeypatch):
    clock = Clock(monkeypatch)
    sides = {"a": clock.call("a", 1.0), "b": clock.call("b", 2.0)}
    times = timing.measure(sides, seconds=0, min_repeats=4)
    assert clock.calls == list("aabb" "ab" "ba" "ab" "ba")
    assert times == {"a": timing.Timing((1.0,) * 4), "b": timing.Timing((2.0,) * 4)}
    clock.calls.clear()
    timing.measure(sides, seconds=10, min_repeats=1)
    assert len(clock.calls) == 4 + 2 * 4, "rounds of 3 seconds until 10 are over"


def test_short_calls_are_repeated_within_a_sample(monkeypatch):
    clock = Clock(monkeypatch)
    times = timing.measure({"x": clock.call("x", 0.001)}, seconds=0, min_repeats=3,
                           min_sample_seconds=0.02)
    assert len(clock.calls) == 2 + 3 * 20
    assert times["x"].median == pytest.approx(0.001)


def test_statistics():
    timing_ = timing.Timing((1.0, 2.0, 3.0, 4.0, 100.0))
    assert timing_.median == 3.0 and timing_.rate(6) == 2.0
    assert timing.Timing((1.0, 2.0)).spread == 0.0 and timing_.spread > 0


def test_bench_of_a_run_with_stages(tmp_path, capsys, benchmark_root):
    config = reskd_minik.get_config("tiny")
    config.data.root = benchmark_root
    config.bench.update(dict(seconds=1.0, threads=(1, 2), workers=(), resolutions=(64, 32)))
    for model in (config.model, config.stages.teacher.model):  # half the network: half to compile
        model.options = {"width": 16, "stem": "small", "stage_sizes": (1, 1)}
    result = cli.bench(config, str(tmp_path))
    out = capsys.readouterr().out
    print(out)
    with open(tmp_path / "bench.json") as f:
        assert json.load(f) == json.loads(json.dumps(result))
    assert [row["threads"] for row in result["decode"]] == [1, 2]
    assert [(row["threads"], row["worker_processes"]) for row in result["pipeline"]] == [(1, 0), (2, 0)]
    assert [row["stage"] for row in result["train"]] == ["teacher", "baseline", "student"]
    assert [row["pixels"] for row in result["train"]] == [64, 32, 32]
    first, second = (row["clips_per_second"] for row in result["train"][:2])
    assert result["train"][1]["ratio"] == pytest.approx(second / first)
    low = result["inference"][1]
    assert low["resolution"] == 32 and low["gmacs_divided_by"] == pytest.approx(4, rel=0.05)
    assert len(result["loop"]) == 1 and 0 <= result["loop"][0]["wait_share"] <= 1
    assert all(row["clips_per_second"] > 0 for name in bench.SHARES for row in result[name])
    assert [row["stage"] for row in result["advice"]] == ["teacher", "baseline", "student"]
    assert f"set --config.data.num_threads={result['advice'][0]['num_threads']} --config.data." in out
    for word in ("Decoding alone", "Whole pipeline", "Train step", "by resolution", "wait share"):
        assert word in out


def test_what_to_set():
    """The fewest threads that are nearly the fastest; only an accelerator learns while cores read."""
    pipelines = [{"threads": n, "worker_processes": w, "clips_per_second": rate}
                 for n, w, rate in ((1, 0, 50.0), (2, 0, 98.0), (4, 0, 100.0), (2, 2, 97.0))]
    trains = [{"stage": "slow", "clips_per_second": 49.0}, {"stage": "fast", "clips_per_second": 392.0}]
    slow, fast = advice.rows(pipelines, trains, "gpu")
    assert (slow["num_threads"], slow["num_workers"]) == (2, 0) and slow["idle_share"] == 0
    assert fast["idle_share"] == pytest.approx(0.75)
    assert fast["cores"] == 4 * (os.cpu_count() or 1)
    said = advice.remarks([slow, fast], "gpu")
    assert said[0] == "set --config.data.num_threads=2 --config.data.num_workers=0"
    assert "as fast as" in said[1]
    assert "waits for 75 % of the time" in said[2] and "to_array_record" in said[2]
    slow, fast = advice.rows(pipelines, trains, "cpu")
    assert slow["idle_share"] == pytest.approx(1 / 3) and fast["idle_share"] == pytest.approx(0.8)
    assert "cache=memory" in advice.remarks([slow], "cpu")[1]


def test_worker_processes(benchmark_root):
    config = supervised_minik.get_config("tiny")
    config.data.root = benchmark_root
    rate = bench._pipeline_rate(config, threads=1, workers=1, seconds=0.1)
    print(f"{rate:.0f} clips/s")
    assert rate > 0


def test_resolutions_keep_the_shape_of_table_4():
    config = supervised_minik.get_config()
    assert bench.resolutions(config) == [224, 144, 112, 96, 72, 56]
    assert bench.resolutions(supervised_minik.get_config("demo")) == [64, 40, 32, 28, 20, 16]
    config.bench.resolutions = (48,)
    assert bench.resolutions(config) == [48]


def test_resolution_too_small(rng):
    del rng
    config = supervised_minik.get_config("tiny")
    with pytest.raises(ValueError, match="resolution 4x4 is too small"):
        bench.inference(config.model, make_task(config, "abc"), (4,), 2, 1, seconds=0)


def test_resolution_script(capsys):
    resolution.main(["--backbone=resnet18", "--frames=1", "--batch=1", "--resolutions=64,32",
                     "--seconds=0"])
    title, *table, line = capsys.readouterr().out.splitlines()
    print("\n".join([title, *table]))
    rows = json.loads(line)["rows"]
    assert [row["resolution"] for row in rows] == [64, 32] and "resnet18, 1 frames" in title
    assert all(np.isfinite(row["clips_per_second"]) for row in rows)
    with pytest.raises(SystemExit, match="too small"):
        resolution.main(["--backbone=resnet18", "--frames=1", "--batch=1", "--resolutions=8"])


def test_early_exits_on_the_clock():
    """The table's arithmetic, on a network too small for its times to mean anything."""
    config = dynamic_k400.get_config("tiny")
    rows = bench.exits(config, [str(k) for k in range(16)], seconds=0.5)
    print(bench.table(rows))
    full, early = rows[:-2], rows[-2:]
    assert all(row["side"].startswith("full inference, batches of") for row in full)
    assert max(row["speedup"] for row in full) == 1 and len(full) > 1
    assert [row["side"] for row in early] == ["compact", "pool"]
    for row in early:
        assert row["flops_speedup"] == pytest.approx(2.0, rel=0.3)
        assert row["r"] == pytest.approx(row["speedup"] / row["flops_speedup"])
        assert -1e-9 <= row["waste"] < 0.5 and row["of_segments"] > 0
