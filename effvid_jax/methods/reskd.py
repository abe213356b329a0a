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
    put in evaluation mode; its running averages are computed and thrown away. A batch is that of a GPU
    there, 8 clips, which the recipes say (`teacher_clips`), whatever the number of devices;
  * 'position_kl' divides by positions x classes (torch's reduction='mean'), which is `kl_mean='element'`;
  * the student is classified from f_s, not from f_up, and averages frames before dropout.
Networks whose maps have other numbers of channels: 'position_kl' compares class scores, 'feature' needs
`projection`, ours: a linear map of the student's channels to the teacher's, learned beside the student and
left behind with the teacher. Both, and 'frame_kl', interpolate the student's map along time where the
teacher's has another length.
Table 6: "model distillation" is `teacher_resolution` = the student's, "resolution distillation" a
teacher of the student's own depth.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from data_pipelines import Field
from effvid_jax import checkpoint, console, cost
from effvid_jax.backbones import blocks
from effvid_jax.errors import UserError
from effvid_jax.losses import soft_kl, squared_error, weighted_mean
from effvid_jax.methods import base, building
from effvid_jax.methods.supervised import Supervised
from effvid_jax.model_fields import DTYPES
from effvid_jax.tasks import make_task

PROJECTION = checkpoint.TRAINING_ONLY  # its parameters beside the student's
LOSSES = ("feature", "position_kl", "frame_kl", "clip_kl")


class Reskd(base.Method):
    """The ResKD method of a config: student from `config.model`, the rest from `config.method`.

    The teacher's architecture and weights come from `config.method.teacher`, the workdir of a supervised
    run or of `effvid_jax.torch_import`.

    Args:
        config, task: see `Method`.
        networks: (student, teacher, the teacher's variables) in place of those that the config names; any
            modules that return `(logits, {'features': ...})` and have a `classify` method will do.

    Raises:
        UserError: teacher missing, of another number of classes, or of other feature channels than the
            student where features are matched; unknown loss.
    """

    @dataclasses.dataclass(frozen=True)
    class Settings(base.MethodSettings):
        """Defaults are the released settings."""

        workdirs: ClassVar = {"teacher": "teacher"}
        training_only: ClassVar = ("teacher", "teacher_resolution", "loss", "weight", "temperature",
                                   "kl_mean", "teacher_bn", "teacher_clips", "teacher_dtype",
                                   "teacher_drop_path", "projection")

        teacher: str = ""  # workdir of the trained or imported teacher
        teacher_resolution: int = 224  # Table 6, "model distillation": the student's
        loss: str = "feature"  # feature | position_kl | frame_kl | clip_kl (Table 5)
        weight: float = 100.0  # of the distillation, beside the cross-entropy
        temperature: float = 2.0  # of the KL losses
        kl_mean: str = "element"  # element: divide by positions x classes, as torch does | row
        teacher_bn: str = "batch"  # batch: as the released code executes | running: evaluation mode
        teacher_clips: int = 0  # that share batch statistics in the teacher; 0: the parts of a batch that it
        # was saved with (its config.model.bn_groups, --bn_groups of an imported one)
        teacher_dtype: str = ""  # float32 | bfloat16: what it computes in; "": what it was saved with

        teacher_drop_path: float = -1.0  # stochastic depth of a Swin while it teaches (it is in training
        # mode, too); -1: as it was trained. The released Swin-B was trained with 0.2 and teaches with 0.1

        projection: bool = False  # of 'feature': the student's channels pass through a learned linear map

        bounds: ClassVar = {
            "teacher_resolution": Field.integer(0, 2**14), "weight": Field.number(0, 1e9),
            "teacher_clips": Field.integer(0, 2**20), "temperature": Field.number(above=0, most=1e6),
            "teacher_drop_path": Field.number(-1, below=1)}

        def check(self, config):
            """Raises UserError for an unknown loss or mode, or a batch that is not of whole groups."""
            self._check_known(loss=LOSSES, teacher_bn=("batch", "running"), kl_mean=("element", "row"),
                              teacher_dtype=("", *DTYPES))
            if self.projection and self.loss != "feature":
                raise UserError(f"config.method.projection=True has no meaning with config.method.loss="
                                f"{self.loss!r}, which compares class scores: only 'feature' compares maps.")
            clips, batch = self.teacher_clips, config.data.batch_size
            if self.teacher_bn == "batch" and clips and batch > clips and batch % clips:
                raise UserError(
                    f"config.method.teacher_clips={clips} does not divide config.data.batch_size={batch}: so "
                    f"many clips of a batch share statistics in the teacher (8 in the reference). Choose a "
                    f"multiple of {clips} as batch, or 0: the parts that the teacher was saved with.")

        def teaching(self, model):
            """`config.model` of a teacher as it was trained -> as it teaches."""
            model = model.copy_and_resolve_references()
            model.dtype = self.teacher_dtype or model.dtype
            if self.teacher_drop_path >= 0:
                with model.unlocked():
                    model.options.drop_path = self.teacher_drop_path
            return model

    def __init__(self, config, task, networks=None):
        super().__init__(config, task)
        if self.settings.loss != "feature" and not task.class_scores:
            raise UserError(f"config.method.loss={self.settings.loss!r} compares scores of classes, which "
                             f"this task does not have: 'feature' does without.")
        if networks is None:
            saved, variables = building.load_teacher(self.settings.teacher, task.class_names)
            model = self.settings.teaching(saved.model)
            if model.dtype != config.model.dtype:
                console.say(f"the teacher computes in {model.dtype}, the student in {config.model.dtype}: "
                            f"--config.method.teacher_dtype={config.model.dtype} makes them equal")
            networks = (building.build_network(config.model, task),
                        building.build_network(model, task), variables)
            self._teacher_model = model
        seen_by = config.model if self._teacher_model is None else self._teacher_model
        self.teacher_sight = base.Sight.of(seen_by, self.settings.teacher_resolution)
        self.student, self.teacher, self.teacher_variables = networks

    _teacher_model = None  # config of the teacher, where it is not given as a module

    def _teacher_of(self, batch_size: int):
        """The teacher whose batch statistics are of `teacher_clips` clips."""
        clips = self.settings.teacher_clips
        if not clips or self._teacher_model is None:
            return self.teacher
        model = self._teacher_model.copy_and_resolve_references()
        model.bn_groups = 1 if batch_size % clips else batch_size // clips
        return building.build_network(model, self.task)

    @classmethod
    def inference(cls, config, task):
        """A distilled student needs no teacher any more."""
        config = config.copy_and_resolve_references()
        config.method = Supervised.Settings().to_config()
        return Supervised(config, task)

    @classmethod
    def check_beside(cls, config, others):
        """See `Method.check_beside`: features that are subtracted have the same shape."""
        if "teacher" not in others:
            return
        task, teacher, data = make_task(config, ("some class", "another")), others["teacher"], config.data
        settings = cls.Settings.read(config.method)
        networks = [building.build_network(model, task)
                    for model in (config.model, settings.teaching(teacher.model))]
        sides = [config.model.resolution or data.crop, teacher.model.resolution or teacher.data.crop]
        (params, stats), (frozen_params, frozen_stats) = (
            jax.eval_shape(lambda net=net, side=side: building.init_backbone(
                net, jax.random.key(0), (1, data.num_frames, side, side, 3)))
            for net, side in zip(networks, sides))
        frozen = {"params": frozen_params, "batch_stats": frozen_stats}
        cls(config, task, (*networks, frozen))._check_features(
            base.Variables(params, stats, {"teacher": frozen}), (data.num_frames, data.crop, sides[0], 3))

    def init(self, rng, clip_shape):
        """See `Method.init`; the teacher is the frozen part."""
        b, t, high, _, c = clip_shape
        low = self.resolution or high
        params, stats = building.init_backbone(self.student, rng, (b, t, low, low, c))
        variables = base.Variables(params, stats, {"teacher": self.teacher_variables})
        width_s, width_t = self._check_features(variables, (t, high, low, c))
        if not self.settings.projection:
            return variables
        layer = projection_to(width_t).init(jax.random.fold_in(rng, 1), jnp.zeros((1, width_s)))["params"]
        return variables.replace(params={**params, PROJECTION: layer})

    def loss(self, params, variables, batch, rng):
        """See `Method.loss`; L of the module docstring."""
        settings = self.settings
        video = batch["video"]
        projection = params.get(PROJECTION)
        params = {name: tree for name, tree in params.items() if name != PROJECTION}
        student_rng, teacher_rng = jax.random.split(rng)
        (logits, out_s), updated = self.student.apply(
            {"params": params, "batch_stats": variables.stats}, self.sight(video),
            train=True, rngs={"dropout": student_rng}, mutable=["batch_stats"])
        frozen = jax.lax.stop_gradient(variables.frozen["teacher"])
        (_, out_t), _ = self._teacher_of(len(video)).apply(
            frozen, self.teacher_sight(video),
            train=settings.teacher_bn == "batch", rngs={"dropout": teacher_rng},
            mutable=["batch_stats"])

        def classify(model, weights, features):
            return model.apply(weights, features, method="classify")

        if projection is not None:
            width = out_t["features"].shape[-1]
            out_s = {"features": projection_to(width).apply({"params": projection}, out_s["features"])}
        kd_B = distillation_loss(
            settings, out_s, jax.lax.stop_gradient(out_t),
            lambda f: classify(self.student, {"params": params, "batch_stats": variables.stats}, f),
            lambda f: classify(self.teacher, frozen, f))
        mask = batch["mask"]
        ce = weighted_mean(self.task.loss(logits, batch), mask)
        kd = settings.weight * weighted_mean(kd_B, mask)
        scalars = {"loss": ce + kd, "loss_cls": ce, "loss_kd": kd, **self.task.batch_scalars(logits, batch)}
        return ce + kd, (updated.get("batch_stats", {}), scalars)

    def predict(self, variables, batch):
        """See `Method.predict`; the student alone."""
        return base.predict_views(self.student, self.task, self.sight, variables.network, batch,
                                  self.views_per_pass)

    def predict_teacher(self, variables, batch):
        """As `predict`, for the teacher."""
        return base.predict_views(self.teacher, self.task, self.teacher_sight,
                                  variables.frozen["teacher"], batch, self.views_per_pass)

    @property
    def references(self):
        """See `Method.references`."""
        return {"teacher": self.predict_teacher}

    def _check_features(self, variables, sizes) -> tuple[int, int]:
        """Channels of both feature maps; where these are subtracted they agree. Found without computing."""
        t, high, low, c = sizes
        high = self.settings.teacher_resolution or high

        def features(model, variables, side):
            x = jax.ShapeDtypeStruct((1, t, side, side, c), jnp.float32)
            return jax.eval_shape(lambda v, x: model.apply(v, x)[1]["features"], variables, x).shape

        cost.check_resolution(self.teacher, (t, high, high, c))
        f_s = features(self.student, variables.network, low)
        f_t = features(self.teacher, variables.frozen["teacher"], high)
        as_they_are = self.settings.loss == "feature" and not self.settings.projection
        if as_they_are and (f_s[-1] != f_t[-1] or f_s[1] != f_t[1]):
            raise UserError(
                f"config.method.loss='feature' subtracts maps, but the student's is "
                f"{f_s[1]} frames x {f_s[-1]} channels and the teacher's {f_t[1]} x {f_t[-1]}: choose "
                f"backbones of equal width, or config.method.loss='position_kl', which compares class "
                f"scores, or config.method.projection=True, which learns a linear map between the two.")
        return f_s[-1], f_t[-1]


def projection_to(channels: int) -> blocks.Dense:
    """The linear map of `settings.projection`, (..., C) -> (..., channels)."""
    return blocks.Dense(channels)


def like_teachers(f_s, f_t):
    """The student's map (B, T, h, w, C) in the size and, if it differs, the length of the teacher's."""
    f_s = base.resize(f_s, f_t.shape[-2])
    if f_s.shape[1] == f_t.shape[1]:
        return f_s
    return jax.image.resize(f_s, (len(f_s), f_t.shape[1], *f_s.shape[2:]), "linear", antialias=False)


def distillation_loss(settings, out_s, out_t, classify_s, classify_t):
    """The KD term per example, without its weight: (B,). See the table in the module docstring.

    Args:
        settings: `Reskd.Settings`; read here: `loss`, `temperature`, `kl_mean`.
        out_s, out_t: named features of student and teacher; read here: 'features' (B,T,h,w,C).
        classify_s, classify_t: the classifiers, (..., C) -> (..., K).
    """
    if settings.loss == "feature":
        f_t = out_t["features"]
        return squared_error(like_teachers(out_s["features"], f_t), f_t)
    if settings.loss == "position_kl":
        f_t = out_t["features"]
        scores_s = classify_s(like_teachers(out_s["features"], f_t))
        scores_t = classify_t(f_t)
    elif settings.loss == "frame_kl":
        f_s, f_t = out_s["features"], out_t["features"]
        if f_s.shape[1] != f_t.shape[1]:
            f_s = like_teachers(f_s, f_t)
        scores_s = classify_s(f_s.mean(axis=(-3, -2)))  # (B, T, K), without dropout
        scores_t = classify_t(f_t.mean(axis=(-3, -2)))
    else:
        scores_s = classify_s(out_s["features"].mean(axis=(1, -3, -2)))
        scores_t = classify_t(out_t["features"].mean(axis=(1, -3, -2)))
    kl = soft_kl(scores_s, jax.lax.stop_gradient(scores_t), settings.temperature)
    kl_B = kl.mean(axis=tuple(range(1, kl.ndim)))
    return kl_B / scores_s.shape[-1] if settings.kl_mean == "element" else kl_B
