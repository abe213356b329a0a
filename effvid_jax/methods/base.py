"""What the train loop asks of a method, and what methods share.

A paper is a `Method`: a class with its settings whose functions over `Variables` are pure. The loop
(`effvid_jax/train.py`) knows nothing else of it; a frozen teacher is a part of `Variables` that rides along
without a gradient. What the network is asked is a `Task` (`effvid_jax/tasks/`).
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax.numpy as jnp

from effvid_jax.exits import executor
from effvid_jax.methods import sides
from effvid_jax.methods.clips import Sight, clip_shape, over_views, resize  # noqa: F401 - methods use them
from effvid_jax.methods.settings import MethodSettings
from effvid_jax.tasks import Task


@flax.struct.dataclass
class Variables:
    """Everything a method's functions read.

    Attributes:
        params: trained parameters.
        stats: running statistics of normalisation layers ('batch_stats').
        frozen: parameters and statistics that never change, such as a teacher's; {} if none. Not part
            of checkpoints.
    """

    params: Any
    stats: Any
    frozen: Any = flax.struct.field(default_factory=dict)

    @property
    def network(self) -> dict[str, Any]:
        """What the `apply` of the trained network takes."""
        return {"params": self.params, "batch_stats": self.stats}


@flax.struct.dataclass
class Prediction:
    """Scores of a batch with their cost.

    Attributes:
        logits: (B, ..., K) outputs, of all views together (`Task.mean_of_views`).
        gmacs: (B,) multiply-adds in 10^9 that each example cost, all views together.
        extra: whatever else a method tells, one row per example; it goes to `Method.analyse`.
            'clip_answers' (B, V, ...), what each view alone would say, is for metrics of single clips.
    """

    logits: Any
    gmacs: Any
    extra: Any = flax.struct.field(default_factory=dict)


class Adaptive(NamedTuple):
    """A network in segments, for `effvid_jax.exits.executor`: videos that are done really stop.

    Attributes:
        steps: the segments.
        score: logits (B, K) -> (B,), or an `executor.StateScore`.
        thresholds: variables -> (m,), one a segment.
        gmacs: (m,) cumulative cost of stopping after each segment; the last is that of computing everything.
        order: in which the frames of a clip are consumed.
        full: (variables, frames) -> logits: the same network without early exits, for comparison.
        full_gmacs: what that costs, with the last head alone.
        own_costs: an answer says what it cost (`executor.Answer.gmacs`), and predictions what stopping at
            each checkpoint would have ('exit_gmacs' in `Prediction.extra`); `gmacs` is the static network's.
    """

    steps: Sequence[executor.Step]
    score: Callable | executor.StateScore
    thresholds: Callable
    gmacs: Any
    order: tuple[int, ...]
    full: Callable
    full_gmacs: float
    own_costs: bool = False

    def spent(self, answer) -> float:
        """GMACs of an `executor.Answer`."""
        return answer.gmacs if self.own_costs else self.gmacs[answer.checkpoint]

    def all_segments(self, prediction: Prediction, views: int = 1):
        """(B,) GMACs of a prediction whose views ran through all segments, wherever they would stop."""
        if self.own_costs:
            return prediction.extra["exit_gmacs"][:, -1]
        return jnp.full_like(prediction.gmacs, views * self.gmacs[-1])


class Runner(NamedTuple):
    """One way to run a network at inference: all at once, in segments, or each frame by its own network.

    Attributes:
        predict: (variables, batch) -> Prediction, traced; None for the others.
        routed: the same, not to be traced: it looks at what was decided before it goes on
            (`effvid_jax.exits.router`); None for the others.
        segments: what `effvid_jax.exits.executor` runs; None otherwise.
        policy, sizes: of the executor.
        deadline: seconds within which it answers, see there; None: no limit.
    """

    predict: Callable | None = None
    routed: Callable | None = None
    segments: Adaptive | None = None
    policy: str = ""
    sizes: tuple[int, ...] = ()
    deadline: float | None = None


class Method(abc.ABC):
    """A paper, as the train loop and the evaluation see it. Functions over variables are pure and traced.

    Args:
        config: a resolved config; read while the method is made.
        task: what the network is asked.

    Attributes:
        Settings: of `config.method`; every method has its own, in its own file.
        settings: those of this config, checked.
        resolution: side in pixels that the evaluated network sees; 0: as the pipeline crops.
        sight: how it sees clips, at that resolution.
        views_per_pass: see `over_views`.
        calibrates: whether `calibrate` is to be called.
        full_gmacs: GMACs of a view that is spared nothing, where parts of the networks run on some clips or
            frames only; None where that is what the network costs.
        pictures: {file: (title, caption)} of what `analyse` draws, `<file>_<split>.png`, for the report; the
            numbers are in `<file>_<split>.csv`.

    Raises:
        UserError: what the settings, the backbone or the method refuse.
    """

    Settings: type[MethodSettings] = MethodSettings
    calibrates: bool = False
    full_gmacs: float | None = None
    pictures: Mapping[str, tuple[str, str]] = {}

    def __init__(self, config, task: Task):
        self.config, self.task = config, task
        self.settings = self.Settings.read(config.method)
        self.settings.check(config)
        self.resolution: int = config.model.resolution
        self.sight = Sight.of(config.model, self.resolution)
        self.views_per_pass: int = config.data.get("views_per_pass", 0)

    @classmethod
    def inference(cls, config, task: Task) -> Method:
        """The method of the evaluated network, where that is something simpler: it only predicts."""
        return cls(config, task)

    @classmethod
    def check_beside(cls, config, others: Mapping[str, Any]) -> None:
        """Raises UserError for what does not fit between a stage of a run and those that it will read.

        Called before any of them trains, with configs alone.

        Args:
            config: of the stage.
            others: config of the stage that each field of `Settings.workdirs` names.
        """

    @abc.abstractmethod
    def init(self, rng, clip_shape) -> Variables:
        """Random variables, with the frozen part loaded. `clip_shape`: (B, T, H, W, 3)."""

    def check_split(self, split) -> None:
        """Raises UserError for a training split that `prepare` would refuse; called before anything else."""

    def prepare(self, split):
        """The training split as `loss` reads it. Called before the first step, with everything checked.

        Raises:
            UserError, DataError: what it needs cannot be made.
        """
        return split

    @property
    def batch_fields(self) -> Mapping[str, Any]:
        """{name: (shape, type)} of what is true of an example of the split that `prepare` returns."""
        return self.task.targets.train_fields

    @abc.abstractmethod
    def loss(self, params, variables: Variables, batch, rng) -> tuple[Any, tuple[Any, dict[str, Any]]]:
        """Scalar loss, (new `stats`, scalars to log). `params` are those of the gradient."""

    @abc.abstractmethod
    def predict(self, variables: Variables, batch) -> Prediction:
        """Scores of a batch with views: `video` (B, V, T, H, W, 3)."""

    def features(self, variables: Variables, batch):
        """What the classifier reads of each video (B, C), the mean over views, frames and positions. Traced.

        `batch` as for `predict`. A method has its evaluated network as `model`.
        """
        video = batch["video"]
        found = over_views(lambda clips: self.model.apply(variables.network, clips)[1]["pooled"].mean(axis=1),
                           video, self.sight, self.views_per_pass)
        return found.reshape(*video.shape[:2], -1).mean(axis=1)

    @property
    def references(self) -> dict[str, Callable]:
        """`predict` of frozen networks by name; evaluated before training: a wrong one shows at step 0."""
        return {}

    def plan(self, num_steps: int) -> None:
        """Told once, before variables are made, how many steps the run has; of something else it is not."""

    def check_calibration(self) -> None:
        """Raises UserError for what `calibrate` would refuse after the last step; called before the first."""

    def calibrated(self, variables: Variables) -> bool:
        """Whether `calibrate` has seen rows."""
        del variables
        return True

    def calibrate(self, variables: Variables, rows) -> Variables:
        """Sets what is chosen on the held-out split 'calib' of the training data, such as thresholds.

        Called once after the last step with `rows` as for `analyse`, and with None after restoring: the
        config may ask for another choice from what was recorded.
        """
        del rows
        return variables

    def analyse(self, rows, variables: Variables, workdir: str, split: str) -> dict[str, float]:
        """Further metrics of an evaluation; may write files into `workdir` ('' if none).

        Args:
            rows: an array a name, one row an example: see `effvid_jax/tasks/task.py`, with everything in
                `Prediction.extra`.
            variables: of the network.
            workdir, split: where, and of what.
        """
        del rows, variables, workdir, split
        return {}

    def runners(self) -> dict[str, Runner]:
        """The ways to run the network at inference, by name; all give the same answers."""
        return {"whole": Runner(predict=self.predict)}

    @property
    def runner(self) -> str:
        """The one of `runners` that the settings choose."""
        return "whole"

    def _clips(self, batch):
        """A training batch as the network sees it: normalised and resized on the device."""
        return self.sight(batch["video"])


def predict_views(model: nn.Module, task: Task, sight: Sight, variables, batch,
                  at_once: int = 0) -> Prediction:
    """`Method.predict` of a plain network: every view is looked at alone, then views are averaged.

    Args:
        model: a backbone.
        task: what it is asked.
        sight: how it sees them.
        variables: of the network, a dict.
        batch: with `video` (B, V, T, H, W, 3).
        at_once: see `over_views`.
    """
    video = batch["video"]
    b, v = video.shape[:2]

    def look(clips):
        return task.of_sides([model.apply(variables, x)[0] for x in sides.in_sides(task, clips)])

    logits = over_views(look, video, sight, at_once)
    logits = logits.astype(jnp.float32).reshape(b, v, *logits.shape[1:])
    gmacs = v * sides.gmacs_in_sides(model, task, clip_shape(video, sight.resolution))
    return Prediction(task.mean_of_views(logits), jnp.full((b,), gmacs, jnp.float32),
                      clip_answers(task, logits) | sides.cost_of_head(model, task, video, sight.resolution))


def clip_answers(task: Task, logits_BVK) -> dict[str, Any]:
    """What goes into `Prediction.extra` for metrics of single clips, if there are several views."""
    return {} if logits_BVK.shape[1] == 1 else {"clip_answers": task.answers(logits_BVK)}
