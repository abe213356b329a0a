"""What is asked of a network, and whatever methods, evaluation, report and predict have to know of that.

A task is one file in this folder with one class. Whoever needs to know what a label is asks it: the data
pipeline what a batch holds, a method for the loss, the evaluation for metrics, the report for pictures. Two
dicts of arrays go round: a *batch* in training (`video`, `mask`, `id` and the task's targets), and *rows* in
evaluation, one row an example: `name`, `id`, the task's targets, `scores`, `gmacs`, and what a method adds.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import numpy as np

from data_pipelines import Field
from effvid_jax.errors import UserError


class Task(abc.ABC):
    """A task; see the module docstring. Axes: B, N examples, V views, K outputs of the network.

    Attributes:
        class_names: of the data set.
        headline: the metric of `metrics` that results are compared by.
        watched: the number of `batch_scalars` that is followed while training; `metrics` has it too.
        chance: what guessing has of `watched`; 0: a frozen network is not held against it.
        title, unit: of the headline in tables and pictures.
        watched_title: of `watched`.
        scale: from a metric to `unit`.
        loss_title: of `loss`, in pictures.
        class_scores: whether outputs are scores of classes, one of which is the answer: some methods look at
            how sure that one is.
        output_title: what `output` gives.
        bounds: what the fields of its group may hold. The group is `config.<name of the task's file>`, there
            for tasks that have such fields, and read by them.
        training_only: those of them that a trained network is used without.
        every: predictions are made along a video, of a frame every so many; 0: of the video as a whole.
        of_the_network: those that its head is made of, which a trained network cannot change.
        mixes: whether `loss` knows what clips that were mixed show (`effvid_jax/mixing.py`), and whether an
            answer is about a clip as a whole, so that its pictures may be turned and moved.
    """

    headline: str
    watched: str
    title: str
    watched_title: str
    unit: str = ""
    scale: float = 1.0
    chance: float = 0.0
    loss_title: str = "loss"
    class_scores: bool = False
    output_title: str = "outputs (batch, outputs)"
    bounds: ClassVar[Mapping[str, Field]] = {}
    training_only: ClassVar[Sequence[str]] = ()
    every: int = 0
    of_the_network: ClassVar[Sequence[str]] = ()
    mixes: bool = False

    @classmethod
    def metric_names(cls, config) -> tuple[str, ...]:
        """Names of what `metrics` gives, the higher the better; (): any may be."""
        del config
        return ()

    def __init__(self, config, class_names: Sequence[str]):
        del config  # the fields that a subclass reads
        self.class_names = tuple(class_names)

    @property
    def num_outputs(self) -> int:
        """K: outputs of the network, per clip."""
        return len(self.class_names)

    @property
    def label(self) -> str:
        """The headline with its unit, such as 'mAP (%)'."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def watched_label(self) -> str:
        """As `label`, of `watched`."""
        return f"{self.watched_title} ({self.unit})" if self.unit else self.watched_title

    def head(self, model) -> nn.Module | None:
        """What the network answers with, over the maps of its backbone; None: the backbone's classifier.

        Args:
            model: `config.model`, whose `dtype`, `bn_groups` and `dropout` are the head's as well.
        """
        del model
        return None

    def sides(self, side: int) -> tuple[int, ...]:
        """Sides in pixels in which an evaluated network looks at a clip of `side` pixels, one pass each."""
        return (side,)

    def of_sides(self, outputs: Sequence[Any]):
        """Outputs of all `sides`, each (N, ...), as those of one clip. Traced."""
        return outputs[0]

    # ------------------------------------------------------------------------------------- training
    def prepare(self, split) -> None:
        """Looks at the training split (`data_pipelines.Split`) before the network is made; decodes nothing.

        What `head` makes of it must be among the variables of the network: those of a checkpoint take its
        place, and evaluation has no training data.

        Raises:
            UserError, DataError: the network cannot be made for this data.
        """
        del split

    @property
    @abc.abstractmethod
    def targets(self):
        """`data_pipelines.Targets`: what batches hold beside `video`, `mask` and `id`."""

    @abc.abstractmethod
    def loss(self, logits, batch):
        """Loss of every example: outputs (B, K) -> (B,). Traced."""

    @abc.abstractmethod
    def batch_scalars(self, logits, batch) -> dict[str, Any]:
        """Further scalars of a training batch; masked examples do not count. Traced."""

    # ------------------------------------------------------------------------------------ inference
    def mean_of_views(self, logits_BV):
        """Outputs of all views -> of their example: (B, V, ..., K) -> (B, ..., K). Traced."""
        return logits_BV.mean(axis=1)

    def answers(self, logits):
        """What these outputs say, as `right` takes it: (B, ..., K) -> (B, ...), or as they are. Traced."""
        return logits

    def right(self, answers, targets):
        """Whether answers (B, ...) are right, for a batch (traced) or for rows: (B, ...) of bool.

        Early exits and gates need it, since they may save only where the answer stays right.
        """
        raise UserError(f"config.task: task {type(self).__name__} does not say which answers are right "
                        f"(Task.right), which early exits and gates need: choose another config.method.name.")

    def output(self, logits):
        """What an exported program gives of these outputs (B, K). Traced."""
        return logits

    # ----------------------------------------------------------------------------------- evaluation
    @abc.abstractmethod
    def scores(self, logits) -> np.ndarray:
        """What is kept of predictions, on the host: outputs (N, K) -> (N, ...)."""

    def kept(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What is kept of a batch of rows for `metrics`: `scores` and targets may give way to their counts.

        Args:
            rows: as in the module docstring, of a batch; 'mask' (N,) is 0 for those without an example.
        """
        return rows

    @abc.abstractmethod
    def metrics(self, rows: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Metrics of a split by name, `headline` and `watched` among them."""

    @abc.abstractmethod
    def write_rows(self, path: str, rows: Mapping[str, np.ndarray]) -> None:
        """Writes `predictions_<split>.csv`: a line an example; 'video' and 'gmacs' are two of its columns.

        Where `rows` has 'exit' (N,), the checkpoint from 0 that answered, so has the file, from 1.
        """

    def groups(self, rows: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
        """(name, indices of rows) of kinds of examples that a reader compares; none of them is empty."""
        return [("all", np.arange(len(rows["id"])))]

    # --------------------------------------------------------------------------------- to be read
    def within(self, scores, size: tuple[int, int]):
        """Scores of one example without what they say of pixels beyond the frame, for `answer` and `draw`.

        Args:
            scores: a row of `rows['scores']`.
            size: (height, width) of its frames as they are stored.
        """
        del size
        return scores

    @abc.abstractmethod
    def answer(self, scores) -> dict[str, Any]:
        """What is told of one video, as json values; `scores` is a row of `rows['scores']`."""

    @abc.abstractmethod
    def words(self, answer: Mapping[str, Any]) -> str:
        """An `answer` for people, in a few words."""

    def draw(self, frame_HWC: np.ndarray, scores) -> np.ndarray | None:
        """A frame, uint8 RGB, with what was said drawn over it; None: words are enough.

        Args:
            frame_HWC: what was asked about, whole and in any size.
            scores: of it, see `within`.
        """
        del frame_HWC, scores
        return None

    def said(self, row: Mapping[str, str]) -> tuple[str, str, bool] | None:
        """(truth, what was said, whether it is right) of a line of `write_rows`; None: nothing to show."""
        del row
        return None

    def pictures(self, predictions: Mapping[str, Sequence[Mapping[str, str]]]) -> list[tuple]:
        """(title, PNG, caption, what is to be seen) for the report; the last may be left out.

        Args:
            predictions: {network: lines of `write_rows`}; the last network is the subject.
        """
        del predictions
        return []
