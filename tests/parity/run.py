"""Compares this project with golden cases of public reference implementations.

    python -m tests.parity.run FILE.json [...] [--no-x64]

One line a case: `PASS name e=1e-08`, `FAIL name e=... what is out of tolerance`, or `SKIP name why` for an
architecture that is not built here. e is the largest error, relative to the spread of the reference.
The exit code is 1 if any case fails or is skipped. Without files: the cases of `tests/parity/cases`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.parity import golden

CASES = Path(__file__).parent / "cases"


class Result(NamedTuple):
    """Outcome of a case: 'PASS', 'FAIL' or 'SKIP', its name, largest error and what went wrong."""

    status: str
    name: str
    error: float
    reason: str

    def __str__(self) -> str:
        if self.status == "SKIP":
            return f"SKIP {self.name} {self.reason}"
        return f"{self.status} {self.name} e={self.error:.1e} {self.reason}".rstrip()


def _check(case: dict[str, Any], x64: bool) -> tuple[float, list[str]]:
    """(largest error, problems) by kind; pipeline cases need no JAX, so imports are local."""
    kind = case["kind"]
    if kind == "forward":
        from tests.parity import forward
        return forward.check(case, x64)
    if kind == "train_step":
        from tests.parity import train_step
        return train_step.check(case, x64)
    if kind in ("peer_forward", "peer_train", "peer_op"):
        from tests.parity import peers
        return peers.check(case, x64)
    from tests.parity import pipelines
    checks = {"sample_frames": pipelines.check_sample_frames, "geometry": pipelines.check_geometry,
              "metrics": pipelines.check_metrics}
    if kind not in checks:
        raise golden.Unsupported(f"kind {kind!r}")
    error, problem = checks[kind](case)
    return error, [problem] if problem else []


def run_case(path: str | Path, x64: bool = True) -> Result:
    """Runs one file; every problem, an exception included, becomes part of the result."""
    name = Path(path).stem
    try:
        case = golden.load_case(path)
        name = case["case"]
        error, problems = _check(case, x64)
    except golden.Unsupported as reason:
        return Result("SKIP", name, float("nan"), f"not built here: {reason}")
    except Exception as error:  # a broken case must not hide the others
        return Result("FAIL", name, float("nan"), f"{type(error).__name__}: {error}".replace("\n", " | "))
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        return Result("FAIL", name, error, "; ".join(problems[:3]) + more)
    return Result("PASS", name, error, "")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity.run", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE.json")
    parser.add_argument("--x64", action=argparse.BooleanOptionalAction, default=True,
                        help="float64 (default) or float32, each with its own tolerance")
    parser.add_argument("--time", action="store_true", help="add the seconds of each case")
    args = parser.parse_args(argv)
    passed = True
    for path in args.files or sorted(CASES.glob("*.json")):
        start = time.perf_counter()
        result = run_case(path, args.x64)
        seconds = f" {time.perf_counter() - start:.1f} s" if args.time else ""
        print(f"{result}{seconds}", flush=True)
        passed = passed and result.status == "PASS"
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
