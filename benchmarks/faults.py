"""A fault campaign: runs that are killed and interrupted at random moments end as if nothing had happened.

    python benchmarks/faults.py --workdir runs/faults --faults 60     # again: goes on where it was stopped
    python benchmarks/faults.py --workdir runs/faults --only two      # rows of two processes only
    python benchmarks/faults.py --workdir runs/faults --collect       # the table of what is done

A row is a run of `:tiny` size in a workdir of its own, as a user starts it, with up to three faults: SIGKILL,
SIGTERM, SIGINT, or two signals one after the other, at a moment drawn from a seed: imports, reading data,
compiling, steps, while a checkpoint is being written, evaluation in training, evaluation after it and report,
or in `--mode=eval`. After every fault the same command is started again, until it finishes. Then

    different    an array of the last checkpoint has another CRC-32 than that of an undisturbed run, or the
                 metrics, the history (but for its times), the predictions or the config differ
    lost         a command went on before the last save, or before the step a stopped one said it had saved;
                 or of two processes that one signal stops each says another step
    hung         a process did not end by itself within --limit seconds
    left over    files that an undisturbed run does not have, or processes that are alive

Of two processes (jax.distributed on the CPU) one or both are hit. In training both must end by themselves,
whatever happened to one of them; before it, where one cannot know of the other, the campaign ends the other
one after some seconds, as a cluster does.

Rows are drawn one by one from --seed, so that a campaign can be stopped and goes on; each is a line of
`faults.jsonl` in --workdir.
"""

from __future__ import annotations

import argparse
import collections
import csv
import dataclasses
import fnmatch
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import tabulate

from effvid_jax import console, recovery, stored
from effvid_jax.reports import results

FILE = "faults.jsonl"
STEPS, EVERY = 12, 3  # of a run, between two saves; an epoch has 6
CONFIGS = {
    "plain": ("supervised_minik.py:tiny", ("--config.model.dropout=0.5", "--config.model.bn_groups=2")),
    "exits": ("dynamic_k400.py:tiny", ()),  # saves its last state twice: with calibrated statistics
    "fsdp": ("supervised_minik.py:tiny", ("--config.model.dropout=0.5", "--config.model.bn_groups=2",
                                          "--config.train.fsdp=2"))}  # no process has a whole state
MOMENTS = ("imports", "data", "compile", "steps", "steps", *("save",) * 3, "evaluation", "end", "end")
KILL, TERM, INT = (int(s) for s in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
SIGNALS = (*((KILL,),) * 3, (TERM,), (TERM,), (INT,), (INT,), (TERM, TERM), (INT, INT), (INT, TERM))
GRACE = 10.0  # seconds in which the others may end by themselves when a process was killed
_TIMES = re.compile("seconds|wait_share|per_second|time")  # columns of the history that no two runs share
_DEVICES = "--xla_force_host_platform_device_count"
_MARK = "EFFVID_FAULTS"  # in the environment of all processes of a row, workers included


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        moment: of `MOMENTS`, or 'eval' for a command that evaluates.
        signals: that are sent one after the other.
        nth: which step, or which save of this command.
        delay: seconds after the moment is seen.
        gap: seconds between two signals.
        hit: processes that get it.
    """

    moment: str
    signals: tuple[int, ...] = (KILL,)
    nth: int = 1
    delay: float = 0.0
    gap: float = 0.1
    hit: tuple[int, ...] = (0,)

    def told(self) -> str:
        """'SIGTERM+SIGTERM in save 2 (+0.03 s)'."""
        names = "+".join(signal.Signals(s).name for s in self.signals)
        return f"{names} to {','.join(map(str, self.hit))} in {self.moment} {self.nth} (+{self.delay:.2f} s)"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A row: what runs, and the faults it meets one after the other."""

    config: str
    processes: int
    workers: int
    faults: tuple[Fault, ...]
    evaluates: bool = False  # `--mode=eval` of a finished run, not training


def draw(seed: int, row: int, only: str = "") -> Plan:
    """The plan of a row, a function of its number.

    Args:
        seed: of the campaign.
        row: number.
        only: 'one' or 'two' processes; '' for both.
    """
    r = random.Random(f"{seed} {row}")
    processes = {"one": 1, "two": 2}.get(only, r.choice((1, 1, 2)))
    evaluates = r.random() < 0.1
    if processes == 1:
        config = "exits" if r.random() < 0.15 else "plain"
    else:
        config = r.choice(("plain", "fsdp", "exits"))
    workers = int(processes == 1 and not evaluates and r.random() < 0.25)
    faults = []
    for _ in range(r.randint(1, 3)):
        moment = "eval" if evaluates else r.choice(MOMENTS)
        length = {"imports": 3.0, "data": 0.5, "compile": 1.0, "eval": 5.0, "end": 1.0, "evaluation": 0.3}
        hit = r.choice(((0,), (1,), (0, 1))) if processes == 2 else (0,)
        faults.append(Fault(
            moment, r.choice(SIGNALS), hit=hit, gap=r.uniform(0.0, 0.3),
            nth=r.randint(1, STEPS - 1) if moment == "steps" else r.randint(1, 4 if moment == "save" else 1),
            delay=r.uniform(0.0, length.get(moment, 0.05))))
    return Plan(config, processes, workers, tuple(faults), evaluates)


class Command:
    """A command as a user starts it, on every process; ends with the block.

    Args:
        args: of `main.py`.
        workdir: of the run.
        logs: folder for what the processes say.
        processes: number of them.
        mark: finds what they start.
    """

    def __init__(self, args, workdir: str, logs: str, processes: int = 1, mark: str = ""):
        self.workdir, self._logs = workdir, logs
        self._seen: set[str] = set(self._unfinished())
        self._saves = 0
        os.makedirs(logs, exist_ok=True)
        flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_DEVICES)]
        flags.append(f"{_DEVICES}={2 if processes == 1 else 1}")
        env = os.environ | {"JAX_PLATFORMS": "cpu", _MARK: mark, "XLA_FLAGS": " ".join(flags)}
        if processes > 1:
            args = [*args, "--multihost"]
            env |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{_free_port()}",
                    "JAX_NUM_PROCESSES": str(processes)}
        self.processes = []
        for i in range(processes):
            with open(self._log(i, "out"), "w") as out, open(self._log(i, "err"), "w") as err:
                self.processes.append(subprocess.Popen(
                    [sys.executable, os.path.join(ROOT, "main.py"), *args, f"--workdir={workdir}"],
                    stdout=out, stderr=err, cwd=ROOT, env=env | {"JAX_PROCESS_ID": str(i)}))

    def _log(self, i: int, name: str) -> str:
        return os.path.join(self._logs, f"{i}.{name}")

    def said(self, i: int = 0, name: str = "err") -> str:
        """What a process has said so far."""
        with open(self._log(i, name), errors="replace") as f:
            return f.read()

    def at(self, fault: Fault) -> bool:
        """Whether the moment of a fault has come; to be asked every few milliseconds."""
        if fault.moment in ("imports", "eval"):
            return True
        if fault.moment == "save":
            new = set(self._unfinished()) - self._seen
            self._seen |= new
            self._saves += len(new)
            return self._saves >= fault.nth
        said = self.said()
        if fault.moment == "data":
            return "tiny: " in said
        if fault.moment == "steps":  # the log of an earlier command is cut by then
            return "writes to " in said and self.logged() >= fault.nth
        text, times = {"compile": ("writes to ", 1), "evaluation": ("eval val", 1),
                       "end": ("eval val", 1 if "continuing" in said else 2)}[fault.moment]
        return len(re.findall(f"{text}.*? 0%" if "eval" in text else text, said)) >= times

    def _unfinished(self) -> list[str]:
        """Checkpoints that are being written."""
        folder = os.path.join(self.workdir, "checkpoints")
        return [os.path.join(place, name) for place in (folder, os.path.join(folder, "replacement"))
                if os.path.isdir(place) for name in os.listdir(place) if ".orbax-checkpoint-tmp" in name]

    def logged(self) -> int:
        """The last step in the history."""
        return steps_logged(self.workdir)

    def running(self) -> list[int]:
        """Numbers of the processes that run."""
        return [i for i, p in enumerate(self.processes) if p.poll() is None]

    def send(self, fault: Fault) -> None:
        """Sends the signals of a fault."""
        for k, number in enumerate(fault.signals):
            if k:
                time.sleep(fault.gap)
            for i in set(fault.hit) & set(self.running()):
                self.processes[i].send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Whether all processes end within some seconds, or one that fails leaves others behind."""
        end = time.monotonic() + seconds
        while self.running() and time.monotonic() < end:
            time.sleep(0.01)
        return not self.running()

    def codes(self) -> list[int | None]:
        """Exit codes."""
        return [p.poll() for p in self.processes]

    def kill(self) -> None:
        """Ends what is left."""
        for p in self.processes:
            if p.poll() is None:
                p.kill()
            p.wait()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.kill()


def steps_logged(workdir: str) -> int:
    """The last step in the history of a run; -1 if there is none."""
    path = os.path.join(workdir, "metrics.jsonl")
    if not os.path.exists(path):
        return -1
    with open(path) as f:
        return max([json.loads(line)["step"] for line in f if line.endswith("}\n")], default=-1)


def flags(plan: Plan, root: str) -> list[str]:
    """Arguments of `main.py` of a plan, but for the workdir."""
    if plan.evaluates:  # videos really stop: each process has an executor of its own
        return ["--mode=eval", *(["--config.method.executor=pool"] if plan.config == "exits" else [])]
    config, more = CONFIGS[plan.config]
    return [f"--config=configs/{config}", f"--config.data.root={root}", f"--config.train.num_steps={STEPS}",
            f"--config.train.checkpoint_every_steps={EVERY}", "--config.train.log_every_steps=1",
            "--config.train.eval_every_epochs=1", f"--config.data.num_workers={plan.workers}", *more]


def disturb(plan: Plan, workdir: str, logs: str, args, limit: float = 180.0, mark: str = "faults") -> dict:
    """Runs a plan until its command finishes.

    Args:
        plan: with its faults.
        workdir: of the run.
        logs: folder for what the commands say.
        args: of `main.py`, see `flags`.
        limit: seconds after which a process that should end is hung.
        mark: finds the processes of this row.

    Returns:
        `faults` that were sent, `missed` ones (the command was faster), `lost`, `hung`, `alive` and
        `tracebacks`: lists of texts.
    """
    row = {name: [] for name in ("faults", "missed", "lost", "hung", "alive", "tracebacks")}
    promised, finished = -1, False  # the step that the next command must not go on before
    for number, fault in enumerate([*plan.faults, None]):
        finished = False
        with Command(args, workdir, os.path.join(logs, str(number)), plan.processes, mark) as command:
            sent = fault is not None and _strike(command, fault, limit)
            if fault is not None:
                row["faults" if sent else "missed"].append(fault.told())
            told = sent and _tells_the_others(command, fault)
            if not sent or told or plan.processes == 1:
                ended = command.wait(limit)
            else:
                ended = command.wait(GRACE) or plan.processes > len(command.running())
            if not ended:
                row["hung"].append(f"{fault and fault.told()}: {command.running()} did not end")
            said = command.said()
            if told and plan.processes > 1 and len(places := _stopped_at(command)) > 1:
                row["lost"].append(f"{fault.told()}: the processes stopped at different places: {places}")
            command.kill()
            finished = command.codes() == [0] * plan.processes
            wrong = [f"{_last(command.said(i))} (exit code {code})" for i, code in enumerate(command.codes())
                     if "Traceback" in _of_ours(command.said(i), code)
                     and (not fault or plan.processes == 1)]
            row["tracebacks"] += [f"{fault.told() if sent else 'undisturbed'}: {text}" for text in wrong]
            if not sent and not finished:
                row["lost"].append(f"the command failed by itself: {_last(said)}")
        if (begun := _began_at(said)) is not None and begun < promised and not plan.evaluates:
            row["lost"].append(f"went on at step {begun}, {promised} was saved")
        if sent and not plan.evaluates:
            promised = max(promised, _promised(workdir, said))
        row["alive"] += _alive(mark)
    return row


def _stopped_at(command: Command) -> set[str]:
    """What the processes that were stopped by one signal say of it: the same step, saved on all of them."""
    found = {match[0] if (match := re.search("after step .* is saved", command.said(i))) else ""
             for i in range(len(command.processes))}
    return found if any(found) and command.codes() != [0] * len(command.processes) else set()


def _strike(command: Command, fault: Fault, limit: float) -> bool:
    """Sends a fault at its moment; False if the command ended before."""
    end = time.monotonic() + limit
    while not command.at(fault):
        if len(command.running()) < len(command.processes) or time.monotonic() > end:
            return False
        time.sleep(0.002)
    time.sleep(fault.delay)
    if not set(fault.hit) & set(command.running()):
        return False
    command.send(fault)
    return True


def _tells_the_others(command: Command, fault: Fault) -> bool:
    """Whether the others hear of a fault: in a run that has begun, or where all are hit by one signal."""
    alone = len(fault.signals) > 1 or fault.signals[0] == KILL or len(fault.hit) < len(command.processes)
    return "writes to " in command.said() or not alone


def _began_at(said: str) -> int | None:
    """The step that a command went on from, by what it said; None if it did not come so far."""
    if "writes to " not in said:
        return None
    match = re.search(r"continuing .* at step (\d+) of", said)
    return int(match[1]) if match else 0


def _promised(workdir: str, said: str) -> int:
    """The step that cannot be lost any more, after a fault.

    Saves are written while the run goes on, each is finished before the next one begins: so the one before
    the last that was due is there, whatever happens, and what a stopped run says that it has saved.
    """
    due = ((steps_logged(workdir) - 1) // EVERY - 1) * EVERY
    whole = recovery.steps_in(os.path.join(workdir, "checkpoints"))
    stopped = re.search(r"after step (\d+) of \d+; the state is saved", said)
    return max([due, *whole, int(stopped[1]) if stopped else -1])


def _alive(mark: str, patience: float = 20.0) -> list[str]:
    """Processes of a row that are still there, after some seconds."""
    end = time.monotonic() + patience
    while (found := _marked(mark)) and time.monotonic() < end:
        time.sleep(0.1)
    for pid, _ in found:
        os.kill(pid, signal.SIGKILL)
    return [f"process {command}" for _, command in found]


def _marked(mark: str) -> list[tuple[int, str]]:
    """(number, command) of running processes with a mark in their environment."""
    wanted, found = f"{_MARK}={mark}".encode(), []
    for pid in filter(str.isdecimal, os.listdir("/proc") if os.path.isdir("/proc") else []):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                if wanted not in f.read().split(b"\0"):
                    continue
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                command = f.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # it has ended
            continue
        if command:
            found.append((int(pid), command[:200]))
    return found


def differences(workdir: str, reference: str, changed: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """(what differs from an undisturbed run, what is left over).

    Args:
        workdir: of a finished run.
        reference: workdir of one that was never disturbed.
        changed: fields of the config that may differ.
    """
    different = []
    mine, theirs = (os.path.join(folder, "checkpoints") for folder in (workdir, reference))
    step = recovery.steps_in(theirs)[-1]
    try:
        _, meta = stored.read(mine, step)  # looks at every array's CRC-32
        wanted = stored.read_meta(os.path.join(theirs, str(step)))["arrays"]
        different += [f"array {name}" for name in sorted({*wanted, *meta["arrays"]})
                      if wanted.get(name) != meta["arrays"].get(name)]
    except stored.CheckpointError as error:
        different.append(str(error))
    names = ("metrics.json", "classes.txt", "parameters.txt")
    for name in sorted({*names, *fnmatch.filter(os.listdir(reference), "*_val*.csv"),
                        *fnmatch.filter(os.listdir(reference), "eval_*.json")}):
        if _text(workdir, name) != _text(reference, name):
            different.append(name)
    if _history(workdir) != _history(reference):
        different.append("metrics.csv")
    if _config(workdir, changed) != _config(reference, changed):
        different.append("config.json")
    left = sorted(_files(workdir) - _files(reference))
    different += [f"{name} is missing" for name in sorted(_files(reference) - _files(workdir))]
    return different, left


def _text(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return ""
    with open(path) as f:
        return f.read()


def _history(workdir: str) -> list[dict]:
    return [{name: value for name, value in row.items() if not _TIMES.search(name) and value}
            for row in csv.DictReader(_text(workdir, "metrics.csv").splitlines())]


def _config(workdir: str, changed) -> dict:
    config = json.loads(_text(workdir, "config.json") or "{}")
    for path in changed:
        group, _, name = path.rpartition(".")
        config.get(group, {}).pop(name, None)
    return config


def _files(workdir: str) -> set[str]:
    """Names of what is there. Which step is kept beside the last depends on when a run was stopped."""
    folder = os.path.join(workdir, "checkpoints")
    steps = recovery.steps_in(folder)
    others = {f"checkpoints/{name}" for name in os.listdir(folder) if name not in map(str, steps)}
    return {*os.listdir(workdir), *others, f"{len(steps)} checkpoints, the last of step {steps[-1]}"}


# What Python says in a process that was being started when SIGKILL took the one that started it: its state
# ends in the middle. Nothing of this project runs in it yet, or could say anything better.
_ORPHAN = re.compile(
    r"Traceback \(most recent call last\):\n(?:  .*\n)*?  File \".*multiprocessing.spawn\.py\".*\n"
    r"    \w+ = reduction\.pickle\.load\(from_parent\)\n(?:    [ ^~]*\n)?EOFError: Ran out of input\n")


def _of_ours(said: str, code: int | None) -> str:
    """What a process said, without the last words of workers that it was starting when it was killed."""
    return _ORPHAN.sub("", said) if code == -signal.SIGKILL else said


def _last(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


# ------------------------------------------------------------------------------------------ the campaign
class Campaign:
    """Rows of a workdir, those that are done and new ones."""

    def __init__(self, workdir: str, seed: int, limit: float, only: str):
        self.workdir, self._seed, self._limit, self._only = os.path.abspath(workdir), seed, limit, only
        self._path = os.path.join(self.workdir, FILE)
        os.makedirs(self.workdir, exist_ok=True)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(self.workdir, "compiled"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

    def rows(self) -> list[dict]:
        """What is done with this seed and these processes, in order."""
        if not os.path.exists(self._path):
            return []
        with open(self._path) as f:
            rows = [json.loads(line) for line in f if line.endswith("}\n")]
        return [row for row in rows if (row["seed"], row["only"]) == (self._seed, self._only)]

    def reference(self, config: str, processes: int) -> str:
        """Workdir of an undisturbed run, which is made if it is not there.

        Raises:
            SystemExit: it does not finish.
        """
        name = f"undisturbed_{config}_{processes}"
        folder = os.path.join(self.workdir, name)
        if not os.path.exists(done := f"{folder}.done"):
            shutil.rmtree(folder, ignore_errors=True)
            print(f"an undisturbed run: {config}, {processes} processes", flush=True)
            plan = Plan(config, processes, 0, ())
            row = disturb(plan, folder, self._logs(name), flags(plan, self._root), self._limit, f"{folder}")
            if row["lost"] or row["hung"]:
                sys.exit(f"the undisturbed run does not finish: {row}")
            open(done, "w").close()
        return folder

    def evaluated(self, plan: Plan, reference: str) -> str:
        """A copy of an undisturbed run that is evaluated once more, undisturbed, as a plan does.

        Raises:
            SystemExit: it does not finish.
        """
        folder = f"{reference}_evaluated"
        if not os.path.exists(done := f"{folder}.done"):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(reference, folder)
            row = disturb(dataclasses.replace(plan, faults=()), folder, self._logs(os.path.basename(folder)),
                          flags(plan, self._root), self._limit, folder)
            if row["lost"] or row["hung"]:
                sys.exit(f"the undisturbed evaluation does not finish: {row}")
            open(done, "w").close()
        return folder

    @property
    def _root(self) -> str:
        return os.path.join(self.workdir, "benchmark")

    def _logs(self, name: str) -> str:
        return os.path.join(self.workdir, "logs", name)

    def run(self, number: int) -> dict:
        """One row, which is written when it is done."""
        plan, start = draw(self._seed, number, self._only), time.monotonic()
        reference = self.reference(plan.config, plan.processes)
        folder = os.path.join(self.workdir, f"row_{number}")
        shutil.rmtree(folder, ignore_errors=True)
        if plan.evaluates:
            shutil.copytree(reference, folder)
            reference = self.evaluated(plan, reference)
        row = disturb(plan, folder, self._logs(f"row_{number}"), flags(plan, self._root), self._limit,
                      f"{folder}")
        changed = ("data.num_workers",)
        row["different"], row["left over"] = differences(folder, reference, changed)
        row |= {"row": number, "seed": self._seed, "only": self._only, "config": plan.config,
                "processes": plan.processes, "workers": plan.workers, "evaluates": plan.evaluates,
                "seconds": round(time.monotonic() - start, 1)}
        with open(self._path, "a") as f:
            f.write(json.dumps(row) + "\n")
        if not _problems(row):
            shutil.rmtree(folder)
        return row


def _problems(row: dict) -> list[str]:
    return [f"{name}: {text}" for name in ("lost", "hung", "different", "left over", "alive")
            for text in row[name]]


def counts(rows) -> list[list]:
    """Lines of the table: of one process, of two, of evaluations, and all."""
    kinds = {"one process": lambda r: r["processes"] == 1 and not r["evaluates"],
             "two processes": lambda r: r["processes"] == 2 and not r["evaluates"],
             "evaluation": lambda r: r["evaluates"], "all": lambda r: True}
    lines = []
    for name, fits in kinds.items():
        some = [row for row in rows if fits(row)]
        sent = collections.Counter(
            fault.split(" ")[0] if "+" not in fault.split(" ")[0] else "two signals"
            for row in some for fault in row["faults"])
        lines.append([name, len(some), sum(sent.values()), sent["SIGKILL"], sent["SIGTERM"] + sent["SIGINT"],
                      sent["two signals"], *(sum(bool(row[what]) for row in some)
                                             for what in ("lost", "hung", "different")),
                      sum(bool(row["left over"] or row["alive"]) for row in some)])
    return lines


COLUMNS = ("runs", "faults", "SIGKILL", "one signal", "two signals", "lost", "hung", "different", "left over")


def main(argv=None) -> int:
    """The command; 1 if anything was lost, hung, different or left over."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", default="runs/faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=60, help="that are sent; runs go on until then")
    parser.add_argument("--only", choices=("one", "two"), default="", help="number of processes of a run")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds after which a process is hung")
    parser.add_argument("--collect", action="store_true", help="only report what is done")
    parser.add_argument("--results", default="", help="results.csv whose table 'faults' is replaced; "
                        "with --only 'faults_one' or 'faults_two'")
    args = parser.parse_args(argv)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a script's `command &`: the runs would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    campaign = Campaign(args.workdir, args.seed, args.limit, args.only)
    rows = campaign.rows()
    sent = sum(len(row["faults"]) for row in rows)
    if not args.collect and sent < args.faults:
        with console.bar(args.faults, "faults", "fault", sent) as bar:
            while sent < args.faults:
                row = campaign.run(len(rows))
                rows.append(row)
                sent += len(row["faults"])
                what = "; ".join([*row["faults"], *(f"missed {fault}" for fault in row["missed"])])
                found = "; ".join(_problems(row)) or "as undisturbed"
                console.say(f"row {row['row']}, {row['config']}, {row['processes']} processes, "
                            f"{row['workers']} workers, {row['seconds']:.0f} s: {what}: {found}")
                for text in row["tracebacks"]:
                    console.say(f"  traceback: {text}")
                bar.update(len(row["faults"]))
    lines = counts(rows)
    print(tabulate.tabulate(lines, ("", *COLUMNS)))
    print(f"tracebacks: {sum(len(row['tracebacks']) for row in rows)}; "
          f"{sum(row['seconds'] for row in rows) / 60:.1f} minutes")
    if args.results:
        table = f"faults_{args.only}" if args.only else "faults"
        command = (f"python benchmarks/faults.py --faults {args.faults} --seed {args.seed}"
                   + f" --only {args.only}" * bool(args.only))
        results.replace_rows(args.results, [
            results.make_row(f"{table}: {line[0]}: {column}", str(value), config="supervised_minik.py:tiny",
                             dataset="embedded benchmark (48 train, 16 val clips)",
                             command=command, seeds=[args.seed])
            for line in lines if line[1] for column, value in zip(COLUMNS, line[1:])],
            lambda row: row["what"].startswith(f"{table}: "))
    return int(any(_problems(row) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
