"""Plain training with cross-entropy: teachers, baselines and the control run for everything else.

    L = mean_b CE(f(x_b), y_b)

Source: mmaction2 `Recognizer2D` with `TSNHead` / `TSMHead`, as vendored in ResKD's repository. The
clip is normalised on the device and, where `config.model.resolution` says so, resized there without
antialiasing.
"""

from __future__ import annotations

from effvid_jax.losses import cross_entropy, weighted_mean
from effvid_jax.methods import base


def make(config, class_names, **fields) -> base.Method:
    """The supervised method of a config; reads `config.model` only.

    Args:
        config: a resolved config.
        class_names: K names.
        **fields: of the backbone, see `base.build_backbone`.

    Raises:
        ValueError: unknown backbone or option.
    """
    resolution = config.model.resolution
    model = base.build_backbone(config.model, len(class_names), **fields)
    predict = base.predict_clips(model, resolution)

    def init(rng, clip_shape):
        return base.Variables(*base.init_backbone(model, rng, clip_shape))

    def loss(params, variables, batch, rng):
        clips = base.resize(base.normalise(batch["video"]), resolution)
        (logits, _), updated = model.apply(
            {"params": params, "batch_stats": variables.stats}, clips, train=True,
            rngs={"dropout": rng}, mutable=["batch_stats"])
        value = weighted_mean(cross_entropy(logits, batch["label"]), batch["mask"])
        scalars = {"loss": value, "top1": base.batch_accuracy(logits, batch["label"], batch["mask"])}
        return value, (updated.get("batch_stats", {}), scalars)

    return base.Method(
        init=init, loss=loss, resolution=resolution,
        predict=lambda variables, batch: predict(
            {"params": variables.params, "batch_stats": variables.stats}, batch))
