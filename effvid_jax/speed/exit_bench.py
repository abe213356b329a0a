"""What early exits save on the clock: the executor against full inference of the same network.

    speed-up     videos per second, over those of full inference (last head alone, all frames at once)
    R            that speed-up over the one that counting multiply-adds promises

R = 1 means that every multiply-add that was left out was time left out. Data lie on the device, sides are
timed in turns in one run; full inference is what is fastest of several batch sizes. `of_segments` is what
R would be if moving survivors together cost nothing and no batch had empty rows: it says how much the
segments themselves lose (narrow layers, small maps).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax import sharding
from effvid_jax.exits import executor, programs, stopping
from effvid_jax.methods.base import Adaptive
from effvid_jax.speed import timing


def measure(adaptive: Adaptive, variables, clips_NTHWC, batch_size: int, *, speedup: float = 2.0,
            thresholds=None, policies: Sequence[str] = executor.POLICIES, sizes: Sequence[int] = (),
            mesh=None, seconds: float = 60.0, progress: Callable = lambda: None) -> list[dict]:
    """Times full inference and every policy on the same clips.

    Args:
        adaptive: a network in segments.
        variables: its variables.
        clips_NTHWC: uint8 clips, frames in natural order; N a multiple of `batch_size`.
        batch_size: videos.
        speedup: without `thresholds`: what counting multiply-adds is to promise. Thresholds are then set
            on these clips, with exit shares ~ r^k (random weights will do). Gates, whose clips differ in
            cost, promise more: 'flops_speedup' is what the answers really cost.
        thresholds: (m,) to use instead, such as calibrated ones.
        policies, sizes, mesh: see `Executor`.
        seconds: to spend, compiling not counted.
        progress: called now and then.

    Returns:
        A row a side: 'side', 'videos_per_second', 'speedup', 'flops_speedup', 'r', 'of_segments',
        'waste' (rows computed beyond those alive), 'spread'.
    """
    n = len(clips_NTHWC)
    assert n % batch_size == 0, (n, batch_size)
    cut = None
    if mesh is not None:
        cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
    ordered = np.asarray(clips_NTHWC)[:, list(adaptive.order)]
    starts = range(0, n, batch_size)
    frames = [jax.device_put(ordered[s:s + batch_size], cut) for s in starts]
    scores_Nm, segment_seconds = _segments(adaptive, variables, frames, mesh, seconds / 5, progress)
    if thresholds is None:
        thresholds = stopping.thresholds_for_budget(
            scores_Nm, np.zeros_like(scores_Nm), adaptive.gmacs, adaptive.full_gmacs / speedup, "msdnet")
    taken = np.asarray(stopping.exits_taken(jnp.asarray(scores_Nm), jnp.asarray(thresholds)))
    alive = [float((taken >= k).mean()) for k in range(len(adaptive.steps))]

    full = jax.jit(sharding.apart(adaptive.full, mesh))
    run = executor.Executor(adaptive.steps, adaptive.score, batch_size, sizes, mesh=mesh)
    run.warm_up(variables, ordered[:1])
    progress()

    def early(policy):
        run.policy = policy  # what is compiled serves both
        return list(run.run(variables, thresholds, (
            executor.Rows(range(batch_size), x) for x in frames)))

    # Full inference in its best form: a large batch is not always the fastest, least of all on a CPU.
    forms = {size: [jax.device_put(clips_NTHWC[s:s + size], cut) for s in range(0, n, size)]
             for size in {batch_size, *(s for s in run.sizes if n % s == 0 and s * 8 >= batch_size)}}
    sides = {f"full inference, batches of {size}": lambda parts=parts: [full(variables, x) for x in parts]
             for size, parts in sorted(forms.items())}
    sides |= {policy: partial(early, policy) for policy in policies}
    times = timing.measure(sides, seconds=seconds, progress=progress)
    base = min((t for side, t in times.items() if side not in policies), key=lambda t: t.median)
    ideal = n / batch_size * sum(a * s for a, s in zip(alive, segment_seconds))
    rows = []
    for side, time in times.items():
        row = {"side": side, "videos_per_second": time.rate(n), "speedup": base.median / time.median,
               "flops_speedup": 1.0, "r": 1.0, "of_segments": 1.0, "waste": 0.0, "spread": time.spread}
        if side in policies:
            run.runs.clear()
            spent = np.mean([adaptive.spent(answer) for answer in sides[side]()])  # with gates, its own
            flops_speedup = adaptive.full_gmacs / float(spent)
            computed = sum(size * count for (_, size), count in run.runs.items())
            row |= {"flops_speedup": flops_speedup, "r": row["speedup"] / flops_speedup,
                    "of_segments": base.median / ideal / flops_speedup,
                    "waste": computed / (n * sum(alive)) - 1}
        rows.append(row)
    return rows


def _segments(adaptive: Adaptive, variables, frames, mesh, seconds: float, progress):
    """Scores (N, m) at all checkpoints, and seconds of each segment on a full batch."""
    steps = [jax.jit(sharding.apart(step.run, mesh)) for step in adaptive.steps]
    score = jax.jit(partial(programs.scored, adaptive.score))
    scores, calls = [], {}
    for number, x in enumerate(frames):
        state, found = {}, []
        for k, step in enumerate(adaptive.steps):
            new = x[:, step.start:step.stop] if step.stop > step.start else None
            if number == 0:
                calls[k] = lambda k=k, state=state, new=new: steps[k](variables, state, new)
            state, logits = steps[k](variables, state, new)
            found.append(score(state, logits))
            progress()
        scores.append(np.stack(jax.device_get(found), axis=1))
    times = timing.measure(calls, seconds=seconds, progress=progress)
    return np.concatenate(scores), [times[k].median for k in range(len(steps))]
