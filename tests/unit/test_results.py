"""Tables generated from docs/results.csv."""

import csv
import os
import re
import sys

import pytest

from effvid_jax.reports import results


def row(**values):
    return dict.fromkeys(results.COLUMNS, "") | values


ROWS = [
    row(what="demo: teacher: top-1 (%)", value="97.1", spread="0.3", config="demo"),
    row(what="demo: teacher: GMACs", value="0.14", config="demo"),
    row(what="demo: student: top-1 (%)", value="92.0", paper="80.0", config="demo"),
    row(what="speed: decode, 2 threads", value="1.9", command="bench", hardware="laptop"),
    row(what="speed: decode, 2 threads", value="1.8", command="bench", hardware="server"),
]


def table(text):
    """Cells of the markdown table in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for i, line in enumerate(lines) if i != 1]


def test_table_with_columns_of_numbers():
    text = results.fill("a\n<!-- results: demo -->\nold\n<!-- /results -->\nb\n", ROWS)
    assert table(text) == [["", "top-1 (%)", "GMACs"], ["teacher", "97.1 ± 0.3", "0.14"],
                           ["student", "92.0 (80.0)", ""]]
    assert text.startswith("a\n<!-- results: demo -->\n") and text.endswith("<!-- /results -->\nb\n")
    assert "old" not in text and results.fill(text, ROWS) == text


def test_what_only_the_paper_has():
    rows = [row(what="t: ours: top-1", value="1"), row(what="t: theirs: top-1", paper="2"),
            row(what="t: neither: top-1")]
    text = results.fill("<!-- results: t -->\n<!-- /results -->", rows)
    assert table(text)[1:] == [["ours", "1"], ["theirs", "– (2)"], ["neither", ""]]


def test_chosen_rows_and_columns():
    text = results.fill("<!-- results: speed hardware=*top columns=what,value,command -->\n"
                        "<!-- /results -->", ROWS)
    assert table(text) == [["what", "value", "command"], ["decode, 2 threads", "1.9", "`bench`"]]


@pytest.mark.parametrize(("text", "wanted"), [
    ("<!-- results: demo -->\n", "needs a '<!-- /results -->'"),
    ("<!-- results: demo -->\n<!-- results: demo -->\n<!-- /results -->", "needs a '<!-- /results -->'"),
    ("<!-- /results -->", "needs a"),
    ("<!-- results: dmeo -->\n<!-- /results -->", "dmeo.*no row"),
    ("<!-- results: demo columns=what,vlaue -->\n<!-- /results -->", "vlaue"),
    ("<!-- results: columns=what -->\n<!-- /results -->", "expected a table's name"),
])
def test_mistakes(text, wanted):
    with pytest.raises(ValueError, match=f"(?s)page.*{wanted}"):
        results.fill(text, ROWS, "page")


def test_update_and_check(tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    with open(tmp_path / "docs" / "results.csv", "w", newline="") as f:
        writer = csv.DictWriter(f, results.COLUMNS)
        writer.writeheader()
        writer.writerows(ROWS)
    (tmp_path / "README.md").write_text("<!-- results: demo -->\n<!-- /results -->\n")
    (tmp_path / "docs" / "a.md").write_text("nothing generated\n")
    with pytest.raises(SystemExit):
        results.main(["--check", f"--root={tmp_path}"])
    assert "97.1" not in (tmp_path / "README.md").read_text()
    results.main([f"--root={tmp_path}"])
    assert "97.1" in (tmp_path / "README.md").read_text()
    results.main(["--check", f"--root={tmp_path}"])
    assert capsys.readouterr().out.splitlines() == [
        f"out of date: {tmp_path}/README.md", f"updated: {tmp_path}/README.md"]
    (tmp_path / "docs" / "results.csv").write_text("what,value\n")
    with pytest.raises(SystemExit, match="columns"):
        results.main([f"--root={tmp_path}"])


def test_tables_of_this_project_are_up_to_date():
    assert results.update(check=True) == [], "run: python -m effvid_jax.reports.results"


def test_a_command_is_what_anybody_can_repeat(monkeypatch):
    """As it was given, with its devices, and without where one machine kept the rows."""
    monkeypatch.setattr(sys, "argv", ["benchmarks/b.py", "--batch", "2", "--results", "/a/r.csv",
                                      "--seconds=8"])
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_force_host_platform_device_count=2")
    assert results.this_command() == ("XLA_FLAGS=--xla_force_host_platform_device_count=2 "
                                      "python benchmarks/b.py --batch 2 --seconds=8")
    rows = results.read_rows(os.path.join(results.ROOT, "docs", "results.csv"))
    assert not [row["command"] for row in rows if re.search(r"/(tmp|home|root|work)/", row["command"])]


@pytest.mark.parametrize("together,left", [
    (False, ["speed: b: share", "speed: a: rate"]), (True, ["speed: a: rate"])])
def test_columns_of_an_older_measurement_go_with_it(tmp_path, together, left):
    path = tmp_path / "results.csv"
    path.write_text(",".join(results.COLUMNS) + "\n")
    results.replace_measured(str(path), [
        row(what=f"speed: {name}", value="1", hardware=hardware) for hardware, name in (
            ("cpu", "b: rate"), ("cpu", "b: share"), ("cpu", "a: rate"), ("gpu", "b: rate"))])
    results.replace_measured(str(path), [row(what="speed: b: rate", value="2", hardware="cpu")], together)
    found = results.read_rows(str(path))
    assert [r["what"] for r in found if (r["hardware"], r["value"]) == ("cpu", "1")] == left
    assert [(r["hardware"], r["value"]) for r in found if r["what"] == "speed: b: rate"] in (
        [("gpu", "1"), ("cpu", "2")], [("cpu", "2"), ("gpu", "1")])
