"""Checkpoints: what is saved comes back, and damage is found."""

import os

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from effvid_jax import checkpoint

CONFIG = {"model": {"backbone": "resnet18"}}


def state():
    params = {"conv1": {"kernel": jnp.arange(2000.0).reshape(40, 50)}, "fc": {"bias": jnp.ones(3)}}
    tx = optax.chain(optax.clip(1.0), optax.trace(0.9))
    return {"params": params, "stats": {"bn1": {"mean": jnp.zeros(4)}}, "optimizer": tx.init(params),
            "step": jnp.asarray(7, jnp.int32)}


def save(workdir, step=7):
    checkpointer = checkpoint.Checkpointer(str(workdir))
    checkpointer.save(step, state(), CONFIG, ["a", "b", "c"])
    checkpointer.close()
    return checkpoint.Checkpointer(str(workdir))


def test_round_trip(tmp_path):
    restored = save(tmp_path).restore(state())
    np.testing.assert_array_equal(restored["params"]["conv1"]["kernel"], state()["params"]["conv1"]["kernel"])
    assert type(restored["optimizer"]) is type(state()["optimizer"]) and int(restored["step"]) == 7
    saved, variables = checkpoint.load_variables(str(tmp_path))
    assert saved.class_names == ("a", "b", "c") and saved.model.backbone == "resnet18"
    assert set(variables) == {"params", "batch_stats"} and "optimizer" not in variables


def test_other_shapes_and_arrays_are_all_listed(tmp_path):
    other = state()
    other["params"] = {"conv1": {"kernel": jnp.zeros((40, 51))}, "new": {"bias": jnp.ones(3)}}
    with pytest.raises(checkpoint.CheckpointError) as error:
        save(tmp_path).restore(other)
    for part in ("params/conv1/kernel: file ((40, 50)", "missing in the file: params/new/bias",
                 "unused in the file: params/fc/bias"):
        assert part in str(error.value)


def test_a_flipped_bit_is_found_and_other_steps_are_offered(tmp_path):
    save(tmp_path, 3).close()
    checkpointer = save(tmp_path, 7)
    data = max((os.path.join(folder, name) for folder, _, names in
                os.walk(tmp_path / "checkpoints" / "7" / "state" / "d") for name in names),
               key=os.path.getsize)
    raw = bytearray(open(data, "rb").read())
    found = 0
    for position in range(len(raw) // 4, len(raw), max(1, len(raw) // 7)):
        damaged = bytearray(raw)
        damaged[position] ^= 0x10
        with open(data, "wb") as f:
            f.write(damaged)
        try:
            restored = checkpointer.restore(state())
            np.testing.assert_array_equal(restored["params"]["conv1"]["kernel"],
                                          state()["params"]["conv1"]["kernel"])
        except checkpoint.CheckpointError as error:
            found += 1
            assert "/7" in str(error) and "[3]" in str(error) and "config.init.step" in str(error)
    print(f"{found} of the flipped bits were in used bytes and found")
    assert found


def test_truncated_and_missing_files(tmp_path):
    checkpointer = save(tmp_path)
    for folder, _, names in os.walk(tmp_path / "checkpoints" / "7" / "state"):
        for name in names:
            with open(os.path.join(folder, name), "r+b") as f:
                f.truncate(10)
    with pytest.raises(checkpoint.CheckpointError, match="damaged checkpoint"):
        checkpointer.restore(state())
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint here"):
        checkpoint.load_variables(str(tmp_path / "elsewhere"))


def test_imported_weights(tmp_path):
    variables = {"params": {"fc": {"kernel": np.ones((4, 2), np.float32)}}, "batch_stats": {}}
    checkpoint.save_imported(str(tmp_path), variables, CONFIG, ["0", "1"])
    saved, loaded = checkpoint.load_variables(str(tmp_path))
    assert saved.num_classes == 2 and saved.step == 0
    np.testing.assert_array_equal(loaded["params"]["fc"]["kernel"], 1)
    with pytest.raises(checkpoint.CheckpointError, match="already holds"):
        checkpoint.save_imported(str(tmp_path), variables, CONFIG, ["0", "1"])
