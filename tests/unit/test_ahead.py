"""Steps compiled for devices that are not here: what a program says, whether it fits; TPUs with libtpu."""

import importlib.util
import json
import math
import os
import subprocess
import sys

import pytest

from effvid_jax import sharding
from effvid_jax.ahead import programs
from effvid_jax.ahead import report as ahead
from effvid_jax.errors import UserError
from tests.environment import environment

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HLO = """
  %all-reduce.1 = (f32[64]{0}, f32[3,3,8]{2,1,0}) all-reduce(%a, %b), replica_groups={{0,1}}
  %ar = bf16[10]{0:T(256)} all-reduce-start(%c)
  %ag = (f32[4]{0}, f32[8]{0}) all-gather-start(f32[4]{0} %d)
  %done = f32[8]{0} all-gather-done(%ag)
  ROOT %x = s32[2,2]{1,0} all-to-all(%e)
"""


def test_collectives_are_counted():
    assert programs.collectives(HLO) == {
        "all-reduce": (2, (64 + 72) * 4 + 20), "all-gather": (1, 32), "all-to-all": (1, 16)}


def test_least_time_of_a_step():
    found = {"flops": 2e12, "bytes": 1e9, "collectives": {"all-reduce": (1, 8e6), "all-gather": (1, 8e6)}}
    chip = programs.Chip(1e12, 1e9, 0, 1e7, 8)
    assert programs.seconds(found, chip, 4) == pytest.approx(
        {"compute": 2, "memory": 1, "links": 0.75 * 24e6 / 1e7, "step": 2})


def config(**changes):
    values = ahead.config_of("configs/supervised_minik.py:tiny", [])
    values.model.options.update(dict(width=8, stage_sizes=(1, 1), stage_strides=(1, 2)))
    values.data.update({**dict(num_frames=2, batch_size=4, eval_batch_size=4), **changes})
    return values


def test_what_does_not_fit_is_two_numbers():
    said = ("Ran out of memory on HBM, the total memory required for HLO temporaries (16.88G) exceeds "
            "available HBM (15.75G). HLO module: jit_train_step. See https://openxla.org/xla/errors")
    assert ahead._of_memory(said) == "it needs 16.88G of 15.75G"
    used = "Used 20.1G of 15.75G hbm. More"
    assert ahead._of_memory(f"RESOURCE_EXHAUSTED: {used}") == used


def test_the_steps_of_a_config_here():
    """With this machine's two devices in the place of a topology."""
    found = programs.Programs(ahead.ready(config(), 2), list("abcde"), sharding.make_mesh(2))
    rows = [ahead.row(found, "small", what, "", lower=what == "eval") for what in ("train", "eval")]
    assert rows[0]["batch"] == 4 and rows[1]["lowered"] == ["tpu", "cuda"] and rows[1]["devices"] == 2
    said = found.compile("eval")
    assert said["memory"] > said["arguments"] > 0 and said["flops"] > 0 and said["bytes"] > 0
    row = rows[1] | said | {"topology": "v5e:2x1", "fits": True}
    row |= {f"{k}_seconds": v for k, v in programs.seconds(row, programs.CHIPS["v5e"], 2).items()}
    text = ahead.told(row) + ahead.table([row, rows[0] | {"fits": False, "problem": "12 GiB too much"}])
    assert "GiB of 16" in text and "does not fit" in text and "lowered for tpu and cuda" in text
    with pytest.raises(UserError, match="config.data.batch_size=5 does not divide over the 2 chips"):
        programs.Programs(ahead.ready(config(batch_size=5), 2), list("abcde"), sharding.make_mesh())


@pytest.mark.parametrize("positions", [0, 4096])
def test_clips_that_go_one_by_one_stay_on_their_device(positions):
    """An evaluation sends its answers to the others, and no clips: each device goes through its own alone."""
    values = ahead.config_of("configs/va_red2_minik.py:tiny,frames=8", [])
    values.model.options.update(dict(width=8))
    values.data.update(dict(eval_batch_size=4, crop=16, test_crop_size=16))
    values.method.update(dict(form="compact", positions=positions))
    found = programs.Programs(ahead.ready(values, 2), list("abcde"), sharding.make_mesh(2))
    said = found.compile("eval")["collectives"]
    sent, clips = sum(size for _, size in said.values()), math.prod(found.videos["video"].shape)
    assert set(said) == {"all-gather"} and 0 < sent < 0.05 * 4 * clips


@pytest.mark.slow  # minutes of libtpu's compiler
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
@pytest.mark.parametrize("name", ["reskd_minik", "dynamic_k400", "va_red2_minik"])
def test_steps_compile_for_a_tpu(name):
    """In a process of its own: it must not see this one's devices."""
    command = [sys.executable, "-m", "effvid_jax.ahead", f"--config=configs/{name}.py:tiny", "--no_lower",
               "--topology=v5e:2x2", "--json", "--config.train.fsdp=2"]
    env = environment(1, JAX_OPTIMIZATION_LEVEL="O0")
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["step"] for row in rows] == ["train", "eval"] and all(row["fits"] for row in rows)
    assert rows[0]["collectives"] and rows[0]["flops"] > rows[1]["flops"] > 0


def test_what_no_compiler_knows_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(UserError, match='pip install "effvid_jax.tpu."'):
        ahead.topology_devices("v5e:2x2")
