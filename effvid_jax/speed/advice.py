"""What the tables of `--mode=bench` say about reading data: what to set, and what waits for what then."""

import os
from collections.abc import Sequence


def rows(pipelines: Sequence[dict], trains: Sequence[dict], platform: str) -> list[dict]:
    """What the tables say together: the threads and workers to set, and what then waits for what.

    The fewest threads, then the fewest workers, within 5 % of the fastest pipeline. An accelerator is idle
    for as long as a batch takes longer to read than to learn from; steps on a CPU take their time from the
    same cores that read, so there it is the share of a second in which cores read.

    Args:
        pipelines, trains: rows of `bench.pipeline` and `bench.train_rates`.
        platform: of the devices that train.

    Returns:
        A row a stage; "cores" are those that would read as fast as it learns, on machines like this one.
    """
    fastest = max(row["clips_per_second"] for row in pipelines)
    best = min((row for row in pipelines if row["clips_per_second"] >= 0.95 * fastest),
               key=lambda row: (row["threads"], row["worker_processes"]))
    found, data, cores = [], best["clips_per_second"], os.cpu_count() or 1
    for row in trains:
        step = row["clips_per_second"]
        idle = step / (step + data) if platform == "cpu" else max(0.0, 1 - data / step)
        found.append({"stage": row["stage"], "num_threads": best["threads"],
                      "num_workers": best["worker_processes"], "step_clips_per_second": step,
                      "data_clips_per_second": data, "idle_share": idle, "cores": -(-cores * step // data)})
    return found


def remarks(advised: Sequence[dict], platform: str) -> list[str]:
    """The rows as sentences."""
    first, shards = advised[0], "shards of JPEG frames (python -m data_pipelines.to_array_record)"
    said = [f"set --config.data.num_threads={first['num_threads']} "
            f"--config.data.num_workers={first['num_workers']}"]
    for row in advised:
        share = f"{100 * row['idle_share']:.0f} % of the time"
        if row["idle_share"] < 0.05:
            what = "data come as fast as they are learnt from"
        elif platform == "cpu":
            what = (f"{share} goes into reading clips: {shards}, or --config.data.cache=memory where the "
                    f"frames fit, shorten that")
        else:
            what = (f"the device waits for {share}: it takes {row['cores']:.0f} cores like these to feed it, "
                    f"or {shards}")
        said.append(f"{row['stage']}: {what}")
    return said
