"""What a batch holds beside its videos: the answers that a network is trained on and scored by."""

import abc
import copy
from collections.abc import Mapping

import numpy as np

from data_pipelines.batches.placing import Place
from data_pipelines.entry import Entry
from data_pipelines.errors import DataError

Fields = Mapping[str, tuple[tuple[int, ...], type]]


class Targets(abc.ABC):
    """The targets of an example, for training and for evaluation.

    Must be picklable and know nothing of jax: worker processes build batches, too. Rows without an example
    (padding, a broken video) hold zeros, which is why names, shapes and types are told in advance.

    Attributes:
        train_fields: {name: (shape, type)} of what `train` returns; any name but 'video', 'mask' and 'id'.
        evaluate_fields: the same for `evaluate`.
    """

    train_fields: Fields
    evaluate_fields: Fields

    @abc.abstractmethod
    def train(self, entry: Entry, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns the targets of one training example.

        Args:
            entry: what is known of the video.
            rng: for random decisions; frames, crop and flip of this example were drawn from it before.

        Raises:
            DataError: the data set does not say what is needed.
        """

    @abc.abstractmethod
    def evaluate(self, entry: Entry) -> dict[str, np.ndarray]:
        """Returns the targets of one example of an evaluation; raises as `train` does."""

    def at(self, place: Place) -> "Targets":
        """These targets for a clip that was cut at `place` (of several crops the first one's).

        Itself, for targets of a video as a whole; see `PlacedTargets`.
        """
        del place
        return self

    def of_clip(self, index: int, view: int) -> "Targets":
        """These targets for one of the training clips that come again (`data.fixed_views`).

        Itself, for targets that come from the video; see `stored.StoredTargets`.
        """
        del index, view
        return self

    def check(self, split) -> None:
        """Looks at a split (`data_pipelines.Split`) before anything is decoded.

        Raises:
            DataError: it cannot give these targets.
        """


class PlacedTargets(Targets):
    """Targets that lie in the frames, such as boxes and masks, and go along where a clip is cut.

    Attributes:
        place: of the clip; None: it is the whole frame.
    """

    place: Place | None = None

    def at(self, place):
        """A copy that knows its place."""
        found = copy.copy(self)
        found.place = place
        return found


class ClassLabels(Targets):
    """The class of a video; with several labels a random one in training, all of them in evaluation.

    Training: label int32 (). Evaluation: label int32 (), the first one; with `multi_label` also labels
    uint8 (K,), 1 for every class of the video.

    Args:
        num_classes: K; labels are within 0 .. K - 1.
        multi_label: whether a video may have several labels.
    """

    def __init__(self, num_classes: int, multi_label: bool = False):
        self.num_classes, self.multi_label = num_classes, multi_label
        self.train_fields = {"label": ((), np.int32)}
        self.evaluate_fields = dict(self.train_fields)
        if multi_label:
            self.evaluate_fields["labels"] = (num_classes,), np.uint8

    def train(self, entry, rng):
        """One of the distinct labels, drawn on every access, which is what the reference trains on."""
        labels = self.distinct(entry)
        return {"label": np.int32(labels[rng.integers(len(labels))] if len(labels) > 1 else labels[0])}

    def evaluate(self, entry):
        labels = self.distinct(entry)
        found = {"label": np.int32(labels[0])}
        if self.multi_label:
            found["labels"] = np.isin(np.arange(self.num_classes), labels).astype(np.uint8)
        return found

    def check(self, split):
        """Raises `DataError` for another number of classes."""
        if len(split.class_names) != self.num_classes:
            raise DataError(f"the network has {self.num_classes} classes, split {split.name!r} of "
                            f"config.data has {len(split.class_names)}: give the data it was trained for.")

    def distinct(self, entry: Entry) -> list[int]:
        """The sorted distinct labels of a video.

        Raises:
            DataError: no label, a label out of range, or several without data.multi_label.
        """
        labels = sorted(set(entry.labels))
        if not labels or labels[0] < 0 or labels[-1] >= self.num_classes:
            raise DataError(f"{entry.name}: labels {list(entry.labels)} are not within 0 to "
                            f"{self.num_classes - 1}, the {self.num_classes} classes of the data set.")
        if len(labels) > 1 and not self.multi_label:
            raise DataError(f"{entry.name} has the labels {labels}, but data.multi_label=False. Set "
                            f"data.multi_label=True (training then draws one of them at random).")
        return labels


class NoTargets(Targets):
    """Nothing: of who wants clips alone."""

    train_fields: Fields = {}
    evaluate_fields: Fields = {}

    def train(self, entry, rng):
        """Nothing, whatever the video is."""
        del entry, rng
        return {}

    def evaluate(self, entry):
        """Nothing, whatever the video is."""
        del entry
        return {}
