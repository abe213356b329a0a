"""How long a run with a list of millions of clips takes to start, and its memory.

    python benchmarks/long_list.py --entries 10000000 --workdir /tmp/long_list

Writes a list of so many clips (`class_17/video_00000123_000010_000020.mp4 17`), of which those exist that a
start looks for, and opens it in a process of its own as training does: the list is read and checked, a share
is held out for calibration, batches are put in order, the entries of the first batches are read. Printed are
seconds and the most memory that the process had.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import numpy as np

CLASSES = 700


def write(folder: str, entries: int) -> None:
    """The list, unless it is there, and the files that are looked for."""
    from effvid_jax import writers  # here: what `start` measures begins without it

    path = os.path.join(folder, f"list_{entries}.txt")
    names = [f"class_{i % CLASSES}/video_{i:08d}_000010_000020.mp4" for i in
             np.unique(np.linspace(0, entries - 1, min(entries, 2000)).astype(int))]
    for name in names:
        os.makedirs(os.path.join(folder, os.path.dirname(name)), exist_ok=True)
        open(os.path.join(folder, name), "ab").close()
    if not os.path.exists(path):
        with writers.whole(path) as part, open(part, "w") as f:
            for start in range(0, entries, 100_000):
                f.writelines(f"class_{i % CLASSES}/video_{i:08d}_000010_000020.mp4 {i % CLASSES}\n"
                             for i in range(start, min(start + 100_000, entries)))


def start(folder: str, entries: int) -> None:
    """Opens it, and prints what that took as json."""
    begun = time.monotonic()
    import grain

    import data_pipelines
    from configs import supervised_minik

    config = supervised_minik.get_config().data
    path = os.path.join(folder, f"list_{entries}.txt")
    config.update(dict(root=folder, train_list=path, val_list=path, num_classes=CLASSES, calib_share=0.01))
    imported = time.monotonic()
    split = data_pipelines.open_split(config, "train")
    calib = data_pipelines.open_split(config, "calib")
    assert len(split) + len(calib) == entries
    opened = time.monotonic()
    clips = grain.MapDataset.range(len(split)).seed(0).shuffle().repeat(None).batch(config.batch_size)
    labels = [split.entry(int(i)).labels for batch in range(100) for i in clips[batch]]
    assert len(labels) == 100 * config.batch_size
    end = time.monotonic()
    print(json.dumps({
        "entries": entries, "megabytes": os.path.getsize(config.train_list) >> 20,
        "import_seconds": round(imported - begun, 1), "open_seconds": round(opened - imported, 1),
        "first_entries_seconds": round(end - opened, 1), "seconds": round(end - begun, 1),
        "most_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}))


def main() -> int:
    """Writes the list and opens it in another process."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="folder for the list")
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--start", action="store_true", help="what the other process does")
    args = parser.parse_args()
    folder = os.path.abspath(args.workdir)
    if args.start:
        start(folder, args.entries)
        return 0
    write(folder, args.entries)
    return subprocess.run([sys.executable, __file__, "--start", f"--workdir={folder}",
                           f"--entries={args.entries}"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
