"""Segmentation: decoders against plain numpy, losses and metrics against small independent ones, drawing."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import segment_ade20k
from configs.recipes import base
from effvid_jax import cost, metrics, optim
from effvid_jax.backbones import make_backbone
from effvid_jax.backbones.facts import facts
from effvid_jax.drawn import masks as drawing
from effvid_jax.errors import UserError
from effvid_jax.gating import gates
from effvid_jax.heads import Headed
from effvid_jax.heads.pixels import PixelHead, adaptive_avg_pool
from effvid_jax.methods import make_method
from effvid_jax.tasks import make_task

NAMES = ["sky", "wall", "tree"]


def task_of(**fields):
    config = segment_ade20k.get_config("tiny")
    config.segmentation.update(fields)
    config.data.test_crop_size = 12
    return make_task(config, NAMES)


# -------------------------------------------------------------------------------------------- decoders
@pytest.mark.parametrize("decoder, gmacs, params", [("c1", 11.122, 12_248_940), ("ppm", 19.966, 24_566_636)])
def test_what_the_published_network_costs(decoder, gmacs, params):
    """The paper's 10.6 is the encoder alone; parameters of the decoders are the reference's, added up."""
    model = Headed(trunk=make_backbone("dilated_resnet18", num_classes=150), head=PixelHead(150, decoder))
    found = cost.count(model, (1, 224, 224, 3))
    head = sum(layer.macs for layer in found.layers if layer.block == "head") / 1e9
    assert round(found.gmacs, 3) == gmacs and found.gmacs - head == pytest.approx(10.6, rel=0.01)
    units = {"c1": 9 * 512 * 128 + 2 * 128 + 129 * 150,
             "ppm": 4 * (512 * 512 + 2 * 512) + 9 * 2560 * 512 + 2 * 512 + 513 * 150}
    auxiliary = 9 * 256 * 128 + 2 * 128 + 129 * 150
    assert found.params == params == 11_324_992 + units[decoder] + auxiliary


def test_floor_of_the_gated_encoder():
    """Half of the channels of every block convolution: below the paper's least, 7.3."""
    config = segment_ade20k.get_config("resolution=224")
    assert (config.data.crop, config.data.test_crop_size, config.data.short_sides) == (
        224, 224, (140, 175, 210, 245, 280))
    method = make_method(config, make_task(config, [str(k) for k in range(150)]))
    clip = jax.ShapeDtypeStruct((1, 1, 224, 224, 3), jnp.float32)

    def decide(clip):
        variables = method.model.init(jax.random.key(0), clip)
        return method.model.apply(variables, clip, mutable=["gates"])[1]["gates"]

    with cost.counting.parameters_without_values():
        found = gates.collect(jax.eval_shape(decide, clip))
    assert len(found) == 16 and not any(path.startswith("head") for path in found)
    whole = cost.gmacs(method.model, (1, 224, 224, 3))
    least = whole - sum(d.macs * (1 - d.least) for d in found.values()) / 1e9
    assert whole == pytest.approx(11.122, abs=1e-3) and least - 0.477 == pytest.approx(6.107, abs=1e-3)


@pytest.mark.parametrize("size, length", [(1, 7), (2, 7), (3, 8), (6, 5), (6, 12)])
def test_adaptive_pooling_is_torchs(size, length, rng):
    x = rng.standard_normal((2, 1, length, length + 1, 3)).astype(np.float32)
    wanted = np.zeros((2, 1, size, size, 3))
    for i in range(size):
        for j in range(size):
            rows = slice(i * length // size, -(-(i + 1) * length // size))
            columns = slice(j * (length + 1) // size, -(-(j + 1) * (length + 1) // size))
            wanted[:, :, i, j] = x[:, :, rows, columns].mean(axis=(2, 3))
    np.testing.assert_allclose(adaptive_avg_pool(jnp.asarray(x), size), wanted, atol=1e-6)


@pytest.mark.parametrize("decoder", ["c1", "ppm"])
def test_decoders(decoder, rng):
    """Shapes; auxiliary outputs in training alone; C1 against a convolution written out."""
    maps = {f"stage{s}": jnp.asarray(rng.standard_normal((2, 1, 6, 5, 8 * s)), jnp.float32) for s in (1, 2)}
    maps["features"] = maps["stage2"]
    head = PixelHead(3, decoder, width=4)
    variables = head.init(jax.random.key(0), maps)
    outputs = head.apply(variables, maps)
    (trained, auxiliary), _ = head.apply(variables, maps, True, mutable=["batch_stats"],
                                         rngs={"dropout": jax.random.key(1)})
    assert outputs.shape == trained.shape == auxiliary.shape == (2, 6, 5, 3)
    plain = PixelHead(3, decoder, width=4, auxiliary=False)
    assert not any("deepsup" in name for name in plain.init(jax.random.key(0), maps)["params"])
    if decoder == "c1":
        p, x = variables["params"], np.pad(np.asarray(maps["features"][:, 0]),
                                           ((0, 0), (1, 1), (1, 1), (0, 0)))
        y = sum(x[:, i:i + 6, j:j + 5] @ np.asarray(p["cbr_conv"]["kernel"][i, j])
                for i in range(3) for j in range(3))
        y = np.maximum(y / np.sqrt(1 + 1e-5), 0) @ np.asarray(p["last"]["kernel"][0, 0])
        np.testing.assert_allclose(outputs, y, atol=1e-4)


# ------------------------------------------------------------------------------------------- the numbers
def slow_metrics(said_N, labels_N, count):
    """mit_semseg's definitions, pixel by pixel."""
    right, pixels = 0, 0
    sets = [(set(), set()) for _ in range(count)]
    for n, (said, labels) in enumerate(zip(said_N, labels_N)):
        for at in np.ndindex(labels.shape):
            if labels[at] == 255:
                continue
            pixels += 1
            right += said[at] == labels[at]
            sets[said[at]][0].add((n, at))
            sets[labels[at]][1].add((n, at))
    iou = [len(a & b) / len(a | b) if a | b else None for a, b in sets]
    known = [x for x in iou if x is not None]
    return (right / pixels if pixels else 0.0, sum(x or 0 for x in iou) / count,
            sum(known) / len(known) if known else 0.0)


def test_metrics_are_those_of_a_slow_count(rng):
    """1,200 random splits, without any labels, with absent classes, all right and all wrong among them."""
    task = task_of()
    for case in range(1200):
        images, side = rng.integers(1, 4), rng.integers(1, 5)
        labels = rng.integers(0, rng.integers(1, 4), (images, side, side)).astype(np.uint8)
        labels[rng.uniform(size=labels.shape) < rng.choice([0, 0.3, 1])] = 255
        said = rng.integers(0, rng.integers(1, 4), labels.shape)
        if case % 7 == 0:
            said = np.where(labels == 255, 1, labels).astype(int)
        scores = np.stack([said, rng.uniform(size=said.shape)], axis=-1).astype(np.float32)
        rows = task.kept({"scores": scores, "classes": labels, "id": np.arange(images)})
        assert "classes" not in rows and rows["scores"].shape == (images,)
        found = task.metrics(rows)
        accuracy, mean_iou, present = slow_metrics(said, labels, 3)
        np.testing.assert_allclose([found["pixel_accuracy"], found["mean_iou"], found["mean_iou_present"]],
                                   [accuracy, mean_iou, present], atol=1e-9)
    assert (metrics.intersection_over_union([0], [0], [0]) == 0).all()


def test_the_loss_is_the_mean_over_labelled_pixels(rng):
    task = task_of(auxiliary_weight=0.4)
    logits, other = (jnp.asarray(rng.standard_normal((3, 4, 4, 3)), jnp.float32) for _ in range(2))
    classes = rng.integers(0, 3, (3, 8, 8)).astype(np.uint8)
    classes[0, :4], classes[1] = 255, 255
    batch = {"classes": jnp.asarray(classes), "mask": jnp.array([1.0, 1.0, 1.0])}
    seen = classes[:, 1::2, 1::2]  # the nearest of eight pixels to the centres of four
    known = seen != 255

    def wanted(x):
        p = np.asarray(jax.nn.log_softmax(x))
        return -np.take_along_axis(p, np.where(known, seen, 0)[..., None].astype(int), -1)[...,
                                                                                           0][known].mean()

    np.testing.assert_allclose(task.loss(logits, batch).mean(), wanted(logits), rtol=1e-5)
    np.testing.assert_allclose(task.loss((logits, other), batch).mean(), wanted(logits) + 0.4 * wanted(other),
                               rtol=1e-5)
    assert task.loss(logits, batch)[1] == 0, "an image without labels"
    accuracy = (np.asarray(logits).argmax(-1) == seen)[known].mean()
    np.testing.assert_allclose(task.batch_scalars((logits, other), batch)["pixel_accuracy"], accuracy,
                               rtol=1e-6)
    nothing = {**batch, "classes": jnp.full((3, 8, 8), 255, jnp.uint8)}
    assert (task.loss(logits, nothing) == 0).all() and task.batch_scalars(logits,
                                                                          nothing)["pixel_accuracy"] == 0


def test_which_images_count_as_right(rng):
    answers = jnp.zeros((3, 2, 2), int)
    batch = {"classes": jnp.asarray([np.zeros((2, 2)), [[0, 1], [1, 1]], np.full((2, 2), 255)], jnp.uint8)}
    assert task_of().right(answers, batch).tolist() == [True, True, True]
    assert task_of(correct="accuracy", correct_share=0.5).right(answers, batch).tolist() == [True, False,
                                                                                             False]
    assert task_of(correct="accuracy", correct_share=0.25).right(answers, batch).tolist() == [True, True,
                                                                                              False]


def test_scales_are_averaged_as_probabilities(rng):
    task = task_of(test_scales=(0.5, 1.0, 1.5))
    assert task.sides(64) == (32, 64, 96) and task.sides(12) == (8, 12, 16) and task_of().sides(13) == (13,)
    maps = [jnp.asarray(rng.standard_normal((2, n, n, 3)), jnp.float32) for n in (2, 12, 4)]
    together = task.of_sides(maps)
    large = [jax.nn.softmax(jax.image.resize(x, (2, 12, 12, 3), "bilinear", antialias=False)) for x in maps]
    wanted = sum(large) / 3
    np.testing.assert_allclose(jnp.exp(together), wanted, atol=1e-6)
    pairs = task.scores(task.mean_of_views(together[:, None]))
    assert pairs.shape == (2, 12, 12, 2) and pairs.dtype == np.float32
    np.testing.assert_array_equal(pairs[..., 0], wanted.argmax(-1))
    np.testing.assert_allclose(pairs[..., 1], wanted.max(-1), atol=1e-6)


def test_what_the_task_refuses():
    config = segment_ade20k.get_config("tiny")
    for field, value in (("num_frames", 2), ("test_crop", "three"), ("twice_sample", True)):
        wrong = config.copy_and_resolve_references()
        wrong.data[field] = value
        with pytest.raises(UserError, match=f"config.data.*{field}={value!r}.*expected"):
            make_task(wrong, NAMES)
    config.train.validation.test_crop_size = 48
    with pytest.raises(UserError, match="test_crop_size=48.*expected 0 or the same"):
        make_task(config, NAMES)
    with pytest.raises(UserError, match="256 classes.*at most 255"):
        make_task(segment_ade20k.get_config("tiny"), [str(k) for k in range(256)])
    with pytest.raises(UserError, match="test_scales"):
        task_of(test_scales=())
    with pytest.raises(UserError, match="decoder='fcn'.*c1, ppm"):
        segment_ade20k.get_config("decoder=fcn")


# ------------------------------------------------------------------------------------------ to be read
def some_rows(task, rng):
    labels = rng.integers(0, 2, (4, 12, 12)).astype(np.uint8)
    labels[3] = 255
    said = np.where(rng.uniform(size=labels.shape) < 0.8, np.minimum(labels, 2), 2)
    scores = np.stack([said, np.full(said.shape, 0.9)], axis=-1).astype(np.float32)
    return scores, {**task.kept({"scores": scores, "classes": labels, "id": np.arange(4)}),
                    "name": np.array(list("abcd")), "gmacs": np.array([1.0, 2.0, 3.0, 2.0])}


def test_rows_answers_and_pictures(tmp_path, rng):
    task = task_of()
    scores, rows = some_rows(task, rng)
    task.write_rows(str(tmp_path / "p.csv"), rows)
    with open(tmp_path / "p.csv") as f:
        lines = list(csv.DictReader(f))
    assert [line["video"] for line in lines] == list("abcd") and lines[3]["pixel_accuracy"] == ""
    pixels = json.loads(lines[0]["pixels"])
    assert sum(three[2] for three in pixels.values()) == 144
    right = sum(three[0] for three in pixels.values()) / 144
    assert float(lines[0]["pixel_accuracy"]) == pytest.approx(right, abs=1e-4)
    truth, words, fine = task.said(lines[0])
    assert set(truth.split(", ")) <= set(NAMES) and "mean IoU" in words and fine == (right >= 0.5)
    assert task.said(lines[3]) == ("no labels", "nothing to compare with", False)
    titles = [picture[0] for picture in task.pictures({"static": lines, "dynamic": lines})]
    assert titles == ["IoU per class", "Cost of the images"]
    assert sum(len(mine) for _, mine in task.groups(rows)) == 3, "one has no labels"
    answer = task.answer(scores[0])
    assert answer["confidence"] == pytest.approx(0.9)
    assert sum(x["share"] for x in answer["classes"]) == pytest.approx(1, abs=1e-5)
    assert "%" in task.words(answer)


def test_what_was_said_is_drawn_where_it_lies():
    """A wide image in a padded square: classes are where the image is, and the legend names them."""
    task = task_of()
    said = np.full((12, 12), 2)  # what lies beyond the image
    said[3:9, :6], said[3:9, 6:] = 0, 1
    scores = np.stack([said, np.ones((12, 12))], axis=-1).astype(np.float32)
    frame = np.full((200, 400, 3), 128, np.uint8)
    assert task.within(scores, (200, 400)).shape == (6, 12, 2)
    assert {x["label"] for x in task.answer(task.within(scores, (200, 400)))["classes"]} == {"sky", "wall"}
    drawn = task.draw(frame, task.within(scores, (200, 400)))
    scale = 2  # small images are enlarged
    assert drawn.dtype == np.uint8 and drawn.shape[0] == scale * 200 and drawn.shape[1] > scale * 400
    left, right = drawn[30, 30].astype(int), drawn[30, 700].astype(int)
    for pixel, label in ((left, 0), (right, 1)):
        wanted = 0.45 * 128 + 0.55 * np.array(drawing.colour_of(label))
        np.testing.assert_allclose(pixel, wanted, atol=1)
    assert len({drawing.colour_of(k) for k in range(150)}) > 100


def test_poly_schedule_and_groups():
    config = base.defaults().optim
    config.update(dict(schedule="poly", lr=0.02, groups="weights"))
    schedule = optim.make_schedule(config, 10, 100)
    np.testing.assert_allclose([schedule(s) for s in (0, 50, 99)],
                               [0.02 * (1 - s / 100)**0.9 for s in (0, 50, 99)],
                               rtol=1e-5)
    params = {"conv": {"kernel": 1.0, "bias": 1.0}, "bn": {"scale": 1.0, "bias": 1.0}}
    assert optim.group_factors(params, "weights")[1] == {
        "conv": {"kernel": 1.0, "bias": 0.0}, "bn": {"scale": 0.0, "bias": 0.0}}


def test_the_small_member_is_of_the_family():
    name, options = facts("dilated_resnet18").small
    model = make_backbone(name, num_classes=3, **options)
    _, maps = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0],
                             jnp.zeros((1, 1, 64, 64, 3)))
    assert maps["features"].shape == (1, 1, 16, 16, 128)
    with pytest.raises(UserError, match="stage_sizes"):
        make_backbone(name, num_classes=3, stage_sizes=(1, 1)).init(jax.random.key(0),
                                                                    jnp.zeros((1, 1, 32, 32, 3)))
