"""Tables in README.md and docs/*.md, generated from `docs/results.csv`, where every number is a row.

    python -m effvid_jax.reports.results            # rewrites the tables
    python -m effvid_jax.reports.results --check    # exit code 1 if one is out of date

The column `what` reads `table: row` or `table: row: column`; the second form makes a table with several
columns of numbers. A table stands between two markers; shell patterns for other columns of the csv file
select rows, and `columns` chooses what a table of the first form shows:

    <!-- results: demo -->
    <!-- /results -->

    <!-- results: speed hardware="*H200*" columns=what,config,value,hardware -->
    <!-- /results -->

A value is shown with its spread, and with the paper's value in brackets where that has no column; '–' is a
value that only the paper has.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import glob
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence

import jax
import tabulate

from effvid_jax import writers
from effvid_jax.errors import UserError
from effvid_jax.signals import told

COLUMNS = ("what", "dataset", "config", "command", "seeds", "value", "spread", "paper", "hardware",
           "versions", "commit")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_TABLE = re.compile(r"(<!-- results:(.*?)-->\n)(.*?)(<!-- /results -->)", re.DOTALL)
_MARKER = re.compile(r"<!-- (?:results:|/results)")


def read_rows(path: str) -> list[dict[str, str]]:
    """The rows of a results file.

    Raises:
        UserError: other columns than `COLUMNS`, or a row that is not as long as they are.
    """
    with open(path, newline="") as f:
        table = csv.DictReader(f, strict=True)
        if tuple(table.fieldnames or ()) != COLUMNS:
            raise UserError(f"{path}: the columns are {table.fieldnames}; expected {list(COLUMNS)}.")
        rows = list(table)
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise UserError(f"{path}, row {number}: expected {len(COLUMNS)} values (quote those that "
                             f"contain a comma).")
    return rows


def make_row(what: str, value: str, *, dataset: str, config: str, command: str, seeds: Sequence[int],
             spread: str = "") -> dict[str, str]:
    """A row of the results file, with this machine, these versions and this commit.

    Args:
        what: `table: row` or `table: row: column`.
        value, spread: as they are to be shown.
        dataset, config, command, seeds: how it was made.
    """
    here = writers.environment()
    cores = f"{here['cpus']} CPU core" + ("s" if here["cpus"] > 1 else "")
    return {"what": what, "dataset": dataset, "config": config, "command": command,
            "seeds": ",".join(map(str, seeds)), "value": value, "spread": spread, "paper": "",
            "hardware": cores if jax.default_backend() == "cpu" else jax.devices()[0].device_kind,
            "versions": f"python {here['versions']['python']}, jax {here['versions']['jax']}",
            "commit": here["commit"]}


def this_command() -> str:
    """The command line of this process, with virtual devices, without the file that its rows go to."""
    devices = re.findall(r"--xla_force_host_platform_device_count=\S+", os.environ.get("XLA_FLAGS", ""))
    command = re.sub(r" --results[ =]\S+", "", " ".join(["python", *sys.argv]))
    return " ".join([*(f"XLA_FLAGS={flag}" for flag in devices), command])


def replace_rows(path: str, rows: Sequence[dict[str, str]], old: Callable[[dict[str, str]], bool]) -> None:
    """Appends rows to a results file, which need not exist, in place of those that `old` is true for."""
    kept = [row for row in (read_rows(path) if os.path.exists(path) else []) if not old(row)]
    with writers.whole(path) as part, open(part, "w", newline="", encoding="utf-8") as f:
        table = csv.DictWriter(f, COLUMNS)
        table.writeheader()
        table.writerows([*kept, *rows])


def replace_measured(path: str, rows: Sequence[dict[str, str]], together: bool = False) -> None:
    """`replace_rows` for measurements: one replaces an older one of the same name on the same hardware.

    Args:
        together: values named '<row>: <column>' belong to one measurement; an older one's columns go, too,
            that the new one lacks.
    """
    def key(row):
        return row["what"].rpartition(": ")[0] if together else row["what"], row["hardware"]

    new = {key(row) for row in rows}
    replace_rows(path, rows, lambda row: key(row) in new)


def fill(text: str, rows: list[dict[str, str]], name: str = "text") -> str:
    """`text` with every table made anew.

    Args:
        text: markdown with markers.
        rows: from `read_rows`.
        name: of the text, for messages.

    Raises:
        UserError: a marker without its end, unknown columns, or a table that no row fits.
    """

    def table(match) -> str:
        return f"{match[1]}\n{_table(match[2].strip(), rows, name)}\n\n{match[4]}"

    filled = _TABLE.sub(table, text)
    if len(_MARKER.findall(text)) != 2 * len(_TABLE.findall(text)):
        raise UserError(f"{name}: every '<!-- results: ... -->' needs a '<!-- /results -->' after "
                         f"it, each on a line of its own.")
    return filled


def _table(request: str, rows, name: str) -> str:
    where = f"{name}, <!-- results: {request} -->"
    table, *options = shlex.split(request) or [""]
    wanted = dict(option.partition("=")[::2] for option in options)
    columns = wanted.pop("columns", "what,value").split(",")
    unknown = [column for column in (*wanted, *columns) if column not in COLUMNS]
    if unknown or not table or "=" in table:
        raise UserError(f"{where}: expected a table's name, then columns=... or patterns for "
                         f"{list(COLUMNS)}, not {unknown or request}.")
    chosen = [row | {"what": what} for row in rows
              for group, _, what in [row["what"].partition(": ")] if group == table
              and all(fnmatch.fnmatchcase(row[column], wanted[column]) for column in wanted)]
    if not chosen:
        raise UserError(f"{where}: no row of docs/results.csv fits.")
    if all(": " in row["what"] for row in chosen):
        cells: dict[str, dict[str, str]] = {}
        for row in chosen:
            line, _, column = row["what"].partition(": ")
            cells.setdefault(line, {"": line})[column] = shown(row)
        lines, columns = list(cells.values()), list(dict.fromkeys(c for line in cells.values() for c in line))
        return _markdown([[line.get(column, "") for column in columns] for line in lines], columns)
    return _markdown([[shown(row, columns) if column == "value" else
                       f"`{row[column]}`" if column == "command" else row[column]
                       for column in columns] for row in chosen], columns)


def shown(row, columns=()) -> str:
    """A row's value as a table has it, with spread and the paper's figure unless `columns` has those."""
    text = row["value"] or ("–" if row["paper"] else "")
    if row["spread"] and "spread" not in columns:
        text += f" ± {row['spread']}"
    if row["paper"] and "paper" not in columns:
        text += f" ({row['paper']})"
    return text


def _markdown(lines, columns) -> str:
    return tabulate.tabulate(lines, columns, tablefmt="github", disable_numparse=True)


def update(root: str = ROOT, check: bool = False) -> list[str]:
    """Rewrites README.md and docs/*.md under `root`.

    Args:
        root: folder of the project.
        check: only look.

    Returns:
        Files whose tables were out of date.

    Raises:
        UserError: see `read_rows` and `fill`.
    """
    rows = read_rows(os.path.join(root, "docs", "results.csv"))
    changed = []
    for path in [os.path.join(root, "README.md"), *sorted(glob.glob(os.path.join(root, "docs", "*.md")))]:
        if not os.path.exists(path):
            continue
        with open(path) as f:
            text = f.read()
        filled = fill(text, rows, os.path.relpath(path, root))
        if filled != text:
            changed.append(path)
            if not check:
                writers.write_text(path, filled)
    return changed


def main(argv=None) -> None:
    """The command; see the module docstring."""
    parser = argparse.ArgumentParser(prog="python -m effvid_jax.reports.results",
                                     description="Tables of results from docs/results.csv.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if out of date")
    parser.add_argument("--root", default=ROOT, help="folder of the project")
    args = parser.parse_args(argv)
    try:
        changed = update(args.root, args.check)
    except (ValueError, OSError) as error:
        sys.exit(f"effvid_jax.reports.results: {error}")
    for path in changed:
        print(f"{'out of date' if args.check else 'updated'}: {path}")
    if args.check and changed:
        sys.exit("run: python -m effvid_jax.reports.results")


if __name__ == "__main__":
    sys.exit(told(main))
