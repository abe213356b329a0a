"""Comparison tables of Dynamic Inference: our figures beside the paper's."""

import json

import pytest

from benchmarks import dynamic_tables as tables
from effvid_jax.reports import results


def test_a_cell_is_computed_or_of_a_run_or_the_papers(tmp_path):
    assert tables.computed("TSN, ResNet-50, 8 frames", "k400") == {"GMACs": "32.7", "params (M)": "24.33"}
    assert tables.computed("ECO, 16 frames", "sthv1") == {}
    (tmp_path / "metrics.json").write_text(json.dumps({
        "val/top1": 0.7, "val/gmacs": 26.0, "val/full_top1": 0.72, "val/full_gmacs_paper": 52.03,
        "params": 6e7}))
    run = str(tmp_path)
    assert tables.of_run(run, "dynamic") == {"top-1 (%)": "70.00", "GMACs": "26", "params (M)": "60.00"}
    assert tables.of_run(run, "full") == {"top-1 (%)": "72.00", "GMACs": "52.03", "params (M)": "60.00"}
    known = {row["what"]: row for row in results.read_rows(f"{results.ROOT}/docs/results.csv")}
    assert known["dynamic_paper_k400: MSDNet-38, full: GMACs"]["value"] == "52.0"
    assert known["dynamic_paper_k400: ResNet-101, dynamic: params (M)"]["value"] == "48.12"


def test_a_run_of_no_table_is_refused(tmp_path):
    for text in ("k401: MSDNet-38, dynamic=runs/x", "k400: MSDNet-39, dynamic=runs/x", "runs/x"):
        with pytest.raises(SystemExit, match="expected one of k400, ucf101"):
            tables.main(["--run", text, f"--results={tmp_path}/results.csv"])
