"""The executor against the simulated rule: compute everything, then apply the thresholds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.exits import executor

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
    (lambda: list(executor.Executor(make_steps(), score, 4).run(None, [0.5] * 3, [])),
     "another network or route"),
    (lambda: list(executor.Executor(make_steps(), score, 4).run(
        None, [0.5] * 4, [executor.Rows(range(5), np.zeros((5, 8, 6)))])), "at most batch_size=4"),
])
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
