"""docs/papers.md: the papers' tables beside our costs and commands."""

import os
import re

import pytest

from benchmarks import papers
from effvid_jax.errors import UserError
from effvid_jax.reports import results

TABLES = papers.read(os.path.join(results.ROOT, papers.SOURCE))


def test_the_page_is_up_to_date():
    """Every config is made, every experiment is in docs/results.csv, and the text is what they say."""
    assert not papers.update(check=True), "run: python benchmarks/papers.py"


def test_costs_are_the_papers():
    """The recipes' networks have the printed multiply-adds, by each paper's rule, within half a percent."""
    printed = {("Table 4", "96p"): 12.1, ("Table 4", "224p"): 65.9, ("Table 1: Mini", "ResKD"): 8.7,
               ("Table 1: R(2+1)D", "8 frames, static"): 27.7, ("Kinetics-400", "proposed, full"): 52.06}
    for (title, name), figure in printed.items():
        table = next(table for table in TABLES if table["title"].startswith(title))
        row = next(row for row in table["rows"] if row["name"] == name)
        gmacs, _ = papers.costs(papers.load_config(row["config"]), table["convention"], table.get("views", 0))
        assert gmacs == pytest.approx(figure, rel=5e-3), (title, name)


def test_commands_name_flags_that_exist():
    for table in TABLES:
        for row in table["rows"]:
            if "config" not in row:
                continue
            config = papers.load_config(row["config"])
            command = papers._command(table, row)
            for field in re.findall(r"--config\.([\w.]+)=", command):
                node = config
                for name in field.split("."):
                    assert name in node, (command, field)
                    node = node[name]
            for stage in re.findall(r"--config\.run=(\S+)", command):
                assert set(stage.split(",")) <= {*config.stages, "student"}, command


@pytest.mark.parametrize("change, said", [
    ({"columns": ["a", "b"]}, "1 values, the table has 2"), ({"titel": "x"}, "unknown fields titel"),
    ({"command": "python main.py"}, r"does not name \{config\}")])
def test_mistakes_are_named(tmp_path, change, said):
    table = {"paper": "P", "title": "T", "columns": ["a"], "convention": "macs",
             "command": "main {config}", **change}
    lines = [f"{name} = {value!r}" for name, value in table.items()]
    path = tmp_path / "papers.toml"
    path.write_text("[[tables]]\n" + "\n".join(lines) +
                    '\nrows = [{name = "r", values = ["1"], config = "reskd_actnet.py"}]\n')
    with pytest.raises(UserError, match=said):
        papers.read(str(path))
