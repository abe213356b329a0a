"""docs/quickstart.ipynb runs from top to bottom: its own training in the slow tests (shorter, of fewer
clips), that of the first config always."""

import json
import os
import pathlib
import subprocess
import sys
import types

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def cells() -> list[str]:
    """The code of the notebook; nothing that it printed is kept in it."""
    notebook = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert notebook["nbformat"] == 4 and not any(cell["outputs"] for cell in code)
    return ["".join(cell["source"]) for cell in code]


def run(blocks, monkeypatch, capsys) -> None:
    """Runs cells one after the other, in the folder of now."""
    shown, names = [], {}
    display = types.ModuleType("IPython.display")
    display.Image = lambda data: shown.append(data)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for code in blocks:
        exec(compile(code, "docs/quickstart.ipynb", "exec"), names)
    printed = capsys.readouterr().out
    print(printed[-1500:])
    assert shown and shown[0][:4] == b"\x89PNG"
    assert printed.count("is most like") >= 8 and "student" in printed
    assert os.path.exists("runs/demo/report.html")


def test_all_but_the_training(tiny_run, benchmark_root, tmp_path, monkeypatch, capsys):
    """On a run of the first config, in its shortest form, in place of both."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("runs")
    for name in ("demo", "mine"):
        os.symlink(tiny_run, f"runs/{name}")
    started = []

    def start(command, **_):
        started.append([word for word in command if word.startswith("--config")])
        return subprocess.CompletedProcess(command, 0, "trained", "")

    monkeypatch.setattr(subprocess, "run", start)
    blocks = [code.replace('Path(WORKDIR, "benchmark")', f"Path({benchmark_root!r})") for code in cells()]
    run([code.replace("train_clips=180", "train_clips=6") for code in blocks], monkeypatch, capsys)
    assert [flags[0].partition("/")[2] for flags in started] == ["reskd_minik.py:demo",
                                                                 "reskd_folder.py:pretrained"]


# Both trainings are as they stand there, but for their length.
STEPS = ", ".join(f'"--config.{flag}"' for flag in (
    "train.num_steps=24", "data.synthetic.train_clips=96", "data.synthetic.val_clips=80",
    "train.min_reference_ratio=0"))
SHORTER = {"train(CONFIG, WORKDIR)": f"train(CONFIG, WORKDIR, {STEPS})",
           '"runs/mine", f"': '"runs/mine", "--config.train.num_epochs=2", f"',
           "train_clips=180": "train_clips=90"}


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", "")  # compiled as a user's
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    blocks = cells()
    for before, after in SHORTER.items():
        assert sum(before in code for code in blocks) == 1, before
        blocks = [code.replace(before, after) for code in blocks]
    run(blocks, monkeypatch, capsys)
