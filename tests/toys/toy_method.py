"""A fourth method in one file: the network must also agree with itself on the mirrored clip.

    L = CE(logits, y) + w * mean (logits - mirrored logits)^2
"""

from __future__ import annotations

import dataclasses

from effvid_jax.losses import squared_error, weighted_mean
from effvid_jax.methods import base
from effvid_jax.methods.supervised import Supervised


class Agreement(Supervised):
    """Trains with the module's loss, predicts as the plain network does."""

    @dataclasses.dataclass(frozen=True)
    class Settings(base.MethodSettings):
        """The toy's one setting."""

        weight: float = 0.1  # of the agreement

        def check(self, config):
            """Raises ValueError for a negative weight."""
            self._check_least(weight=0)

    def loss(self, params, variables, batch, rng):
        """See `Method.loss`."""
        value, (stats, scalars) = super().loss(params, variables, batch, rng)
        clips, mask = self._clips(batch), batch["mask"]

        def logits(clips):
            return self.model.apply({"params": params, "batch_stats": variables.stats}, clips)[0]

        difference = weighted_mean(squared_error(logits(clips), logits(clips[:, :, :, ::-1])), mask)
        total = value + self.settings.weight * difference
        return total, (stats, {**scalars, "loss": total, "difference": difference})
