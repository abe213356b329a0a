"""What lies in the frames goes where the clip goes: boxes and masks against the pixels that are cut."""

import numpy as np
import pytest

from data_pipelines.batches import sampling, transforms
from data_pipelines.options import plain_options
from tests.data.clip_files import data_config


@pytest.mark.parametrize("kind", ["multi_scale", "random_resized", "center", "whole"])
def test_a_box_stays_around_its_object(kind):
    """A white rectangle on black, found again in the clip where its box has gone; the mask is the same."""
    rng, seen = np.random.default_rng(0), set()
    for seed in range(60):
        height, width = rng.integers(60, 120, 2)
        x1, y1 = int(rng.integers(0, width - 20)), int(rng.integers(0, height - 20))
        x2, y2 = x1 + int(rng.integers(12, 20)), y1 + int(rng.integers(12, 20))
        frame = np.zeros((1, height, width, 3), np.uint8)
        frame[:, y1:y2, x1:x2] = 255
        options = plain_options(data_config(train_crop=kind, crop=40, short_side=48, flip=True))
        clip, place = transforms.cut_for_training(options, frame, np.random.default_rng(seed))
        seen.add(place.flipped)
        found = place.boxes([[x1 / width, y1 / height, x2 / width, y2 / height]])[0] * 40
        white, mask = clip[0, :, :, 0] > 127, place.mask(frame[0, :, :, 0], 7)
        assert (white != (mask > 127)).mean() < 0.08, "edges may differ by a pixel"
        inside = np.clip(found, 0, 40)
        if (inside[2:] - inside[:2] < 3).any():
            continue
        rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
        np.testing.assert_allclose([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], inside, atol=1.6)
    assert seen == {True, False}


def test_pad_shows_the_whole_frame_in_a_square():
    options = plain_options(data_config(test_crop="pad", test_crop_size=40, test_short_side=30))
    frame = np.full((1, 30, 60, 3), 255, np.uint8)
    clip, = transforms.crops_for_test(options, frame)
    place, = transforms.test_places(options, 30, 60)
    mask = place.mask(np.ones((15, 30), np.uint8), 9)
    assert clip.shape == (1, 40, 40, 3)
    assert (clip[0, 11:29] == 255).all() and tuple(clip[0, 5, 5]) == (124, 116, 104)
    assert (mask[10:30] == 1).all() and (mask[:10] == 9).all() and (mask[30:] == 9).all()
    np.testing.assert_allclose(place.boxes([[0, 0, 1, 1]]), [[0, 0.25, 1, 0.75]])


def test_clips_lie_around_their_key_frame():
    assert sampling.around(10, 4, 2, 100).tolist() == [6, 8, 10, 12]
    assert sampling.around(1, 4, 2, 100).tolist() == [0, 0, 1, 3]
    assert sampling.around(99, 4, 2, 100).tolist() == [95, 97, 99, 99]
    assert sampling.around(-1, 3, 1, 9).tolist() == [3, 4, 5]
    options = plain_options(data_config(sampling="around", num_frames=4, frame_interval=2))
    assert sampling.sample_test(options, 100, 10).tolist() == [[6, 8, 10, 12]]
    assert sampling.sample_train(options, 100, np.random.default_rng(0), 10).tolist() == [6, 8, 10, 12]
