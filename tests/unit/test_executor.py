"""The executor against the simulated rule: compute everything, then apply the thresholds."""

import functools
import itertools
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.exits import executor, stopping

NEW = [(0, 2), (2, 2), (2, 4), (4, 8)]  # frames that are new in each step


def make_steps():
    """A small network of four steps whose state has maps of several shapes."""

    def step(k):
        def run(variables, state, frames):
            total = state.get("total", 0.0)
            if frames is not None:
                total = total + frames.astype(jnp.float32).sum(axis=1)
            hidden = jnp.tanh(total @ variables[k])
            logits = hidden @ variables[-1] + 0.1 * state.get("logits", 0.0)
            return {"total": total, "logits": logits, "nested": {"h": hidden}}, logits
        return executor.Step(run, *NEW[k])

    return [step(k) for k in range(len(NEW))]


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(0)
    variables = [jnp.asarray(rng.standard_normal((6, 16)), jnp.float32) for _ in NEW]
    variables.append(jnp.asarray(rng.standard_normal((16, 5)), jnp.float32))
    clips = rng.standard_normal((70, 8, 6)).astype(np.float32)
    return make_steps(), variables, clips


def score(logits):
    return jax.nn.softmax(logits).max(axis=-1)


def simulate(steps, variables, clips, thresholds):
    state, all_logits, stops = {}, [], []
    for k, step in enumerate(steps):
        state, logits = step.run(variables, state, clips[:, step.start:step.stop]
                                 if step.stop > step.start else None)
        all_logits.append(logits)
        stops.append(np.asarray(score(logits) >= thresholds[k]) | (k == len(steps) - 1))
    taken = np.argmax(np.stack(stops, axis=1), axis=1)
    return taken, np.stack(all_logits, axis=1)[np.arange(len(clips)), taken]


def batches(clips, size, how):
    for start in range(0, len(clips), size):
        ids = range(start, min(start + size, len(clips)))
        if how == "load":
            yield executor.Rows(ids, load=lambda i, a, b: clips[i, a:b])
        else:
            frames = clips[start:start + size]
            yield executor.Rows(ids, jnp.asarray(frames) if how == "device" else frames)


THRESHOLDS = {
    "nobody": [2.0] * 4, "everybody": [0.0] * 4, "at the second": [2.0, 0.0, 0.0, 0.0],
    **{f"random {seed}": list(np.random.default_rng(seed).uniform(0.3, 0.95, 4)) for seed in range(3)}}


@pytest.fixture(scope="module")
def executors(network):
    """(batch size, policy) -> executor: compiled once, however its frames come."""
    return functools.cache(lambda size, policy: executor.Executor(network[0], score, size, policy=policy))


@pytest.fixture(scope="module")
def simulated(network):
    """Name of thresholds -> what the rule says."""
    return functools.cache(lambda name: simulate(*network, THRESHOLDS[name]))


@pytest.mark.parametrize("how", ["host", "device", "load"])
@pytest.mark.parametrize("policy", executor.POLICIES)
@pytest.mark.parametrize("size", [1, 7, 16, 128])
def test_equals_the_simulated_rule(network, executors, simulated, policy, size, how):
    _, variables, clips = network
    run = executors(size, policy)
    for name, thresholds in THRESHOLDS.items():
        expected, logits = simulated(name)
        answers = list(run.run(variables, thresholds, batches(clips, size, how)))
        assert [a.id for a in answers] == list(range(len(clips))), name
        assert [a.checkpoint for a in answers] == expected.tolist(), name
        np.testing.assert_allclose([a.logits for a in answers], logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", executor.POLICIES)
def test_a_score_may_read_the_state(network, policy):
    """Here every step's hidden values, none of which the logits tell."""
    steps, variables, clips = network
    thresholds = [0.9, 0.5, 0.1, 0]
    hidden = executor.StateScore(lambda state, logits: state["nested"]["h"][:, 0])
    run = executor.Executor(steps, hidden, 7, policy=policy)
    answers = list(run.run(variables, thresholds, batches(clips, 7, "load")))
    state, stops = {}, []
    for k, step in enumerate(steps):
        new = clips[:, step.start:step.stop] if step.stop > step.start else None
        state, _ = step.run(variables, state, new)
        stops.append(np.asarray(state["nested"]["h"][:, 0] >= thresholds[k]) | (k == len(steps) - 1))
    expected = np.argmax(np.stack(stops, axis=1), axis=1)
    assert [a.checkpoint for a in answers] == expected.tolist() and len(set(expected.tolist())) > 2


@pytest.mark.parametrize("policy", executor.POLICIES)
def test_nothing_is_compiled_after_warming_up(network, policy):
    steps, variables, clips = network
    for load in (False, True):
        run = executor.Executor(steps, score, 16, sizes=(8, 4, 1), policy=policy)
        run.warm_up(variables, clips[:1], load)
        compiled = [f._cache_size() for f in (*run._full, *run._piece, run._select)]
        for thresholds in THRESHOLDS.values():
            list(run.run(variables, thresholds, batches(clips, 16, "load" if load else "host")))
        assert [f._cache_size() for f in (*run._full, *run._piece, run._select)] == compiled
        print(policy, "compiled functions", compiled)


def test_frames_of_rows_that_stopped_are_not_loaded(network):
    steps, variables, clips = network
    loaded = []

    def load(i, start, stop):
        loaded.extend((i, f) for f in range(start, stop))
        return clips[i, start:stop]

    run = executor.Executor(steps, score, 16)
    answers = list(run.run(variables, [0.7, 0.7, 0.7, 0], [
        executor.Rows(range(s, min(s + 16, 70)), load=load) for s in range(0, 70, 16)]))
    seen = [max((stop for _, stop in NEW[:a.checkpoint + 1]), default=0) for a in answers]
    assert sorted(loaded) == sorted((i, f) for i in range(70) for f in range(seen[i]))
    print(f"loaded {len(loaded)} of {70 * 8} frames")
    assert len(loaded) < 70 * 8


def test_rows_that_cannot_be_loaded_are_answered_with_their_error(network):
    steps, variables, clips = network

    def load(i, start, stop):
        if i == 3 or (i == 5 and start == 4):
            raise OSError(f"row {i}")
        return clips[i, start:stop]

    for policy in executor.POLICIES:
        run = executor.Executor(steps, score, 4, policy=policy)
        answers = list(run.run(variables, [2.0] * 4, [executor.Rows(range(s, s + 4), load=load)
                                                      for s in (0, 4, 8)]))
        assert [str(a.error) for a in answers if a.error] == ["row 3", "row 5"]
        assert [a.checkpoint for a in answers if a.error is None] == [3] * 10
        alone = executor.Executor(steps, score, 1, policy=policy)
        answers = list(alone.run(variables, [2.0] * 4, [executor.Rows([i], load=load) for i in (2, 3, 5)]))
        assert [bool(a.error) for a in answers] == [False, True, True]


def test_several_devices(network):
    steps, variables, clips = network
    assert jax.device_count() > 1  # conftest.py makes virtual ones
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    size = 8 * mesh.size
    for policy in executor.POLICIES:
        run = executor.Executor(steps, score, size, policy=policy, mesh=mesh)
        for how in ("host", "load"):
            thresholds = THRESHOLDS["random 1"]
            expected, logits = simulate(steps, variables, clips, thresholds)
            answers = list(run.run(variables, thresholds, batches(clips, size, how)))
            assert [a.checkpoint for a in answers] == expected.tolist()
            np.testing.assert_allclose([a.logits for a in answers], logits, rtol=1e-5, atol=1e-5)


def test_pieces_cover_the_rows_with_little_waste():
    run = executor.Executor(make_steps(), score, 64, sizes=(16, 8, 4, 1))
    assert run.pieces(64) == [(0, 64)]
    assert run.pieces(29) == [(0, 16), (16, 8), (24, 4), (28, 1)]
    coarse = executor.Executor(make_steps(), score, 64, sizes=(16,))
    assert coarse.pieces(29) == [(0, 16), (16, 16)]
    assert coarse.pieces(63) == [(0, 16), (16, 16), (32, 16), (48, 16)]


@pytest.mark.parametrize("call, message", [
    (lambda: executor.Executor(make_steps(), score, 4, policy="fast"), "expected one of"),
    (lambda: executor.Executor(make_steps(), score, 4, sizes=(8,)), "between 1 and"),
    (lambda: executor.Executor(make_steps(), score, 0), "positive multiple"),
    (lambda: executor.Executor(make_steps(), score, 4, max_wait=-1), "max_wait=-1"),
    (lambda: executor.Executor(make_steps(), score, 4, max_seconds=-1), "max_seconds=-1"),
    (lambda: executor.Executor(make_steps(), score, 4, max_seconds=float("nan")), "max_seconds=nan"),
    (lambda: list(executor.Executor(make_steps(), score, 4).run(None, [0.5] * 3, [])),
     "another network or route"),
    (lambda: list(executor.Executor(make_steps(), score, 4).run(
        None, [0.5] * 4, [executor.Rows(range(5), np.zeros((5, 8, 6)))])), "at most batch_size=4"),
])
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------------------------------------------- rows that are no good
BAD = [
    lambda clip: clip.astype(np.float64), lambda clip: clip.astype(np.uint8), lambda clip: clip[:, :1],
    lambda clip: clip[..., None], lambda clip: clip[:1], lambda clip: clip[:0], lambda clip: clip.astype(str),
    lambda clip: None, lambda clip: [[1.0], [1.0, 2.0]], lambda clip: np.float32(3),
    lambda clip: clip.astype(object)]
SHORT = lambda clip: clip[:5]  # noqa: E731  (shows at the last step, where frames 4 to 8 are loaded)
NEVER = 9


def drawn(clips, how, size, rng):
    """Batches of random sizes, some empty, some rows bad; and the step where each row's fault shows."""
    batches, shows, start = [], np.full(len(clips), NEVER), 0
    while start < len(clips):
        ids = range(start, min(len(clips), start + int(rng.integers(0, size + 1))))
        start = ids.stop
        rows = {}
        for i in ids:
            rows[i] = clips[i]
            kind = rng.integers(-12, len(BAD) + 1) if i else -1  # others are held against the first row
            if kind >= 0:
                rows[i] = (BAD[kind] if kind < len(BAD) else SHORT)(clips[i])
                shows[i] = 3 if kind == len(BAD) and how == "load" else 0
        if how == "load":
            batches.append(executor.Rows(ids, load=lambda i, a, b, rows=rows: (
                rows[i][a:b] if isinstance(rows[i], np.ndarray) and rows[i].ndim else rows[i])))
        elif how == "rows":
            batches.append(executor.Rows(ids, list(rows.values())))
        else:  # whole arrays of another type, too short, with too few or too many clips
            kind = rng.integers(6) if 0 not in ids and len(ids) else 5
            whole = clips[ids.start:ids.stop]
            whole = [whole.astype(np.uint8), whole[:, :5], whole[..., None],
                     np.concatenate([whole, whole[:1]]), whole[:len(ids) // 2], whole][kind]
            shows[ids.start:ids.stop] = NEVER if kind == 5 else 0
            if kind == 4:
                shows[ids.start:ids.start + len(whole)] = NEVER
            batches.append(executor.Rows(ids, jnp.asarray(whole) if rng.integers(2) else whole))
    return batches, shows


@pytest.mark.parametrize("how", ["load", "rows", "arrays"])
@pytest.mark.parametrize("policy", executor.POLICIES)
def test_bad_rows_get_their_error_and_the_others_their_answer(network, executors, simulated, policy, how):
    _, variables, clips = network
    bad = 0
    for seed in range(12):
        rng, size = np.random.default_rng(seed), (7, 16)[seed % 2]
        run, name = executors(size, policy), list(THRESHOLDS)[seed % len(THRESHOLDS)]
        expected, logits = simulated(name)
        batches_, shows = drawn(clips, how, size, rng)
        run.max_wait = int(rng.integers(0, 4))
        answers = list(run.run(variables, THRESHOLDS[name], batches_, ordered=bool(seed % 3)))
        if seed % 3 == 0:
            answers.sort(key=lambda a: a.id)
        assert [a.id for a in answers] == list(range(70))
        for a in answers:
            if shows[a.id] <= expected[a.id]:
                assert isinstance(a.error, ValueError) and a.checkpoint == shows[a.id], (seed, a)
                bad += 1
            else:
                assert a.error is None and a.checkpoint == expected[a.id], (seed, a)
                np.testing.assert_allclose(a.logits, logits[a.id], rtol=1e-5, atol=1e-5)
    print(f"{bad} of {12 * 70} rows were bad")
    assert bad > 100


def test_warming_up_with_too_few_frames_is_no_warm_up(network, executors):
    _, variables, clips = network
    for load in (False, True):
        with pytest.raises(ValueError, match="row 0: .*frames"):
            executors(7, "pool").warm_up(variables, clips[:1, :3], load)


@pytest.mark.parametrize("rows, message", [
    (executor.Rows([5], load=lambda i, a, b: np.zeros((1, 6), np.float32)),
     "row 5: `load` gave 1 frames for positions 0 to 2, not 2"),
    (executor.Rows([5], load=lambda i, a, b: np.zeros((b - a, 6), np.uint8)),
     r"row 5: frames are uint8 \(6,\); those of the first row of this run, 'a', are float32 \(6,\)"),
    (executor.Rows([5], load=lambda i, a, b: ["x"] * (b - a)), "row 5: frames of type .*expected numbers"),
    (executor.Rows([5], np.zeros((1, 8, 6), np.float32)), "row 5: frames are given, those of the first"),
    (executor.Rows([5]), "row 5: frames are missing"),
])
def test_errors_of_rows_say_what_is_wrong(network, executors, rows, message):
    _, variables, clips = network
    first = executor.Rows(["a"], load=lambda i, a, b: clips[0, a:b])
    answers = list(executors(7, "pool").run(variables, [2.0] * 4, [first, rows, first]))
    assert [a.error is None for a in answers] == [True, False, True]
    with pytest.raises(ValueError, match=message):
        raise answers[1].error


# ------------------------------------------------------------------------------- scores that are no number
@pytest.mark.parametrize("policy", executor.POLICIES)
def test_scores_that_are_no_number_reach_no_threshold(network, executors, policy):
    """In the first frames or from the middle on; the rule of `stopping` and the executor say the same."""
    steps, variables, clips = network
    for seed, value in enumerate([np.nan, np.inf, -np.inf, np.nan]):
        rng = np.random.default_rng(seed)
        hurt = clips.copy()
        for i in rng.choice(70, 20, replace=False):
            hurt[i, rng.integers(8):, rng.integers(6)] = value
        thresholds = THRESHOLDS[f"random {seed % 3}"]
        state, scores_ = {}, []
        for step in steps:
            state, logits = step.run(variables, state, hurt[:, step.start:step.stop]
                                     if step.stop > step.start else None)
            scores_.append(score(logits))
        scores_ = np.stack(scores_, axis=1)
        expected = stopping.exits_taken(scores_, np.array(thresholds, np.float32)).tolist()
        if np.isnan(value):
            assert 3 in [expected[i] for i in np.argwhere(np.isnan(scores_))[:, 0]]
        answers = list(executors(16, policy).run(variables, thresholds, batches(hurt, 16, "host")))
        assert [a.checkpoint for a in answers] == expected and not any(a.error for a in answers)
        for a in answers:  # neighbours are not touched
            if np.isfinite(hurt[a.id]).all():
                assert np.isfinite(a.logits).all()


# ------------------------------------------------------------------------------------------------- waiting
HARD = [2.0] * 4  # nothing stops early


def one_hard_first(clips):
    """Thresholds at which clip 0 goes to the end, and clips of which all others stop at the first step."""
    easy = np.repeat(clips[1:2], len(clips), axis=0)
    easy[0] = 0  # logits 0: the least sure of all
    return [0.21, 2.0, 2.0, 2.0], easy


@pytest.mark.parametrize("how", ["host", "load"])
@pytest.mark.parametrize("max_wait", [0, 1, 5])
def test_one_hard_row_does_not_hold_an_endless_stream(network, executors, how, max_wait):
    _, variables, clips = network
    thresholds, clips = one_hard_first(clips)
    run, read = executors(7, "pool"), []
    run.max_wait = max_wait

    def endless():
        for number in itertools.count():
            read.append(number)
            ids = range(7 * number, 7 * number + 7)
            yield (executor.Rows(ids, np.stack([clips[min(i, 69)] for i in ids])) if how == "host" else
                   executor.Rows(ids, load=lambda i, a, b: clips[min(i, 69), a:b]))

    ahead = 2 if how == "load" else 0
    answers = run.run(variables, thresholds, endless())
    for i, a in enumerate(itertools.islice(answers, 140)):
        assert a.id == i and a.checkpoint == (3 if i == 0 else 0)
        assert len(read) <= i // 7 + 1 + max_wait + ahead, (i, len(read))
    answers.close()
    read.clear()
    first = next(run.run(variables, thresholds, endless(), ordered=False))
    assert first.id == 1 and len(read) == 1 + ahead


@pytest.mark.parametrize("how", ["host", "load"])
@pytest.mark.parametrize("policy", executor.POLICIES)
def test_a_slow_source_holds_no_row_longer_than_max_seconds(network, executors, monkeypatch, how, policy):
    """The second batch does not come before everything of the first one is answered."""
    _, variables, clips = network
    run, go = executors(7, policy), threading.Event()
    monkeypatch.setattr(run, "max_seconds", 0.05)

    def source():
        for number, batch in enumerate(batches(clips[:21], 7, how)):
            if number:
                assert go.wait(20), "nothing came for want of the next batch"
            go.clear()
            yield batch
        go.wait(20)

    for thresholds in (HARD, THRESHOLDS["random 1"]):
        found, times = [], []
        for a in run.run(variables, thresholds, source()):
            found.append(a)
            times.append(time.monotonic())
            if len(found) % 7 == 0:
                go.set()
        assert [a.id for a in found] == list(range(21)) and not any(a.error for a in found)
        taken, logits = simulate(*network[:2], clips[:21], thresholds)
        assert [a.checkpoint for a in found] == taken.tolist()
        np.testing.assert_allclose([a.logits for a in found], logits, rtol=1e-5, atol=1e-5)
        assert times[-1] - times[0] < 15


def test_max_seconds_changes_no_promise(network, executors, monkeypatch):
    """Errors of the source, its end, and a source that nobody listens to any more."""
    _, variables, clips = network
    run, read = executors(16, "pool"), []
    monkeypatch.setattr(run, "max_seconds", 1e-3)

    def source(error=None):
        for batch in batches(clips[:40], 16, "host"):
            read.append(batch)
            yield batch
        if error is not None:
            raise error

    assert [a.id for a in run.run(variables, HARD, source())] == list(range(40))
    found = []
    with pytest.raises(OSError, match="the disk is gone"):
        found.extend(run.run(variables, HARD, source(OSError("the disk is gone"))))
    assert [a.id for a in found] == list(range(40))
    before, read[:] = threading.active_count(), []
    endless = itertools.chain.from_iterable(source() for _ in itertools.count())
    answers = run.run(variables, [0.0] * 4, endless)
    assert next(answers).id == 0
    answers.close()
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= before and len(read) <= 4, "the reading ends, one batch ahead"


@pytest.mark.parametrize("how", ["host", "load"])
def test_a_batch_of_bad_rows_alone_delays_nobody(network, executors, how):
    """Their answers, and the batches after them, come as they would without."""
    _, variables, clips = network
    read = []

    def source():
        yield executor.Rows([-1, -2])  # no frames, no way to load any
        for batch in batches(clips, 7, how):
            read.append(batch)
            yield batch

    answers = executors(7, "pool").run(variables, [0.0] * 4, source())
    assert [next(answers).id for _ in range(2)] == [-1, -2] and not read
    assert next(answers).id == 0 and len(read) == (1 if how == "host" else 3)
    answers.close()


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_delay_and_memory_are_bounded(network, executors, monkeypatch, seed, ordered):
    """Random thresholds: no answer is later than `max_wait` batches, nor do answers pile up."""
    _, variables, clips = network
    size, max_wait = (7, 16)[seed % 2], seed % 4
    run, started, original = executors(size, "pool"), [], executor._Run.start
    run.max_wait = max_wait

    def start(self, rows, frames):
        started.append(rows)
        original(self, rows, frames)
        assert all(len(rows) < size for _, rows in self.waiting.values())
        assert len(self.done) <= (max_wait + 1) * size

    monkeypatch.setattr(executor._Run, "start", start)
    seen = set()
    for a in run.run(variables, THRESHOLDS[f"random {seed % 3}"], batches(clips, size, "host"), ordered):
        assert len(started) - 1 - a.id // size <= max_wait, a
        seen.add(a.id)
    assert seen == set(range(70))


@pytest.mark.parametrize("policy", executor.POLICIES)
@pytest.mark.parametrize("how", ["host", "load"])
def test_a_source_that_raises_loses_no_row(network, executors, how, policy):
    _, variables, clips = network

    def source():
        yield from batches(clips[:40], 16, how)
        raise OSError("the disk is gone")

    for wrong, message in [
            (source(), "the disk is gone"),
            ([*batches(clips[:40], 16, how), executor.Rows(range(99), clips)], "99 rows in a batch")]:
        found = []
        with pytest.raises((OSError, ValueError), match=message):
            found.extend(executors(16, policy).run(variables, HARD, wrong))  # extend keeps what came
        assert [a.id for a in found] == list(range(40)) and not any(a.error for a in found)


def test_whoever_stops_listening_does_not_wait_for_frames(network):
    steps, variables, clips = network
    go, loaded = threading.Event(), []

    def load(i, start, stop):
        if i >= 4:
            go.wait(20)
        loaded.append(i)
        return clips[i, start:stop]

    run = executor.Executor(steps, score, 4, threads=1)
    answers = run.run(variables, [0.0] * 4, [
        executor.Rows(range(s, s + 4), load=load) for s in range(0, 24, 4)])
    assert next(answers).id == 0
    threading.Timer(0.2, go.set).start()
    answers.close()
    assert len(loaded) <= 5  # the one that was under way
