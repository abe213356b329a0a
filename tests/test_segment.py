"""Segmentation from data to picture: a miniature SceneParse150 trains, is evaluated, predicts, is drawn."""

import csv
import json

import numpy as np
import pytest

import data_pipelines
from configs import segment_ade20k
from data_pipelines.video.decode import open_video
from effvid_jax import cli, evaluate, export, exported, sharding
from effvid_jax.errors import UserError
from effvid_jax.predict import Predictor, predict
from effvid_jax.reports import report
from effvid_jax.start import runs, workdirs
from effvid_jax.tasks import make_task
from effvid_jax.tasks.segmentation import Segmentation
from tests.made_scenes import sceneparse


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(workdir, root) of `:tiny` on a miniature SceneParse150: static, then dynamic, a few steps each."""
    folder = tmp_path_factory.mktemp("segment")
    root, workdir = sceneparse(folder), str(folder / "run")
    config = segment_ade20k.get_config("tiny")
    config.data.update(dict(source="sceneparse", root=str(root), batch_size=4, eval_batch_size=4,
                            synthetic={}))
    config.train.update(dict(num_steps=2, checkpoint_every_steps=2, log_every_steps=1))
    config.model.options.width = 8
    report.TIMING_SECONDS = 0.1
    metrics = cli.train(config, workdir)
    return workdir, root, metrics


def test_it_trains_and_is_evaluated(trained):
    workdir, _, metrics = trained
    assert metrics["step"] == 2 and metrics["val/examples"] == 4
    for name in (*Segmentation.metric_names(None), "computed"):
        assert 0 <= metrics[f"val/{name}"] <= 1
    assert metrics["val/gmacs_backbone"] < metrics["val/gmacs"]
    again = cli.eval(None, workdir)
    assert again == {name: metrics[name] for name in again} and again["val/mean_iou"] >= 0
    with open(f"{workdir}/dynamic/predictions_val.csv") as f:
        rows = list(csv.DictReader(f))
    counts = np.zeros((3, 150), np.int64)
    names = data_pipelines.open_split(runs.trained(None, workdir)[0].data, "val").class_names
    for row in rows:
        for name, three in json.loads(row["pixels"]).items():
            counts[:, names.index(name)] += three
    union = counts[1] + counts[2] - counts[0]
    assert metrics["val/mean_iou"] == pytest.approx((counts[0] / np.maximum(union, 1)).mean(), abs=1e-9)
    assert metrics["val/pixel_accuracy"] == pytest.approx(counts[0].sum() / counts[2].sum(), abs=1e-9)
    with np.load(f"{workdir}/dynamic/predictions_val.npz") as arrays:
        assert arrays["right_pixels"].shape == (4, 150) and "classes" not in arrays, "no maps are kept"
    found = cli.report(None, workdir)
    assert found["dynamic/mean_iou"] == metrics["val/mean_iou"]


def test_several_scales_cost_all_of_them(trained):
    workdir, _, metrics = trained
    config, directory = runs.trained(None, workdir)
    config.segmentation.test_scales = (0.5, 1.0)
    method, variables, saved = evaluate.restore_for_inference(config, directory)
    mesh = sharding.make_mesh()
    evaluator = evaluate.Evaluator(config, method, mesh)
    rows = evaluator.rows(sharding.replicate(variables, mesh), method.runners()[method.runner])
    found = evaluator.score(rows)
    ratio = found["gmacs"] / metrics["val/gmacs"]
    assert 1.2 < ratio < 1.3 and 0 <= found["mean_iou"] <= 1, "a quarter of the pixels in the small one"
    assert rows.arrays["clip_gmacs"].shape == (4, 1)
    assert workdirs.evaluation_name(config, directory, "val") == "test_scales-0.5-1.0"
    config.segmentation.decoder = "ppm"
    with pytest.raises(UserError,
                       match="segmentation.decoder was \"c1\", now \"ppm\".*comes from the checkpoint"):
        workdirs.evaluation_name(config, directory, "val")


def test_it_predicts_draws_and_is_exported(trained, tmp_path):
    workdir, root, _ = trained
    predictor = Predictor(workdir)
    folder = root / "images" / "validation"
    paths = predictor.reader.find(str(folder))
    assert [path.rpartition("/")[2] for path in paths] == [f"ADE_val_{i:08d}.jpg" for i in range(1, 5)]
    answer, = predictor(paths[0])["frames"]
    assert sum(x["share"] for x in answer["classes"]) == pytest.approx(1, abs=1e-4)
    clips = np.stack([predictor.reader.views(path)[0] for path in paths])
    found = export.export(runs.trained(None, workdir)[0], workdir, str(tmp_path / "e"))
    program = exported.load(str(tmp_path / "e"))
    for path, clip in zip(paths, clips):
        with predictor.reader.open(path) as opened:
            np.testing.assert_array_equal(program.prepare(opened.stored([0]))[0], clip)
    pairs, gmacs = program(clips)
    assert found["gmacs"] > 0 and pairs.shape == (4, 96, 96, 2) and gmacs.shape == (4,)
    assert program.info["output"][0].startswith("class of each pixel")
    with predictor.reader.open(paths[0]) as opened:
        frame_size = opened.size
    inside = predictor.task.within(np.asarray(pairs)[0], frame_size)
    assert inside.shape[0] / inside.shape[1] == pytest.approx(frame_size[0] / frame_size[1], rel=0.05)
    drawn = predictor.task.draw(np.zeros((*frame_size, 3), np.uint8), inside)
    assert drawn.dtype == np.uint8 and drawn.shape[0] >= 320


def test_pictures_are_written(trained, capsys):
    """`--mode=predict` of a folder of images: an annotated png each, as large as the image or larger."""
    workdir, root, _ = trained
    predict(None, workdir, str(root / "images" / "validation"), as_json=True)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(told) == 4 and all(one["gmacs"] > 0 and one["frames"][0]["classes"] for one in told)
    for one in told:
        with open_video(one["annotated"]) as drawn, open_video(one["video"]) as image:
            assert one["annotated"].endswith(".png") and drawn.stored_size[0] >= image.stored_size[0]


def test_there_are_no_early_exits():
    config = segment_ade20k.get_config("static,tiny")
    config.model.exits = dict(scheme="by_depth")
    with pytest.raises(UserError, match="no early exits"):
        make_task(config, ["a", "b"]).head(config.model)
