"""A backbone whose classifier is replaced by the head of a task."""

from __future__ import annotations

import flax.linen as nn

from effvid_jax.backbones.backbone import Backbone


class Headed(Backbone):
    """Runs a backbone's stem and stages, then a head on its maps; a `Backbone` itself.

    Parameters of the backbone keep their paths, so that weights of a classifier start it and gates find their
    convolutions; those of the head are below `head`. The classifier has none.

    Attributes:
        trunk: the backbone.
        head: `head(maps, train)` -> outputs (B, ...); `maps` are those of `Backbone.__call__`, at least
            'features'. In training it may return a tuple, whose first entry are the outputs.
    """

    trunk: nn.Module
    head: nn.Module

    def setup(self):
        nn.share_scope(self, self.trunk)

    @property
    def num_stages(self) -> int:
        """Of the backbone."""
        return self.trunk.num_stages

    def __call__(self, x_BTHWC, train: bool = False):
        """As `Backbone.__call__`, with the head's outputs for logits; 'pooled' is the mean over space."""
        maps = {"stem": self.run_stem(x_BTHWC, train)}
        x = maps["stem"]
        for s in range(1, self.num_stages + 1):
            x = maps[f"stage{s}"] = self.run_stage(s, x, train)
        maps["features"] = x
        outputs = self.head(maps, train)
        return outputs, {**maps, "pooled": x.mean(axis=(-3, -2))}

    def run_stem(self, x_BTHWC, train: bool = False):
        """Of the backbone."""
        return self.trunk.run_stem(x_BTHWC, train)

    def run_stage(self, stage: int, x, train: bool = False):
        """Of the backbone."""
        return self.trunk.run_stage(stage, x, train)

    def run_head(self, features_BTHWC, train: bool = False):
        """Last map -> (outputs of the head, frame features (B, T, C))."""
        return self.head({"features": features_BTHWC}, train), features_BTHWC.mean(axis=(-3, -2))
