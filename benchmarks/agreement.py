"""Do runs agree whatever the devices? One device, eight, two processes of four, with and without FSDP.

    python benchmarks/agreement.py --workdir runs/agreement             # a quarter of an hour on two cores
    python benchmarks/agreement.py --workdir runs/agreement --methods exits --accumulate 1

Each form is a run of `main.py` with the same config, clips and `model.bn_groups`, on virtual devices of a
CPU: `:tiny` of ResKD, early exits and gated convolutions, 50 steps of 16 clips. Printed is the distance of
the loss from that of one device, |loss - loss_1| / |loss_1|: of the first step, the last, and the largest.
Afterwards the network with exits is evaluated in one process and in two, with everything computed and with
videos that really stop; scores, exits and metrics are compared row by row.

Sums are taken in another order on other devices, and every step makes the difference of the last digits of
float32 larger, by more the larger the learning rate is. How much larger without any other device is measured
beside them: one device once more, its programs compiled without optimisations, so that nothing differs but
rounding. The tolerance is for that, not for other examples or statistics, which show in the first step. Exit
code 1 if the first loss is further away than `FIRST`, a later one further than `TOLERANCE` and than `ROOM`
times what rounding alone makes, or an evaluation is another one.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import numpy as np
import tabulate

STEPS, BATCH, GROUPS = 50, 16, 4
RATE = 0.002  # as large as keeps rounding from growing without end: `:tiny` has 0.05
FIRST, TOLERANCE, ROOM = 1e-5, 2e-2, 2.0  # of the first step's loss, and of every step's; float32
CONTROL = "1 device, other rounding"
FORMS = {  # name: processes, devices of each, fsdp
    "1 device": (1, 1, 1), CONTROL: (1, 1, 1), "8 devices": (1, 8, 1), "8 devices, fsdp 4": (1, 8, 4),
    "2 x 4 devices": (2, 4, 1), "2 x 4 devices, fsdp 8": (2, 4, 8)}
METHODS = {"reskd": "reskd_minik.py:tiny", "exits": "dynamic_k400.py:tiny", "gates": "va_red2_minik.py:tiny"}
_DEVICES = "--xla_force_host_platform_device_count"


def start(args, processes: int, devices: int, log: str, more=()) -> list[subprocess.Popen]:
    """`main.py` with so many processes and virtual devices of each; what they say goes to `log`.

    `more`: pairs to put into the environment.
    """
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_DEVICES)]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([*flags, f"{_DEVICES}={devices}"])}
    env |= dict(more)
    if processes > 1:
        with socket.socket() as s:
            s.bind(("localhost", 0))
            address = f"localhost:{s.getsockname()[1]}"
        args = [*args, "--multihost"]
        env |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}
    found = []
    for i in range(processes):
        with open(f"{log}.{i}", "w") as out:
            found.append(subprocess.Popen([sys.executable, os.path.join(ROOT, "main.py"), *args], cwd=ROOT,
                                          env=env | {"JAX_PROCESS_ID": str(i)}, stdout=out, stderr=out))
    return found


def run(args, processes: int, devices: int, log: str, more=()) -> None:
    """The same, to its end; raises RuntimeError with the last lines of a process that fails."""
    started = start(args, processes, devices, log, more)
    codes = [process.wait() for process in started]
    for i, code in enumerate(codes):
        if code:
            with open(f"{log}.{i}", errors="replace") as f:
                raise RuntimeError(f"process {i} of {log}: exit code {code}: {f.read()[-2000:]}")


def losses(workdir: str) -> np.ndarray:
    """The loss of every step in the history of a run."""
    with open(os.path.join(workdir, "metrics.jsonl")) as f:
        rows = [json.loads(line) for line in f]
    return np.array([row["train/loss"] for row in rows if "train/loss" in row])


class Comparison:
    """Runs below a folder; those that are finished there are not made again.

    Args:
        workdir: the folder.
        steps: of every run.
    """

    def __init__(self, workdir: str, steps: int):
        self.workdir, self.steps = os.path.abspath(workdir), steps
        self.root = os.path.join(self.workdir, "benchmark")
        os.makedirs(self.workdir, exist_ok=True)

    def _made(self, name: str, args, processes: int = 1, devices: int = 1, more=()) -> str:
        folder = os.path.join(self.workdir, name)
        if not os.path.exists(os.path.join(folder, "metrics.json")):
            log = os.path.join(self.workdir, f"{name}.log")
            run([*args, f"--workdir={folder}"], processes, devices, log, more)
        return folder

    def _common(self, method: str, steps: int) -> list[str]:
        return [f"--config=configs/{METHODS[method]}", f"--config.data.root={self.root}", "--config.run=",
                f"--config.train.num_steps={steps}", "--config.train.log_every_steps=1",
                f"--config.data.batch_size={BATCH}", f"--config.data.eval_batch_size={BATCH}",
                f"--config.model.bn_groups={GROUPS}", f"--config.optim.lr={RATE}",
                "--config.train.checkpoint_every_steps=1000"]

    def teacher(self) -> str:
        """The workdir of ResKD's teacher."""
        args = [arg for arg in self._common("reskd", 20) if not arg.startswith("--config.run")]
        folder = self._made("teacher", [*args, "--config.run=teacher"], devices=1)
        return os.path.join(folder, "teacher")

    def trained(self, method: str, accumulate: int, form: str) -> str:
        """The workdir of a run."""
        processes, devices, fsdp = FORMS[form]
        args = [*self._common(method, self.steps), f"--config.optim.accumulate={accumulate}",
                f"--config.train.fsdp={fsdp}"]
        if method == "reskd":
            args += [f"--config.method.teacher={self.teacher()}",
                     f"--config.method.teacher_clips={BATCH // GROUPS}"]
        name = "_".join([method, str(accumulate), *map(str, FORMS[form])])
        if form != CONTROL:
            return self._made(name, args, processes, devices)
        return self._made(f"{name}_control", args, more={"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}.items())

    def evaluated(self, workdir: str, executor: str, processes: int) -> tuple[dict, dict]:
        """(metrics, rows) of `--mode=eval` of the training clips."""
        args = ["--mode=eval", "--split=train", f"--workdir={workdir}",
                f"--config.method.executor={executor}"]
        run(args, processes, 2 // processes, os.path.join(self.workdir, f"eval_{executor}_{processes}.log"))
        what = "" if executor == "simulate" else f"_executor-{executor}"
        with open(os.path.join(workdir, f"eval_train{what}.json")) as f:
            metrics = json.load(f)
        with np.load(os.path.join(workdir, f"predictions_train{what}.npz")) as rows:
            return metrics, dict(rows)


def compare_rows(one, two) -> tuple[bool, float]:
    """(whether everything but scores is equal, the largest difference of a score)."""
    (metrics, rows), (others, other_rows) = one, two
    equal = metrics == others and rows.keys() == other_rows.keys() and all(
        np.array_equal(rows[name], other_rows[name]) for name in rows
        if name in ("id", "name", "label", "gmacs", "exit"))
    return equal, float(np.abs(rows["scores"] - other_rows["scores"]).max())


def main(argv=None) -> int:
    """Makes the runs that are missing, prints the table; 1 if something does not agree."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="folder for the runs")
    parser.add_argument("--methods", default=",".join(METHODS), help="of " + ", ".join(METHODS))
    parser.add_argument("--accumulate", default="1,2", help="values of optim.accumulate")
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args(argv)
    runs, table, good = Comparison(args.workdir, args.steps), [], True
    for method in args.methods.split(","):
        for accumulate in map(int, args.accumulate.split(",")):
            first, limit = losses(runs.trained(method, accumulate, "1 device")), TOLERANCE
            for form in FORMS:
                found = losses(runs.trained(method, accumulate, form))
                distance = np.abs(found - first) / np.abs(first)
                table.append((method, accumulate, form, f"{distance[0]:.1e}", f"{distance[-1]:.1e}",
                              f"{distance.max():.1e}", f"{found[-1]:.5f}"))
                if form == CONTROL:
                    limit = max(TOLERANCE, ROOM * float(distance.max()))
                good &= len(found) == len(first) == args.steps and distance.max() <= limit
                good &= distance[0] <= FIRST
                print(*table[-1], flush=True)
    print(tabulate.tabulate(table, ("method", "accumulate", "form", "step 1", f"step {args.steps}", "largest",
                                    "last loss")))
    if "exits" in args.methods:
        workdir = runs.trained("exits", int(args.accumulate.split(",")[0]), "1 device")
        for executor in ("simulate", "compact", "pool"):
            equal, distance = compare_rows(*(runs.evaluated(workdir, executor, n) for n in (1, 2)))
            print(f"evaluation with {executor} in two processes: names, labels, exits, cost and metrics "
                  f"{'equal' if equal else 'NOT EQUAL'}, scores within {distance:.1e}")
            good &= equal and distance < 1e-5
    print("all agree" if good else "NOT all agree")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
