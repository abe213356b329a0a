"""A small head that says whether the end would answer as a checkpoint does: the score of the rule 'learned'.

CATs (arXiv 2104.08803) and CALM (arXiv 2207.07061) have such heads.

It is trained beside the network, on the same clips, with no gradient into it: what it reads is cut off. (One
thing is shared: a limit on the norm of gradients, `config.optim.clip_norm`, counts the head's too.) CATs and
CALM train theirs afterwards on a network that is fixed; this needs one run instead of two, and the head is
saved, resumed and exported as every parameter is. Calibration videos are not used: thresholds chosen on what
the head has seen would say too little about other videos, and no promise (`risk.py`) would hold. On its
training clips a network agrees with itself more often than on others, so the probability is too high; the
thresholds, from held-out videos, make up for that.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from effvid_jax.backbones import blocks
from effvid_jax.exits import rules


class Judge(nn.Module):
    """Whether the end would answer as a checkpoint does: a network with one hidden layer.

    It reads what the checkpoint's classifier reads, normalised, and the scores of its answer, for which it
    would have to know the classifier otherwise.

    Attributes:
        width: of the hidden layer.
    """

    width: int

    @nn.compact
    def __call__(self, merged_BC, logits_BK):
        """The logit of its probability (B,); no gradient leaves through the arguments."""
        merged, logits = (jax.lax.stop_gradient(x.astype(jnp.float32)) for x in (merged_BC, logits_BK))
        x = blocks.LayerNorm(name="norm")(merged)
        x = jnp.concatenate([x, rules.scores(logits)], axis=-1)
        x = blocks.relu(blocks.Dense(self.width, name="hidden")(x))
        return blocks.Dense(1, name="out")(x)[..., 0]


def loss(sure_Bm, logits_BmK):
    """Cross-entropy of `Judge`s at all checkpoints but the last, whose answer is the end's.

    Args:
        sure_Bm: their logits.
        logits_BmK: of the checkpoints.

    Returns:
        (B,) sums over checkpoints.
    """
    answers = logits_BmK.argmax(axis=-1)
    alike = (answers[:, :-1] == answers[:, -1:]).astype(jnp.float32)
    x = sure_Bm[:, :-1]
    return (jax.nn.softplus(x) - alike * x).sum(axis=1)
