"""Checks that an exported model says what backbone and head say, on real pictures."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract.decode import Pixels, UndecodableImageError, decode_image, read_picture
from features.errors import HeadstartError
from features.store import Example, FeatureStore
from train_head.config import MAX_PIXELS
from train_head.exported import ExportedModel
from train_head.head import Array, expand_probabilities
from train_head.metrics import predict_classes

BATCH_SIZE = 32
TOLERANCE = 1e-5
"""Of probabilities, between the exported model and backbone-then-head, both float32."""
NEAR_THRESHOLD = 1e-3
"""A picture whose probability is this near to a tie may change its label by the features' rounding."""
FLIPPED_SHARE = {"float32": 0.0, "bfloat16": 0.05}
"""How many pictures may have another label than the head gave them on features of that precision."""


@dataclass(frozen=True)
class Parity:
    """How far an exported model is from its parts, over the validation pictures."""

    num_pictures: int
    max_difference: float
    """Of probabilities, from backbone-then-head on the same pixels."""
    max_stored_difference: float
    """Of probabilities, from the head on the stored (float16) features."""
    num_flipped: int
    """Pictures not near the threshold whose label differs from the head's on stored features."""
    num_flips_allowed: int
    """None for features that were made in float32, as the exported model makes them."""
    accuracy: float
    """Share of the pictures that the exported model labels rightly."""

    @property
    def ok(self) -> bool:
        """Whether the model may appear. NaN is never ok."""
        return self.max_difference <= TOLERANCE and self.num_flipped <= self.num_flips_allowed


@dataclass(frozen=True)
class Parts:
    """Backbone and head, apart."""

    prepare: Callable[[Pixels], Any]
    """Pixels to what the backbone sees."""
    run_backbone: Callable[[Any], Array]
    run_head: Callable[[Array], Array]
    run_stored: Callable[[Array], Array]
    """From stored features to the head's outputs."""


def check_parity(
    exported: ExportedModel,
    parts: Parts,
    store: FeatureStore,
    read: Callable[[Example], Pixels],
    examples: Sequence[Example],
    advance: Callable[[int], None],
) -> Parity:
    """Compares an exported model with its parts.

    Args:
        exported: the model, reloaded from disk.
        parts: backbone and head as training knew them.
        store: where the stored features are.
        read: from an example to its picture.
        examples: the pictures to compare on.
        advance: told how many pictures are done.

    Raises:
        HeadstartError: `read` raises it for a picture that is gone, or another than its feature was made from.
    """
    labels = exported.card.classes
    differences, stored_differences, flips, right = [], [], 0, 0
    for chunk in _chunk(examples):
        images = [read(example) for example in chunk]
        whole = np.stack(list(exported.predict(images, BATCH_SIZE)))
        import tensorflow as tf

        features = parts.run_backbone(tf.stack([parts.prepare(image) for image in images]))
        apart = parts.run_head(features)
        stored = parts.run_stored(store.read(chunk).astype(np.float32))
        differences.append(np.abs(whole - apart).max())
        stored_differences.append(np.abs(whole - stored).max())
        flips += count_flips(expand_probabilities(whole), expand_probabilities(stored))
        predicted = predict_classes(expand_probabilities(whole))
        right += sum(labels[n] == example.label for n, example in zip(predicted, chunk, strict=True))
        advance(len(chunk))
    return Parity(
        num_pictures=len(examples),
        max_difference=float(np.max(differences)),
        max_stored_difference=float(np.max(stored_differences)),
        num_flipped=flips,
        num_flips_allowed=math.ceil(FLIPPED_SHARE.get(store.fingerprint.precision, 0.0) * len(examples)),
        accuracy=right / len(examples),
    )


def count_flips(whole: Array, stored: Array) -> int:
    """Counts rows whose class differs although the stored features' probabilities are not near a tie.

    Args:
        whole: (n, classes) of the exported model.
        stored: (n, classes) of the head on stored features.
    """
    top = np.sort(stored, axis=1)
    clear = (top[:, -1] - top[:, -2]) / 2 > NEAR_THRESHOLD
    return int(np.sum(clear & (predict_classes(whole) != predict_classes(stored))))


def read_unchanged(folder: Path, example: Example, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Reads a picture, and makes sure that it is the one that the stored feature was made from."""
    path = folder / example.path
    try:
        data = read_picture(path, max_pixels)
        if hashlib.sha256(data).digest() != example.content_hash:
            raise HeadstartError(
                path,
                "the picture that its feature was made from",
                "a changed file",
                "Extract and train again, then export",
            )
        return decode_image(data, max_pixels)
    except UndecodableImageError as error:
        raise HeadstartError(
            path,
            "a validation picture to check the export on",
            str(error),
            "Give the folder with --images, --max-pixels as in extraction, or extract and train again",
        ) from error


def _chunk(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    for start in range(0, len(examples), BATCH_SIZE):
        yield examples[start : start + BATCH_SIZE]
