"""The part that distils: a frozen network whose features the trained one is compared with.

What is compared, and how, is the recipe's (`reskd.distillation_loss`); here are the teacher itself, as it was
trained and as it teaches, and the check that the maps fit. The teacher is the frozen part of the variables.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from data_pipelines import StoredRows
from effvid_jax import checkpoint, console, cost
from effvid_jax.backbones import blocks
from effvid_jax.errors import UserError
from effvid_jax.losses import weighted_mean
from effvid_jax.methods import base, building, stored_teacher
from effvid_jax.methods.parts import Part, Term
from effvid_jax.tasks import make_task

PROJECTION = checkpoint.TRAINING_ONLY  # its parameters beside the student's


class Teacher(Part):
    """The teacher of `config.method.teacher`, a workdir.

    Args:
        config, task, settings: see `Part`; settings are those of `reskd.Reskd`.
        distance: (settings, features of student and of teacher, their classifiers) -> (B,).
        networks: (teacher, its variables) in place of those that the config names.

    Attributes:
        teacher, variables: the network and what its `apply` takes.
        sight: how it sees clips.

    Raises:
        UserError: no teacher, one of other classes, or a loss that this task does not have.
    """

    name, loss_name, draws = "reskd", "loss_kd", True

    def __init__(self, config, task, settings, distance: Callable, networks=None):
        super().__init__(config, task, settings)
        self.distance = distance
        if settings.loss != "feature" and not task.class_scores:
            raise UserError(f"config.method.loss={settings.loss!r} compares scores of classes, which "
                            f"this task does not have: 'feature' does without.")
        self._model_config = None  # where it is not given as a module
        if networks is None:
            saved, variables = building.load_teacher(settings.teacher, task.class_names)
            self._model_config = model = settings.teaching(saved.model)
            if model.dtype != config.model.dtype:
                console.say(f"the teacher computes in {model.dtype}, the student in {config.model.dtype}: "
                            f"--config.method.teacher_dtype={config.model.dtype} makes them equal")
            networks = building.build_network(model, task), variables
        self.sight = base.Sight.of(self._model_config or config.model, settings.teacher_resolution)
        self.teacher, self.variables = networks
        self.store = None
        if settings.teacher_store:
            self.store = stored_teacher.Store(settings.teacher_store, settings.loss, self._in_evaluation,
                                              self.variables, config)

    def check_split(self, split):
        """See `Part.check_split`: what is stored is of this teacher and of these clips."""
        if self.store is not None:
            self.store.check(split)

    def prepare(self, split):
        """See `Part.prepare`: what the teacher says of every clip is computed where it is not there yet."""
        if self.store is None:
            return split
        return split.with_targets(self.store.targets(split.targets, split))

    @property
    def batch_fields(self):
        """See `Part.batch_fields`."""
        return {} if self.store is None else {stored_teacher.FIELD: (self.store.shape, StoredRows.dtype)}

    def _in_evaluation(self, variables, video):
        """(logits, named features), with running statistics and without dropout."""
        return self.teacher.apply(variables, self.sight(video))

    def answer(self, frozen, batch, rng):
        """What the teacher says of a batch, as the distances read it. Traced."""
        if self.store is not None:
            return stored_teacher.answer_of(self.store.kind, batch[stored_teacher.FIELD])
        if self.settings.teacher_bn == "running":
            logits, out = self._in_evaluation(frozen, batch["video"])
            return {**out, "scores": logits}
        (_, out), _ = self.of_batch(len(batch["video"])).apply(
            frozen, self.sight(batch["video"]), train=True, rngs={"dropout": rng}, mutable=["batch_stats"])
        return out

    def of_batch(self, batch_size: int):
        """The network whose batch statistics are of `teacher_clips` clips."""
        clips = self.settings.teacher_clips
        if not clips or self._model_config is None:
            return self.teacher
        model = self._model_config.copy_and_resolve_references()
        model.bn_groups = 1 if batch_size % clips else batch_size // clips
        return building.build_network(model, self.task)

    def init(self, variables, rng, clip_shape):
        """See `Part.init`: the frozen part, and the projection beside the student's parameters."""
        variables = variables.replace(frozen={"teacher": self.variables})
        width_s, width_t = self.check_features(variables, clip_shape)
        if not self.settings.projection:
            return variables
        layer = projection_to(width_t).init(jax.random.fold_in(rng, 1), jnp.zeros((1, width_s)))["params"]
        return variables.replace(params={**variables.params, PROJECTION: layer})

    def term(self, seen):
        """See `Part.term`: w * KD."""
        settings, frozen = self.settings, jax.lax.stop_gradient(seen.variables.frozen["teacher"])
        out_t = self.answer(frozen, seen.batch, seen.rng)
        out_s, projection = seen.out, seen.params.get(PROJECTION)
        if projection is not None:
            width = out_t["features"].shape[-1]
            out_s = {"features": projection_to(width).apply({"params": projection}, out_s["features"])}
        kd_B = self.distance(
            settings, out_s, jax.lax.stop_gradient(out_t),
            lambda f: classify(self.method.model, seen.weights, f),
            lambda f: classify(self.teacher, frozen, f))
        value = settings.weight * weighted_mean(kd_B, seen.batch["mask"])
        return Term(seen.ramped(self.name, value), {})

    def predict(self, variables, batch):
        """As `Method.predict`, for the teacher."""
        return base.predict_views(self.teacher, self.task, self.sight, variables.frozen["teacher"], batch,
                                  self.method.views_per_pass)

    def check_features(self, variables, clip_shape) -> tuple[int, int]:
        """Channels of both feature maps; where these are subtracted they agree. Found without computing.

        Raises:
            UserError: they do not, or the clips are too small for the teacher.
        """
        t, side, _, c = clip_shape[1:]
        high = self.settings.teacher_resolution or side

        def features(model, variables, side):
            x = jax.ShapeDtypeStruct((1, t, side, side, c), jnp.float32)
            return jax.eval_shape(lambda v, x: model.apply(v, x)[1]["features"], variables, x).shape

        cost.check_resolution(self.teacher, (t, high, high, c))
        f_s = features(self.method.model, self.method.network(variables), self.method.resolution or side)
        f_t = features(self.teacher, variables.frozen["teacher"], high)
        as_they_are = self.settings.loss == "feature" and not self.settings.projection
        if as_they_are and (f_s[-1] != f_t[-1] or f_s[1] != f_t[1]):
            raise UserError(
                f"config.method.loss='feature' subtracts maps, but the student's is "
                f"{f_s[1]} frames x {f_s[-1]} channels and the teacher's {f_t[1]} x {f_t[-1]}: choose "
                f"backbones of equal width, or config.method.loss='position_kl', which compares class "
                f"scores, or config.method.projection=True, which learns a linear map between the two.")
        return f_s[-1], f_t[-1]


def classify(model, weights, features):
    """Class scores of maps or means of them (..., C), by a network's last classifier, without dropout."""
    last = (len(model.route) - 1,) if hasattr(model, "route") else ()  # of a network with exits
    return model.apply(weights, *last, features, method="classify")


def projection_to(channels: int) -> blocks.Dense:
    """The linear map of `settings.projection`, (..., C) -> (..., channels)."""
    return blocks.Dense(channels)


def check_beside(method, config, teacher) -> None:
    """Raises UserError for a teacher, as a config, whose features do not fit a student's; see `Method`.

    Args:
        method: the class; `method(config, task, networks=(student, teacher, the teacher's variables))`.
        config: of the student.
        teacher: config of the stage that trains the teacher.
    """
    task, data = make_task(config, ("some class", "another")), config.data
    settings = method.Settings.read(config.method)
    network = building.build_network(settings.teaching(teacher.model), task)
    side = teacher.model.resolution or teacher.data.crop
    params, stats = jax.eval_shape(lambda: building.init_backbone(
        network, jax.random.key(0), (1, data.num_frames, side, side, 3)))
    student = method(config, task, (None, network, {"params": params, "batch_stats": stats}))
    clip = (1, data.num_frames, data.crop, data.crop, 3)
    jax.eval_shape(lambda: student.init(jax.random.key(0), clip).params)
