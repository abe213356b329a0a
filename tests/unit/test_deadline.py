"""Answers within a deadline: the executor by a clock that only its steps move, and what is told."""

import threading

import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.errors import UserError
from effvid_jax.exits import deadline, executor

STEPS, TAKES = 4, 0.010  # seconds of each


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def step(k):
    def run(variables, state, frames):
        total = state.get("total", 0.0)
        if frames is not None:
            total = total + frames.sum(axis=1)
        return {"total": total}, jnp.tanh(total @ variables) * (k + 1)
    return executor.Step(run, 2 * k, 2 * k + 2)


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(0)
    clips = rng.standard_normal((40, 2 * STEPS, 3)).astype(np.float32)
    variables = rng.standard_normal((3, 5)).astype(np.float32)
    sums = clips.reshape(40, STEPS, 2, 3).sum(axis=2).cumsum(axis=1)
    return variables, clips, np.tanh(sums @ variables) * np.arange(1, STEPS + 1)[None, :, None]


@pytest.fixture(scope="module")
def compiled(network):
    """An executor of each policy, which has seen how long its steps take."""
    variables, clips, _ = network
    clock, dispatch = Clock(), executor._Run._dispatch

    def slow(self, k, state, pieces):
        clock.now += TAKES
        return dispatch(self, k, state, pieces)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor._Run, "_dispatch", slow)
        found = {}
        for policy in executor.POLICIES:
            run = found[policy] = executor.Executor(
                [step(k) for k in range(STEPS)], lambda x: x.max(axis=-1), 4, (2, 1), policy, deadline=0.0,
                clock=clock)
            run.warm_up(variables, clips[:1], load=True)
            assert run.pace.of(0, [4]) == pytest.approx(TAKES)
        yield found


def rows(clips, ids, **more):
    return executor.Rows(ids, load=lambda i, start, stop: clips[i, start:stop], **more)


NEVER, ALWAYS = [99.0] * STEPS, [-99.0] * STEPS


@pytest.mark.parametrize("within, checkpoint, takes, cut", [
    (0.1, 3, 0.04, False), (0.045, 3, 0.04, False), (0.035, 2, 0.03, True), (0.0101, 0, 0.01, True),
    (0.0, 0, 0.01, True)], ids=str)
def test_the_best_so_far_in_time(network, compiled, within, checkpoint, takes, cut):
    """A step that would end too late does not start; the first one does: nothing could be said before."""
    variables, clips, logits = network
    run = compiled["compact"]
    run.deadline = within
    for answer in run.run(variables, NEVER, [rows(clips, range(4)), rows(clips, range(4, 7))]):
        assert (answer.checkpoint, answer.cut) == (checkpoint, cut)
        assert answer.seconds == pytest.approx(takes, abs=1e-6)
        np.testing.assert_allclose(answer.logits, logits[answer.id, checkpoint], rtol=1e-5)
    assert {a.cut for a in run.run(variables, ALWAYS, [rows(clips, range(4))])} == {False}
    late = next(run.run(variables, NEVER, [rows(clips, [0], since=run.clock() - 1.0)]))  # came long ago
    assert late.checkpoint == 0 and late.cut and late.seconds == pytest.approx(1 + TAKES)


def test_who_waits_for_others_does_not_miss_it(network, compiled):
    """Two survivors wait for a full batch only until the steps to come would not fit any more."""
    variables, clips, _ = network
    run = compiled["pool"]
    for within, expected in ((1.0, [(3, False)] * 4), (0.045, [(3, False)] * 2 + [(0, True)] * 2)):
        run.deadline = within
        found = list(run.run(variables, NEVER, [rows(clips, [0, 1]), rows(clips, [2, 3])]))
        assert [(a.checkpoint, a.cut) for a in found] == expected
    assert [a.seconds for a in found] == pytest.approx([0.04] * 4), "the second came while the first ran"


@pytest.mark.parametrize("policy", executor.POLICIES)
def test_nothing_is_late_but_first_answers(network, compiled, policy):
    variables, clips, logits = network
    run = compiled[policy]
    for seed in range(8):
        rng = np.random.default_rng(seed)
        thresholds = rng.uniform(0.5, 3.5, STEPS)
        stop = logits.max(axis=-1) >= thresholds
        stop[:, -1] = True
        expected = stop.argmax(axis=1)
        run.deadline, run.max_wait = float(rng.uniform(0, 0.1)), int(rng.integers(5))
        ends = [0, *sorted(rng.choice(range(1, 40), 12, replace=False)), 40]
        ids = [range(start, stop) for a, b in zip(ends, ends[1:]) for start in range(a, b, 4)
               for stop in [min(b, start + 4)]]
        found = list(run.run(variables, thresholds, (rows(clips, some) for some in ids)))
        assert [a.id for a in found] == list(range(40))
        for a in found:
            np.testing.assert_allclose(a.logits, logits[a.id, a.checkpoint], rtol=1e-4)
            assert a.checkpoint < expected[a.id] if a.cut else a.checkpoint == expected[a.id]
            assert a.seconds <= run.deadline + 0.3 * TAKES or a.checkpoint == 0


def test_frames_that_do_not_come_in_time_are_not_waited_for(network, compiled):
    variables, clips, _ = network
    run, there = compiled["compact"], threading.Event()
    run.deadline = 0.2

    def load(i, start, stop):
        if i == 1 and start:
            there.wait(30)
        return clips[i, start:stop]

    found = list(run.run(variables, NEVER, [executor.Rows(range(3), load=load)]))
    there.set()
    assert [(a.checkpoint, a.cut) for a in found] == [(3, False), (0, True), (3, False)]


def test_what_a_step_takes():
    pace = deadline.Pace()
    assert pace.of(0, [4]) == 0.0, "nothing is known"
    pace.add(0, [4], 9.0)  # compiles
    assert pace.of(0, [4]) == 0.0
    for seconds in (1.0, 5.0, 1.1):
        pace.add(0, [4], seconds)
    assert pace.of(0, [4]) == 1.1, "one run that was held up is passed by"
    pace.add(0, [2, 1], 9.0)
    pace.add(0, [2, 1], 2.0)
    assert (pace.of(0, [2, 1]), pace.of(0, [2]), pace.of(1, [4])) == (2.0, 2.0, 0.0)
    for _ in range(200):
        pace.fade(0)
    assert pace.of(0, [4]) < 0.2
    for _ in range(deadline.LAST):
        pace.add(0, [4], 3.0)
    assert pace.of(0, [4]) == 3.0


def test_what_is_told():
    told = deadline.told({"seconds": np.linspace(0.001, 0.1, 100), "cut": np.arange(100) < 25}, 90.0)
    assert told == pytest.approx({
        "deadline_ms": 90.0, "cut_share": 0.25, "late_share": 0.1, "latency_ms_p50": 50.5,
        "latency_ms_p95": 95.05, "latency_ms_p99": 99.01})
    for bad in (-1.0, float("nan")):
        with pytest.raises(UserError, match="deadline="):
            executor.Executor([step(0)], None, 1, deadline=bad)
