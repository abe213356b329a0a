"""A user's own clips, as the README says: mixed sizes and lengths, and odd files among them."""

import json
import os
import shutil

import pytest

from data_pipelines import synthetic
from tests.forked import main, message


@pytest.fixture(scope="module")
def my_videos(tmp_path_factory):
    """Four classes of ten clips, with odd files of every kind in the first one."""
    root = tmp_path_factory.mktemp("my_videos")
    built = synthetic.build(tmp_path_factory.mktemp("source"), synthetic.check_params(
        dict(num_textures=2, num_motions=2, train_clips=40, val_clips=1, min_frames=3)))
    with open(built.train_list) as f:
        for line in f:
            path = line.split()[0]
            os.makedirs(root / os.path.dirname(path).split("/")[1], exist_ok=True)
            shutil.copy(os.path.join(built.root, path), root / "/".join(path.split("/")[1:]))
    elsewhere = tmp_path_factory.mktemp("odd")
    odd = synthetic.make_odd_files(elsewhere)
    for name in odd:
        shutil.copy(elsewhere / name, root / sorted(os.listdir(root))[0] / name)
    return root, odd


def test_from_a_folder_to_a_prediction(my_videos, tmp_path):
    root, odd = my_videos
    broken = [name for name, readable in odd.items() if not readable]
    short = ["--config.train.num_steps=4", "--config.data.batch_size=8", "--config.data.eval_batch_size=8",
             "--config.data.max_broken_share=0.3", "--config.train.min_reference_ratio=0"]
    for name in ("supervised_folder", "reskd_folder"):
        workdir = tmp_path / name
        code, out, err = main(f"--config=configs/{name}.py:small", f"--config.data.root={root}",
                              f"--workdir={workdir}", *short)
        assert code == 0, err
        metrics = json.loads(out.splitlines()[-1])
        print(name, {k: v for k, v in metrics.items() if k.startswith("val/")})
        assert metrics["step"] == 4 and metrics["val/examples"] + metrics["val/broken_videos"] > 8
        with open(workdir / "classes.txt") as f:
            assert f.read().split() == sorted(os.listdir(root))
    code, out, _ = main("--mode=eval", f"--workdir={workdir}")
    assert code == 0 and json.loads(out.splitlines()[-1])["val/top1"] == metrics["val/top1"]
    code, out, _ = main("--mode=eval", "--config.data.twice_sample=True", f"--workdir={workdir}")
    again = json.loads(out.splitlines()[-1])
    print("sampled twice:", again["val/views"], "views")
    assert code == 0 and again["val/views"] == 2 * metrics["val/views"], "fields of the saved config change"
    folder = root / sorted(os.listdir(root))[0]
    code, out, err = main("--mode=predict", f"--workdir={workdir}", f"--video={folder}", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(found) == 10 + len(odd) - len(broken)
    assert all(len(video["top5"]) == 4 and video["gmacs"] > 0 for video in found)
    for name in broken:
        assert name in err, "broken files are named"
    code, out, err = main("--mode=predict", f"--workdir={workdir}", f"--video={folder / 'empty.mp4'}")
    assert code != 0 and not out and "empty.mp4" in message(err)


def test_too_many_broken_files_are_named(my_videos, tmp_path):
    root, _ = my_videos
    code, _, err = main("--config=configs/supervised_folder.py:small", f"--config.data.root={root}",
                        f"--workdir={tmp_path}", "--config.data.max_broken_share=0",
                        "--config.data.batch_size=8", "--config.train.num_epochs=1")
    text = message(err)
    print(text)
    assert code != 0 and "max_broken_share" in text and "check_videos" in text and ".mp4" in text
