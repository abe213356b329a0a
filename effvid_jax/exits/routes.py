"""Routes through the grid of frames x depth (Dynamic Inference, arXiv 2002.03342, figure of panels a-d).

A *checkpoint* (frames, depth) owns a prediction head; a *route* visits checkpoints in order, never going
back in either axis. What lies between two checkpoints is a segment: `plan_segments` says which frames
are new there and which depths they and the earlier frames run through.

    scheme        8 frames, 5 depths                     frame order        16 frames
    depth         (8,1)(8,2)(8,3)(8,4)(8,5)              natural            (16,1) ... (16,5)
    input         (1,5)(2,5)(4,5)(8,5)                   natural            ... (16,5)
    permuted      as 'input'                             two groups         as 'input'
    unified       (2,1)(2,2)(4,3)(4,4)(4,5)(8,5)         two groups         (4,1)(4,2)(8,3)(8,4)(8,5)(16,5)
    unified6      as 'unified'                           two groups         as 'unified'

The 8-frame lists and the order are drawn in the paper; those for 16 frames and for other numbers of
depths scale them (ours). 'unified6' is 'unified' where it must be the six checkpoints of the figure: a
network whose usual exits lie at fewer depths gets one a stage, the stem included (`network.py`). Two groups
are the Thue-Morse split: each has one frame of every pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from effvid_jax.errors import UserError

SCHEMES = ("depth", "input", "permuted", "unified", "unified6")
FIGURE_DEPTHS = 5  # rows of the figure's grid


class Checkpoint(NamedTuple):
    """A place where a video may stop: frames seen so far, depth (from 1) they have run through."""

    frames: int
    depth: int


class Segment(NamedTuple):
    """What is computed between two checkpoints.

    Attributes:
        first: position of the first new frame; frames [first, frames) are new.
        chunks: (start, stop, continued) of the new frames, cut where a group of frames ends;
            `continued` ones follow a frame of their own group.
        join: the new frames run alone through depths 1..join, then together with the earlier ones.
        frames, depth: the checkpoint at the end.
        keep: whether a later segment takes the maps of this one deeper.
        stream: whether a later segment starts inside a group, and so needs what the shifts remember.
    """

    first: int
    chunks: tuple[tuple[int, int, bool], ...]
    join: int
    frames: int
    depth: int
    keep: bool
    stream: bool


def scheme_route(scheme: str, num_frames: int, num_depths: int) -> tuple[Checkpoint, ...]:
    """The route of a named scheme.

    Raises:
        UserError: unknown scheme, or too few frames or depths for it.
    """
    t, d = num_frames, num_depths
    if scheme not in SCHEMES:
        raise UserError(f"config.method.scheme={scheme!r}: expected one of {list(SCHEMES)}.")
    if scheme == "depth":
        return tuple(Checkpoint(t, k) for k in range(1, d + 1))
    if scheme in ("input", "permuted"):
        counts = [t]
        while counts[0] > 1:
            counts.insert(0, counts[0] // 2)
        return tuple(Checkpoint(n, d) for n in counts)
    if scheme == "unified6" and d != FIGURE_DEPTHS:
        raise UserError(
            f"config.model.exits.scheme='unified6' has checkpoints at {FIGURE_DEPTHS} depths; this network "
            f"exits at {d}: give {FIGURE_DEPTHS} stages in config.model.exits.stages (0 is the stem), or use "
            f"scheme='unified', which fits any number of depths.")
    if t < 4 or t % 4:
        raise UserError(f"config.method.scheme={scheme!r} needs a multiple of 4 frames, not {t}: set "
                         f"config.data.num_frames, or give config.method.route.")
    shallow = max(1, round(2 * d / 5))  # 2 of 5 depths on a quarter of the frames
    return (*(Checkpoint(t // 4, k) for k in range(1, min(shallow, d - 1) + 1)),
            *(Checkpoint(t // 2, k) for k in range(min(shallow, d - 1) + 1, d + 1)),
            Checkpoint(t, d))


def check_route(route: Sequence[Sequence[int]], num_frames: int,
                num_depths: int) -> tuple[Checkpoint, ...]:
    """A route given by hand, e.g. in a config, checked.

    Raises:
        UserError: no pairs, steps back, stands still, leaves the grid, or stops short of its corner.
    """
    name = f"config.method.route={tuple(map(tuple, route))}" if route else "config.method.route=()"
    if not route or any(len(pair) != 2 for pair in route):
        raise UserError(f"{name}: expected pairs (frames, depth), such as ((4, 1), (8, 3)).")
    checkpoints = tuple(Checkpoint(int(n), int(d)) for n, d in route)
    for before, after in zip(checkpoints, checkpoints[1:]):
        if after.frames < before.frames or after.depth < before.depth or after == before:
            raise UserError(f"{name}: {tuple(after)} after {tuple(before)} steps back or stands still; "
                             f"frames and depth may only grow.")
    if checkpoints[0].frames < 1 or checkpoints[0].depth < 1:
        raise UserError(f"{name}: frames and depths count from 1.")
    if checkpoints[-1].frames > num_frames:
        raise UserError(f"{name}: {checkpoints[-1].frames} frames, but a clip has {num_frames} "
                         f"(config.data.num_frames).")
    if checkpoints[-1] != (num_frames, num_depths):
        raise UserError(f"{name} ends at {tuple(checkpoints[-1])}: the last checkpoint always answers, "
                         f"so it must be all {num_frames} frames at depth {num_depths}.")
    return checkpoints


def frame_order(num_frames: int, scheme: str) -> tuple[int, ...]:
    """Frames in the order in which a scheme consumes them: natural, or the two Thue-Morse groups.

    Group 1 has the indices with an even number of one-bits (0 3 5 6 of 8), group 2 the others.
    """
    if scheme in ("depth", "input"):
        return tuple(range(num_frames))
    return tuple(sorted(range(num_frames), key=lambda i: (i.bit_count() % 2, i)))


def coarse_to_fine(num_frames: int) -> tuple[int, ...]:
    """Frames from coarse to fine: the middle, the ends, the middles of the halves, of the quarters, ...

    AdaFocus V2's released rule (`input_order` of its main_v2.py), of 16 frames
    7 0 15 3 11 1 5 9 13 2 4 6 8 10 12 14.
    """
    last = num_frames - 1
    order, parts = list(dict.fromkeys((last // 2, 0, last))), 2
    while len(order) < num_frames:
        ends = [last * i // parts for i in range(parts + 1)]
        order = list(dict.fromkeys([*order, *((a + b) // 2 for a, b in zip(ends, ends[1:]))]))
        parts *= 2
    return tuple(order)


def check_order(order: Sequence[int], num_frames: int) -> tuple[int, ...]:
    """An order given by hand, checked.

    Raises:
        UserError: not a permutation of 0 .. num_frames - 1.
    """
    if sorted(order) != list(range(num_frames)):
        raise UserError(f"config.method.order={tuple(order)} is no permutation of 0 to "
                         f"{num_frames - 1} (config.data.num_frames={num_frames}).")
    return tuple(int(i) for i in order)


def pieces(route: Sequence[Checkpoint], group: int, depth: int) -> tuple[tuple[int, int], ...]:
    """(start, stop) of the frames that run together from the depth before to `depth`, in their order.

    What decides there by what it sees of several frames may see those of one piece, and no others: the later
    pieces are not there yet when a video may stop.
    """
    found = []
    for segment in plan_segments(route, group):
        if segment.chunks and depth <= segment.join:
            found += [(start, stop) for start, stop, _ in segment.chunks]
        elif segment.join < depth <= segment.depth:
            found.append((0, segment.frames))
    return tuple(found)


def plan_segments(route: Sequence[Checkpoint], group: int) -> tuple[Segment, ...]:
    """The segments of a route; `group` frames share a temporal shift (0: all of them)."""
    last = max(c.depth for c in route)
    group = group or route[-1].frames
    segments = []
    seen, depth = 0, 0
    for k, (frames, to) in enumerate(route):
        later = route[k + 1:]
        chunks, start = [], seen
        while start < frames:
            # A piece that starts a group may hold several whole groups; one that continues ends with it.
            stop = min(frames, start - start % group + group) if start % group else frames
            chunks.append((start, stop, bool(start % group)))
            start = stop
        grows = [c.frames for c in route[k:]]
        stream = any(a < b and a % group for a, b in zip(grows, grows[1:]))
        segments.append(Segment(seen, tuple(chunks), depth if seen and to > depth else to, frames, to,
                                bool(later) and to < last, stream))
        seen, depth = frames, to
    return tuple(segments)
