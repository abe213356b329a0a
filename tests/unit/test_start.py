"""The four lines before the first step, and what they hint at."""

import importlib
import pathlib
import types

import jax
import numpy as np
import pytest

from effvid_jax.start import introduction as start

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*_*.py"))


class Split(types.SimpleNamespace):
    def __len__(self):
        return self.length


def told(config, capsys, workdir="/runs/x", first_step=0, **split):
    """The lines that a run of this config prints."""
    start._once.cache_clear()
    split = Split(**dict(length=3000, class_names=["a", "b"], description="data.train_list='t.txt'") | split)
    state = types.SimpleNamespace(params={"fc": np.zeros((1000, 500))})
    start.introduce(config, workdir, split, {"val": 800}, state, first_step)
    lines = capsys.readouterr().err.splitlines()
    print("\n".join(lines))
    return lines


def get(name, arg=""):
    config = importlib.import_module(f"configs.{name}").get_config(arg)
    config.unlock()
    return config


def test_four_lines(capsys):
    config = get("reskd_minik", "demo")
    config.method.teacher = "/runs/teacher"
    data, network, device, where = told(config, capsys)
    assert data == "data: 3,000 clips to train on, 800 in val, 2 classes; data.train_list='t.txt'"
    assert network.startswith("network: tsm_resnet18, 8 x 32x32, 0.00")
    assert network.endswith("GMACs a clip, 0.5 M parameters, weights from scratch; teacher: /runs/teacher")
    kind = jax.devices()[0].device_kind
    count = "" if jax.device_count() == 1 else f"{jax.device_count()} x "
    assert device == f"device: {count}{kind}, computes in float32, 32 clips a step"
    assert where == "writes to /runs/x"


def test_where_the_weights_come_from():
    config = get("supervised_minik")
    assert start.weights(config, "/x", 0).startswith(
        "weights from scratch (published with ImageNet weights: --config.init.checkpoint=DIR")
    config.name += " teacher"  # a stage
    assert "published with ImageNet weights" in start.weights(config, "/x", 0)
    config.init.checkpoint = "runs/imported"
    assert start.weights(config, "/x", 0) == "weights of runs/imported"
    assert start.weights(config, "/x", 7) == "weights of step 7 of /x"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_tells_what_its_published_run_starts_from(name):
    """What the docstrings say of ImageNet and Kinetics is what a run says; shrunk ones say nothing."""
    text = (ROOT / "configs" / f"{name}.py").read_text("utf-8").split('"""')[1]
    said = start.weights(get(name), "/x", 0)
    for data in ("ImageNet", "Kinetics-400"):
        if f"start from {data}" in text.replace("starts", "start") or f"fine-tuned from {data}" in text:
            assert f"published with {data} weights" in said
    if name.startswith("va_red2") or name.endswith("folder"):
        assert said == begins(get(name))
    for arg in ("tiny", "demo"):
        assert start.weights(get(name, arg), "/x", 0) == begins(get(name, arg))


def begins(config) -> str:
    """What a config says that starts from nothing published; a last stage starts from the one before."""
    before = config.init.checkpoint
    return f"weights of {before}" if before and before in config.run else "weights from scratch"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_says_what_a_clip_costs(name, capsys):
    config = get(name, "tiny")
    cost = start.cost_of_a_clip(config, list("abcd"))
    assert 1e-3 < cost < 1 and f"{cost:.3g} GMACs a clip" in told(config, capsys, class_names=list("abcd"))[1]


def test_hint_of_a_full_size_network_on_a_cpu_once(capsys, monkeypatch):
    config = get("supervised_folder")
    monkeypatch.setattr(start, "cost_of_a_clip", lambda config, classes: 33.0)
    monkeypatch.setattr(start.jax, "default_backend", lambda: "cpu")
    lines = told(config, capsys)
    assert len(lines) == 5 and ":small" in lines[4] and "33 GMACs a clip" in lines[1]
    split, state = Split(length=1, class_names=["a"], description=""), types.SimpleNamespace(params={})
    start.introduce(config, "/x", split, {}, state, 0)
    assert "hint" not in capsys.readouterr().err, "one hint a command, however many stages it has"
    monkeypatch.setattr(start.jax, "default_backend", lambda: "gpu")
    assert len(told(config, capsys)) == 4
    monkeypatch.setattr(start.jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(start, "cost_of_a_clip", lambda config, classes: 0.06)
    assert len(told(get("supervised_folder", "small"), capsys)) == 4


def test_names_cannot_add_lines_and_a_strange_network_does_not_stop_the_run(capsys):
    config = get("supervised_minik", "tiny")
    config.model.backbone = "not\na network"
    lines = told(config, capsys, workdir="/a\nb", description="two\nlines")
    assert len(lines) == 4 and "GMACs" not in lines[1] and lines[3] == "writes to /a b"
