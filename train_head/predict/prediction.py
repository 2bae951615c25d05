"""Prediction of one picture, and the list of predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from base.notebook import NUM_ROWS, render_table
from base.urls import Location
from features.labels import join_labels
from train_head.data.batches import Array
from train_head.predict.score import Score
from train_head.runs.card import ModelCard

NONE_OF_THESE = "none of these"
"""Label of a picture that is unlike the training pictures of all classes."""
UNSURE = "unsure"
"""Label of a picture with a margin below the option `unsure`."""
NO_LABEL = "no label"
"""Label of a picture without any of the labels, if pictures have several."""


@dataclass(frozen=True)
class Prediction:
    """Predicted label and probabilities of one picture."""

    image: Location
    label: str
    """Most probable class. With several labels a picture, the labels joined by `|`; empty for none."""
    probability: float
    """Probability of the label, from 0 to 1. With several labels a picture, the highest of all."""
    classes: Sequence[str] = field(repr=False)
    """Class names, in the order of `row`."""
    row: Array = field(repr=False, compare=False)
    """(classes,) float32 probability of each class; the sum is 1, unless pictures have several labels."""
    labels: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Probability of each predicted label, the most probable first; of the only one, unless pictures have several."""
    distance: float | None = None
    """Squared distance from the training pictures of the nearest class; None for a model without a detector. Pictures
    that the head was trained on have smaller distances than new ones."""
    is_outlier: bool = False
    """Whether the distance is above the model's threshold: the picture probably has none of the classes."""
    margin: float = 1.0
    """Difference of the two highest probabilities, from 0 to 1. If a picture may have several labels: smallest
    difference of a probability and the threshold of its class."""
    is_unsure: bool = False
    """Whether the margin is below the option `unsure`."""
    is_training: bool = False
    """Whether the head was trained on a file with the same bytes, if the model lists them."""

    @property
    def probabilities(self) -> dict[str, float]:
        """Probability of each class; the sum is 1, unless pictures have several labels."""
        return dict(zip(self.classes, self.row.tolist(), strict=True))

    def rank_classes(self, count: int) -> dict[str, float]:
        """Return the probabilities of the most probable classes, in descending order."""
        best = np.argsort(-self.row, kind="stable")[:count]
        return {self.classes[number]: float(self.row[number]) for number in best}

    def describe(self) -> str:
        """Return the predicted labels with their probabilities, as `none of these (cats 0.9876)` for an outlier."""
        return self._qualify(format_shares(self.labels) or NO_LABEL)

    def describe_class(self) -> str:
        """Return the label, as `none of these (cats)` for an outlier and `unsure (cats)` for an unsure prediction."""
        return self._qualify(self.label or NO_LABEL)

    def _qualify(self, text: str) -> str:
        if self.is_outlier:
            return f"{NONE_OF_THESE} ({text})"
        return f"{UNSURE} ({text})" if self.is_unsure else text

    def to_json(self, *, is_multi_label: bool) -> dict[str, Any]:
        """Return the prediction for `--json` and for a line of JSON."""
        return {
            "image": str(self.image),
            "label": self.label,
            "probability": self.probability,
            **({"labels": dict(self.labels)} if is_multi_label else {}),
            "margin": self.margin,
            "is_unsure": self.is_unsure,
            **({} if self.distance is None else {"distance": self.distance, "is_outlier": self.is_outlier}),
            "probabilities": self.probabilities,
        }


@dataclass(frozen=True)
class UnusedPicture:
    """File without a prediction, and the reason."""

    image: Location
    reason: str

    def to_json(self) -> dict[str, str]:
        """Return the file for `--json`."""
        return {"image": str(self.image), "reason": self.reason}


class Predictions(list[Prediction]):
    """List of `Prediction`, in the order of the pictures."""

    def __init__(self, classes: Sequence[str], *, is_multi_label: bool = False) -> None:
        """Create an empty list for a model with these classes."""
        super().__init__()
        self.classes = classes
        """Class names, in the order of the model's outputs."""
        self.is_multi_label = is_multi_label
        """Whether a picture has any number of the classes."""
        self.failed: list[UnusedPicture] = []
        """Pictures that cannot be read or decoded."""
        self.skipped: list[UnusedPicture] = []
        """Files in the given folders that are not pictures, by their extension or file type."""
        self.outlier_threshold: float | None = None
        """Largest distance of a picture that is no outlier; None for a model without a detector."""

    @overload
    def __getitem__(self, key: SupportsIndex) -> Prediction: ...

    @overload
    def __getitem__(self, key: slice) -> Predictions: ...

    def __getitem__(self, key: SupportsIndex | slice) -> Prediction | Predictions:
        """Return a prediction, or a list of some; the files without a prediction are not in it."""
        if not isinstance(key, slice):
            return super().__getitem__(key)
        some = Predictions(self.classes, is_multi_label=self.is_multi_label)
        some.extend(super().__getitem__(key))
        some.outlier_threshold = self.outlier_threshold
        return some

    @property
    def score(self) -> Score:
        """Numbers of pictures and of correct predictions, with the class folders as labels."""
        score = Score(self.classes, is_multi_label=self.is_multi_label)
        for prediction in self:
            score.add(prediction.image, prediction.label, is_training=prediction.is_training)
        return score

    @property
    def accuracy(self) -> float | None:
        """Accuracy, from 0 to 1, on the pictures that the head was not trained on, if the model lists those it was.

        The true label of a picture is the name of its nearest parent folder that is named like a class, in any
        Unicode form. None without such pictures, for several labels, or if a picture has no true label.
        """
        return self.score.accuracy

    @property
    def training_accuracy(self) -> float | None:
        """Accuracy, from 0 to 1, on the pictures that the head was trained on; None if `accuracy` has no labels."""
        return self.score.training_accuracy

    def to_json(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        return {
            "predictions": [each.to_json(is_multi_label=self.is_multi_label) for each in self],
            "failed": [file.to_json() for file in self.failed],
            "skipped": [file.to_json() for file in self.skipped],
            **({} if self.outlier_threshold is None else {"outlier_threshold": self.outlier_threshold}),
            **self.score.to_json(),
        }

    def _repr_html_(self) -> str:
        limit, shown = self.outlier_threshold, list(self)[:NUM_ROWS]
        # With several labels a picture, each has its own probability.
        names = ("picture", "prediction") if self.is_multi_label else ("picture", "label", "probability")
        rows = [
            (
                each.image,
                *([each.describe()] if self.is_multi_label else [each.describe_class(), f"{each.probability:.4f}"]),
                *format_distance(each.distance, limit),
            )
            for each in shown
        ]
        header = (*names, "distance")[: max(map(len, rows), default=0)]
        failed = [(file.image, file.reason) for file in self.failed[:NUM_ROWS]]
        tables = [render_table(self.score.describe(), rows, header, len(self) - len(rows))] if rows else []
        if failed:
            num_more = len(self.failed) - len(failed)
            tables.append(render_table("", failed, ("unreadable picture", "reason"), num_more))
        return "".join(tables)


def format_distance(distance: float | None, limit: float | None) -> list[str]:
    """Format a distance and its limit as one cell, `237 of at most 2,678`; no cell without a detector."""
    if distance is None:
        return []
    return [f"{distance:,.0f}" + ("" if limit is None else f" of at most {limit:,.0f}")]


def format_shares(shares: Mapping[str, float]) -> str:
    """Format probabilities by label, as `cats 0.9876, dogs 0.0124`."""
    return ", ".join(f"{label} {share:.4f}" for label, share in shares.items())


def measure_margins(probabilities: Array, thresholds: Sequence[float] = ()) -> NDArray[np.float32]:
    """Return the margin of each picture, (n,) from 0 to 1; the smaller, the less certain is its prediction.

    Args:
        probabilities: (n, classes) probabilities.
        thresholds: threshold of each class, if a picture has any number of classes. The margin is then the smallest
            difference of a probability and its threshold, else the difference of the two highest probabilities.
    """
    if thresholds:
        return np.asarray(np.abs(probabilities - np.array(thresholds, np.float32)).min(axis=1), np.float32)
    highest = np.partition(probabilities, -2, axis=1)[:, -2:]
    return np.asarray(highest[:, 1] - highest[:, 0], np.float32)


def predict_labels(
    image: Location,
    row: Array,
    distance: float | None,
    card: ModelCard,
    unsure: float = 0.0,
    *,
    is_training: bool = False,
) -> Prediction:
    """Choose the most probable class of a picture, or its labels.

    Args:
        image: path of the picture.
        row: (classes,) probabilities.
        distance: distance from the training pictures, if the model has a detector.
        card: card of the model.
        unsure: margin below which the prediction is unsure.
        is_training: whether the head was trained on the picture.
    """
    number = int(row.argmax())
    label, share = card.classes[number], float(row[number])
    labels = {label: share}
    if card.is_multi_label:
        found = zip(card.classes, row.tolist(), card.thresholds, strict=True)
        ranked = sorted(((name, each) for name, each, least in found if each >= least), key=lambda item: -item[1])
        labels = dict(ranked)
        label = join_labels(labels)
    limit = math.inf if card.outlier_threshold is None else card.outlier_threshold
    is_outlier = distance is not None and distance > limit
    margin = float(measure_margins(row[None], card.thresholds)[0])
    return Prediction(
        image=image,
        label=label,
        probability=share,
        classes=card.classes,
        row=row,
        labels=labels,
        distance=distance,
        is_outlier=is_outlier,
        margin=margin,
        is_unsure=margin < unsure,
        is_training=is_training,
    )
