"""Checkpoints: what is saved comes back, what is damaged is passed by, and nothing is lost or dropped."""

import json
import os
import shutil
import types

import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from effvid_jax import checkpoint, saver, stored
from effvid_jax.errors import Interrupted, UserError
from tests.made import full_disk

CONFIG = {"model": {"backbone": "resnet18"}}
COURSE = types.SimpleNamespace(num_steps=100)


def state(step=7):
    params = {"conv1": {"kernel": jnp.arange(2000.0).reshape(40, 50)}, "fc": {"bias": jnp.ones(3)}}
    tx = optax.chain(optax.clip(1.0), optax.trace(0.9))
    return {"params": params, "stats": {"bn1": {"mean": jnp.zeros(4)}}, "optimizer": tx.init(params),
            "step": jnp.asarray(step, jnp.int32)}


def save(workdir, *steps):
    checkpointer = checkpoint.Checkpointer(str(workdir))
    for step in steps or (7,):
        checkpointer.save(step, state(step), CONFIG, ["a", "b", "c"])
    checkpointer.close()
    return checkpoint.Checkpointer(str(workdir))


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """Workdir with the steps 3 and 7."""
    workdir = tmp_path_factory.mktemp("two_steps")
    save(workdir, 3, 7).close()
    return workdir


@pytest.fixture
def workdir(two_steps, tmp_path):
    """A copy of it."""
    return shutil.copytree(two_steps, tmp_path / "run")


def names(workdir):
    return sorted(os.listdir(workdir / "checkpoints"))


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


def test_a_flipped_bit_is_found(workdir):
    data = max((os.path.join(folder, name) for folder, _, names in
                os.walk(workdir / "checkpoints" / "7" / "state" / "d") for name in names),
               key=os.path.getsize)
    raw = bytearray(open(data, "rb").read())
    found = 0
    for position in range(len(raw) // 4, len(raw), max(1, len(raw) // 7)):
        damaged = bytearray(raw)
        damaged[position] ^= 0x10
        with open(data, "wb") as f:
            f.write(damaged)
        try:
            nested, _ = stored.read(str(workdir / "checkpoints"), 7)
            np.testing.assert_array_equal(nested["params"]["conv1"]["kernel"],
                                          state()["params"]["conv1"]["kernel"])
        except stored.Damaged as error:
            found += 1
            assert "checkpoints/7 is damaged" in str(error)
    print(f"{found} of the flipped bits were in used bytes and found")
    assert found


# --------------------------------------------------------------------- damage, and how a run goes on
def cut(folder):
    for where, _, files in os.walk(folder):
        for name in files:
            with open(os.path.join(where, name), "r+b") as f:
                f.truncate(10)


def change_meta(change):
    def damage(step):
        path = step / "meta" / "metadata"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return damage


DAMAGES = {
    "arrays are cut": lambda step: cut(step / "state"),
    "arrays are gone": lambda step: shutil.rmtree(step / "state"),
    "meta is gone": lambda step: shutil.rmtree(step / "meta"),
    "meta is cut": lambda step: cut(step / "meta"),
    "meta is empty": lambda step: (step / "meta" / "metadata").write_text(""),
    "meta is a list": change_meta(lambda meta: [meta]),
    "meta lacks a field": change_meta(lambda meta: {k: v for k, v in meta.items() if k != "arrays"}),
    "meta has another type": change_meta(lambda meta: meta | {"num_classes": "3"}),
    "meta lacks a class": change_meta(lambda meta: meta | {"class_names": ["a"]}),
    "meta has no model": change_meta(lambda meta: meta | {"config": {}}),
    "a checksum is wrong": change_meta(lambda meta: meta | {"arrays": meta["arrays"] | {
        "params/fc/bias": meta["arrays"]["params/fc/bias"] | {"crc32": 1}}}),
    "meta counts no clips": change_meta(lambda meta: meta | {"seen": {"clips": "56"}}),
    "meta counts in nothing": change_meta(lambda meta: meta | {"seen": [56, 0]}),
    "a copy of another step": lambda step: (
        shutil.rmtree(step), shutil.copytree(step.parent / "3", step)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_the_newest_sound_one_is_taken(workdir, damage, capsys):
    damage(workdir / "checkpoints" / "7")
    before = names(workdir)
    saved, _ = checkpoint.load_variables(str(workdir))
    said = capsys.readouterr().err
    assert saved.step == 3 and names(workdir) == before, "evaluation moves nothing"
    assert "checkpoints/7 is" in said and "Step 3, the newest sound one, is used" in said
    assert len(said.splitlines()) == 1

    checkpointer = checkpoint.Checkpointer(str(workdir))
    assert int(checkpointer.resume(state())["step"]) == 3
    said = capsys.readouterr().err
    assert "checkpoints/7 is" in said and "kept as 7.damaged; this run goes on from step 3" in said
    assert names(workdir) == ["3", "7.damaged"]
    for step in (5, 7):  # at and below the damaged one: these were dropped
        checkpointer.save(step, state(step), CONFIG, ["a", "b", "c"])
    checkpointer.close()
    assert checkpoint.load_variables(str(workdir))[0].step == 7
    assert names(workdir) == ["5", "7", "7.damaged"]


def test_foreign_names_are_set_aside(tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    for name in ("999", "²", "٣", "007"):
        (folder / name).mkdir(parents=True)
    (folder / "12").write_text("a file")
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint here"):
        checkpoint.load_variables(str(tmp_path))
    checkpointer = checkpoint.Checkpointer(str(tmp_path))
    assert checkpointer.resume(state()) is None
    assert names(tmp_path) == sorted(f"{name}.foreign" for name in ("999", "²", "٣", "007", "12"))
    assert capsys.readouterr().err.count("this run goes on from the beginning") == 5
    checkpointer.save(3, state(3), CONFIG, ["a", "b", "c"])
    checkpointer.close()
    for name in ("999", "²"):
        (folder / name).mkdir()
    assert checkpoint.load_variables(str(tmp_path))[0].step == 3
    checkpointer = checkpoint.Checkpointer(str(tmp_path))
    assert int(checkpointer.resume(state())["step"]) == 3
    checkpointer.close()
    assert {"3", "999.foreign-2", "².foreign-2"} < set(names(tmp_path)), "what was there is not replaced"


def test_nothing_sound_is_an_error_that_moves_nothing(workdir):
    for step in ("3", "7"):
        cut(workdir / "checkpoints" / step / "state")
    for find in (lambda: checkpoint.Checkpointer(str(workdir)).resume(state()),
                 lambda: checkpoint.load_variables(str(workdir))):
        with pytest.raises(checkpoint.CheckpointError, match="no sound checkpoint. 7 is damaged.* 3 is dam"):
            find()
    assert names(workdir) == ["3", "7"]
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint here"):
        checkpoint.load_variables(str(workdir / "elsewhere"))


def test_what_may_not_be_read_is_not_damaged(workdir, monkeypatch):
    def refuse(path, *args):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(stored, "open", refuse, raising=False)
    with pytest.raises(checkpoint.CheckpointError, match="checkpoints/7/.*Permission denied"):
        checkpoint.Checkpointer(str(workdir)).resume(state())
    assert names(workdir) == ["3", "7"]


def test_init_step_goes_back_once(workdir, capsys):
    """What was later is kept; the same command, stopped and started again, does not go back again."""
    config = ml_collections.ConfigDict(CONFIG | {
        "train": {"keep": 9, "checkpoint_every_steps": 1}, "init": {"step": 3}})

    def command(step):
        with saver.Saver(config, str(workdir), ["a", "b", "c"], COURSE) as saves:
            begun = int(saves.newest(state())["step"])
            saves.at(step, _State(step))
        return begun

    assert command(6) == 3 and names(workdir) == ["3", "6", "7.later"]
    assert "7 is later than step 3, where this run goes on" in capsys.readouterr().err
    assert command(8) == 6 and names(workdir) == ["3", "6", "7.later", "8"]
    saved, _ = checkpoint.load_variables(str(workdir))
    assert saved.step == 8 and saved.config.init.step == 0, "later commands score the newest"
    checkpoint.save_config(config, str(workdir))
    assert json.loads((workdir / "config.json").read_text())["init"]["step"] == 0
    assert config.init.step == 3
    config.init.step = 0
    assert command(9) == 8
    config.init.step = 6
    assert command(7) == 6 and names(workdir) == ["3", "6", "7", "7.later", "8.later", "9.later"]
    with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint of step 5 .*there are \[3, 6, 7\]"):
        checkpoint.load_variables(str(workdir), 5)
    cut(workdir / "checkpoints" / "3" / "state")
    with pytest.raises(checkpoint.CheckpointError, match=r"3 is damaged.*Other steps here: \[6, 7\]"):
        checkpoint.load_variables(str(workdir), 3)


def test_a_signal_where_the_state_is_saved_already_saves_nothing_twice(workdir):
    """While data is late after a save, or after a start: orbax refused the step, and the run ended with 1."""
    config = ml_collections.ConfigDict(CONFIG | {
        "train": {"keep": 9, "checkpoint_every_steps": 4}, "init": {"step": 0}})
    with saver.Saver(config, str(workdir), ["a", "b", "c"], COURSE) as saves:
        assert int(saves.newest(state())["step"]) == 7
        with pytest.raises(Interrupted, match="SIGTERM after step 7 of 100; the state is saved"):
            saves.at(7, _State(7), now="SIGTERM")
        saves.at(8, _State(8))
        with pytest.raises(Interrupted, match="SIGINT after step 8 of 100; the state is saved"):
            saves.at(8, _State(8), now="SIGINT")
    assert names(workdir) == ["3", "7", "8"]


class _State:
    def __init__(self, step):
        self.step = step

    def saved(self):
        return state(self.step)


def test_the_clips_seen_are_saved_with_the_step(tmp_path):
    """Whatever batch sizes a run had, and when it goes back."""
    def command(step, size, init=0):
        checkpointer = checkpoint.Checkpointer(str(tmp_path), 9)
        checkpointer.resume(state(), init)
        config = CONFIG | {"data": {"batch_size": size}}
        checkpointer.save(step, state(step), config, ["a", "b", "c"])
        checkpointer.close()
        return checkpointer.position

    assert command(3, 8) is None
    assert command(5, 4) == (3, 24, 8, 8)
    assert command(6, 4) == (5, 32, 4, 8)
    assert command(7, 16) == (6, 36, 4, 8)
    assert command(8, 8, init=3) == (3, 24, 8, 8)
    assert command(9, 8) == (8, 64, 8, 8)
    change_meta(lambda meta: {k: v for k, v in meta.items() if k != "seen"})(tmp_path / "checkpoints" / "9")
    assert command(10, 8) == (9, 72, 8, 8), "saved by older code"


# ------------------------------------------------------------------------------------ what is saved
def test_a_save_that_is_not_there_is_an_error(tmp_path, workdir):
    checkpointer = save(tmp_path, 9)
    with pytest.raises(checkpoint.CheckpointError, match="checkpoints/7 is not saved: there is a step 9"):
        checkpointer.save(7, state(), CONFIG, ["a", "b", "c"])
    for what in ("10", "10/meta", "10/state"):
        shutil.rmtree(tmp_path / "checkpoints")
        checkpointer = checkpoint.Checkpointer(str(tmp_path))
        checkpointer.save(10, state(10), CONFIG, ["a", "b", "c"])
        checkpointer._manager.wait_until_finished()
        shutil.rmtree(tmp_path / "checkpoints" / what)
        with pytest.raises(checkpoint.CheckpointError, match="checkpoints/10 was saved, but"):
            checkpointer.save(11, state(11), CONFIG, ["a", "b", "c"])


def test_a_full_disk_is_one_line(workdir, capfd):
    checkpointer = checkpoint.Checkpointer(str(workdir))
    checkpointer.resume(state())
    noise = state(9)
    noise["params"]["conv1"]["kernel"] = np.random.default_rng(0).standard_normal((40, 50))
    with pytest.raises(checkpoint.CheckpointError) as error, full_disk(1000):
        checkpointer.save(9, noise, CONFIG, ["a", "b", "c"])
        checkpointer.wait()
    print(error.value)
    assert "checkpoints/9 cannot be written" in str(error.value) and "[3, 7]" in str(error.value)
    assert "\n" not in str(error.value)
    assert "Traceback" not in capfd.readouterr().err
    again = checkpoint.Checkpointer(str(workdir))
    assert int(again.resume(state())["step"]) == 7
    again.save(9, state(9), CONFIG, ["a", "b", "c"])
    again.close()
    assert checkpoint.load_variables(str(workdir))[0].step == 9


@pytest.mark.parametrize("calls", range(4))
def test_replacing_never_leaves_without(workdir, calls, monkeypatch):
    """Killed before the first or second rename, or while what was replaced is deleted; or not at all."""
    checkpointer = checkpoint.Checkpointer(str(workdir))
    checkpointer.resume(state())
    left = iter(range(calls))

    def until_killed(function):
        def call(*args, **kwargs):
            if calls < 3 and next(left, None) is None:
                raise KeyboardInterrupt
            return function(*args, **kwargs)
        return call

    new = state(7)
    new["stats"]["bn1"]["mean"] = jnp.ones(4)
    swap = checkpointer._swap

    def killed_swap(step):
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", until_killed(os.rename))
            patch.setattr(shutil, "rmtree", until_killed(shutil.rmtree))
            swap(step)

    monkeypatch.setattr(checkpointer, "_swap", killed_swap)
    try:
        checkpointer.replace(7, new, CONFIG, ["a", "b", "c"])
    except KeyboardInterrupt:
        assert calls < 3
    again = checkpoint.Checkpointer(str(workdir))
    found = again.resume(state())
    assert int(found["step"]) == 7 and names(workdir) == ["3", "7"]
    assert found["stats"]["bn1"]["mean"].all() == (calls > 0)
    again.save(8, state(8), CONFIG, ["a", "b", "c"])
    again.close()


@pytest.mark.parametrize("keep", [0, -1])
def test_keep_never_deletes_everything(workdir, keep):
    with pytest.raises(UserError, match=f"config.train.keep={keep}: expected 1 or more"):
        checkpoint.Checkpointer(str(workdir), keep)
    assert names(workdir) == ["3", "7"]


def test_imported_weights(tmp_path):
    variables = {"params": {"fc": {"kernel": np.ones((4, 2), np.float32)}}, "batch_stats": {}}
    checkpoint.save_imported(str(tmp_path), variables, CONFIG, ["0", "1"])
    saved, loaded = checkpoint.load_variables(str(tmp_path))
    assert saved.num_classes == 2 and saved.step == 0
    np.testing.assert_array_equal(loaded["params"]["fc"]["kernel"], 1)
    with pytest.raises(checkpoint.CheckpointError, match="already holds"):
        checkpoint.save_imported(str(tmp_path), variables, CONFIG, ["0", "1"])
