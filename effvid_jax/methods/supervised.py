"""Plain training on the task's own loss: teachers, baselines and the control run for everything else.

    L = mean_b CE(f(x_b), y_b)

Source: mmaction2 `Recognizer2D` with `TSNHead` / `TSMHead`, as vendored in ResKD's repository. The
clip is normalised on the device and, where `config.model.resolution` says so, resized there without
antialiasing.
"""

from __future__ import annotations

import dataclasses

from effvid_jax.losses import weighted_mean
from effvid_jax.methods import base, building


class Supervised(base.Method):
    """The supervised method of a config; reads `config.model` only."""

    @dataclasses.dataclass(frozen=True)
    class Settings(base.MethodSettings):
        """None."""

    def __init__(self, config, task):
        super().__init__(config, task)
        self.model = building.build_network(config.model, task, **self._fields())

    def _fields(self) -> dict:
        """Fields of the backbone that no config can hold, see `building.build_backbone`."""
        return {}

    def init(self, rng, clip_shape):
        """See `Method.init`."""
        return base.Variables(*building.init_backbone(self.model, rng, clip_shape))

    def loss(self, params, variables, batch, rng):
        """See `Method.loss`."""
        (logits, _), updated = self.model.apply(
            {"params": params, "batch_stats": variables.stats}, self._clips(batch), train=True,
            rngs={"dropout": rng}, mutable=["batch_stats"])
        value = weighted_mean(self.task.loss(logits, batch), batch["mask"])
        scalars = {"loss": value, **self.task.batch_scalars(logits, batch)}
        return value, (updated.get("batch_stats", {}), scalars)

    def predict(self, variables, batch):
        """See `Method.predict`."""
        return base.predict_views(self.model, self.task, self.sight, variables.network, batch,
                                  self.views_per_pass)
