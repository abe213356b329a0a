"""Metrics in Weights & Biases as well, through a stand-in for its package."""

import json
import sys
import types

import pytest

from configs import supervised_minik
from effvid_jax import weights_and_biases, writers
from effvid_jax.errors import UserError


class FakeRun:
    """What `wandb.init` gives."""

    def __init__(self, **given):
        self.given, self.rows, self.summary, self.ended, self.metrics = given, [], {}, False, []

    def define_metric(self, *args, **kwargs):
        self.metrics.append((args, kwargs))

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.ended = True


@pytest.fixture
def begun(monkeypatch):
    """The runs that were begun."""
    runs = []

    def init(**given):
        runs.append(FakeRun(**given))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    return runs


def write(workdir, first_step=0):
    config = supervised_minik.get_config("tiny")
    run = weights_and_biases.Run("videos", config, str(workdir))
    writer = writers.MetricWriter(str(workdir), first_step, others=[run])
    writer.write_scalars(first_step + 2, {"train/loss": 0.5, "val/top1": 0.25})
    writer.write_final({"step": first_step + 2, "val/top1": 0.25})
    writer.close()


def test_every_row_and_the_result_get_there(tmp_path, begun):
    weights_and_biases.check("videos")
    write(tmp_path)
    write(tmp_path, first_step=2)
    for run in begun:
        assert run.given["project"] == "videos" and run.given["resume"] == "allow" and run.ended
        assert run.given["config"]["data"]["num_frames"] == 4 and run.given["dir"] == str(tmp_path)
        assert run.metrics == [(("*",), {"step_metric": "step"})]
    assert begun[0].given["id"] == begun[1].given["id"], "a run that goes on is the same there"
    assert begun[0].rows == [{"step": 2, "train/loss": 0.5, "val/top1": 0.25}]
    assert begun[1].rows[0]["step"] == 4 and begun[1].summary == {"step": 4, "val/top1": 0.25}
    assert json.loads((tmp_path / "wandb.json").read_text())["project"] == "videos"


def test_training_goes_on_without_it(tmp_path, begun, monkeypatch, capsys):
    def log(self, row):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(FakeRun, "log", log)
    write(tmp_path)
    told = capsys.readouterr()
    assert (told.out + told.err).count("gets nothing more of this run (ConnectionError: no route") == 1
    assert not begun[0].summary and json.loads((tmp_path / "metrics.json").read_text())["step"] == 2


def test_what_keeps_it_from_beginning_is_one_line(tmp_path, monkeypatch):
    def init(**given):
        raise RuntimeError("api_key not configured.\nRun wandb login")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with pytest.raises(UserError, match="config.train.wandb='videos': .*RuntimeError: api_key not "
                                        "configured. Run wandb login.*WANDB_MODE=offline writes") as error:
        write(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "wandb.json").exists()
