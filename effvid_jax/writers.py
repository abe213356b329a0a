"""Metrics on disk, without TensorFlow: JSON lines, csv and TensorBoard events.

The methods are those of clu's `MetricWriter`, whose own writers cannot be imported without TensorFlow.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time

import jax

from effvid_jax import checkpoint


class MetricWriter:
    """Writes `metrics.jsonl`, `metrics.csv`, `metrics.json` (final) and TensorBoard events to a workdir.

    Args:
        workdir: where.
        first_step: a continued run drops what was written after this step, so that the files are those
            of one uninterrupted run.
        enabled: False on all processes but the first.
    """

    def __init__(self, workdir: str, first_step: int = 0, enabled: bool = True):
        self.workdir, self.enabled = workdir, enabled
        self.rows: list[dict] = []
        if not enabled:
            return
        os.makedirs(workdir, exist_ok=True)
        path = self._path("metrics.jsonl")
        if first_step and os.path.exists(path):
            with open(path) as f:
                rows = [json.loads(line) for line in f if line.endswith("}\n")]
            self.rows = [row for row in rows if row["step"] <= first_step]
        with open(path, "w") as f:
            f.writelines(json.dumps(row) + "\n" for row in self.rows)
        import tensorboardX  # only needed to write

        self._board = tensorboardX.SummaryWriter(
            os.path.join(workdir, "tensorboard"), purge_step=first_step + 1, write_to_disk=True)

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """Adds the scalars of a step to every file."""
        if not self.enabled or not scalars:
            return
        row = {"step": int(step), **{k: _plain(v) for k, v in scalars.items() if k != "step"}}
        self.rows.append(row)
        with open(self._path("metrics.jsonl"), "a") as f:
            f.write(json.dumps(row) + "\n")
        self._write_csv()
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)):
                self._board.add_scalar(name, value, step)

    def write_final(self, metrics: dict[str, float]) -> None:
        """The result of the run as `metrics.json`."""
        if self.enabled:
            write_json(self._path("metrics.json"), metrics)

    def flush(self) -> None:
        """Everything so far is on disk."""
        if self.enabled:
            self._board.flush()

    def close(self) -> None:
        """Flushes and closes."""
        if self.enabled:
            self._board.close()

    def _write_csv(self) -> None:
        merged: dict[int, dict] = {}
        for row in self.rows:
            merged.setdefault(row["step"], {}).update(row)
        write_csv(self._path("metrics.csv"), [merged[step] for step in sorted(merged)])

    def _path(self, name: str) -> str:
        return os.path.join(self.workdir, name)


def write_json(path: str, metrics: dict) -> None:
    """Plain numbers as json, written whole or not at all."""
    with open(path + ".tmp", "w") as f:
        json.dump({k: _plain(v) for k, v in metrics.items()}, f, indent=2)
    os.replace(path + ".tmp", path)


def update_json(path: str, metrics: dict) -> None:
    """Replaces some entries of a json file, which may not be there yet."""
    old = {}
    if os.path.exists(path):
        with open(path) as f:
            old = json.load(f)
    write_json(path, old | metrics)


def write_csv(path: str, rows: list[dict]) -> None:
    """Rows with different columns as one table, written whole or not at all."""
    columns = dict.fromkeys(name for row in rows for name in row)
    with open(path + ".tmp", "w", newline="") as f:
        table = csv.DictWriter(f, list(columns))
        table.writeheader()
        table.writerows(rows)
    os.replace(path + ".tmp", path)


def environment() -> dict:
    """Command, versions, devices and commit: what a number needs to be quoted."""
    here = os.path.dirname(os.path.abspath(__file__))
    git = subprocess.run(["git", "-C", here, "describe", "--always", "--dirty"], capture_output=True,
                         text=True, check=False)
    return {"command": " ".join(sys.argv), "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            "commit": git.stdout.strip() or "unknown", "versions": checkpoint.versions(),
            "devices": [str(d) for d in jax.devices()], "processes": jax.process_count(),
            "cpus": _cpus()}


def _cpus() -> int:
    """Cores this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _plain(value):
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    value = float(value)
    return int(value) if value.is_integer() and abs(value) < 2**53 and value > 1e6 else value
