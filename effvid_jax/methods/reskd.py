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

from data_pipelines import Field
from effvid_jax.errors import UserError
from effvid_jax.losses import soft_kl, squared_error
from effvid_jax.methods import base, parts, stored_teacher
from effvid_jax.methods.supervised import Supervised
from effvid_jax.methods.teacher import PROJECTION, Teacher, check_beside  # noqa: F401 - PROJECTION: its home
from effvid_jax.model_fields import DTYPES

LOSSES = ("feature", "position_kl", "frame_kl", "clip_kl")


class Reskd(parts.Composed):
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
                                   "teacher_drop_path", "teacher_store", "projection")

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

        teacher_store: str = ""  # folder in which what it says of clips is kept, beside data.fixed_views; "":
        # it looks at every clip again, see stored_teacher.py. Ours

        projection: bool = False  # of 'feature': the student's channels pass through a learned linear map

        bounds: ClassVar = {
            "teacher_resolution": Field.integer(0, 2**14), "weight": Field.number(0, 1e9),
            "teacher_clips": Field.integer(0, 2**20), "temperature": Field.number(above=0, most=1e6),
            "teacher_drop_path": Field.number(-1, below=1)}

        def check(self, config):
            """Raises UserError for an unknown loss or mode, or a batch that is not of whole groups."""
            self._check_known(loss=LOSSES, teacher_bn=("batch", "running"), kl_mean=("element", "row"),
                              teacher_dtype=("", *DTYPES))
            stored_teacher.check(self, config)
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
        self._networks = networks
        super().__init__(config, task)

    def make_parts(self):
        """See `Composed.make_parts`: CE(logits, y) + w * KD."""
        given = None if self._networks is None else self._networks[1:]
        self.guide = Teacher(self.config, self.task, self.settings, distillation_loss, given)
        return parts.Answers(self.config, self.task, self.settings), self.guide

    def make_network(self):
        """The student."""
        given = None if self._networks is None else self._networks[0]
        return super().make_network() if given is None else given

    @classmethod
    def inference(cls, config, task):
        """A distilled student needs no teacher any more."""
        config = config.copy_and_resolve_references()
        config.method = Supervised.Settings().to_config()
        return Supervised(config, task)

    @classmethod
    def check_beside(cls, config, others):
        """See `Method.check_beside`: features that are subtracted have the same shape."""
        if "teacher" in others:
            check_beside(cls, config, others["teacher"])

    @property
    def references(self):
        """See `Method.references`."""
        return {"teacher": self.guide.predict}


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
        out_s, out_t: named features of student and teacher; read here: 'features' (B,T,h,w,C), and of a
            teacher 'scores' (B,K), where its answer about the clip does not change with the batch.
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
        f_t = out_t["features"].mean(axis=(-3, -2), keepdims=True)
        f_s = like_teachers(out_s["features"].mean(axis=(-3, -2), keepdims=True), f_t)
        scores_s, scores_t = classify_s(f_s[..., 0, 0, :]), classify_t(f_t[..., 0, 0, :])  # (B, T, K)
    else:
        scores_s = classify_s(out_s["features"].mean(axis=(1, -3, -2)))
        scores_t = (out_t["scores"] if "scores" in out_t else
                    classify_t(out_t["features"].mean(axis=(1, -3, -2))))
    kl = soft_kl(scores_s, jax.lax.stop_gradient(scores_t), settings.temperature)
    kl_B = kl.mean(axis=tuple(range(1, kl.ndim)))
    return kl_B / scores_s.shape[-1] if settings.kl_mean == "element" else kl_B
