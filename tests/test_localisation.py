"""Localisation as a user runs it: a miniature J-HMDB trains, evaluates, predicts, draws and is exported."""

import csv
import json

import av
import cv2
import numpy as np
import pytest

import effvid_jax
from configs import localise_jhmdb
from configs.recipes import localisation as recipe
from data_pipelines import DataError, write_frames
from effvid_jax import cli, export
from effvid_jax.errors import UserError
from effvid_jax.predict import Predictor
from effvid_jax.start import bounds, runs
from effvid_jax.tasks import make_task
from effvid_jax.tasks.localisation import Localisation
from tests.data.test_boxes import make_jhmdb


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(workdir, metrics, data) of a gated network on a miniature J-HMDB, two steps."""
    root, workdir = tmp_path_factory.mktemp("jhmdb") / "j", tmp_path_factory.mktemp("run")
    make_jhmdb(root)
    full, config = localise_jhmdb.get_config(), localise_jhmdb.get_config("tiny,backbone=x3d_m")
    for name in ("source", "train_list", "val_list"):
        config.data[name] = full.data[name]
    config.data.update(dict(root=str(root), synthetic={}, num_classes=2, crop=48, test_crop_size=48,
                            short_side=48, test_short_side=48))
    config.model.options.update(dict(stage_sizes=(1, 1), widths=(8, 16)))
    config.train.update(dict(num_steps=2, checkpoint_every_steps=2))
    config.run = ""  # `:tiny` as it is, static and gated, is run by tests/test_configs.py among the slow ones
    return str(workdir), cli.train(config, str(workdir)), root


def test_trains_evaluates_and_reports(trained):
    workdir, metrics, _ = trained
    for name in (names := Localisation.metric_names(None)):
        assert 0 <= metrics[f"val/{name}"] <= 1
    assert set(names) == {"map", "recall", "classification", "map_11_points"}
    assert metrics["val/boxes"] == metrics["val/examples"] == 14
    again = cli.eval(None, workdir)
    assert again["val/map"] == metrics["val/map"] and again["val/gmacs"] == metrics["val/gmacs"]
    with open(f"{workdir}/predictions_val.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 14 and json.loads(rows[0]["boxes"])[0][0] == "catch"
    with open(f"{workdir}/report.html", encoding="utf-8") as f:
        text = f.read()
    assert "Average precision per class" in text and "Precision and recall of va_red2" in text
    assert "Gates of va_red2" in text
    with pytest.raises(UserError, match="config.localisation.object_scale is not read here"):
        cli.eval(changed(workdir, object_scale=2.0), workdir, overrides=["localisation.object_scale"])
    stricter = cli.eval(changed(workdir, iou=0.9), workdir, overrides=["localisation.iou"])
    assert stricter["val/recall"] <= metrics["val/recall"]


def changed(workdir, **fields):
    config = runs.trained(None, workdir)[0]
    config.localisation.update(fields)
    return config


def test_predicts_and_draws_along_a_video(trained, tmp_path, capsys):
    workdir, _, root = trained
    folder = root / "Rename_Images" / "catch" / "film_catch_1"
    frames = np.stack([cv2.imread(str(path)) for path in sorted(folder.glob("*.png"))])[..., ::-1]
    video = tmp_path / "some clip.mp4"
    write_frames(video, np.concatenate([frames, frames]), 12)
    capsys.readouterr()
    cli.predict(changed(workdir, confidence=0.0, every=5), workdir, str(video), True)
    told = json.loads(capsys.readouterr().out)
    assert told["video"] == str(video) and [x["frame"] for x in told["frames"]] == [2, 7, 12]
    assert told["gmacs"] == pytest.approx(3 * told["gmacs_per_clip"], rel=1e-4)
    box = told["frames"][0]["boxes"][0]
    assert box["label"] in ("catch", "kick_ball") and len(box["box"]) == 4 and 0 < box["score"] < 1
    with av.open(told["annotated"]) as container:
        drawn = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(drawn) == 16 and min(drawn[0].shape[:2]) >= 360
    strip = cv2.imread(told["strip"])
    assert strip.shape[0] == 240 and strip.shape[1] > 3 * 240
    cli.predict(changed(workdir, confidence=0.99), workdir, str(video), False)
    assert "frame 4: nothing found" in capsys.readouterr().out
    same = Predictor(workdir)(frames)
    assert [x["frame"] for x in same["frames"]] == [4]


def test_answers_from_python(trained, tmp_path):
    """`effvid_jax.load` says what predict says, frame by frame, and draws it."""
    workdir, _, root = trained
    model, video = effvid_jax.load(workdir), str(next(root.glob("Rename_Images/*/*")))
    result = model.predict(video)
    assert result.told == Predictor(workdir)(video)
    assert len(result.scores) == len(result.told["frames"]) >= 1 and result.gmacs > 0
    assert result.plot(tmp_path / "boxes.png")[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="does not answer with classes"):
        result.top()


def test_exports_boxes(trained):
    workdir, _, root = trained
    cli.export(None, workdir)
    model = export.load(f"{workdir}/export")
    boxes, gmacs = model(np.zeros((2, *model.info["input"]["shape"][1:]), np.uint8))
    assert boxes.shape[0] == 2 and boxes.shape[2] == 5 + 2 and gmacs.shape == (2,)
    np.testing.assert_allclose(boxes[..., 5:].sum(axis=-1), 1, rtol=1e-5)


def test_what_is_refused():
    config = localise_jhmdb.get_config()
    for fields, message in (
            (dict(anchors=(0.1, 0.2, 0.3)), "expected pairs of a width and a height"),
            (dict(anchors=(0.1, 0.0)), "localisation.anchors=.*more than 0"),
            (dict(correct="sometimes"), "localisation.correct='sometimes': expected one of any_box"),
            (dict(nms=0.4), "localisation.nms=0.4 is no field of this task. Close matches")):
        other = config.copy_and_resolve_references()
        other.localisation.update(fields)
        with pytest.raises(UserError, match=message):
            bounds.check_values(other)
            make_task(other, ["a", "b"])
    config.data.test_crop = "center"
    with pytest.raises(UserError, match="boxes are told of a whole frame"):
        make_task(config, ["a", "b"])
    for arg, message in (("split=4", "has the splits 1, 2 and 3"),
                         ("backbone=resnet50", "expected x3d_m or"),
                         ("static,from_static", "has no meaning with static"),
                         ("tiny,split=2", "has no meaning with tiny")):
        with pytest.raises(UserError, match=message):
            recipe.recipe(arg)


def test_whose_boxes_count_as_right():
    config = localise_jhmdb.get_config()
    boxes = np.zeros((5, 2, 4), np.float32)
    boxes[:, 0], boxes[:, 1] = (0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1)
    targets = {"boxes": boxes, "box_labels": np.array([[0, 1]] * 5), "box_count": np.array([2, 2, 2, 0, 0])}

    def found(*which):
        rows = np.zeros((3, 7), np.float32)
        for i, (box, label, sure) in enumerate(which):
            rows[i] = *box, sure, *np.eye(2)[label]
        return rows

    one, two, wrong = (boxes[0, 0], 0, 0.9), (boxes[0, 1], 1, 0.5), (boxes[0, 1], 0, 0.9)
    said = np.stack([found(one, two), found(one, wrong), found(wrong), found(), found(one)])
    for correct, expected in (("any_box", [1, 1, 0, 1, 0]), ("all_boxes", [1, 0, 0, 1, 0]),
                              ("always", [1, 1, 1, 1, 1])):
        config.localisation.correct = correct
        task = make_task(config, ["a", "b"])
        right = task.right(said, targets)
        assert right.shape == (5,) and right.astype(int).tolist() == expected, correct
    rows = {**targets, "scores": task.scores(said), "name": np.array(list("vwxyz")), "id": np.arange(5),
            "gmacs": np.ones(5)}
    metrics = task.metrics(rows)
    assert metrics["recall"] == pytest.approx(5 / 6) and metrics["classification"] == pytest.approx(3 / 5)
    assert [name for name, _ in task.groups(rows)] == ["a", "b", "(no box)"]
    assert np.isnan(task.scores(np.full((1, 3, 7), np.nan))).all()


def test_frames_without_boxes_train_nothing(tmp_path):
    config = localise_jhmdb.get_config()
    task = make_task(config, ["a", "b"])

    class Split:
        name, description = "train", "nothing"

        def __len__(self):
            return 0

    with pytest.raises(DataError, match="no boxes to find anchors of"):
        task.prepare(Split())
