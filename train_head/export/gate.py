"""Compare a converted model with the Keras model on pictures, each run by its own runtime."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from base.terminal import Console
from extract.decoding.convert import Pixels
from features.validation_split import encode_label_sets, encode_labels
from train_head.data.batches import Array
from train_head.evaluation.metrics import find_correct, predict_classes
from train_head.export.config import Dtype, Format
from train_head.export.load import MAX_PIXELS_AT_ONCE
from train_head.export.outputs import Outputs
from train_head.export.parity import compare_distances
from train_head.export.pictures import Pictures
from train_head.runs.card import ModelCard

NUM_PICTURES = 64
"""Number of pictures in their original sizes on which every format is compared."""
TOLERANCES = {Dtype.FLOAT32: 1e-4, Dtype.FLOAT16: 5e-3, Dtype.INT8: 0.1}
"""Largest allowed difference of a probability from that of the Keras model."""
DISTANCE_TOLERANCES = {Dtype.FLOAT32: 1e-3, Dtype.FLOAT16: 0.02, Dtype.INT8: 0.2}
"""Largest allowed difference of a distance, relative to the distance or to the threshold if that is larger."""
ACCURACY_LOSS = 0.005
"""Largest allowed loss of accuracy of int8 weights on all validation pictures; one picture is always allowed."""


@dataclass(frozen=True)
class FormatCheck:
    """Differences between a converted model and the Keras model."""

    format: Format
    dtype: Dtype
    num_pictures: int
    max_difference: float
    """Largest difference of a probability."""
    max_distance_difference: float
    """Largest relative difference of a distance; 0 for a model without distances."""
    num_changed: int
    """Number of pictures with another predicted class, or with another set of labels."""
    worst_image: str
    """Picture with the largest difference of a probability, or of a distance if only that is too large."""
    num_lost: int | None = None
    """Number of correct predictions lost on all validation pictures; None if not measured."""
    num_validation: int | None = None
    """Number of these validation pictures."""

    @property
    def ok(self) -> bool:
        """Whether all differences are within their limits; False for NaN."""
        num_lost = self.num_lost or 0
        return (
            self.max_difference <= TOLERANCES[self.dtype]
            and self.max_distance_difference <= DISTANCE_TOLERANCES[self.dtype]
            and num_lost <= max(1, ACCURACY_LOSS * (self.num_validation or 0))
        )

    def describe(self) -> str:
        """Return the differences in one line, for an error."""
        lost = "" if self.num_lost is None else f", {self.num_lost:,} of {self.num_validation:,} correct labels lost"
        return (
            f"differences of {self.max_difference:.2g} in probability and {self.max_distance_difference:.2%} in "
            f"distance{lost} (largest difference: {self.worst_image})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the values for parity.json; NaN becomes None, because JSON has no NaN."""
        values = asdict(self)
        return {name: None if value != value else value for name, value in values.items()}


def describe_limits(dtype: Dtype) -> str:
    """Return the limits for weights of a number format, for an error."""
    lost = f", and a loss of at most {ACCURACY_LOSS:.1%} of the labels" if dtype is Dtype.INT8 else ""
    limits = TOLERANCES[dtype], DISTANCE_TOLERANCES[dtype]
    return f"differences of at most {limits[0]:g} in probability and {limits[1]:.1%} in distance{lost}"


class Reference:
    """Outputs of the Keras model on the pictures that the formats are compared on."""

    def __init__(self, run_keras: Callable[[Array], Outputs], pictures: Pictures, card: ModelCard) -> None:
        """Run the Keras model.

        Args:
            run_keras: function from pixels to outputs, with (n, classes) probabilities.
            pictures: the loaded validation pictures.
            card: card of the model.
        """
        self._run, self._pictures, self._card = run_keras, pictures, card
        self._rows = [run_keras(pixels) for _, pixels in self._read()]
        self._all: Array | None = None

    def compare(self, run: Callable[[Array], Outputs], each: Format, dtype: Dtype, console: Console) -> FormatCheck:
        """Compare a format with the Keras model.

        Args:
            run: the converted model.
            each: its format.
            dtype: number format of its weights. int8 is compared on all loaded pictures too.
            console: receives the progress.
        """
        images, differences, distances, changed = [], [], [], 0
        with console.progress(f"check {each}", len(self._rows), "pictures") as progress:
            for (image, pixels), expected in zip(self._read(), self._rows, strict=True):
                found = run(pixels)
                images.append(image)
                differences.append(float(np.abs(found.probabilities - expected.probabilities).max()))
                distances.append(self._compare_distance(found, expected))
                changed += self._is_changed(found.probabilities, expected.probabilities)
                progress.advance(1)
        is_close = np.max(differences) <= TOLERANCES[dtype]
        worst = distances if is_close and not np.max(distances) <= DISTANCE_TOLERANCES[dtype] else differences
        lost = self._count_lost(run, console) if dtype is Dtype.INT8 else None
        return FormatCheck(
            each,
            dtype,
            len(images),
            float(np.max(differences)),
            float(np.max(distances)),
            changed,
            images[int(np.argmax(worst))],
            lost,
            None if lost is None else len(self._pictures.loaded),
        )

    def _compare_distance(self, found: Outputs, expected: Outputs) -> float:
        if expected.distances is None:
            return 0.0
        if found.distances is None:
            return math.nan
        return compare_distances([(found.distances, expected.distances)], self._card.outlier_threshold or 0.0)

    def _is_changed(self, found: Array, expected: Array) -> bool:
        if self._card.is_multi_label:
            limits = np.asarray(self._card.thresholds)
            return bool(((found >= limits) != (expected >= limits)).any())
        return bool((predict_classes(found) != predict_classes(expected)).any())

    def _count_lost(self, run: Callable[[Array], Outputs], console: Console) -> int:
        encode = encode_label_sets if self._card.is_multi_label else encode_labels
        targets = encode(self._pictures.loaded, self._card.classes)
        if self._all is None:
            self._all = np.concatenate([self._run(batch).probabilities for _, batch in self._pictures.read_batches()])
        found = []
        with console.progress("check accuracy", len(self._pictures.loaded), "pictures") as progress:
            for indices, batch in self._pictures.read_batches():
                found.append(run(batch).probabilities)
                progress.advance(len(indices))
        num_correct = [int(find_correct(targets, rows).sum()) for rows in (self._all, np.concatenate(found))]
        return num_correct[0] - num_correct[1]

    def _read(self) -> Iterator[tuple[str, Array]]:
        """Yield path and pixels, (1, height, width, 3), of the pictures, each in another size."""
        for number in range(NUM_PICTURES):
            example = self._pictures.loaded[number % len(self._pictures.loaded)]
            yield example.path, vary_size(self._pictures.read_raw(example), number)[None]


def vary_size(pixels: Pixels, number: int) -> Array:
    """Cut up to 10 rows and 12 columns off a picture, so that pictures of one size become pictures of many sizes.

    Rows and columns of a very large picture are left out, to limit the memory of the models.

    Args:
        pixels: (height, width, 3) uint8.
        number: number of the picture.

    Returns:
        The pixels as float32.
    """
    step = math.ceil(math.sqrt(pixels[..., 0].size / MAX_PIXELS_AT_ONCE))
    pixels = pixels[::step, ::step]
    height, width, _ = pixels.shape
    cut_rows, cut_columns = min(number % 11, height - 1), min(number % 13, width - 1)
    return np.asarray(pixels[: height - cut_rows, : width - cut_columns], np.float32)
