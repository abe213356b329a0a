"""Crops with a gradient, and the choice of frames by a density over time."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.analysis import crops
from effvid_jax.policies.crop import crop, resize_aligned
from effvid_jax.policies.focus_frames import expected_answer, quantile_frames


def test_at_a_whole_corner_a_crop_is_a_slice_bit_for_bit():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((6, 20, 24, 3)).astype(np.float32) * 1e3
    corners = np.stack([rng.integers(0, 20 - 7, 6), rng.integers(0, 24 - 7, 6)], axis=1)
    found = np.asarray(crop(jnp.asarray(images), jnp.asarray(corners, jnp.float32), 7, 7))
    for image, (y, x), patch in zip(images, corners, found):
        assert (patch == image[y:y + 7, x:x + 7]).all()


def test_a_crop_of_another_side_reads_between_pixels_and_finds_nothing_outside():
    ramp = jnp.broadcast_to(jnp.arange(16.0)[:, None, None], (16, 16, 1))[None]
    found = crop(ramp, jnp.array([[2.0, 5.0]]), jnp.array([[8.0, 4.0]]), 4)
    np.testing.assert_allclose(found[0, :, 0, 0], [2.5, 4.5, 6.5, 8.5])  # centres of two pixels each
    outside = crop(jnp.ones((1, 8, 8, 1)), jnp.array([[-4.0, 2.0]]), 6, 6)
    assert outside[0, :, 0, 0].tolist() == [0, 0, 0, 0, 1, 1]


def test_what_a_crop_does_not_reach_has_no_gradient():
    def seen(corner, at):
        image = jnp.zeros((1, 20, 20, 1)).at[0, at, at, 0].set(1.0)
        return crop(image, corner[None], 6, 6).sum()

    slope = jax.jit(jax.grad(seen))
    corner = jnp.array([4.3, 4.3])
    assert not slope(corner, 15).any() and not slope(corner, 3).any()
    assert slope(corner, 10).min() > 0, "moving on would show more of it"
    assert slope(corner, 4).max() < 0


def test_resizing_with_aligned_corners():
    image = np.random.default_rng(1).random((2, 9, 9, 1)).astype(np.float32)
    found = np.asarray(resize_aligned(image, 5))
    np.testing.assert_allclose(found, image[:, ::2, ::2], rtol=1e-6)
    assert resize_aligned(image, 9) is image


def frames_one_by_one(w, s, f):
    """`quantile_frames` of one clip as it is written, without vectors."""
    g, sums, found = len(w), np.concatenate([[0], np.cumsum(w)]), []
    for i in range(f):
        wanted = (i + 0.5) / f
        at = max(int(np.argmax(sums >= wanted)), 1) - 1 if (sums >= wanted).any() else g - 1
        time = (at + (wanted - sums[at]) / (sums[at + 1] - sums[at])) / g
        found.append(max(int(time * s), found[-1] + 1 if found else 0))
    return [min(frame, s - f + i) for i, frame in enumerate(found)]


def test_focus_frames():
    uniform, one = np.full(16, 1 / 16), np.eye(16)[5]
    rng = np.random.default_rng(2)
    some = rng.dirichlet(np.full(16, 0.3), 40)
    found = np.asarray(jax.jit(lambda w: quantile_frames(w, 48, 16))(
        jnp.asarray(np.stack([uniform, one, *some]), jnp.float32)))
    assert found[0].tolist() == list(range(1, 48, 3)), "uniform weights give uniform frames"
    assert found[1].tolist() == list(range(15, 31)), "the segment's frames, and on without repetition"
    assert (np.diff(found) > 0).all() and found.min() >= 0 and found.max() < 48
    assert found[2:].tolist() == [frames_one_by_one(w, 48, 16) for w in some]
    drawn = np.asarray(quantile_frames(jnp.asarray(some, jnp.float32), 48, 16, jax.random.key(0)))
    assert (np.diff(drawn) > 0).all() and (drawn != found[2:]).any()


def exact(w, values, terms):
    """Mean of frames drawn by weight without replacement, over all orders."""
    total = 0.0
    for order in itertools.permutations(range(len(w)), terms):
        p, left = 1.0, 1.0
        for i in order:
            p, left = p * w[i] / left, left - w[i]
        total += p * values[list(order)].mean()
    return total


@pytest.mark.parametrize("terms", [1, 3])
def test_the_expected_answer_is_that_of_frames_drawn_without_replacement(terms):
    w, values = np.array([0.5, 0.3, 0.15, 0.05]), np.array([1.0, -2.0, 4.0, 10.0])
    answer = jax.jit(lambda w: expected_answer(
        jax.random.key(0), w[None], jnp.asarray(values)[None, :, None], terms, draws=4096)[0, 0])
    assert abs(float(answer(jnp.asarray(w))) - exact(w, values, terms)) < (1e-6 if terms == 1 else 0.1)
    slope = jax.grad(lambda w: answer(w))(jnp.asarray(w))
    assert np.argsort(slope).tolist() == np.argsort(values).tolist(), "frames that say more earn weight"


def test_crops_are_drawn_where_they_lie():
    frames = np.full((3, 20, 10, 3), 200, np.uint8)
    found = crops.draw(frames, np.array([[0.5, 0.2, 0.5, 0.6]]), np.array([1]))
    assert (found[[0, 2]] == 70).all(), "frames that are not looked at are dimmed"
    assert (found[1, 11:19, 3:7] == 200).all() and (found[1, 10, 2:8] == crops.EDGE).all()
    assert (found[1, :10] == 70).all() and (found[1, :, 8:] == 70).all()
