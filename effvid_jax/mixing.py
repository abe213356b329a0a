"""Clips mixed in pairs: mixup (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899).

    mixup   video = s video + (1 - s) other           s' ~ Beta(a, a), s = max(s', 1 - s')
    CutMix  a box of 1 - s of the picture, the same in all frames, shows the other clip
    loss    s CE(scores, label) + (1 - s) CE(scores, other label)

Clip b of a batch is mixed with clip b - 1, the first with the last. Whose share is larger comes first: as the
pair is drawn the other way round as often, the mixtures are those of the papers. It happens on the device, in
the training step, with random numbers of the step: a run that goes on mixes as before, on any number of
devices, and a teacher sees what its student sees. Pixels stay uint8, rounded.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

STREAM = 1  # of the step's random numbers, beside those of the method
OTHER, SHARE = "other_label", "share"  # entries of a mixed batch: the second label, and what the first counts


def mixed(batch, rng, mixup: float, cutmix: float):
    """A training batch with its clips mixed. Traced.

    Args:
        batch: `video` uint8 (B, T, H, W, 3) and `label` int (B,); others stay as they are.
        rng: key of the step.
        mixup, cutmix: a of Beta(a, a); 0: not this one. With both, one of them by chance for each clip.

    Returns:
        The batch with `other_label` int (B,) and `share` float32 (B,), in [0.5, 1], beside `label`.
    """
    video = batch["video"]
    b, _, h, w, _ = video.shape
    other = jnp.roll(video, 1, axis=0)
    which, *keys = jax.random.split(rng, 5)
    blend, blend_share = _mixup(video, other, keys[0], mixup) if mixup else (None, None)
    paste, paste_share = _cutmix(video, other, keys[1:], cutmix, (h, w)) if cutmix else (None, None)
    if mixup and cutmix:
        first = jax.random.bernoulli(which, 0.5, (b,))
        video = jnp.where(first[:, None, None, None, None], blend, paste)
        share = jnp.where(first, blend_share, paste_share)
    else:
        video, share = (blend, blend_share) if mixup else (paste, paste_share)
    return {**batch, "video": video, OTHER: jnp.roll(batch["label"], 1), SHARE: share}


def _shares(rng, a: float, b: int):
    drawn = jax.random.beta(rng, a, a, (b,), jnp.float32)
    return jnp.maximum(drawn, 1 - drawn)


def _mixup(video, other, rng, a):
    share = _shares(rng, a, len(video))
    s = share[:, None, None, None, None]
    return jnp.round(s * video + (1 - s) * other).astype(video.dtype), share


def _cutmix(video, other, rngs, a, size):
    """The box lies anywhere with its centre in the picture; `share` is of the pixels that are left."""
    h, w = size
    side = jnp.sqrt(1 - _shares(rngs[0], a, len(video)))  # of the box, in sides of the picture
    ranges = []
    for rng, n in zip(rngs[1:], (h, w), strict=True):
        centre = jax.random.uniform(rng, (len(video),)) * n
        start = jnp.clip(jnp.round(centre - side * n / 2), 0, n)
        stop = jnp.clip(jnp.round(centre + side * n / 2), 0, n)
        at = jnp.arange(n)[None]
        ranges.append((at >= start[:, None]) & (at < stop[:, None]))
    inside = ranges[0][:, :, None] & ranges[1][:, None, :]  # (B, H, W)
    return (jnp.where(inside[:, None, :, :, None], other, video),
            1 - inside.mean(axis=(1, 2), dtype=jnp.float32))
