"""What a user reads after a mistake: one line that names the field, what was expected and what is known."""

import re
import sys
from pathlib import Path

import ml_collections
import pytest
from absl import flags
from ml_collections import config_flags

from effvid_jax import cli
from effvid_jax.errors import UserError
from effvid_jax.evaluate import Evaluations
from effvid_jax.start import cluster

ROOT = Path(__file__).parents[2]
CONFIG = "--config=configs/reskd_minik.py:tiny"


@pytest.fixture
def parse(monkeypatch):
    """`cli.parse_flags` with the flags of `main.py` that matter."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=values, lock_config=True)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.DEFINE_enum("mode", "train", ["train", "eval"], "", flag_values=values)
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.chdir(ROOT)
    return lambda *arguments: cli.parse_flags(["main.py", *arguments])


@pytest.mark.parametrize(("arguments", "words"), [
    ([CONFIG, "--config.optm.lr=1"], ["--config.optm.lr=1: config has no field 'optm'", "mean optim?",
                                      "Known: bench, data"]),
    ([CONFIG, "--config.optim.lrr=1"], ["config.optim has no field 'lrr'", "mean lr?", "Known: accumulate"]),
    ([CONFIG, "--config.num_steps=5"], ["config has no field 'num_steps'", "mean config.train.num_steps?"]),
    ([CONFIG, "--config.optim.batch_size=5"], ["mean config.bench.batch_size or config.data.batch_size?"]),
    (["--config.seed=1", "--config.optim.lrr=1", CONFIG], ["--config.optim.lrr=1", "no field 'lrr'"]),
    ([CONFIG, "--config.optim.lr.x=1"], ["config.optim.lr is a single value, it has no field 'x'"]),
    ([CONFIG, "--noconfig.data.flp"], ["--noconfig.data.flp: config.data has no field 'flp'", "flip"]),
    ([CONFIG, "--config.stages.techer.seed=1"], ["config.stages has no field 'techer'",
                                                 "Known: baseline, teacher."]),
    ([CONFIG, "--config.data.batch_size=abc"], ["--config.data.batch_size=abc: expected an integer."]),
    ([CONFIG, "--config.data.flip=maybe"], ["--config.data.flip=maybe: expected True or False."]),
    ([CONFIG, "--config.optim=5"], ["--config.optim=5: expected a group of fields."]),
    (["--config=configs/nothing.py"], ["configs/nothing.py is no file", "configs/reskd_minik.py"]),
    (["--config=configs"], ["--config=configs is no file"]),
    (["--config", "configs"], ["--config=configs is no file"]),
    (["--config=README.md"], ["README.md, line"]),
    (["--config=BAD"], ["BAD, line 2", "no 'x'"]),
    (["--config=configs/reskd_minik.py:tny"], ["unknown config argument 'tny'", "Did you mean 'tiny'"]),
    ([CONFIG, "--mode=trian"], ["trian", "train"]),
])
def test_one_line_says_what_is_wrong(parse, tmp_path, arguments, words):
    bad = tmp_path / "bad.py"
    bad.write_text("def get_config():\n    return {}['x']\n")
    with pytest.raises(UserError) as caught:
        parse(*(argument.replace("BAD", str(bad)) for argument in arguments))
    text = str(caught.value)
    assert all(word.replace("BAD", str(bad)) in text for word in words), text
    assert "\n" not in text and "\\n" not in text and "\\'" not in text, text


def test_a_file_that_cannot_be_read_is_named_first(capsys):
    def start():
        open("/nowhere/at/all")

    assert cli.run(start) == 1
    assert "error: /nowhere/at/all: No such file or directory\n" in capsys.readouterr().err


def test_a_teacher_of_this_run_is_to_be_trained_longer():
    """One that comes from elsewhere is probably the wrong one."""
    def why(teacher, workdir):
        evaluations = object.__new__(Evaluations)
        evaluations._config = ml_collections.ConfigDict({"method": {"teacher": teacher}})
        evaluations._workdir = workdir
        return evaluations._why("teacher")

    assert "train it longer" in why("runs/a/teacher", "runs/a/student")
    for teacher, workdir in (("runs/b/teacher", "runs/a/student"), ("runs/teacher", "runs/a/student")):
        text = why(teacher, workdir)
        assert "longer" not in text and "probably wrong" in text


def test_a_number_in_an_environment_variable():
    with pytest.raises(UserError, match="JAX_PROCESS_ID=two: expected a whole number"):
        cluster.described({"JAX_PROCESS_ID": "two"})


def test_every_environment_variable_is_in_a_document():
    text = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
    found = set()
    folders = ("effvid_jax", "data_pipelines", "benchmarks", "configs")
    files = [ROOT / "main.py", *(path for name in folders for path in (ROOT / name).rglob("*.py"))]
    for path in files:
        code = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"\b(?:EFFVID|GLIBC|JAX|XLA|MALLOC|OMP|CUDA|TF)_[A-Z_]*[A-Z]\b", code))
        found |= set(re.findall(r"environ(?:\.get\(|\.setdefault\(|\[)\s*[\"'](\w+)", code))
    assert {"EFFVID_TRACEBACK", "GLIBC_TUNABLES", "JAX_PROCESS_ID"} <= found
    assert not {name for name in found if f"`{name}`" not in text}
