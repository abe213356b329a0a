"""The embedded benchmark of long clips: few frames tell, and a small place in them."""

import numpy as np
import pytest

from data_pipelines import DataError, open_split
from data_pipelines.synthetic import moments
from tests.data.clip_files import data_config

PARAMS = moments.check_params(dict(min_frames=8, max_frames=10, short_side=48))


def test_only_the_moment_tells():
    """Clips that differ in their class alone are the same but in the moment, there around the object."""
    names = moments.class_names(PARAMS)
    assert len(names) == 8 and names == sorted(names)
    factors, frames = moments.make_clip(PARAMS, "val", 1)
    assert factors["label"] == 1 and factors["name"] == names[1]
    draw = moments.draw_factors

    def other(params, split, index):
        found, rng = draw(params, split, index)
        return {**found, "name": "dots_disc"}, rng

    moments.draw_factors = other
    try:
        changed = moments.make_clip(PARAMS, "val", 1)[1]
    finally:
        moments.draw_factors = draw
    differ = (changed != frames).any(axis=-1)
    telling = np.zeros(len(frames), bool)
    telling[factors["first"]:factors["last"] + 1] = True
    assert (differ.any(axis=(1, 2)) == telling).all() and 0 < telling.mean() < 1
    assert differ.sum(axis=(1, 2)).max() <= factors["size"] ** 2


def test_harder_clips_have_shorter_moments_and_smaller_objects():
    rows = [moments.draw_factors(PARAMS, "train", i)[0] for i in range(200)]
    share = [(row["last"] - row["first"] + 1) / row["frames"] for row in rows]
    hard = [row["difficulty"] for row in rows]
    assert np.corrcoef(hard, share)[0, 1] < -0.9
    assert np.corrcoef(hard, [row["size"] for row in rows])[0, 1] < -0.8
    assert 0.1 <= min(share) < 0.25 and 0.55 < max(share) <= 0.75


def test_files_are_a_data_set(tmp_path):
    config = data_config(source="synthetic_moments", root=str(tmp_path), flip=True,
                         synthetic=dict(PARAMS, train_clips=9, val_clips=8))
    split = open_split(config, "val")
    assert len(split) == 8 and list(split.class_names) == moments.class_names(PARAMS)
    with pytest.raises(DataError, match="data.synthetic.min_moment=0.9 must be within 0 and 0.7"):
        moments.check_params(dict(min_moment=0.9))
