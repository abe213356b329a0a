"""Early exit that saves time: segments of a network run one after another, rows that are done leave.

Nothing here knows a network. A network is a list of `Step`s, compiled once per batch size of a small
fixed set; which rows stop is decided by scores and thresholds, arrays of the compiled function, so new
thresholds compile nothing.

    batch ─ step 1 ─┬─ score >= threshold: answered
                    └─ survivors, moved together ─ step 2 ─┬─ ...

Two policies decide when survivors run on:

    'compact'   at once, in pieces of the fixed sizes that cover their number (29 of 64 = 16 + 8 + 4 + 1)
    'pool'      they wait before the next step until a full batch of them, from several batches, has
                gathered, but only until `max_wait` further batches have come or `max_seconds` are over: then,
                and at the end of the input, they run on in pieces. At most one batch waits before each step.

What is promised:

    answers     Every row gets one `Answer`: what computing all of the network and applying the rule
                afterwards gives (`stopping.exits_taken`), or its error. A score that is not a number reaches
                no threshold: the row goes on, and the last step answers whatever reaches it. Logits may then
                be not finite too; whoever uses them checks that.
    bad rows    A row whose frames cannot be loaded, are too few, or differ in shape or type from those of the
                first row of the run is answered with its error; the others are not touched by it.
    delay       'compact' answers a batch before it starts the next one; 'pool' when it has started at most
                `max_wait` more. Where frames are loaded, two batches are read ahead of the one that starts.
                Time that the source takes for its next batch comes on top, unless there are `max_seconds`:
                then the source is read in a thread of its own, and a row goes on to the end that many
                seconds after it was read, whether or not the next batch has come.
    deadline    With `deadline` a row is answered within that many seconds of when it came (`Rows.since`), by
                the last checkpoint it has reached: a step that would not be over in time (`deadline.py`) does
                not start for it. A row that has no answer yet is not left without one: the first step runs,
                and its answer may be late, as one may be whose step takes longer than before. Nothing is read
                ahead, and survivors wait for others no longer than leaves time for all steps to come.
    order       That of the input, or with `ordered=False` as rows are done.
    memory      A batch before each step, the batches read ahead, and answers that wait for their turn: those
                of at most `max_wait` + 1 batches.
    a source that raises
                ends the input: rows read before are answered, then its error is raised.

Frames that only a later step needs can be carried along on the device, or loaded when the rows that still
need them are known (`Rows.load`).
"""

from __future__ import annotations

import collections
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax import sharding
from effvid_jax.errors import UserError
from effvid_jax.exits.deadline import Pace, check
from effvid_jax.exits.in_time import in_time
from effvid_jax.exits.programs import (
    StateScore,
    Step,
    default_sizes,
    empty,
    pieces,
    run_piece,
    run_step,
    select,
)

POLICIES = ("compact", "pool")


class Rows(NamedTuple):
    """A batch to answer, of at most the executor's size; it may be empty.

    All frames of a run have the type of those of its first row and the same sizes, and they are given in all
    batches or loaded in all of them. A row for which that does not hold is answered with an error.

    Attributes:
        ids: anything that names a row; comes back with its answer.
        frames: array (n, T, ...) with all frames in the order of the steps, on the host or on the
            devices, or n arrays (T, ...); or None, then `load` is asked. The first ones are of the first
            ids: ids without frames get an error, and so do all of a batch with more frames than ids, where
            it is not known which is whose.
        load: (id, start, stop) -> array (stop - start, ...) of one row, called in threads. What rows that
            stopped would have needed is never loaded. An exception ends its row, not the run. With a deadline
            a call may go on when the run is over: nobody waits for it.
        since: when they came, by the executor's clock; None: when they are read.
    """

    ids: Sequence[Any]
    frames: Any = None
    load: Callable | None = None
    since: float | None = None


class Answer(NamedTuple):
    """What became of a row.

    Attributes:
        id: as given.
        checkpoint: where it stopped, from 0.
        logits: (K,) there.
        seconds: since the row came.
        cut: whether the deadline stopped it.
        error: what `Rows.load` raised, or a ValueError that says what is wrong with the row's frames; the
            other fields mean nothing then.
        gmacs: what the row cost, of steps that say it; None: what all rows cost that stop there.
    """

    id: Any
    checkpoint: int
    logits: np.ndarray | None
    error: Exception | None = None
    gmacs: float | None = None
    seconds: float = math.nan
    cut: bool = False


class _Row(NamedTuple):
    """A row under way: place in the order of the input, its batch's, when it came, frames to come."""

    number: int
    batch: int
    since: float
    id: Any
    load: Callable | None
    frames: Future | None
    best: tuple[Any, float | None] | None = None  # logits (K,) of the last step, and the GMACs until then


class _Buffer(NamedTuple):
    """Rows under way on the device: the first ones of `state`, or those that `index` names, in its order."""

    state: Any
    index: np.ndarray | None = None

    def of(self, index: np.ndarray) -> _Buffer:
        """Some of its rows."""
        return _Buffer(self.state, index if self.index is None else self.index[index])


class Executor:
    """Runs rows through steps; see the module docstring.

    Args:
        steps: in order; the last one answers everything that reaches it.
        score: logits (B, K) -> (B,), or a `StateScore`; a row stops at step k where
            `score >= thresholds[k]`.
        batch_size: rows of a full batch.
        sizes: further batch sizes to compile, for what is left of a batch; by default a half, a quarter,
            an eighth and a 32nd. Smaller ones waste less, more of them compile longer.
        policy: 'compact' or 'pool'.
        mesh: devices of this process to cut the batch over; None: one device. Sizes must be multiples
            of their number.
        threads: that load frames.
        max_wait: of 'pool': batches that may start after a row's own before it is answered; 0: none. More
            fill batches better, fewer answer sooner.
        max_seconds: that a row waits at most, before any step and for any batch, before it goes on to be
            answered; None: as long as `max_wait` allows. For a source whose batches come slowly.
        deadline: seconds within which a row is answered, see the module docstring; None: no limit.
        clock: gives seconds, of which only differences count.

    Attributes:
        runs: how often each (step, size) ran since it was made: what was really computed.

    Raises:
        UserError: unknown policy, or sizes that do not fit the batch or the devices.
    """

    def __init__(self, steps: Sequence[Step], score: Callable | StateScore, batch_size: int,
                 sizes: Sequence[int] = (), policy: str = "pool", mesh=None, threads: int = 8,
                 max_wait: int = 16, max_seconds: float | None = None, deadline: float | None = None,
                 clock: Callable[[], float] = time.monotonic):
        if policy not in POLICIES:
            raise UserError(f"policy={policy!r}: expected one of {list(POLICIES)}.")
        devices = mesh.size if mesh is not None else 1
        if batch_size < 1 or batch_size % devices:
            raise UserError(f"batch_size={batch_size}: expected a positive multiple of the number of "
                             f"devices, {devices}.")
        bad = [size for size in sizes if size < 1 or size > batch_size or size % devices]
        if bad:
            raise UserError(f"sizes={tuple(sizes)}: {bad} are not multiples of the number of devices, "
                             f"{devices}, between 1 and batch_size={batch_size}.")
        if max_wait < 0:
            raise UserError(f"max_wait={max_wait}: expected a number of batches, 0 or more.")
        check(max_seconds, "max_seconds")
        check(deadline, "deadline")
        default = default_sizes(batch_size, devices)
        steps = [step._replace(run=sharding.apart(step.run, mesh)) for step in steps]
        self.steps, self.batch_size, self.policy, self.threads = steps, batch_size, policy, threads
        self.max_wait, self.max_seconds = max_wait, max_seconds
        self.deadline, self.clock, self.pace = deadline, clock, Pace()
        self.sizes = tuple(sorted({*(sizes or default), batch_size}, reverse=True))
        self.runs: collections.Counter = collections.Counter()
        self.cut = None
        if mesh is not None:
            self.cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
        compiled = partial(jax.jit, out_shardings=self.cut)
        # Frames of later steps travel with the rows; from which position on, before each step.
        first = [step.start for step in steps if step.stop > step.start]
        # First of the frames that are there before step k: those before it are used up.
        carried = [next((step.start for step in steps[k:] if step.stop > step.start), None)
                   for k in range(len(steps) + 1)]
        assert first == sorted(first), "the frames of a step follow those of the steps before"
        self._full, self._piece = [], []
        for k, step in enumerate(steps):
            run = partial(run_step, step, score, carried[k], carried[k + 1], k == len(steps) - 1)
            self._full.append(compiled(run))
            self._piece.append(compiled(partial(run_piece, run), static_argnums=0, donate_argnums=6))
        self._select = compiled(select)
        self._compiled, self._empty = compiled, {}

    def run(self, variables, thresholds, batches: Iterable[Rows],
            ordered: bool = True) -> Iterator[Answer]:
        """Answers every row of every batch; the module docstring says what is promised.

        Args:
            variables: handed to the steps.
            thresholds: one a step; that of the last is not looked at.
            batches: read one after the other, two ahead where frames are loaded.
            ordered: answers come in the order of the input; if not, as soon as they are known.

        Yields:
            An `Answer` a row; with 'pool' it may come up to `max_wait` batches after its row was read.

        Raises:
            ValueError: another number of thresholds than steps; or, when all rows before have been answered,
                more rows in a batch than `batch_size`.
            Exception: what `batches` raised, when all rows before have been answered.
        """
        thresholds = np.array(thresholds, np.float32)
        if thresholds.shape != (len(self.steps),):
            raise ValueError(
                f"{thresholds.size} thresholds for {len(self.steps)} checkpoints: they belong to "
                f"another network or route; calibrate this one.")
        loaders = ThreadPoolExecutor(self.threads)
        try:
            run = _Run(self, variables, thresholds, loaders, ordered)
            for new in run.read(batches):
                if new is not None:
                    run.start(*new)
                run.hurry()
                yield from run.answered()
            for k in range(1, len(self.steps)):
                run.go_on(k)
                yield from run.answered()
            if run.failure is not None:
                raise run.failure
        finally:  # whoever stops listening does not wait for frames that nobody needs
            run.stop.set()
            loaders.shutdown(wait=self.deadline is None, cancel_futures=True)

    def warm_up(self, variables, frames, load: bool = False) -> None:
        """Compiles everything that `run` can need: every step for every size; for a deadline times them, too.

        Args:
            variables: as for `run`.
            frames: (1, T, ...), of the size and type of all later ones.
            load: whether `run` will load frames rather than be given them.

        Raises:
            ValueError: too few frames, or no numbers.
        """
        frames, never = np.asarray(frames), np.full(len(self.steps), np.inf)
        deadline, self.deadline = self.deadline, None  # compiling takes longer
        try:
            sizes = sorted({*self.sizes, max(1, self.batch_size - 1)})
            for n in sizes if deadline is None else sizes + sizes:  # again: how long they take
                rows = Rows(range(n), None if load else np.repeat(frames, n, axis=0),
                            (lambda _, start, stop: frames[0, start:stop]) if load else None)
                for answer in self.run(variables, never, [rows]):
                    if answer.error is not None:
                        raise answer.error
        finally:
            self.deadline = deadline

    def pieces(self, n: int) -> list[tuple[int, int]]:
        """See `pieces`, with the executor's own sizes."""
        return pieces(n, self.sizes, self.batch_size)


class _Run:
    """One call of `Executor.run`: who waits where, and what is answered already.

    Attributes:
        failure: what ended the input before its end.
    """

    def __init__(self, executor: Executor, variables, thresholds, loaders, ordered: bool):
        self.executor, self.variables, self.thresholds = executor, variables, thresholds
        self.loaders, self.ordered = loaders, ordered
        self.waiting: dict[int, tuple[_Buffer, list[_Row]]] = {}  # before a step: buffer and its rows
        self.done: dict[int, Answer] = {}
        self.next_number = self.next_answer = self.batches_read = self.batches_started = 0
        self.how = ""  # frames of the first batch: given or loaded
        self.first: tuple[Any, str] | None = None  # the first row's id, and what its frames are
        self.failure: Exception | None = None
        self.ahead: collections.deque = collections.deque()  # batches whose frames are being loaded
        self.stop = threading.Event()  # nobody listens any more
        self.held: list[tuple[int, list[_Row]]] = []  # with a deadline: before steps that others go before
        self.expired: set[int] = set()  # numbers of rows that are answered, and still in a buffer
        self.most_ahead = 2 if executor.deadline is None else 0

    def read(self, batches: Iterable[Rows]):
        """(rows, frames or None) of each batch, while the next two are being loaded; None: time is over."""
        ahead = self.ahead
        try:
            if self.executor.max_seconds is not None or self.executor.deadline is not None:
                batches = in_time(batches, self._seconds_left, self.stop)
            for batch in batches:
                if batch is not None:
                    ahead.append(self._taken(batch))
                while ahead:
                    rows, frames = ahead[0]
                    loading = rows and frames is None
                    if loading and len(ahead) <= self.most_ahead and not self._is_late(0, rows):
                        break
                    yield ahead.popleft()
                if batch is None:
                    yield None
        except Exception as error:  # the source's: what it gave before is answered first
            self.failure = error
        yield from ahead

    def _seconds_left(self) -> float | None:
        """Until the first row that waits must go on; None: no row waits, or none has to."""
        waiting = [(0, rows) for rows, _ in self.ahead] + [(k, rows) for k, (_, rows) in self.waiting.items()]
        first = min((self._last_time(k, rows) for k, rows in waiting if rows), default=math.inf)
        return max(first - self.executor.clock(), 0) if first < math.inf else None

    def _last_time(self, k: int, rows: list[_Row]) -> float:
        """When rows must go on with step `k`: the first of them has waited long enough, or has to hurry."""
        since, seconds = min(row.since for row in rows), self.executor.max_seconds
        time = math.inf if seconds is None else since + seconds
        if (deadline := self.executor.deadline) is not None:
            ahead = sum(self._takes(later, len(rows)) for later in range(k, len(self.executor.steps)))
            time = min(time, since + deadline - ahead)
        return time

    def _takes(self, k: int, n: int) -> float:
        """Seconds that step `k` will take for so many rows."""
        return self.executor.pace.of(k, [size for _, size in self.executor.pieces(n)])

    def _is_late(self, k: int, rows: list[_Row], ahead: float = 0.0) -> bool:
        """Whether a row of these has waited long enough, in batches or in seconds, or will have so soon."""
        if not rows:
            return False
        batch = self.batches_started - self.executor.max_wait
        return any(row.batch < batch for row in rows) or (
            self._last_time(k, rows) <= self.executor.clock() + ahead)

    def _taken(self, batch: Rows):
        """(rows, frames or None) of a batch, without rows that are no good: those are answered."""
        if len(batch.ids) > self.executor.batch_size:
            raise ValueError(f"{len(batch.ids)} rows in a batch: at most batch_size="
                             f"{self.executor.batch_size}.")
        how = "given" if batch.frames is not None else "loaded" if batch.load is not None else "missing"
        now = self.executor.clock() if batch.since is None else batch.since
        rows = [_Row(self.next_number + i, self.batches_read, now, row_id, batch.load, None)
                for i, row_id in enumerate(batch.ids)]
        self.next_number += len(rows)
        self.batches_read += 1
        if rows and how != "missing":
            self.how = self.how or how
        if how == "missing" or how != self.how:
            reason = f"frames are {how}" + f", those of the first batch are {self.how}" * bool(self.how)
            for row in rows:
                self.done[row.number] = Answer(row.id, 0, None, ValueError(f"row {row.id!r}: {reason}."))
            return [], None
        if how == "given":
            return self._given([row._replace(load=None) for row in rows], batch.frames)
        return [self._load(0, row) for row in rows], None

    def start(self, rows: list[_Row], frames) -> None:
        """Runs the first step on a new batch."""
        size = self.executor.batch_size
        self.batches_started += 1
        if rows:
            state = {"net": {}}
            if frames is not None:
                if len(frames) < size:
                    frames = np.asarray(frames)
                    frames = np.concatenate([frames, np.zeros((size - len(frames), *frames.shape[1:]),
                                                              frames.dtype)])
                state["frames"] = self._place(frames)
            self._step(0, _Buffer(state), rows)

    def hurry(self, ahead: float = 0.0) -> None:
        """Runs on whatever has waited long enough, or will have so within `ahead` seconds."""
        def late(k):
            return self._is_late(k, self.waiting.get(k, (None, []))[1], ahead)

        while k := next(filter(late, range(1, len(self.executor.steps))), 0):
            self.go_on(k)

    def answered(self) -> Iterator[Answer]:
        """Answers that are known; those whose turn it is in the order of the input."""
        if not self.ordered:
            done, self.done = self.done, {}
            yield from done.values()
        while self.next_answer in self.done:
            yield self.done.pop(self.next_answer)
            self.next_answer += 1

    def go_on(self, k: int) -> None:
        """Runs whatever waits before step `k`."""
        if k in self.waiting:
            self._step(k, *self.waiting.pop(k))

    def _step(self, k: int, buffer: _Buffer, rows: list[_Row]) -> None:
        """Step `k` on the rows of a buffer; survivors wait before the next step, or run on."""
        if self.executor.deadline is not None:
            buffer, rows = self._in_time(k, buffer, rows)
            if not rows:
                return
        buffer, failed = self._loaded(k, buffer, rows)
        if len(failed) == len(rows):
            for i, row in enumerate(rows):
                self._answer(row, k, None, error=failed[i])
            return
        state, logits, stop, spent = self._compute(k, buffer, len(rows))

        def cost(i):
            return None if spent is None else float(spent[i])

        for i, row in enumerate(rows):
            if i in failed or stop[i]:
                self._answer(row, k, logits[i], cost(i), failed.get(i))
        index = np.array([i for i in range(len(rows)) if not (stop[i] or i in failed)], np.int32)
        if not len(index):
            return
        left = [self._load(k + 1, rows[i]._replace(best=(logits[i], cost(i)))) for i in index]
        if self.executor.policy == "compact":
            self._step(k + 1, _Buffer(state, index if len(index) < self.executor.batch_size else None), left)
            return
        size = self.executor.batch_size
        waiting, earlier = self.waiting.pop(k + 1, (_Buffer(state), []))
        every = earlier + left
        index = np.concatenate([np.arange(len(earlier), dtype=np.int32), index + size])
        if len(every) > size:
            self.waiting[k + 1] = self._choose(waiting.state, state, index[size:]), every[size:]
        full = _Buffer(state) if not earlier and len(left) == size else self._choose(
            waiting.state, state, index[:size])
        if len(every) < size:
            self.waiting[k + 1] = full, every
        else:
            self._step(k + 1, full, every[:size])

    def _answer(self, row: _Row, k: int, logits, gmacs=None, error=None, cut: bool = False) -> None:
        seconds = self.executor.clock() - row.since
        self.done[row.number] = Answer(row.id, k, logits, error, gmacs, seconds, cut)

    def _in_time(self, k: int, buffer: _Buffer, rows: list[_Row]):
        """A buffer and its rows, without those that have no time for step `k` and an answer: they get it.

        Others that will not have the time afterwards go first, or get theirs too.
        """
        takes = self._takes(k, len(rows))  # nothing else runs until this step is over
        self.held.append((k, rows))
        self.hurry(takes)
        self.held.pop()
        if not k:
            self._expire(takes)
            return buffer, rows
        now = self.executor.clock()
        last = [row.since + self.executor.deadline - takes for row in rows]  # at which the step has to start
        there = [now <= time and row.number not in self.expired for row, time in zip(rows, last)]
        if any(now <= row.since + self.executor.deadline for row in rows) and not any(there):
            self.executor.pace.fade(k)
        until = min((time for time, stays in zip(last, there) if stays), default=now)
        loading = [i for i, row in enumerate(rows) if there[i] and row.frames is not None]
        if any(there):
            self._expire(takes + (until - now if any(not rows[i].frames.done() for i in loading) else 0))
        for i in loading:
            there[i] = bool(wait([rows[i].frames], max(until - self.executor.clock(), 0)).done)
        for i, row in enumerate(rows):
            if not there[i]:
                if row.frames is not None:
                    row.frames.cancel()
                if row.number not in self.expired:
                    self._answer(row, k - 1, *row.best, cut=True)
                self.expired.discard(row.number)
        index = np.array([i for i, stays in enumerate(there) if stays], np.int32)
        if 0 < len(index) < len(rows):
            buffer = buffer.of(index)
        return buffer, [rows[i] for i in index]

    def _expire(self, ahead: float) -> None:
        """Answers rows that would be late after so many seconds by what they have."""
        since = self.executor.clock() + ahead - self.executor.deadline
        for k, rows in [*self.held, *((k, rows) for k, (_, rows) in self.waiting.items())]:
            for row in rows:
                if row.since < since and row.best is not None and row.number not in self.expired:
                    self._answer(row, k - 1, *row.best, cut=True)
                    self.expired.add(row.number)

    def _compute(self, k: int, buffer: _Buffer, n: int):
        """Step `k` on the `n` rows of a buffer -> (state, logits (n, K), stop (n,), GMACs (n,) or None)."""
        pieces, begun = self.executor.pieces(n), self.executor.clock()
        self.executor.runs.update((k, size) for _, size in pieces)
        state, *said = self._dispatch(k, buffer, pieces)
        said = jax.device_get(said)
        self.executor.pace.add(k, [size for _, size in pieces], self.executor.clock() - begun)
        return state, *said

    def _dispatch(self, k: int, buffer: _Buffer, pieces):
        """As `_compute`, on the device."""
        ex, threshold = self.executor, self.thresholds[k]
        if pieces == [(0, ex.batch_size)]:
            return ex._full[k](self.variables, threshold, self._together(buffer))
        state, index = buffer
        key = k, np.shape(state.get("frames", ()))  # carried frames come back, loaded ones do not
        if key not in ex._empty:
            ex._empty[key] = ex._compiled(partial(empty, jax.eval_shape(
                ex._full[k], self.variables, threshold, state)))
        out, rows = ex._empty[key](), np.arange(ex.batch_size, dtype=np.int32)
        if index is not None:
            rows = self._padded(index)
        for start, size in pieces:
            out = ex._piece[k](size, self.variables, threshold, state, rows, np.int32(start), out)
        return out

    def _together(self, buffer: _Buffer):
        """The state of a buffer with its rows in the first places."""
        state, index = buffer
        return state if index is None else self._choose(state, state, index).state

    def _choose(self, first, second, index) -> _Buffer:
        """Rows of two states (the second counts from `batch_size`) in one buffer."""
        return _Buffer(self.executor._select(first, second, self._padded(index)))

    def _padded(self, index):
        padded = np.zeros(self.executor.batch_size, np.int32)
        padded[:len(index)] = index
        return padded

    def _load(self, k: int, row: _Row) -> _Row:
        """Starts to load the frames that are new in step `k`."""
        step = self.executor.steps[k]
        if row.load is None or step.stop == step.start:
            return row._replace(frames=None)
        return row._replace(frames=self.loaders.submit(row.load, row.id, step.start, step.stop))

    def _loaded(self, k: int, buffer: _Buffer, rows: list[_Row]):
        """The buffer with the loaded frames of step `k`, and {row: error} of what could not be."""
        step = self.executor.steps[k]
        if rows[0].frames is None:
            return buffer, {}
        frames, failed = {}, {}
        for i, row in enumerate(rows):
            try:
                found = np.asarray(row.frames.result())
                count = len(found) if found.ndim else 0
                if count != step.stop - step.start:
                    raise ValueError(f"row {row.id!r}: `load` gave {count} frames for positions {step.start} "
                                     f"to {step.stop}, not {step.stop - step.start}.")
                self._check(row, found.shape[1:], found.dtype)
                frames[i] = found
            except Exception as error:  # whatever the caller's `load` raises goes back with the row
                failed[i] = error
        if not frames:
            return buffer, failed
        like = next(iter(frames.values()))
        batch = np.zeros((self.executor.batch_size, *like.shape), like.dtype)
        for i, x in frames.items():
            batch[i] = x
        return _Buffer({**self._together(buffer), "frames": self._place(batch)}), failed

    def _given(self, rows: list[_Row], frames):
        """(rows, their frames) of a batch with frames, without rows that are no good: those are answered."""
        whole = hasattr(frames, "shape")  # one array, maybe on the devices, where its rows are left alone
        count = len(frames) if (frames.ndim if whole else hasattr(frames, "__len__")) else 0
        need = max(step.stop for step in self.executor.steps)
        good, arrays = [], []
        for i, row in enumerate(rows):
            try:
                if count > len(rows):
                    raise ValueError(f"row {row.id!r}: {count} clips for the {len(rows)} ids of its batch; "
                                     f"it is not known which is whose.")
                if i >= count:
                    raise ValueError(f"row {row.id!r}: no frames; its batch has {count} clips for "
                                     f"{len(rows)} ids.")
                found = frames if whole else np.asarray(frames[i])
                shape = found.shape[1:] if whole else found.shape
                if not shape or shape[0] < need:
                    raise ValueError(f"row {row.id!r}: frames of shape {shape}; the steps need {need} frames "
                                     f"(T, ...).")
                self._check(row, shape, found.dtype)
            except Exception as error:  # goes back with the row
                self.done[row.number] = Answer(row.id, 0, None, error)
            else:
                good.append(row)
                arrays.append(found)
        if not whole:
            frames = np.stack(arrays) if arrays else None
        return good, frames

    def _check(self, row: _Row, shape, dtype) -> None:
        """Raises ValueError for frames that are no numbers, or unlike those of the first row of the run."""
        if not (jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, np.bool_)):
            raise ValueError(f"row {row.id!r}: frames of type {dtype}; expected numbers.")
        found = f"{dtype} {tuple(shape)}"
        self.first = self.first or (row.id, found)
        if found != self.first[1]:
            raise ValueError(f"row {row.id!r}: frames are {found}; those of the first row of this run, "
                             f"{self.first[0]!r}, are {self.first[1]}.")

    def _place(self, array):
        return jax.device_put(array, self.executor.cut)
