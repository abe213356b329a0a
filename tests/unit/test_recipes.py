"""Arguments of configs mean what they say: the family that was named, and nothing that is ignored."""

import json
import re

import pytest

from configs import (
    dynamic_ucf101,
    reskd_folder,
    reskd_minik,
    segment_ade20k,
    supervised_folder,
    supervised_minik,
    va_red2_minik,
)
from effvid_jax import cli, cost, train
from effvid_jax.backbones import BACKBONES
from effvid_jax.backbones.facts import FACTS
from effvid_jax.errors import UserError
from effvid_jax.methods import building
from effvid_jax.start import runs
from tests.forked import main, message


def family(name):
    """'tsm_resnet18' -> 'tsm_resnet': the name without its size."""
    return re.sub(r"(_38|_b4_s4|_[tsbml]|_?\d+)$", "", name)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_small_member_of_the_named_family_or_an_error(name):
    """What `config.json` will say. The embedded benchmark takes ResNets with temporal shift."""
    for size in ("tiny", "demo", "small"):
        if not FACTS.get(name) or not FACTS[name].small[0]:
            with pytest.raises(UserError, match=f"backbone={name!r}: :tiny, :demo and :small .* does not "
                                                "have"):
                supervised_folder.get_config(f"{size},backbone={name}")
            continue
        config = supervised_folder.get_config(f"{size},backbone={name}")
        wanted = family(name)
        if size != "small" and wanted == "resnet":
            wanted = "tsm_resnet"
            assert size == "tiny" or "temporal shift" in config.note
        assert family(config.model.backbone) == wanted
        if size != "demo":  # as `:tiny`, with more frames
            clip = (config.data.num_frames, config.data.crop, config.data.crop, 3)
            model = building.build_backbone(config.model, 5)
            assert cost.count(model, clip).params < 1.5e6, "a CPU trains it"


def test_the_families_without_a_small_member_are_few():
    assert {name for name in BACKBONES if name not in FACTS or not FACTS[name].small[0]} == {"mvit_v2_s"}


@pytest.mark.parametrize(("config", "arg", "words"), [
    (supervised_folder, "tiny,small", "'tiny' and 'small' exclude each other"),
    (reskd_folder, "demo,small", "'demo' and 'small' exclude each other"),
    (supervised_minik, "tiny,demo", "'tiny' and 'demo' exclude each other"),
    (supervised_minik, "backbone=resnet18,backbone=resnet50", "'backbone' is given twice"),
    (supervised_minik, "resolution=-5", "resolution=-5: expected pixels"),
    (supervised_folder, "small,backbone=r3d18", r"unknown backbone 'r3d18'.*r3d_18"),
    (reskd_minik, "distill=resolution,teacher=resnet101", "teacher='resnet101' has no meaning with distill="),
    (reskd_minik, "devices=3", "devices=3: expected 1, 2, 4 or 8"),
    (supervised_minik, "devices=-1", "devices=-1: expected 1, 2, 4 or 8"),
    (reskd_minik, "tiny,devices=1", "devices=1 has no meaning with tiny"),
    (reskd_minik, "ablation=video", "ablation='video': expected one of clip, frame, pixel"),
    (va_red2_minik, "static,baseline=pruning", "baseline='pruning' has no meaning with static"),
    (va_red2_minik, "static,from_static", "from_static=True has no meaning with static"),
    (va_red2_minik, "baseline=cgnet,search_space=3", "search_space=3 has no meaning with baseline=cgnet"),
    (segment_ade20k, "tiny,demo", "'tiny' and 'demo' exclude each other"),
    (segment_ade20k, "demo,resolution=224", "resolution=224 has no meaning with tiny or demo"),
    (segment_ade20k, "static,search_space=3", "search_space=3 has no meaning with static"),
    (segment_ade20k, "decoder=fpn", "decoder='fpn': expected one of c1, ppm"),
    (dynamic_ucf101, "split=4", "split=4: this data set has the splits 1, 2 and 3"),
])
def test_arguments_that_contradict_each_other(config, arg, words):
    with pytest.raises(UserError, match=words):
        config.get_config(arg)


def test_every_stage_has_its_own_start():
    """ImageNet weights of a ResNet-152 for the teacher, of a ResNet-50 for both others."""
    config = reskd_minik.get_config()
    names = ["teacher", "baseline", "student"]
    config.init.checkpoint = "r50"
    with pytest.raises(UserError, match="config.init.checkpoint='r50' .*teacher trains 'resnet152', not "
                                        "'resnet50'.*--config.stages.teacher.init.checkpoint=DIR, or =none"):
        runs.check_starts(config, names)
    runs.check_starts(config, ["teacher"])  # alone: meant for it
    config.stages.teacher.init.checkpoint = "r152"
    runs.check_starts(config, names)
    starts = [runs.stage_config(config, name, "w").init.checkpoint for name in names]
    assert starts == ["r152", "r50", "r50"]
    config.stages.baseline.init.checkpoint = "none"
    assert runs.stage_config(config, "baseline", "w").init.checkpoint == ""
    two = va_red2_minik.get_config("tiny")
    assert [runs.stage_config(two, name, "w").init.checkpoint for name in ("static", "dynamic")] == [
        "", "w/static"]


def test_the_benchmark_is_not_written_among_somebodys_videos(tmp_path):
    video = tmp_path / "my_videos" / "juggling" / "a.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"")
    code, _, err = main("--config=configs/supervised_folder.py:demo", f"--workdir={tmp_path}/run",
                        f"--config.data.root={tmp_path}/my_videos")
    text = message(err)
    print(text)
    assert code == 1 and "my_videos" in text and ":small" in text
    assert [path for path in (tmp_path / "my_videos").rglob("*") if path.is_file()] == [video]


def test_the_backbone_that_was_named_is_in_the_workdir(tmp_path, monkeypatch):
    def stop(config, workdir, *more):
        train.describe_run(config, workdir, ["a", "b"])
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        cli.train(supervised_folder.get_config("small,backbone=r3d_18"), str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["model"]["backbone"] == "r3d_18"
