"""An archive prepared and classified by a local Ray of two workers, and by local processes; with kills.

    python benchmarks/archive.py --workdir runs/archive --results docs/results.csv
    python benchmarks/archive.py --workdir runs/archive_small --videos 60 --side 32 --backbone resnet18 \\
        --block 16 --num_shards 6

Embedded videos made by code, one in a hundred of them damaged. `to_array_record` writes them as shards, and
`--mode=predict --archive` answers about them with random weights, each on the engine `local` and on `ray`,
and once more on `ray` with three kills: of a worker that reads, of the driver (and all that it started),
and of the worker that was started last, which computes. After that of the driver the same command is given
again. Every file has to be, byte for byte, that of the engine `local`. Speeds are counted from the first
chunk that was answered on; starts are printed beside them. Undisturbed runs that are finished are not made
again; exit code 1 if anything differs, or a kill came too late.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import data_pipelines
from configs import supervised_minik
from effvid_jax import writers
from effvid_jax.reports import results
from effvid_jax.speed import bench
from tests.made import save_untrained

BROKEN_EVERY = 100


def make_videos(folder: Path, count: int) -> Path:
    """Embedded videos, of which one in a hundred is cut."""
    if not (folder / "done").exists():
        data_pipelines.write_benchmark(str(folder), {"train_clips": 16, "val_clips": count})
        for path in sorted((folder / "val").rglob("*.mp4"))[BROKEN_EVERY // 2::BROKEN_EVERY]:
            path.write_bytes(path.read_bytes()[:path.stat().st_size // 3])
        (folder / "done").touch()
    return folder / "val"


def make_network(folder: Path, backbone: str, side: int, batch: int) -> None:
    """A workdir with random weights."""
    if (folder / "config.json").exists():
        return
    config = supervised_minik.get_config(f"backbone={backbone},resolution={side}")
    config.data.update(dict(test_short_side=side, test_crop_size=side, eval_batch_size=batch))
    save_untrained(config, [f"class {k}" for k in range(16)], str(folder))


class Job:
    """A command, on any engine, into any folder.

    Args:
        command: (engine, folder) -> arguments after `python`.
        pattern: of the files that count.
    """

    def __init__(self, command: Callable[[str, Path], list[str]], pattern: str):
        self._command, self._pattern = command, pattern

    def files(self, folder: Path) -> dict[str, bytes]:
        """Content of the files that count."""
        return {path.name: path.read_bytes() for path in sorted(folder.glob(self._pattern))}

    def start(self, engine: str, folder: Path, log: str) -> subprocess.Popen:
        """Starts it, in a group of processes of its own."""
        with open(log, "a") as file:
            return subprocess.Popen([sys.executable, *self._command(engine, folder)], cwd=ROOT, stderr=file,
                                    stdout=subprocess.PIPE, text=True, start_new_session=True)

    def run(self, engine: str, folder: Path, log: str) -> dict:
        """Runs it to its end, unless it was; what it says, and its seconds."""
        kept = folder.parent / f"{folder.name}.json"
        if kept.exists():
            return json.loads(kept.read_text())
        shutil.rmtree(folder, ignore_errors=True)
        begin = time.monotonic()
        process = self.start(engine, folder, log)
        said, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{' '.join(map(str, process.args))} ended with {process.returncode}, see {log}")
        last = said.strip().splitlines()[-1]
        told = json.loads(last) if last.startswith("{") else {}
        told["whole_seconds"] = round(time.monotonic() - begin, 1)
        writers.write_text(str(kept), json.dumps(told))
        return told

    def disturbed(self, folder: Path, log: str, count: int) -> list[str]:
        """Runs it on Ray to its end, with a kill at each quarter of the files; which were killed."""
        shutil.rmtree(folder, ignore_errors=True)
        kills = [("a worker that reads", "reader"), ("the driver", "driver"), ("the last worker", "last")]
        done, process = [], self.start("ray", folder, log)
        for i, (title, what) in enumerate(kills):
            if not wait_for(lambda at=(i + 1) * count // 4: len(self.files(folder)) >= at, process):
                break
            if what == "driver":
                process.kill()
                process.communicate()
                done.append(title)
                process = self.start("ray", folder, log)
                continue
            workers = ray_workers(process.pid)
            if workers:
                os.kill(workers[0 if what == "reader" else -1], signal.SIGKILL)
                done.append(title)
        process.communicate()
        if process.returncode:
            raise SystemExit(f"after kills ({', '.join(done)}): exit code {process.returncode}, see {log}")
        return done


def wait_for(condition: Callable[[], bool], process) -> bool:
    """Waits until it is true; False if the process ends before."""
    while not condition():
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    return True


def ray_workers(pid: int) -> list[int]:
    """Numbers of the processes of actors below a process, in the order in which they were started."""
    parents, names = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            names[int(path.name)] = (path / "cmdline").read_bytes().decode(errors="replace")
            parents[int(path.name)] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue

    def below(number):
        while number in parents and number != pid:
            number = parents[number]
        return number == pid

    return sorted(number for number, name in names.items() if name.startswith("ray::") and "_Actor" in name
                  and below(number))


def main() -> int:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", default="runs/archive")
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--backbone", default="tsm_resnet50")
    parser.add_argument("--side", type=int, default=168, help="pixels that the network sees")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--num_shards", type=int, default=16)
    parser.add_argument("--results", help="csv that gets the rows")
    args = parser.parse_args()
    work = Path(args.workdir).absolute()
    work.mkdir(parents=True, exist_ok=True)
    videos = make_videos(work / f"videos_{args.videos}", args.videos)
    network = work / f"{args.backbone}_{args.side}"
    make_network(network, args.backbone, args.side, args.batch)
    jobs = {
        "prepare": (Job(lambda engine, out: [
            "-m", "data_pipelines.to_array_record", f"--root={videos}", f"--out={out}", "--split=train",
            "--val_share=0.01", f"--num_shards={args.num_shards}", "--max_broken_share=0.1",
            f"--engine={engine}", f"--workers={args.workers}"], "*.array_record"), args.num_shards),
        "classify": (Job(lambda engine, out: [
            "main.py", "--mode=predict", f"--workdir={network}", f"--video={videos}", f"--archive={out}",
            f"--engine={engine}", f"--workers={args.workers}", f"--block={args.block}"], "rows-*.csv"),
            -(-args.videos // args.block))}
    rows, wrong = [], []
    for name, (job, count) in jobs.items():
        log = str(work / f"{name}.log")
        told = {engine: job.run(engine, work / f"{name}_{engine}", log) for engine in ("local", "ray")}
        kills = job.disturbed(work / f"{name}_killed", log, count)
        files = {how: job.files(work / f"{name}_{how}") for how in ("local", "ray", "killed")}
        for how in ("ray", "killed"):
            wrong += [f"{name}, {how}: {file} differs" for file in files["local"] | files[how]
                      if files["local"].get(file) != files[how].get(file)]
        if len(kills) < 3:
            wrong.append(f"{name}: only {len(kills)} kills came in time, take more videos")
        for how in ("local", "ray"):
            said = {key: told[how].get(key, "–") for key in ("broken", "start_seconds", "seconds",
                                                             "videos_per_second")}
            rows.append({"job": name, "engine": how, "files": len(files[how]),
                         "whole_seconds": told[how]["whole_seconds"], **said})
        print(f"{name}: killed {', '.join(kills)}; {len(files['local'])} files, {len(wrong)} faults so far",
              flush=True)
    speed = {row["engine"]: row["videos_per_second"] for row in rows if row["job"] == "classify"}
    ratio = speed["ray"] / speed["local"]
    print(f"{bench.table(rows)}\nray / local from the first chunk on: {ratio:.3f}\n"
          + "\n".join(f"FAULT: {one}" for one in wrong))
    if args.results:
        command = f"python benchmarks/archive.py --videos {args.videos} --side {args.side}"
        values = {"local videos/s": f"{speed['local']:.4g}", "ray videos/s": f"{speed['ray']:.4g}",
                  "ray / local": f"{ratio:.3f}", "files that differ": str(len(wrong))}
        results.replace_measured(args.results, [
            results.make_row(f"archive: {args.backbone}: {what}", value,
                             dataset=f"embedded benchmark ({args.videos} videos)", config=args.backbone,
                             command=command, seeds=()) for what, value in values.items()])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
