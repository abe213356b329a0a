import json
import pathlib
from collections import Counter

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import supervised_actnet, supervised_folder
from data_pipelines.batches import transforms
from data_pipelines.options import plain_options
from tests.data.clip_files import data_config
from tests.parity import pipelines

CASES = pathlib.Path(__file__).parents[1] / "parity" / "cases"


def ramp(frames=2, height=48, width=64):
    """Every pixel is unique within its frame: (row, column, frame number)."""
    t, y, x = np.meshgrid(range(frames), range(height), range(width), indexing="ij")
    return np.stack([y, x, t], axis=-1).astype(np.uint8)


def test_reference_rows():
    case = json.loads((CASES / "pipe_geometry.json").read_text())
    error, message = pipelines.check_geometry(case)
    print(f"largest difference {error:.1e}")
    assert message == "" and error < 1e-6  # resized pixels are equal, too


def test_resizing_is_per_frame_opencv():
    video = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    ours = transforms.resize_short_side(video, 11)
    assert ours.shape == (3, 11, 17, 3)
    for frame, expected in zip(ours, video, strict=True):
        np.testing.assert_array_equal(frame, cv2.resize(expected, (17, 11)))
    assert transforms.resize(video, 20, 30) is video


def test_multi_scale_draws_every_size_and_place_equally_often():
    rng = np.random.default_rng(0)
    count = Counter(transforms.multi_scale_box(256, 340, 224, rng) for _ in range(13000))
    sizes = Counter()
    for box, hits in count.items():
        assert 0 <= box[0] <= 340 - box[2] and 0 <= box[1] <= 256 - box[3]
        sizes[box[2:]] += hits
    assert sizes.keys() == set(transforms.multi_scale_sizes(256, 340)) and len(sizes) == 10
    assert min(sizes.values()) > 1150 and max(sizes.values()) < 1450


def test_sizes_near_the_target_snap_to_it():
    assert transforms.snap_size((222, 256), 224) == (224, 256)
    assert transforms.snap_size((221, 227), 224) == (221, 227)


@pytest.mark.parametrize("resolution, sides", [  # released `input_size`: 256 to 80
    (224, (256, 224, 192, 168)), (160, (180, 157, 135, 118)), (112, (128, 112, 96, 84)),
    (96, (108, 94, 81, 71)), (72, (80, 70, 60, 52))])
def test_crops_of_the_released_resolutions(resolution, sides):
    """What the reference's MultiScaleCrop draws at each resolution of its configs; nothing snaps in them."""
    options = plain_options(supervised_actnet.get_config(f"resolution={resolution}").data)
    rng, drawn, boxes = np.random.default_rng(0), Counter(), []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(transforms, "crop", lambda frames, box: boxes.append(box) or frames)
        frames = np.zeros((1, options.short_side, options.short_side + 20, 3), np.uint8)
        for _ in range(400):
            transforms.augment_train(options, frames, rng)
    drawn.update(size for _, _, *size in boxes for size in [tuple(size)])
    wanted = {(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1}
    assert set(drawn) == wanted and len(wanted) == 10
    assert max(x + w for x, _, w, _ in boxes) <= options.short_side + 20


def test_snapping_is_a_field():
    """An old config has none: it snaps to its crop; so does a field of 0."""
    old = data_config(short_side=108, crop=96)
    del old["snap_side"]
    assert plain_options(old).snap_side == 0
    frames = np.zeros((1, 108, 108, 3), np.uint8)
    seen = set()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(transforms, "crop", lambda frames, box: seen.update(box[2:]) or frames)
        for changes, sides in (({}, {96, 81}), ({"snap_side": 0}, {96, 81}), ({"snap_side": 108}, {94, 81}),
                               ({"snap_side": 80}, {94, 80})):
            seen.clear()
            options = plain_options(ConfigDict({**old, **changes}))
            for seed in range(60):
                transforms.augment_train(options, frames, np.random.default_rng(seed))
            assert seen == {108, 71} | sides
    small = supervised_folder.get_config("small,resolution=96").data
    assert (small.crop, small.snap_side) == (28, 0), "other pixels, no released crop"


def test_quality_keeps_the_size_and_takes_the_detail():
    options = plain_options(supervised_actnet.get_config().data)
    options.quality = 112
    frames = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)
    found, = transforms.crops_for_test(options, frames)
    whole = frames[:, 16:240, 16:240]
    small = np.stack([cv2.resize(frame, (112, 112), interpolation=cv2.INTER_LINEAR) for frame in whole])
    mean = whole.reshape(2, 112, 2, 112, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(small, mean, atol=1)
    wanted = np.stack([cv2.resize(frame, (224, 224), interpolation=cv2.INTER_LINEAR) for frame in small])
    np.testing.assert_array_equal(found, wanted)
    trained = transforms.augment_train(options, frames, np.random.default_rng(0))
    assert trained.shape == (2, 224, 224, 3)
    options.quality = 0
    again = transforms.augment_train(options, frames, np.random.default_rng(0))
    np.testing.assert_array_equal(trained, transforms.lower_quality(again, 112), err_msg="the same draws")
    np.testing.assert_array_equal(transforms.crops_for_test(options, frames)[0], whole)


def test_random_resized_boxes_fit_and_vary():
    rng = np.random.default_rng(0)
    boxes = np.array([transforms.random_resized_box(100, 140, rng) for _ in range(3000)])
    areas, aspects = boxes[:, 2] * boxes[:, 3] / 14000, boxes[:, 2] / boxes[:, 3]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 0] + boxes[:, 2] <= 140).all()
    assert (boxes[:, 1] + boxes[:, 3] <= 100).all()
    assert areas.min() < 0.1 and areas.max() > 0.9
    assert 0.7 < aspects.min() < 0.8 and 1.25 < aspects.max() < 1.4
    # A strip in which no draw fits: the centred square.
    assert transforms.random_resized_box(2, 1000, rng) == (499, 0, 2, 2)


def test_three_crops_are_first_last_middle():
    options = data_config(test_crop="three", test_short_side=48, test_crop_size=48)
    lefts = [crop[0, 0, 0, 1] for crop in transforms.crops_for_test(options, ramp())]
    upright = ramp(height=64, width=48)
    tops = [crop[0, 0, 0, 0] for crop in transforms.crops_for_test(options, upright)]
    assert lefts == [0, 16, 8] and tops == [0, 16, 8]


def test_train_order_is_resize_then_crop_then_resize_then_flip():
    options = data_config(short_side=36, crop=32, flip=True)
    video = np.random.default_rng(1).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
    flips = 0
    for seed in range(20):
        ours = transforms.augment_train(options, video, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        left, top, width, height = transforms.multi_scale_box(36, 48, 32, rng)
        flip = rng.random() < 0.5
        flips += flip
        for frame, source in zip(ours, video, strict=True):
            small = cv2.resize(source, (48, 36))[top:top + height, left:left + width]
            expected = cv2.resize(small, (32, 32))
            np.testing.assert_array_equal(frame, expected[:, ::-1] if flip else expected)
    assert 4 < flips < 16


@pytest.mark.parametrize("train_crop", ["multi_scale", "random_resized", "center"])
def test_one_decision_for_all_frames(train_crop):
    options = data_config(train_crop=train_crop)
    video = np.repeat(ramp(frames=1), 5, axis=0)
    for seed in range(5):
        ours = transforms.augment_train(options, video, np.random.default_rng(seed))
        assert ours.shape == (5, 32, 32, 3) and (ours == ours[:1]).all()
        np.testing.assert_array_equal(  # the generator alone decides
            ours, transforms.augment_train(options, video, np.random.default_rng(seed)))


def test_no_flip_when_switched_off():
    options = data_config(train_crop="center", flip=False)
    for seed in range(8):
        columns = transforms.augment_train(options, ramp(), np.random.default_rng(seed))[0, 0, :, 1]
        assert (np.diff(columns.astype(int)) >= 0).all()
