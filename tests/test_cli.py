"""Errors of a user: one message, a non-zero exit code, before any training step."""

import pytest

from configs import supervised_minik
from tests.forked import main, message


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
def test_mistakes(args, wanted, tmp_path):
    (tmp_path / "empty").mkdir()
    args = [a.replace("W/", f"{tmp_path}/").replace("=W", f"={tmp_path}") for a in args]
    code, out, err = main(*args)
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
def test_what_a_used_workdir_refuses(args, wanted, tmp_path):
    config = supervised_minik.get_config("tiny")
    (tmp_path / "checkpoints" / "6").mkdir(parents=True)
    (tmp_path / "config.json").write_text(config.to_json_best_effort())
    code, out, err = main(*args, f"--workdir={tmp_path}")
    text = message(err)
    print(text)
    assert code != 0 and not out and all(part in text for part in wanted)
    assert (tmp_path / "config.json").read_text() == config.to_json_best_effort()
