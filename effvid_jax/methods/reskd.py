"""ResKD: a teacher on high-resolution frames teaches a student that sees low-resolution frames.

Ma et al., "Rethinking Resolution in the Context of Efficient Video Recognition", NeurIPS 2022,
arXiv 2209.12797; reference code CVMI-Lab/ResKD (mmaction/models/backbones/rkd.py,
heads/rkd_2d_head.py, heads/grkd_3d_head.py).

    x        high-resolution clip, normalised
    x_low  = bilinear(x), no antialias         -> student -> f_s, logits
    f_t    = teacher(x), no gradient
    f_up   = bilinear(f_s -> size of f_t)      per frame
    L      = CE(logits, y) + w * KD

    config.method.loss     KD                                                        reference
    'feature'              mean over all elements of (f_up - f_t)^2, w = 100         rkd_2d_head.py
    'position_kl'          T^2 KL of class scores at every position, w = 200, T = 2  grkd_3d_head.py
    'frame_kl'             T^2 KL of class scores of every frame                     Table 5, ours
    'clip_kl'              T^2 KL of the clip's class scores                         Table 5, ours

The defaults are what the released code executes, which is not always what it means to do:
  * the teacher normalises with the statistics of the current batch (`teacher_bn='batch'`): it is never
    put in evaluation mode; its running averages are computed and thrown away;
  * 'position_kl' divides by positions x classes (torch's reduction='mean'), which is `kl_mean='element'`;
  * the student is classified from f_s, not from f_up, and averages frames before dropout.
Table 6: "model distillation" is `teacher_resolution` = the student's, "resolution distillation" a
teacher of the student's own depth.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from effvid_jax import checkpoint, cost
from effvid_jax.losses import cross_entropy, soft_kl, squared_error, weighted_mean
from effvid_jax.methods import base

LOSSES = ("feature", "position_kl", "frame_kl", "clip_kl")


def make(config, class_names) -> base.Method:
    """The ResKD method of a config: student from `config.model`, the rest from `config.method`.

    The teacher's architecture and weights come from `config.method.teacher`, the workdir of a
    supervised run or of `effvid_jax.torch_import`.

    Raises:
        ValueError: teacher missing, of another number of classes, or of other feature channels than the
            student where features are matched; unknown loss.
    """
    settings = config.method
    check_settings(settings)
    saved, teacher_variables = load_teacher(settings, class_names)
    student = base.build_backbone(config.model, len(class_names))
    teacher = base.build_backbone(saved.model, len(class_names))
    low = config.model.resolution
    loss = make_loss(student, teacher, settings, low)
    predict = base.predict_clips(student, low)
    predict_teacher = base.predict_clips(teacher, settings.teacher_resolution)

    def init(rng, clip_shape):
        b, t, high, _, c = clip_shape
        params, stats = base.init_backbone(student, rng, (b, t, low or high, low or high, c))
        frozen = {"teacher": teacher_variables}
        _check_features(student, teacher, settings, params, stats, frozen, (b, t, high, high, c), low)
        return base.Variables(params, stats, frozen)

    return base.Method(
        init=init, loss=loss, resolution=low,
        predict=lambda variables, batch: predict(
            {"params": variables.params, "batch_stats": variables.stats}, batch),
        references={"teacher": lambda variables, batch: predict_teacher(
            variables.frozen["teacher"], batch)})


def make_loss(student, teacher, settings, low_resolution: int):
    """The training loss: (params, variables, batch, rng) -> (loss, (stats, scalars)).

    Args:
        student, teacher: backbones; any module that returns `(logits, {'features': ...})`
            and has a `classify` method will do.
        settings: config with `loss`, `weight`, `temperature`, `kl_mean`, `teacher_bn`,
            `teacher_resolution`.
        low_resolution: side of the student's input in pixels.
    """

    def loss(params, variables, batch, rng):
        x = base.normalise(batch["video"])
        student_rng, teacher_rng = jax.random.split(rng)
        (logits, out_s), updated = student.apply(
            {"params": params, "batch_stats": variables.stats}, base.resize(x, low_resolution),
            train=True, rngs={"dropout": student_rng}, mutable=["batch_stats"])
        frozen = jax.lax.stop_gradient(variables.frozen["teacher"])
        (_, out_t), _ = teacher.apply(
            frozen, base.resize(x, settings.teacher_resolution),
            train=settings.teacher_bn == "batch", rngs={"dropout": teacher_rng},
            mutable=["batch_stats"])

        def classify(model, weights, features):
            return model.apply(weights, features, method="classify")

        kd_B = distillation_loss(
            settings, out_s, jax.lax.stop_gradient(out_t),
            lambda f: classify(student, {"params": params}, f),
            lambda f: classify(teacher, {"params": frozen["params"]}, f))
        mask = batch["mask"]
        ce = weighted_mean(cross_entropy(logits, batch["label"]), mask)
        kd = settings.weight * weighted_mean(kd_B, mask)
        scalars = {"loss": ce + kd, "loss_cls": ce, "loss_kd": kd,
                   "top1": base.batch_accuracy(logits, batch["label"], mask)}
        return ce + kd, (updated.get("batch_stats", {}), scalars)

    return loss


def distillation_loss(settings, out_s, out_t, classify_s, classify_t):
    """The KD term per example, without its weight: (B,). See the table in the module docstring.

    Args:
        settings: see `make_loss`.
        out_s, out_t: named features of student and teacher; read here: 'features' (B,T,h,w,C).
        classify_s, classify_t: the classifiers, (..., C) -> (..., K).
    """
    if settings.loss == "feature":
        f_t = out_t["features"]
        return squared_error(base.resize(out_s["features"], f_t.shape[-2]), f_t)
    if settings.loss == "position_kl":
        f_t = out_t["features"]
        scores_s = classify_s(base.resize(out_s["features"], f_t.shape[-2]))
        scores_t = classify_t(f_t)
    elif settings.loss == "frame_kl":
        scores_s = classify_s(out_s["features"].mean(axis=(-3, -2)))  # (B, T, K), without dropout
        scores_t = classify_t(out_t["features"].mean(axis=(-3, -2)))
    else:
        scores_s = classify_s(out_s["features"].mean(axis=(1, -3, -2)))
        scores_t = classify_t(out_t["features"].mean(axis=(1, -3, -2)))
    kl = soft_kl(scores_s, jax.lax.stop_gradient(scores_t), settings.temperature)
    kl_B = kl.mean(axis=tuple(range(1, kl.ndim)))
    return kl_B / scores_s.shape[-1] if settings.kl_mean == "element" else kl_B


def check_settings(settings) -> None:
    """Raises ValueError for values that `config.method` cannot have."""
    for field, known in (("loss", LOSSES), ("teacher_bn", ("batch", "running")),
                         ("kl_mean", ("element", "row"))):
        if settings[field] not in known:
            raise ValueError(
                f"config.method.{field}={settings[field]!r}: expected one of {list(known)}.")


def load_teacher(settings, class_names):
    """(`checkpoint.Saved`, variables) of the teacher.

    Raises:
        ValueError: no teacher named, none there, or one with other classes or another order of them.
    """
    if not settings.teacher:
        raise ValueError(
            "config.method.teacher is empty: it names the workdir of a trained teacher. Train one with "
            "the supervised config of this data set (its docstring has the command), import one with "
            "python -m effvid_jax.torch_import, or train it in the same run with "
            "--config.run=teacher,student.")
    saved, variables = checkpoint.load_variables(settings.teacher)
    where = f"config.method.teacher={settings.teacher!r}"
    if saved.num_classes != len(class_names):
        raise ValueError(
            f"{where} has {saved.num_classes} classes, the data has {len(class_names)}: distillation "
            f"compares class by class; use a teacher trained on this data.")
    unnamed = all(name.isdigit() for name in saved.class_names)  # imported weights know only numbers
    differ = [pair for pair in zip(saved.class_names, class_names) if pair[0] != pair[1]]
    if differ and not unnamed:
        raise ValueError(
            f"{where} names {len(differ)} of its classes differently, the first is {differ[0][0]!r} "
            f"where the data has {differ[0][1]!r}: teacher and data must have the same classes in the "
            f"same order.")
    return saved, variables


def _check_features(student, teacher, settings, params, stats, frozen, high_shape, low):
    """Shapes of both feature maps must agree where they are subtracted; found without computing."""
    b, t, _, _, c = high_shape

    def features(model, variables, side):
        x = jax.ShapeDtypeStruct((1, t, side, side, c), jnp.float32)
        return jax.eval_shape(lambda v, x: model.apply(v, x)[1]["features"], variables, x).shape

    high = high_shape[2]
    cost.check_resolution(teacher, (t, *2 * (settings.teacher_resolution or high,), c))
    f_s = features(student, {"params": params, "batch_stats": stats}, low or high)
    f_t = features(teacher, frozen["teacher"], settings.teacher_resolution or high)
    if settings.loss == "feature" and (f_s[-1] != f_t[-1] or f_s[1] != f_t[1]):
        raise ValueError(
            f"config.method.loss='feature' subtracts maps, but the student's is "
            f"{f_s[1]} frames x {f_s[-1]} channels and the teacher's {f_t[1]} x {f_t[-1]}: choose "
            f"backbones of equal width, or config.method.loss='position_kl', which compares class "
            f"scores.")
