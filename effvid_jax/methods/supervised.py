"""Plain training on the task's own loss: teachers, baselines and the control run for everything else.

    L = mean_b CE(f(x_b), y_b)

Source: mmaction2 `Recognizer2D` with `TSNHead` / `TSMHead`, as vendored in ResKD's repository. The
clip is normalised on the device and, where `config.model.resolution` says so, resized there without
antialiasing.
"""

from __future__ import annotations

import dataclasses

from effvid_jax.methods import base, parts


class Supervised(parts.Composed):
    """The supervised method of a config; reads `config.model` only."""

    @dataclasses.dataclass(frozen=True)
    class Settings(base.MethodSettings):
        """None."""

    def make_parts(self):
        """See `Composed.make_parts`."""
        return (parts.Answers(self.config, self.task, self.settings),)
