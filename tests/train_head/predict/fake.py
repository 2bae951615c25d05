"""Exported model without TensorFlow: a function that classifies the mean colour of pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.train_head.synthetic import make_small_card
from train_head.export.config import Format
from train_head.export.description import DIGEST_LENGTH, ModelDescription
from train_head.export.open import ExportedModel
from train_head.export.outputs import Outputs
from train_head.runs.card import ModelCard

CHANNELS = [0, 2, 1]
"""Channel of each class: cats are red, dogs blue, and owls green."""
Run = Callable[[NDArray[np.float32]], Outputs]


def classify_colours(images: NDArray[np.float32]) -> Outputs:
    """Return probabilities in proportion to the mean of each channel, and the mean brightness as the distance."""
    means = images.mean(axis=(1, 2))[:, CHANNELS]
    return Outputs(means / means.sum(axis=1, keepdims=True), images.mean(axis=(1, 2, 3)))


def make_card(**values: Any) -> ModelCard:
    """Make the card of a model for cats, dogs and owls."""
    return replace(make_small_card(3), **values)


def make_model(
    path: Path, card: ModelCard, training: Sequence[Path] = (), run: Run = classify_colours
) -> ExportedModel:
    """Make an exported model whose head was trained on some picture files."""
    digests = sorted(hashlib.sha256(file.read_bytes()).hexdigest()[:DIGEST_LENGTH] for file in training)
    return ExportedModel(path, Format.ONNX, card, ModelDescription(card, training=digests), run)
