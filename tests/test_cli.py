"""Errors of a user: one message, a non-zero exit code, before any training step."""

import multiprocessing
import os
import runpy
import subprocess
import sys

import pytest

from configs import supervised_minik

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IMPORTED = ["jax", "absl.app", "ml_collections.config_flags", "effvid_jax.cli", "effvid_jax.train",
            "effvid_jax.evaluate"]  # by main.py in every mode or nearly so


def main(*args, cwd=ROOT, **env):
    """Runs main.py as a user would: (exit code, standard output, standard error)."""
    done = subprocess.run([sys.executable, os.path.join(ROOT, "main.py"), *args], cwd=cwd, check=False,
                          capture_output=True, text=True, env=os.environ | env)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def forked_main():
    """`main`, in processes forked from one that has imported most of it: imports take four seconds."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(IMPORTED)

    def start(folder, *args):
        process = processes.Process(target=_become_main, args=(str(folder), args))
        process.start()
        process.join(timeout=300)
        return process.exitcode, *((folder / name).read_text() for name in ("out", "err"))

    return start


def _become_main(folder, args) -> None:
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(ROOT)
    sys.argv = [os.path.join(ROOT, "main.py"), *args]
    runpy.run_path(sys.argv[0], run_name="__main__")


def message(stderr: str) -> str:
    """What a user reads: everything from 'error:' on; no traceback may come with it."""
    assert "Traceback" not in stderr, stderr
    assert "error: " in stderr, stderr
    return stderr[stderr.index("error: "):]


@pytest.mark.parametrize(("args", "wanted"), [
    (["--config=configs/reskd_minik.py", "--workdir=W"],
     ["minik_train_videofolder.txt", "make_list", ":demo"]),
    (["--config.data.crop=32", "--workdir=W", "--config=configs/reskd_minik.py"],
     ["minik_train_videofolder.txt"]),
    (["--config.seed=1", "--workdir=W"], ["--config.seed=1", "--config=FILE is missing"]),
    (["--config=configs/reskd_minik.py:tiny", "--config.optm.lr=1", "--workdir=W"], ["optm", "optim"]),
    (["--config=configs/reskd_minik.py:tny", "--workdir=W"], ["tny", "tiny"]),
    (["--config=configs/reskd_minik.py:backbone", "--workdir=W"], ["backbone", "needs a value"]),
    (["--config=configs/nothing.py", "--workdir=W"], ["nothing.py"]),
    (["--workdir=W"], ["--config", "configs/reskd_minik.py"]),
    (["--config=configs/reskd_minik.py:tiny"], ["--workdir"]),
    (["--mode=eval", "--workdir=W/nothing"], ["does not exist"]),
    (["--mode=eval", "--config.seed=1", "--workdir=W/nothing"], ["W/nothing does not exist"]),
    (["--mode=predict", "--workdir=W"], ["--video"]),
    (["--mode=eval", "--workdir=W", "--window=1"], ["--window belongs to --mode=predict"]),
    (["--mode=trian", "--workdir=W"], ["trian", "train"]),
    (["--config=configs/supervised_folder.py", "--config.data.root=W/nowhere", "--workdir=W"],
     ["W/nowhere"]),
    (["--config=configs/supervised_folder.py", "--config.data.root=W/empty", "--workdir=W"],
     ["W/empty"]),
    (["--config=configs/reskd_minik.py:tiny", "--config.run=teacher,studnt", "--workdir=W"],
     ["studnt", "student"]),
    (["--config=configs/va_red2_minik.py:tiny,search_space=5", "--workdir=W"],
     ["stage dynamic", "search_space=5"]),
    (["--config=configs/va_red2_minik.py:tiny", "--config.method.layers=zzz", "--workdir=W"],
     ["stage dynamic", "config.method.layers='zzz'"]),
    (["--config=configs/reskd_minik.py:tiny", "--config.method.loss=nothing", "--workdir=W"],
     ["stage student", "config.method.loss='nothing'"]),
], ids=lambda x: "_".join(x)[:60] if isinstance(x, list) else None)
def test_mistakes(forked_main, args, wanted, tmp_path, tmp_path_factory):
    (tmp_path / "empty").mkdir()
    args = [a.replace("W/", f"{tmp_path}/").replace("=W", f"={tmp_path}") for a in args]
    code, out, err = forked_main(tmp_path_factory.mktemp("streams"), *args)
    text = message(err)
    print(text)
    assert code != 0 and not out
    for part in wanted:
        assert part.replace("W/", f"{tmp_path}/") in text
    assert not list(tmp_path.rglob("checkpoints")), "no stage has trained"


@pytest.mark.parametrize(("args", "wanted"), [
    (["--mode=eval", "--config.model.resolution=16"], ["config.model.resolution", "checkpoint"]),
    (["--mode=eval", "--config.data.val_list=hard.txt"], ["config.data.val_list", "'synthetic'"]),
    (["--mode=eval", "--config=configs/supervised_minik.py:tiny", "--config.train.keep=1"], ["train.keep"]),
    (["--mode=report", "--config.data.crop=8"], ["config.data.crop", "trained"]),
    (["--mode=export", "--config.model.dtype=bfloat16"], ["config.model.dtype"]),
    (["--mode=predict", "--video=clip.mp4", "--config.seed=1"], ["config.seed"]),
    (["--config=configs/supervised_minik.py:tiny", "--config.optim.lr=1"],
     ["config.optim.lr was 0.05, now 1.0", "--resume_anyway"]),
    (["--config=configs/reskd_minik.py:tiny"], ["config.run was \"\"", "--resume_anyway"]),
], ids=lambda x: "_".join(x)[:60] if isinstance(x, list) else None)
def test_what_a_used_workdir_refuses(forked_main, args, wanted, tmp_path, tmp_path_factory):
    config = supervised_minik.get_config("tiny")
    (tmp_path / "checkpoints" / "6").mkdir(parents=True)
    (tmp_path / "config.json").write_text(config.to_json_best_effort())
    code, out, err = forked_main(tmp_path_factory.mktemp("streams"), *args, f"--workdir={tmp_path}")
    text = message(err)
    print(text)
    assert code != 0 and not out and all(part in text for part in wanted)
    assert (tmp_path / "config.json").read_text() == config.to_json_best_effort()
