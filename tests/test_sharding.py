"""The same run whatever the devices, parameters cut or whole. `benchmarks/agreement.py` is the long form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import supervised_minik
from effvid_jax import checkpoint, evaluate, sharding, stored
from effvid_jax.errors import UserError
from effvid_jax.optim import make_optimizer
from effvid_jax.state import first_state
from effvid_jax.train import jit_train_step
from tests.drawn import draw
from tests.made import made


def small():
    """A method, its optimizer (an update every second step), a state, and batches."""
    config = supervised_minik.get_config("tiny")
    config.model.update(dict(dropout=0.5, bn_groups=2))
    config.model.options.update(dict(width=8, stage_sizes=(1, 1), stage_strides=(1, 2)))
    config.optim.update(dict(accumulate=2, clip_norm=0.5, weight_decay=0.01, schedule="constant"))
    config.train.ema = 0.9
    method = made(config, list("abcde"))
    tx = make_optimizer(config.optim, 100, 100)
    found = draw(method.model, np.zeros((1, 2, 32, 32, 3), np.float32))
    variables = evaluate.Variables(found["params"], found["batch_stats"])
    r = np.random.default_rng(0)
    batches = [{"video": r.integers(0, 256, (4, 2, 32, 32, 3), dtype=np.uint8), "label": np.arange(4) + k % 2,
                "mask": np.ones(4, np.float32)} for k in range(4)]
    return config, method, tx, first_state(config, variables, tx.init(variables.params)), batches


def test_one_device_two_and_parameters_cut_over_two(monkeypatch, tmp_path):
    """Losses, parameters and averages agree to float32's digits; a cut state is saved as any other."""
    monkeypatch.setattr(sharding, "SMALLEST", 64)
    config, method, tx, start, batches = small()
    ends, losses = [], []
    for fsdp, devices in ((1, jax.devices()[:1]), (1, None), (2, None)):
        mesh = sharding.make_mesh(fsdp, devices)
        state = sharding.place(start, mesh)
        step, lost = jit_train_step(method, tx, 0, mesh, state), []
        for batch in batches:
            cut = {name: jax.device_put(x, sharding.of_batch(mesh)) for name, x in batch.items()}
            state, scalars = step(state, cut)
            lost.append(float(scalars["loss"]))
        parts = [x.addressable_shards[0].data.size < x.size for x in jax.tree.leaves(
            (state.params, state.optimizer, state.averaged["params"]))]
        assert any(parts) == (fsdp > 1) and not any(
            x.addressable_shards[0].data.size < x.size for x in jax.tree.leaves(state.stats))
        losses.append(lost)
        ends.append(state)
    one = jax.tree.map(np.asarray, ends[0].saved())
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), one["params"], start.params)
    assert max(jax.tree.leaves(moved)) > 1e-3
    for k in (1, 2):
        np.testing.assert_allclose(losses[k], losses[0], rtol=2e-6)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=3e-6), one, ends[k].saved())
    cut = ends[2]
    checkpoints = checkpoint.Checkpointer(str(tmp_path))
    checkpoints.save(4, cut.saved(), config, list("abcde"))
    checkpoints.close()
    nested, _ = stored.read(str(tmp_path / "checkpoints"), 4)  # against checksums of the whole arrays
    back = stored.from_nested(nested, cut.saved(), "")
    jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(np.asarray, cut.saved()))
    whole = sharding.whole(cut.evaluated, mesh)
    assert all(x.is_fully_replicated for x in jax.tree.leaves(whole))


def test_what_is_cut():
    mesh = sharding.make_mesh(2)
    assert dict(mesh.shape) == {"data": 1, "fsdp": 2}

    def spec(*shape):
        return tuple(sharding.of_array(jax.ShapeDtypeStruct(shape, jnp.float32), mesh).spec)

    assert spec(3, 3, 256, 512) == (None, None, None, "fsdp") and spec(3, 3, 512, 256) == (None, None, "fsdp")
    assert spec(4096, 3) == ("fsdp",) and spec(101, 101) == () == spec(64) == spec()
    for number in (0, 3):
        with pytest.raises(UserError, match=f"config.train.fsdp={number}: expected a divisor"):
            sharding.make_mesh(number)


def test_shares_of_processes(monkeypatch):
    """Every example once, in order, whatever their number; rows come back in that order."""
    for count in (1, 2, 3, 7):
        monkeypatch.setattr(jax, "process_count", lambda count=count: count)
        for number in (0, 1, 5, 16):
            shares = []
            for index in range(count):
                monkeypatch.setattr(jax, "process_index", lambda index=index: index)
                shares += sharding.own_share(number)
            assert shares == list(range(number))
    rows = [{"id": np.arange(3), "scores": np.ones((3, 2), np.float32)}, {},
            {"id": np.array([3]), "scores": np.zeros((1, 2), np.float32)}]
    found = sharding._joined([sharding._packed(part) for part in rows])
    assert found["id"].tolist() == [0, 1, 2, 3] and found["scores"].sum(axis=1).tolist() == [2, 2, 2, 0]
    assert found["id"].dtype == np.int64 and sharding._joined([sharding._packed({})]) == {}
