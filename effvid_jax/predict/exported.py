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
        self.name = "the exported network"
        self.batch_size = data["eval_batch_size"]
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
                return self._stop_early(opened.frames, name_of(video))
        return self.scored_views(self.reader.views(video), name_of(video))

    def start(self, videos_BVTHWC):
        """See `Network.start`."""
        return self._loaded(videos_BVTHWC.reshape(-1, *videos_BVTHWC.shape[2:]), check=False)

    def finish(self, started, names):
        """See `Network.finish`."""
        outputs, gmacs = (np.asarray(x) for x in started)
        views, found = self.reader.num_views, []
        for i, name in enumerate(names):
            rows = slice(i * views, (i + 1) * views)
            scores, cost = outputs[rows].astype(np.float64).mean(axis=0), float(gmacs[rows].sum())
            bad = [what for what, values in (("scores", scores), ("gmacs", cost))
                   if not np.isfinite(values).all()]
            found.append(NotFiniteError(name, bad[0], self.name) if bad else
                         (scores, {**self.answer(scores), "gmacs": short(cost)}))
        return found

    def columns(self):
        """See `Network.columns`."""
        return {**self.answer(np.full(len(self.class_names), 0.5)), "gmacs": 0.0,
                **({"exit": 1, "exits": 1} if self.stops_early else {})}

    def _stop_early(self, clip, name):
        del name
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
