"""Hostile configs, videos and weight files: each is used or refused in a line; none runs, hangs or crashes.

    python benchmarks/hostile.py --workdir runs/hostile                         # everything, in two processes
    python benchmarks/hostile.py --workdir runs/hostile --parts weights --cases 50
    python benchmarks/hostile.py --workdir runs/hostile --collect               # the table of what is done

    configs    5,000 values in all fields of tiny configs, through what `main.py` calls; what is accepted
               trains a step (unless it is too large for a campaign)
    commands   100 command lines, each a `main.py` of its own
    videos     1,000 damaged, cut, forged videos, playlists and addresses through the reader of clips
    checks     the same files through `python -m data_pipelines.check_videos`, a hundred at a time
    training   the same files, twenty at a time among sound ones, in batches of training and of evaluation
    run        all of them among a hundred sound ones in one run of `main.py`: an epoch and an evaluation
    leaks      all of them three times through two readers: files, threads and memory that stay; and through
               a single `check_videos`
    weights    200 files through the import of weights: pickles that would run something, lies about sizes

A fault is a traceback, an error that is none of this program's, a message of several lines about a config, a
process that crashes or takes longer than --limit seconds, memory of more than --memory GiB for one case (of
the programs that cases start, the most so far), a connection to the local server that playlists and addresses
name, the file that a pickle would make if it ran, or open files, threads or memory that stay. Cases are drawn
from --seed and their number; each is a line of `hostile.jsonl` in --workdir, and the same command goes on
where it was stopped. What is at fault stays in `kept`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import tabulate

from benchmarks import hostile_configs, hostile_videos, hostile_weights

FILE = "hostile.jsonl"
PARTS = {"configs": 5000, "commands": 100, "videos": 1000, "checks": 10, "training": 50, "weights": 200,
         "run": 1, "leaks": 1}
SLOW = {"commands": 5.0, "checks": 5.0, "run": 30.0, "leaks": 30.0}  # times the limit of a case
FAULTS = ("traceback", "message", "crash", "hang", "memory", "connection", "execution", "leak")
_RENEWED = 200  # cases after which a process is replaced by a new one
_AT_ONCE = {"checks": 100, "training": 20, "run": 1000, "leaks": 1000}  # videos of a case
_LEAK = 48  # MiB that a pass over the videos may add: allocators keep some


class Accepted(Exception):
    """A config has passed all that is looked at before data is opened."""

    def __init__(self, config):
        super().__init__()
        self.config = config


class Cases:
    """The cases of one part, in a process of their own: `run(number)` -> (outcome, text).

    Args:
        part: of `PARTS`.
        seed: of the campaign.
        folder: for what cases write; the bases of videos are in it.
        port: of the local server.
    """

    def __init__(self, part: str, seed: int, folder: str, port: int):
        self._part, self._seed, self._folder, self._port = part, seed, folder, port
        self._benchmark = os.path.join(folder, "benchmark")
        self._scratch = os.path.join(folder, f"scratch_{os.getpid()}")
        os.makedirs(self._scratch, exist_ok=True)
        self.canary = os.path.join(self._scratch, "canary")
        if part == "videos" or part in _AT_ONCE:
            bases = os.path.join(folder, "bases")
            self._bases = sorted(os.path.join(bases, name) for name in os.listdir(bases))
        getattr(self, f"_begin_{part}", lambda: None)()

    def run(self, number: int) -> tuple[str, str]:
        """One case. Outcomes that are no fault: 'ran', 'refused', 'large', 'read', 'imported', 'checked'."""
        import data_pipelines
        from effvid_jax.errors import TrainingError, UserError

        shutil.rmtree(self._scratch, ignore_errors=True)
        os.makedirs(self._scratch)
        try:
            outcome, text = getattr(self, f"_{self._part}")(number)
        except (UserError, TrainingError, data_pipelines.DataError, data_pipelines.VideoError,
                OSError) as error:
            outcome, text = "refused", str(error)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{os.path.relpath(where.filename, ROOT)}:{where.lineno}"
            outcome, text = "traceback", f"{place}: {type(error).__name__}: {error}"
        if os.path.exists(self.canary):
            outcome = "execution"
        return outcome, text

    # configs

    def _begin_configs(self):
        from effvid_jax import cli, console, train
        from effvid_jax.start import bounds

        def accept(config, *args):
            raise Accepted(config)

        self._train, train.train = train.train, accept
        console.say = lambda text: None
        self._cli, self._bounds, self._fuzz = cli, bounds, hostile_configs.Fuzz(self._seed)
        self._done: dict[str, tuple[str, str]] = {}

    def _configs(self, number):
        import data_pipelines
        from effvid_jax.errors import UserError

        config, path, old, value = self._fuzz.case(number)
        hostile_configs.put(config, path, value)
        said = f"{path}={value!r:.100}"
        try:
            self._cli.train(config, os.path.join(self._scratch, "run"))
        except Accepted as accepted:
            outcome, text = self._one_step(accepted.config)
            return outcome, f"{said}: {text}" if text else said
        except (UserError, data_pipelines.DataError) as error:
            problem = hostile_configs.problem(path, value, str(error))
            return ("message", problem) if problem else ("refused", f"{said}: {error}")
        finally:
            hostile_configs.put(config, path, old)
        return "message", f"{said}: it was neither accepted nor refused"

    def _one_step(self, config):
        if why := hostile_configs.too_large(config):
            return "large", why
        config.data.root = config.data.root if config.data.source != "synthetic" else self._benchmark
        for field, value in (("num_steps", 1), ("min_reference_ratio", 0.0)):
            hostile_configs.put(config, f"train.{field}", value)  # whatever type a case has given them
        key = config.to_json_best_effort()
        if key not in self._done:
            import data_pipelines
            from effvid_jax.errors import TrainingError, UserError

            try:
                self._done[key] = "ran", ""
                self._train(config, os.path.join(self._scratch, "step"))
            except (UserError, TrainingError, data_pipelines.DataError) as error:
                self._done[key] = "refused", f"when it trained: {error}"
            except Exception:
                del self._done[key]
                raise
        return self._done[key]

    # commands

    def _commands(self, number):
        args = hostile_configs.command(self._seed, number)
        if not any("workdir" in arg for arg in args):
            args.append(f"--workdir={self._scratch}/run")
        env = os.environ | {"EFFVID_TRACEBACK": ""}
        done = subprocess.run([sys.executable, os.path.join(ROOT, "main.py"), *args], cwd=ROOT, env=env,
                              capture_output=True, text=True, errors="replace", check=False,
                              stdin=subprocess.DEVNULL)
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        said = f"{args}: {done.returncode}: {lines[-1] if lines else done.stderr[-300:]}"
        if "Traceback" in done.stderr:
            return "traceback", said
        if done.returncode < 0:
            return "crash", said
        if bool(done.returncode) == bool(done.stdout.strip()):
            return "message", f"{said}: a result with an error, or neither"
        return ("refused" if done.returncode else "ran"), said

    # videos

    def _begin_videos(self):
        import data_pipelines
        from tests.data.clip_files import data_config

        self._readers = [data_pipelines.ClipReader(data_config(**changes)) for changes in (
            {}, {"sampling": "dense", "frame_interval": 2, "test_clips": 3, "num_frames": 8})]

    def _videos(self, number):
        if number % 20 == 19:
            path, kind = hostile_videos.name(number // 20, self._port), "address"
        else:
            path, kind = hostile_videos.write(self._seed, number, self._bases, self._scratch, self._port)
        views = self._readers[number % 2].views(path)
        good = hostile_videos.good_frames(views)
        return ("read", kind) if good else ("message", f"{kind}: {views.dtype} {views.shape}")

    def _checks(self, number):
        return self._checked(self._some_videos("checks", number, os.path.join(self._scratch, "videos")))

    def _checked(self, folder):
        done = subprocess.run([sys.executable, "-m", "data_pipelines.check_videos", folder, "--out",
                               os.path.join(self._scratch, "broken.txt")], cwd=ROOT, capture_output=True,
                              text=True, errors="replace", check=False)
        last = (done.stdout.strip().splitlines() or ["nothing"])[-1]
        if "Traceback" in done.stderr or done.returncode not in (0, 1) or "clips are broken" not in last:
            return "traceback", f"{done.returncode}: {done.stderr[-500:]}"
        return "checked", last

    def _training(self, number):
        import data_pipelines
        from tests.data.clip_files import data_config

        folder = self._some_videos("training", number, os.path.join(self._scratch, "videos", "hostile"))
        os.makedirs(sound := os.path.join(self._scratch, "videos", "sound"))
        for base in self._bases:
            shutil.copy(base, sound)
        root, clips = os.path.dirname(folder), 0
        config = data_config(root=root, max_broken_share=1.0, batch_size=4, eval_batch_size=4, val_share=0.3,
                             split_seed=number)
        for split in ("train", "val"):
            with data_pipelines.make_pipeline(config, split) as batches:
                steps = batches.num_steps or 2 * batches.steps_per_epoch
                for _, batch in zip(range(steps), batches):
                    clips += int(batch["mask"].sum())
        return "read", f"{clips} clips"

    def _run(self, number):
        folder = self._some_videos("run", number, os.path.join(self._scratch, "videos", "hostile"))
        for k in range(10):  # a hundred sound ones
            os.makedirs(sound := os.path.join(self._scratch, "videos", "sound", str(k)))
            for base in self._bases:
                shutil.copy(base, sound)
        done = subprocess.run(
            [sys.executable, "main.py", "--config=configs/supervised_minik.py:tiny", "--workdir",
             os.path.join(self._scratch, "run"), "--config.data.source=folder", "--config.data.root",
             os.path.dirname(folder), "--config.data.max_broken_share=1.0", "--config.train.num_steps=0",
             "--config.train.num_epochs=1.0"], cwd=ROOT, capture_output=True, text=True, errors="replace",
            check=False)
        if done.returncode or "Traceback" in done.stderr:
            return "traceback", f"{done.returncode}: {done.stderr[-500:]}"
        metrics = json.loads(done.stdout.strip().splitlines()[-1])
        return "ran", f"{metrics['step']} steps, {metrics['val/examples']} videos evaluated"

    def _leaks(self, number):
        self._begin_videos()
        folder = self._some_videos("leaks", number, os.path.join(self._scratch, "videos"))
        paths = sorted(os.path.join(folder, name) for name in os.listdir(folder))
        found = hostile_videos.left_behind(paths, [reader.views for reader in self._readers])
        outcome, text = self._checked(folder)
        if found[0] > 0 or found[1] > 0 or found[2] > _LEAK:
            outcome = "leak"
        return outcome, "{} open files, {} threads, {:.0f} MiB more; ".format(*found) + text

    def _some_videos(self, part, number, folder):
        os.makedirs(folder)
        for k in range(number * _AT_ONCE[part], (number + 1) * _AT_ONCE[part]):
            hostile_videos.write(self._seed, k, self._bases, folder, self._port)
        return folder

    # weights

    def _weights(self, number):
        from effvid_jax.torch_import import conversion

        path, kind = hostile_weights.write(self._seed, number, self._scratch, self.canary)
        with open(os.path.join(self._scratch, "said"), "w+", errors="replace") as said:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                code = conversion.main([
                    "--backbone", "resnet50", "--options", '{"stage_sizes": [1, 1], "width": 2}',
                    "--checkpoint", path, "--resolution", "32", "--out", os.path.join(self._scratch, "out")])
            said.seek(0)
            text = said.read()
        if code and (not text.startswith("error: ") or max(map(len, text.splitlines())) > 3000):
            return "message", f"{kind}: {text[:300]}"
        return ("refused" if code else "imported"), f"{kind}: {text[:300]}"


def serve(pipe, part: str, seed: int, folder: str, port: int) -> None:
    """The loop of a process that runs cases: a number comes in, (outcome, text, GiB) goes out."""
    with open(os.path.join(folder, f"said_{part}_{os.getpid()}.txt"), "w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    cases = Cases(part, seed, folder, port)
    pipe.send(("ready", cases.canary, 0.0))
    while (number := pipe.recv()) is not None:
        before = _reset_peak()
        outcome, text = cases.run(number)
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        pipe.send((outcome, text, max(0.0, children, _memory("VmHWM") - before)))


def _memory(name: str) -> float:
    """GiB of this process: 'VmRSS' now, 'VmHWM' at most; 0 where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/self/status") as f:
        return int(re.search(rf"{name}:\s+(\d+) kB", f.read())[1]) / 2**20
    return 0.0


def _reset_peak() -> float:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as f:
        f.write("5")
    return _memory("VmRSS")


class Worker:
    """A process that runs cases of a part, and is ended when it takes too long."""

    def __init__(self, *what):
        self._what = what
        self._start()

    def _start(self):
        self._count = 0
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, *self._what), daemon=False)
        self._process.start()
        other.close()
        self.canary = self._receive(600.0)[1]

    def run(self, number: int, limit: float) -> tuple[str, str, float]:
        """(outcome, text, GiB) of a case."""
        if self._count == _RENEWED:  # jax keeps every program that it has compiled
            self.close()
            self._start()
        self._count += 1
        self._pipe.send(number)
        try:
            return self._receive(limit)
        except TimeoutError:
            outcome = "hang", f"more than {limit:.0f} s", 0.0
        except EOFError:
            self._process.join()
            outcome = "crash", f"exit code {self._process.exitcode}", 0.0
        self._process.kill()
        self._process.join()
        self._start()
        return outcome

    def _receive(self, limit):
        if not self._pipe.poll(limit):
            raise TimeoutError
        return self._pipe.recv()

    def close(self):
        """Ends the process."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(10)
        self._process.kill()


class Server:
    """Counts who connects to it; playlists and addresses name it, so nobody should."""

    def __init__(self):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port, self.count = self._socket.getsockname()[1], 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            connection, _ = self._socket.accept()
            self.count += 1
            connection.close()


def campaign(workdir: str, seed: int, parts: dict[str, int], limit: float, memory: float, processes: int = 2,
             bar=None) -> list[dict]:
    """Runs what is missing; returns all rows.

    Args:
        workdir: gets `hostile.jsonl`.
        seed: of the cases.
        parts: number of cases by part.
        limit: seconds of a case.
        memory: GiB of a case.
        processes: that run cases at the same time.
        bar: progress, by part.
    """
    os.makedirs(workdir, exist_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(workdir, "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # nothing here is fast or slow
    if not os.path.exists(os.path.join(workdir, "bases")):
        hostile_videos.write_bases(os.path.join(workdir, "bases"))
    rows, server, lock = read(workdir, seed), Server(), threading.Lock()
    done = {(row["part"], row["case"]) for row in rows}
    for part, count in parts.items():
        left = [n for n in range(count) if (part, n) not in done]
        numbers = iter(left)
        with bar(count, part, count - len(left)) if bar else contextlib.nullcontext() as shown:

            def work(part=part, numbers=numbers, shown=shown):
                worker = None
                while True:
                    with lock:
                        number = next(numbers, None)
                    if number is None:
                        break
                    worker = worker or Worker(part, seed, workdir, server.port)
                    connections, start = server.count, time.monotonic()
                    outcome, text, gib = worker.run(number, limit * SLOW.get(part, 1.0))
                    if gib > memory:
                        outcome, text = "memory", f"{gib:.1f} GiB: {text}"
                    if server.count > connections:
                        outcome, text = "connection", text
                    row = {"part": part, "case": number, "seed": seed, "outcome": outcome,
                           "text": text[:1000],
                           "gib": round(gib, 3), "seconds": round(time.monotonic() - start, 2)}
                    with lock:
                        rows.append(row)
                        with open(os.path.join(workdir, FILE), "a") as f:
                            f.write(json.dumps(row) + "\n")
                        if shown is not None:
                            shown.update()
                if worker is not None:
                    worker.close()

            threads = [threading.Thread(target=work) for _ in range(processes)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    for name in os.listdir(workdir):
        if name.startswith("scratch_"):
            shutil.rmtree(os.path.join(workdir, name), ignore_errors=True)
    return rows


def read(workdir: str, seed: int) -> list[dict]:
    """Rows of cases that are done."""
    path = os.path.join(workdir, FILE)
    if not os.path.exists(path):
        return []
    with open(path) as f:
        rows = [json.loads(line) for line in f if line.endswith("}\n")]
    return [row for row in rows if row["seed"] == seed]


def table(rows) -> list[list]:
    """Lines of the table: a part each."""
    lines = []
    for part in PARTS:
        some = [row for row in rows if row["part"] == part]
        if some:
            count = collections.Counter(row["outcome"] for row in some)
            used = sum(count[name] for name in ("ran", "read", "imported", "checked"))
            lines.append([part, len(some), used, count["refused"], count["large"],
                          *(count[name] for name in FAULTS), f"{max(row['gib'] for row in some):.2f}",
                          f"{max(row['seconds'] for row in some):.1f}"])
    return lines


COLUMNS = ("cases", "used", "refused", "too large to run", *FAULTS, "most memory (GiB)", "longest (s)")


def main(argv=None) -> int:
    """The command; 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", default="runs/hostile")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", default=",".join(PARTS), help="of configs, commands, videos, ...")
    parser.add_argument("--cases", type=int, default=0, help="of each part; 0: as many as it has")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of a case")
    parser.add_argument("--memory", type=float, default=1.5, help="GiB of a case")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--collect", action="store_true", help="only report what is done")
    parser.add_argument("--results", default="", help="results.csv whose table 'hostile' is replaced")
    args = parser.parse_args(argv)
    from effvid_jax import console
    from effvid_jax.reports import results

    workdir = os.path.abspath(args.workdir)
    parts = {part: args.cases or PARTS[part] for part in args.parts.split(",")}
    if args.collect:
        rows = read(workdir, args.seed)
    else:
        rows = campaign(workdir, args.seed, parts, args.limit, args.memory, args.processes,
                        lambda count, part, done: console.bar(count, part, "case", done))
    for row in sorted(rows, key=lambda row: (row["part"], row["case"])):
        if row["outcome"] in FAULTS:
            print(f"{row['part']} {row['case']}: {row['outcome']}: {row['text'][:300]}")
    lines = table(rows)
    print(tabulate.tabulate(lines, ("", *COLUMNS)))
    if args.results:
        made = [results.make_row(f"hostile: {line[0]}: {column}", str(value), dataset="made by code",
                                 config="",
                                 command=f"python benchmarks/hostile.py --seed {args.seed}",
                                 seeds=[args.seed])
                for line in lines for column, value in zip(COLUMNS, line[1:])]
        done = tuple(f"hostile: {line[0]}: " for line in lines)
        results.replace_rows(args.results, made, lambda row: row["what"].startswith(done))
    return int(any(row["outcome"] in FAULTS for row in rows))


if __name__ == "__main__":
    sys.exit(main())
