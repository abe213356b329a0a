"""What every backbone is: a stem, numbered stages and a head, which can also be run one by one.

    logits_BK, features = module.apply(variables, clip_BTHWC, train=False)

A subclass defines `setup` (with a classifier `fc` and a dropout `drop`), `run_stem(x, train)`,
`run_stage(stage, x, train)` (1-based), `num_stages` unless it is the length of a field `stage_sizes`, and
`run_head(features, train) -> (logits, pooled)`, which 2-D networks on frames and plain 3-D ones have below.
An executor that lets clips leave early, or a method that reads a map in the middle, needs nothing else.
"""

from __future__ import annotations

import flax.linen as nn

from effvid_jax.backbones import blocks


class Backbone(nn.Module):
    """Runs stem, stages and head in order and returns every map by name."""

    def __call__(self, x_BTHWC, train: bool = False):
        """Forward pass.

        Args:
            x_BTHWC: normalised clip (B, T, H, W, 3).
            train: batch statistics and dropout on; needs the 'dropout' rng and mutable 'batch_stats'.

        Returns:
            logits (B, K), and a dict of named maps (B, T', h, w, C): 'stem', 'stage1' and so on,
            'features' (the last one), and 'pooled' (B, T', C). T' is T unless the network strides in
            time.
        """
        out = {"stem": self.run_stem(x_BTHWC, train)}
        x = out["stem"]
        for s in range(1, self.num_stages + 1):
            x = out[f"stage{s}"] = self.run_stage(s, x, train)
        out["features"] = x
        logits, out["pooled"] = self.run_head(x, train)
        return logits, out

    @property
    def num_stages(self) -> int:
        """Number of stages that `run_stage` accepts, 1-based."""
        return len(self.stage_sizes)

    def classify(self, features):
        """The classifier alone, on any (..., C): for logits per position or per frame."""
        return self.fc(features)


class ClipBackbone(Backbone):
    """A 3-D network whose head is a mean over the last map, dropout and the classifier."""

    def run_head(self, features_BTHWC, train: bool = False):
        """Last map -> (logits (B,K), frame features (B,T,C))."""
        frames_BTC, clip_BC = blocks.clip_avg_pool(features_BTHWC)
        return self.fc(self.drop(clip_BC, deterministic=not train)), frames_BTC


class FrameBackbone(Backbone):
    """A 2-D network on every frame, with the heads of TSN and TSM.

    Subclasses have a field `consensus`: 'features' averages frames before dropout and classifier (TSN
    head, ResKD students); 'logits' classifies every frame and averages the logits (TSM head). They
    differ in dropout only. A subclass whose head does more with frames than their mean says so in
    `relates_frames`.
    """

    relates_frames = False  # no field: of the class

    def run_head(self, features_BTHWC, train: bool = False):
        """Last map -> (logits (B,K), frame features (B,T,C))."""
        pooled_BTC = blocks.global_avg_pool(features_BTHWC)
        if self.consensus == "features":
            logits = self.fc(self.drop(pooled_BTC.mean(axis=1), deterministic=not train))
        else:
            logits = self.fc(self.drop(pooled_BTC, deterministic=not train)).mean(axis=1)
        return logits, pooled_BTC


def mean_of_positions(logits):
    """Logits (B, T', h', w', K) of a head's positions -> (B, K), as PySlowFast's heads answer.

    One position's logits as they are, of several the logarithm of their mean probabilities.
    """
    logits_BPK = logits.reshape(len(logits), -1, logits.shape[-1])
    return logits_BPK[:, 0] if logits_BPK.shape[1] == 1 else blocks.log_mean_softmax(logits_BPK, axis=1)
