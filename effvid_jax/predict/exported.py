"""The network of an export folder, as one that answers."""

from __future__ import annotations

import os

import numpy as np

from data_pipelines import ClipReader
from effvid_jax import exported, writers
from effvid_jax.errors import NotFiniteError, UserError
from effvid_jax.predict.network import Network, name_of, short
from effvid_jax.tasks import classification


class Exported(Network):
    """What `--mode=export` wrote.

    Args:
        path: the folder.

    Raises:
        UserError: what is there is damaged.
    """

    def __init__(self, path: str):
        data = writers.read_json(os.path.join(path, exported.INFO))["data"]
        self._loaded, self.reader = exported.load(path), ClipReader(data)
        self.class_names, self.num_threads = tuple(self._loaded.class_names), max(1, data["num_threads"])
        self.says_classes = self._loaded.info["output"][0].startswith("probabilities")
        self.clip_shape = (self.reader.num_views, data["num_frames"], data["test_crop_size"])

    @property
    def stops_early(self):
        """See `Network.stops_early`."""
        return "exits" in self._loaded.info and self.reader.num_views == 1

    def scored(self, video):
        """See `Network.scored`: probabilities of its views are averaged."""
        if self.stops_early:
            with self.reader.open(video) as opened:
                return self._stop_early(opened.frames)
        return self.scored_views(self.reader.views(video), name_of(video))

    def scored_views(self, views_VTHWC, name="(no file)"):
        """See `Network.scored_views`."""
        if self.stops_early:
            return self._stop_early(views_VTHWC[0])
        outputs, gmacs = self._loaded(views_VTHWC, check=False)
        scores, cost = np.asarray(outputs, np.float64).mean(axis=0), float(np.asarray(gmacs).sum())
        for what, values in (("scores", scores), ("gmacs", cost)):
            if not np.isfinite(values).all():
                raise NotFiniteError(name, what, "the exported network")
        return scores, {**self.answer(scores), "gmacs": short(cost)}

    def _stop_early(self, clip):
        scores, gmacs, number = self._loaded.stop_early(clip)
        scores = np.asarray(scores, np.float64)
        return scores, {**self.answer(scores), "gmacs": gmacs, "exit": number,
                        "exits": len(self._loaded.info["exits"]["gmacs"])}

    def answer(self, scores):
        """See `Network.answer`; of anything but classes nothing."""
        return classification.top5(self.class_names, scores) if self.says_classes else {}

    def words(self, told):
        """See `Network.words`."""
        return classification.in_words(told)

    def features(self, views_VTHWC):
        """See `Network.features`."""
        raise UserError("an exported network has answers only: for features load the workdir it came from.")
