"""Workdirs of earlier code (tests/old_workdirs/make.py says which) evaluate, predict and resume."""

import json
import pathlib
import tarfile

import ml_collections
import pytest

from effvid_jax import cli
from effvid_jax.predict import Predictor
from effvid_jax.reports import report

HERE = pathlib.Path(__file__).parent / "old_workdirs"
EXPECTED = json.loads((HERE / "expected.json").read_text())
LAST = {"reskd": "student", "va_red2": "dynamic"}


@pytest.fixture
def old(request, tmp_path, benchmark_root):
    """(name, workdir, the config that was saved with it, on the clips of this session)."""
    name = request.param
    with tarfile.open(HERE / f"{name}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    workdir = tmp_path / name
    config = ml_collections.ConfigDict(json.loads((workdir / "config.json").read_text()))
    config.data.root = benchmark_root
    return name, workdir, config


def assert_like(found, wanted):
    """Costs are equal; shares of 16 videos up to one of them, since float32 differs between machines."""
    for key, value in wanted.items():
        if key.endswith(("step", "/full_gmacs", "/views", "/frames", "/resolution", "/examples")):
            assert found[key] == pytest.approx(value, rel=1e-6), key
        elif key.startswith("val/") and ("top1" in key or "share" in key):
            assert found[key] == pytest.approx(value, abs=1.01 / 16), key


@pytest.mark.parametrize("old", sorted(EXPECTED), indirect=True)
def test_evaluates_and_predicts(old, some_clip):
    name, workdir, config = old
    stage = config if name not in LAST else ml_collections.ConfigDict(
        json.loads((workdir / LAST[name] / "config.json").read_text()))
    stage.data.root = config.data.root
    found = cli.eval(stage, str(workdir))
    print(name, {k: v for k, v in found.items() if "top1" in k or "gmacs" in k})
    assert_like(found, EXPECTED[name]["at2"])
    answer = Predictor(str(workdir), stage)(some_clip)
    assert len(answer["top5"]) == 5 and answer["gmacs"] > 0


@pytest.mark.parametrize("old", [
    "reskd", "dynamic_inference", pytest.param("va_red2", marks=pytest.mark.slow)], indirect=True)
def test_resumes(old, monkeypatch):
    monkeypatch.setattr(report, "TIMING_SECONDS", 0.1)
    name, workdir, config = old
    config.model.bn_groups = 1  # of the one device of then; here are two
    found = cli.train(config, str(workdir))
    print(name, {k: v for k, v in found.items() if "top1" in k or "gmacs" in k})
    last = workdir / LAST.get(name, "")
    steps = [json.loads(line)["step"] for line in (last / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 4 and {1, 2, 3, 4} <= set(steps)
    assert_like(found, EXPECTED[name]["final"])
