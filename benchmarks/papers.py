"""`docs/papers.md`: every table of the three papers, with what of it can be filled in here.

    python benchmarks/papers.py             # rewrites docs/papers.md
    python benchmarks/papers.py --check     # exit code 1 if it is out of date

`docs/papers.toml` has the papers' figures as printed, and for each row that has a recipe here the config
that makes it. Of that config this page says what needs no data set: multiply-adds of a video by the paper's
own rule, and parameters. Beside them stand the command that fills the rest, and the same experiment's figure
on the embedded benchmark, from docs/results.csv.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tomllib
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import jax
import tabulate

from effvid_jax import cost, writers
from effvid_jax.errors import UserError
from effvid_jax.methods.building import build_network
from effvid_jax.reports import results
from effvid_jax.signals import told
from effvid_jax.tasks import make_task

SOURCE, PAGE = "docs/papers.toml", "docs/papers.md"
TABLE_FIELDS = {"paper", "title", "columns", "convention", "command", "rows"}, {"views", "remark"}
ROW_FIELDS = {"name", "values"}, {"config", "embedded", "command", "flags", "baseline"}
HEADER = """# The papers' tables

Written by `python benchmarks/papers.py` from [papers.toml](papers.toml); a test keeps it up to date. The
first columns are the papers' figures as printed. **Ours** needs no data set: multiply-adds of a video (10⁹,
by the paper's own rule, see [cost.md](cost.md)) and parameters of the network that the row's config makes.
**Embedded** is the same experiment on the benchmark that comes with the code (docs/results.csv; mean ±
standard deviation over seeds): those figures compare with each other only. The command below a table fills
its rows from the real data. Rows without a config are other people's systems.
"""


def read(path: str) -> list[dict[str, Any]]:
    """The tables of `papers.toml`.

    Raises:
        UserError: a field is missing or unknown, or a row has another number of values than its table.
    """
    with open(path, "rb") as f:
        tables = tomllib.load(f)["tables"]
    for table in tables:
        _check(table, TABLE_FIELDS, f"{path}: table {table.get('title')!r}")
        for row in table["rows"]:
            where = f"{path}: table {table['title']!r}, row {row.get('name')!r}"
            _check(row, ROW_FIELDS, where)
            if len(row["values"]) != len(table["columns"]):
                raise UserError(f"{where}: {len(row['values'])} values, the table has "
                                f"{len(table['columns'])} columns.")
            if "config" in row and "{config}" not in row.get("command", table["command"]):
                raise UserError(f"{where}: its command does not name {{config}}.")
    return tables


def _check(found, fields, where: str) -> None:
    needed, optional = fields
    if missing := needed - found.keys():
        raise UserError(f"{where}: {', '.join(sorted(missing))} is missing.")
    if unknown := found.keys() - needed - optional:
        raise UserError(f"{where}: unknown fields {', '.join(sorted(unknown))}; known: "
                        f"{', '.join(sorted(needed | optional))}.")


def load_config(name: str):
    """The config that `--config=configs/<name>` makes, e.g. `reskd_actnet.py:resolution=96`."""
    file, _, arg = name.partition(":")
    return importlib.import_module(f"configs.{file.removesuffix('.py')}").get_config(arg)


def costs(config, convention: str, views: int = 0) -> tuple[float, float]:
    """(10^9 multiply-adds of a video, 10^6 parameters) of the network that a config evaluates.

    Args:
        config: of a run.
        convention: see `cost.count`.
        views: of a video; 0: as many as the config's test pipeline takes.
    """
    data, model = config.data, config.model
    side = model.resolution or data.test_crop_size
    crops = 3 if data.test_crop == "three" else 1
    views = views or data.test_clips * crops * (2 if data.twice_sample else 1)
    task = make_task(config, [f"class {k}" for k in range(data.num_classes)])
    key = f"{config.get('task')} {model.to_json_best_effort()}"
    return _count(key, model, task, (data.num_frames, side, side, 3), convention, views)


_COUNTED: dict[tuple, tuple[float, float]] = {}


def _count(key: str, model, task, shape, convention: str, views: int) -> tuple[float, float]:
    args = key, len(task.class_names), shape, convention, views
    if args not in _COUNTED:  # tables share networks
        found = cost.count(build_network(model, task), shape, convention, views)
        _COUNTED[args] = found.gmacs, found.params / 1e6
    return _COUNTED[args]


def page(tables, rows) -> str:
    """The text of docs/papers.md.

    Args:
        tables: from `read`.
        rows: of docs/results.csv.

    Raises:
        UserError: a row names an experiment that docs/results.csv does not have.
    """
    parts, paper = [HEADER], ""
    for table in tables:
        if table["paper"] != paper:
            paper = table["paper"]
            parts.append(f"## {paper}\n")
        parts.append(f"### {table['title']}\n")
        parts.append(_table(table, rows) + "\n")
        if "remark" in table:
            parts.append(f"{table['remark']}\n")
        commands = list(dict.fromkeys(_command(table, row) for row in table["rows"] if "config" in row))
        parts.append("```sh\n" + "\n".join(commands) + "\n```\n")
    return "\n".join(parts)


def _table(table, rows) -> str:
    embedded = {row["embedded"]: _embedded(row["embedded"], rows, table["title"])
                for row in table["rows"] if "embedded" in row}
    measured = list(dict.fromkeys(column for found in embedded.values() for column in found))
    lines = []
    for row in table["rows"]:
        ours = ["", ""]
        if "config" in row:
            gmacs, params = costs(load_config(row["config"]), table["convention"], table.get("views", 0))
            ours = [f"{gmacs:.4g}", f"{params:.1f}"]
        found = embedded.get(row.get("embedded"), {})
        lines.append([row["name"], *row["values"], *ours, *(found.get(column, "") for column in measured)])
    columns = ["", *table["columns"], "ours: 10⁹ multiply-adds", "ours: M parameters",
               *(f"embedded: {column}" for column in measured)]
    return tabulate.tabulate(lines, columns, "github", disable_numparse=True)


def _embedded(name: str, rows, title: str) -> dict[str, str]:
    """{column: value} of an experiment of docs/results.csv; its network's own costs are left out."""
    found = {row["what"].removeprefix(f"{name}: "): results.shown(row) for row in rows
             if row["what"].startswith(f"{name}: ")}
    if not found:
        raise UserError(f"{SOURCE}: table {title!r} names {name!r}, which docs/results.csv does not have.")
    return {column: value for column, value in found.items() if column not in ("GMACs", "params")}


def _command(table, row) -> str:
    command = row.get("command", table["command"]).format(**row)
    return f"{command} {row['flags']}" if "flags" in row else command


def update(root: str = results.ROOT, check: bool = False) -> bool:
    """Rewrites docs/papers.md under `root`, or only looks; whether it was out of date."""
    path = os.path.join(root, PAGE)
    rows = results.read_rows(os.path.join(root, "docs", "results.csv"))
    text = page(read(os.path.join(root, SOURCE)), rows)
    old = None
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            old = f.read()
    if old != text and not check:
        writers.write_text(path, text)
    return old != text


def main(argv=None) -> None:
    """The command; see the module docstring."""
    parser = argparse.ArgumentParser(description="The papers' tables beside what this code has.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if out of date")
    args = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # nothing runs: do not wait for an accelerator
    try:
        changed = update(check=args.check)
    except (UserError, OSError, tomllib.TOMLDecodeError) as error:
        sys.exit(f"papers.py: {error}")
    if changed:
        print(f"{'out of date' if args.check else 'updated'}: {PAGE}")
        if args.check:
            sys.exit("run: python benchmarks/papers.py")


if __name__ == "__main__":
    sys.exit(told(main))
