"""Prediction of one picture, and the list of predictions."""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.labels import join_labels
from train_head.data.batches import Array
from train_head.runs.card import ModelCard

NONE_OF_THESE = "none of these"
"""Label of a picture that is unlike the training pictures of all classes."""


@dataclass(frozen=True)
class Prediction:
    """Predicted label and probabilities of one picture."""

    image: Path
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
    """Squared distance from the training pictures of the nearest class; None for a model without a detector."""
    is_outlier: bool = False
    """Whether the distance is above the model's threshold: the picture probably has none of the classes."""

    @property
    def probabilities(self) -> dict[str, float]:
        """Probability of each class; the sum is 1, unless pictures have several labels."""
        return dict(zip(self.classes, self.row.tolist(), strict=True))

    def describe(self) -> str:
        """Return the predicted labels with their probabilities, as `none of these (cats 0.9876)` for an outlier."""
        labels = ", ".join(f"{label} {share:.4f}" for label, share in self.labels.items()) or "no label"
        return f"{NONE_OF_THESE} ({labels})" if self.is_outlier else labels

    def describe_class(self) -> str:
        """Return the label, as `none of these (cats)` for an outlier."""
        return f"{NONE_OF_THESE} ({self.label})" if self.is_outlier else self.label


@dataclass(frozen=True)
class UnusedPicture:
    """File without a prediction, and the reason."""

    image: Path
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

    @property
    def accuracy(self) -> float | None:
        """Accuracy, from 0 to 1; None without predictions, for several labels, or if a picture has no true label.

        The true label of a picture is the name of its nearest parent folder that is named like a class, in any
        Unicode form.
        """
        if self.is_multi_label:
            return None
        classes = {unicodedata.normalize("NFC", label): label for label in self.classes}
        folders = (reversed(Path(unicodedata.normalize("NFC", str(p.image.parent))).parts) for p in self)
        true_labels = [next((classes[name] for name in names if name in classes), None) for names in folders]
        if not true_labels or None in true_labels:
            return None
        return sum(p.label == label for p, label in zip(self, true_labels, strict=True)) / len(true_labels)

    def to_json(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        predictions = [
            {"image": str(p.image), "label": p.label, "probability": p.probability}
            | ({"labels": dict(p.labels)} if self.is_multi_label else {})
            | ({} if p.distance is None else {"distance": p.distance, "is_outlier": p.is_outlier})
            for p in self
        ]
        unused = {"failed": self.failed, "skipped": self.skipped}
        rows = {name: [file.to_json() for file in files] for name, files in unused.items()}
        threshold = {} if self.outlier_threshold is None else {"outlier_threshold": self.outlier_threshold}
        accuracy = {} if self.accuracy is None else {"accuracy": self.accuracy}
        return {"predictions": predictions, **rows, **threshold, **accuracy}

    def _repr_html_(self) -> str:
        lines = [html.escape(f"{p.image}: {p.describe()}") for p in self]
        return f"<p>{'<br>'.join(lines)}</p>"


def predict_labels(image: Path, row: Array, distance: float | None, card: ModelCard) -> Prediction:
    """Choose the most probable class of a picture, or its labels, from the (classes,) probabilities."""
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
    return Prediction(image, label, share, card.classes, row, labels, distance, is_outlier)
