"""The GPU suite's dry run: every kind of row, going on where it stopped, and what it writes."""

import functools
import importlib.util
import json
import subprocess
import sys

import pytest

from benchmarks import gpu_rows, gpu_suite
from effvid_jax.backbones import BACKBONES
from effvid_jax.reports import results

BESIDE = {"inference", "train", "reskd"}  # kinds that need PyTorch
WITHOUT = importlib.util.find_spec("torch") is None


@pytest.fixture
def tiny(monkeypatch):
    """One block a stage: compiling is what takes the time."""
    for name in ("resnet18", "r3d_18"):
        monkeypatch.setitem(BACKBONES, name, functools.partial(
            BACKBONES[name], stage_sizes=(1, 1, 1, 1)))


def _lines(out):
    """Lines of rows that came to an end."""
    lines = map(json.loads, (out / gpu_suite.FILE).read_text().splitlines())
    return [line for line in lines if line["status"] != "begun"]


@pytest.mark.skipif(not WITHOUT, reason="the tiny networks have no counterpart in PyTorch")
def test_dry_run_does_every_kind_and_goes_on_where_it_stopped(tiny, tmp_path, capsys, monkeypatch):
    out, table = tmp_path / "out", tmp_path / "results.csv"
    gpu_suite.main(["--out", str(out), "--dry-run", "--rows", "peaks|sweep", "--commit", "abc"])
    gpu_suite.main(["--out", str(out), "--dry-run", "--commit", "abc", "--results", str(table)])
    lines = _lines(out)
    assert sorted(line["row"] for line in lines) == sorted(row.key for row in gpu_suite.DRY), "each once"
    for line in lines:
        beside = line["kind"] in BESIDE
        assert line["status"] == ("refused" if beside else "ok"), line
        assert not beside or line["reason"] == "PyTorch is not installed"
    assert {row.kind for row in gpu_suite.ROWS} == {row.kind for row in gpu_suite.DRY}

    rows = results.read_rows(str(table))
    assert {row["what"].split(":")[0] for row in rows} == {
        f"gpu_{row.kind}" for row in gpu_suite.DRY if row.kind not in BESIDE}
    assert all(row["value"] and row["hardware"] and row["commit"] == "abc" for row in rows)
    text = results.fill("<!-- results: gpu_sweep -->\n<!-- /results -->\n", rows)
    assert "| 64²" in text and "GMACs" in text
    assert "mm_tsn_r18_8x112 | passes" in " ".join(capsys.readouterr().out.split())

    monkeypatch.setattr(gpu_rows, "peaks", None)  # an ok row is not measured again, a refused one is
    gpu_suite.main(["--out", str(out), "--dry-run", "--rows", "peaks|inference"])
    assert [line["kind"] for line in _lines(out)[len(lines):]] == ["inference"]


def test_a_failing_row_is_noted_and_the_suite_goes_on(tmp_path, monkeypatch, capsys):
    def broken(setup, **options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu_rows, "sweep", broken)
    rows = [row for row in gpu_suite.DRY if row.kind in ("peaks", "sweep")]
    path = tmp_path / gpu_suite.FILE
    lines = gpu_suite.run(rows[::-1], str(path), 1.0, gpu_rows.Setup(0.1), "abc")
    assert [line["status"] for line in lines.values()] == ["error", "ok"]
    assert "out of memory" in gpu_suite.tables(lines)
    before = path.read_text()
    gpu_suite.run(rows, str(path), 0.0, gpu_rows.Setup(0.1), "abc")
    assert path.read_text() == before, "no time, nothing new"
    assert "not enough time left" in capsys.readouterr().out


def test_a_row_that_ends_the_process_comes_last_when_the_suite_goes_on(tmp_path, monkeypatch, capsys):
    def crash(setup, **options):
        raise KeyboardInterrupt

    rows, path = [row for row in gpu_suite.DRY if row.kind in ("sweep", "peaks")], tmp_path / gpu_suite.FILE
    rows.sort(key=lambda row: row.kind, reverse=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gpu_rows, "sweep", crash)
        gpu_suite.run(rows, str(path), 1.0, gpu_rows.Setup(0.1), "abc")
    assert "its process ended in it" in gpu_suite.tables(gpu_suite.read(str(path)))
    gpu_suite.run(rows, str(path), 1.0, gpu_rows.Setup(0.1), "abc")
    assert [line["kind"] for line in _lines(tmp_path)] == ["peaks", "sweep"]


def test_an_unknown_form_of_pytorch_is_told_before_anything_is_made(tmp_path, capsys):
    with pytest.raises(SystemExit):
        gpu_suite.main(["--out", str(tmp_path / "out"), "--forms", "eager,graph"])
    assert "graph is not among eager, compiled, graphs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_it_imports_no_decoder_and_no_data_set_library():
    names = "av cv2 clu grain array_record tensorboardX tensorflow tensorflow_datasets"
    code = (f"import sys, benchmarks.gpu_suite, effvid_jax.train, tests.parity.train_step\n"
            f"print([name for name in {names.split()} if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("line,expected", [
    ({"kind": "train", "row": "train/net", "values": {
        "clips_per_second": {"ours": 1437.2, "torch eager": 99.5}, "ratio": 14.44,
        "spread": {"ours": 0.001, "torch eager": 0}, "best_torch": "torch eager",
        "share_of_peak": {"ours": 0.256, "torch eager": 0.02}, "memory_gbytes": {"ours": 12.34}}},
     [("net", "ours (clips/s)", "1437", "1.4"), ("net", "torch eager (clips/s)", "99.5", "0.0"),
      ("net", "ours ÷ best PyTorch", "14.44", ""), ("net", "of the matrix peak, ours (%)", "26", ""),
      ("net", "of the matrix peak, PyTorch (%)", "2", ""), ("net", "memory, ours (GB)", "12.3", "")]),
    ({"kind": "golden", "row": "golden/x", "values": {"cases": [
        {"name": "a", "status": "FAIL", "error": 1e-3}, {"name": "b", "status": "left out", "error": None}]}},
     [("a", "float32", "fail", ""), ("a", "largest error", "1.0e-03", ""),
      ("a", "bfloat16, logits", "–", "")]),
])
def test_cells(line, expected):
    assert gpu_suite.cells(line) == expected
