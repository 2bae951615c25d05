"""Accuracy of predictions, with the names of the class folders as labels."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from base.terminal import format_count
from base.urls import Location


class Score:
    """Numbers of pictures and of correct predictions, separately for the pictures that the head was trained on.

    The true label of a picture is the name of its nearest parent folder that is named like a class, in any Unicode
    form.
    """

    def __init__(self, classes: Sequence[str], *, is_multi_label: bool = False) -> None:
        """Create a score without pictures for a model with these classes."""
        names = {unicodedata.normalize("NFC", label): label for label in classes}

        @lru_cache(maxsize=1024)
        def find_label(folder: Location) -> str | None:
            parts = reversed(Path(unicodedata.normalize("NFC", str(folder))).parts)
            return next((names[part] for part in parts if part in names), None)

        self._find_label = find_label
        self._has_labels = not is_multi_label
        self.num_pictures = self.num_training = 0
        """Numbers of pictures: new ones, and those that the head was trained on."""
        self._num_correct = self._num_training_correct = 0

    def add(self, image: Location, label: str, *, is_training: bool) -> None:
        """Count a prediction.

        Args:
            image: path of the picture.
            label: predicted class.
            is_training: whether the head was trained on the picture.
        """
        if not self._has_labels:
            return
        true_label = self._find_label(image.parent)
        self._has_labels = true_label is not None
        self.num_pictures += not is_training
        self.num_training += is_training
        self._num_correct += label == true_label and not is_training
        self._num_training_correct += label == true_label and is_training

    @property
    def accuracy(self) -> float | None:
        """Accuracy on new pictures, from 0 to 1; None without any, or if a picture has no true label."""
        return self._num_correct / self.num_pictures if self._has_labels and self.num_pictures else None

    @property
    def training_accuracy(self) -> float | None:
        """Accuracy on pictures that the head was trained on; None without any, or if a picture has no true label."""
        return self._num_training_correct / self.num_training if self._has_labels and self.num_training else None

    def to_json(self) -> dict[str, Any]:
        """Return the accuracies and their numbers of pictures for `--json`."""
        new, training = self.accuracy, self.training_accuracy
        return {
            **({} if new is None else {"accuracy": new, "num_accuracy": self.num_pictures}),
            **({} if training is None else {"training_accuracy": training, "num_training": self.num_training}),
        }

    def describe(self) -> str:
        """Return the accuracies in words, or an empty text without any."""
        parts = []
        if self.accuracy is not None:
            parts.append(f"{self.accuracy:.4f} on {format_count(self.num_pictures, 'picture')}")
        if self.training_accuracy is not None:
            pictures = format_count(self.num_training, "picture")
            parts.append(f"{self.training_accuracy:.4f} on {pictures} that the head was trained on")
        return f"accuracy {'; '.join(parts)}, with the class folders as labels" if parts else ""
