"""Frames one by one on the clock: latency of a frame, beside the same network on the whole clip at once.

    python benchmarks/frame_latency.py --results docs/results.csv
    python benchmarks/frame_latency.py --networks movinet_a0_stream:172 --frames 4 --seconds 1     # to try it

Networks that take a camera's frames as they come: the stream MoViNets (which remember all frames) and TSM
with an online shift (whose answer is the mean over the last clip). Weights are random. After `--frames` of
them the answer has to be that of the clip, to `--tolerance` of the largest logit, or nothing is timed.
Printed are the median and the slowest of 20 of a frame's latency, one stream at a time as a camera gives it,
and how many times longer looking at the last `--frames` frames anew would take. Sides are timed in turns.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import jax
import jax.numpy as jnp
import numpy as np
import tabulate

from configs import supervised_folder
from effvid_jax import methods
from effvid_jax.methods.streaming import streaming
from effvid_jax.reports import results
from effvid_jax.speed import timing
from effvid_jax.tasks import make_task

NETWORKS = ("movinet_a0_stream:172", "movinet_a1_stream:172", "movinet_a2_stream:224", "tsm_mobilenet_v2:112",
            "tsm_resnet50:112")


def measure(backbone: str, side: int, frames: int, classes: int, seconds: float, tolerance: float) -> dict:
    """What one network takes for a frame.

    Args:
        backbone, side: of the network, and of its frames in pixels.
        frames: T of a clip.
        classes: K.
        seconds: to spend.
        tolerance: of the largest logit, between both ways to the answer of a clip.

    Returns:
        'frame_ms', 'slow_frame_ms' (of 20 the slowest), 'clip_ms', 'gmacs' (of a frame), 'difference'.
    """
    shift = ",shift=online" if backbone.startswith("tsm_") else ""
    config = supervised_folder.get_config(f"backbone={backbone},resolution={side}{shift}")
    config.data.num_frames = frames
    method = methods.make_method(config, make_task(config, [str(k) for k in range(classes)]))
    clip = np.random.default_rng(0).standard_normal((frames, side, side, 3)).astype(np.float32)
    variables = method.init(jax.random.key(0), (1, *clip.shape))
    stream = streaming(method, variables, clip[:1].shape, frames, np.float32)
    step = jax.jit(stream.step)
    whole = jax.jit(lambda variables, clip: method.model.apply(variables.network, clip[None])[0][0])
    given, at = [jnp.asarray(frame[None]) for frame in clip], jnp.asarray(clip)
    state = stream.start
    for frame in given:
        state, answer = step(variables, state, frame)
    expected = whole(variables, at)
    difference = float(jnp.abs(answer - expected).max() / jnp.abs(expected).max())
    if not difference <= tolerance:
        raise SystemExit(f"{backbone}: after {frames} frames one by one the answer differs from the clip's "
                         f"by {difference:.1e} of the largest logit; --tolerance={tolerance}.")
    times, kept = [], state

    def a_frame():
        nonlocal kept
        begun = time.perf_counter()
        kept, answer = jax.block_until_ready(step(variables, kept, given[0]))
        times.append(time.perf_counter() - begun)
        return answer

    timed = timing.measure({"frame": a_frame, "clip": lambda: whole(variables, at)}, seconds=seconds,
                           min_repeats=5, min_sample_seconds=0)
    return {"frame_ms": 1e3 * timed["frame"].median,
            "slow_frame_ms": 1e3 * float(np.quantile(times[2:], 0.95)),
            "clip_ms": 1e3 * timed["clip"].median, "gmacs": stream.gmacs, "difference": difference}


def main(argv=None) -> None:
    """Prints the table; with `--results` its rows replace older ones of this hardware."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="BACKBONE:PIXELS, with commas")
    parser.add_argument("--frames", type=int, default=16, help="T of a clip")
    parser.add_argument("--classes", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=20.0, help="to spend on a network")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--results", default="", help="csv file to write rows to (docs/results.csv)")
    args = parser.parse_args(argv)
    table, rows = [], []
    for network in args.networks.split(","):
        backbone, _, side = network.partition(":")
        found = measure(backbone, int(side or 224), args.frames, args.classes, args.seconds,
                        args.tolerance)
        ratio = found["clip_ms"] / found["frame_ms"]
        table.append((backbone, side, f"{found['gmacs']:.3f}", f"{found['frame_ms']:.1f}",
                      f"{found['slow_frame_ms']:.1f}", f"{ratio:.1f}", f"{found['difference']:.0e}"))
        for column, value in (("latency of a frame (ms)", table[-1][3]), ("slowest of 20 (ms)", table[-1][4]),
                              ("clip anew ÷ frame", table[-1][5])):
            rows.append(results.make_row(
                f"frame_latency: {backbone}, {side}²: {column}", value, dataset="noise", seeds=[0],
                config=f"{args.frames} frames, float32", command="python benchmarks/frame_latency.py"))
    print(tabulate.tabulate(table, ["network", "pixels", "GMACs of a frame", "a frame, ms",
                                    "slowest of 20, ms", "clip anew ÷ frame", "difference"],
                            disable_numparse=True))
    if args.results:
        results.replace_measured(args.results, rows)


if __name__ == "__main__":
    main()
