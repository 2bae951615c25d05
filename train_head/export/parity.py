"""Compare an exported model with backbone and head run separately, and with the head on the stored features."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.terminal import Console
from extract.pixels import FACTOR, OFFSET
from features.store import FeatureStore
from features.validation_split import encode_label_sets, encode_labels
from train_head.data.batches import Array
from train_head.evaluation.metrics import LABEL_THRESHOLD, find_correct, predict_classes
from train_head.export.outputs import Outputs
from train_head.export.pictures import Pictures
from train_head.export.rebuild import ModelParts
from train_head.solvers.head import expand_probabilities

NUM_WORST = 3
"""Number of pictures to list: those with the largest differences."""
NUM_SEPARATE = 64
"""Number of pictures on which backbone and head are also run separately; a few are enough to detect wrong weights."""
TOLERANCE = 1e-5
"""Largest allowed difference in probability between the exported model and its separate parts, both in float32."""
STORED_TOLERANCE = {"float32": 0.02, "bfloat16": 0.5, "int8": 1.0}
"""Largest allowed difference in probability from the head on stored features, by the precision of the features.

Measured with seven heads on 400 photographs: at most 0.001 (float32) and 0.21 (bfloat16). Relative to the largest
logit, the logits differed by at most 0.00006 (float32) and 0.016 (bfloat16). A correct model can therefore exceed the
limits only if a logit is above 1,400 (float32) or 120 (bfloat16). Features in int8 differ by a tenth, which can change
a probability by any amount; only the number of changed labels is limited.
"""
DISTANCE_TOLERANCE = 1e-3
"""Largest allowed difference of a distance from that computed in NumPy from the separate backbone's output.

It is relative to the distance, or to the threshold if that is larger: a difference far below the threshold has no
effect. If the classes are far apart, distances of pictures near a class have rounding errors of more than 0.1%.
"""
NEAR_THRESHOLD = 1e-3
"""Distance from a tie, in probability, up to which rounding of the features may change the label."""
FLIPPED_SHARE = {"float32": 0.0, "bfloat16": 0.05, "int8": 0.1}
"""Largest allowed share of pictures whose label differs from that on stored features, by the features' precision."""


@dataclass(frozen=True)
class Parity:
    """Differences between an exported model and its parts on validation pictures."""

    num_pictures: int
    max_difference: float
    """Largest difference in probability from the backbone and head run separately, over the first pictures."""
    max_stored_difference: float
    """Largest difference in probability from the head on the stored (float16) features."""
    num_flipped: int
    """Number of pictures, except near ties, whose label differs from that of the head on stored features."""
    num_flips_allowed: int
    """Limit of `num_flipped`; 0 for features computed in float32, the precision of the exported model."""
    accuracy: float
    """Accuracy of the exported model, from 0 to 1; of several labels a picture, all must be correct."""
    stored_accuracy: float
    """Accuracy of the head on the stored features of the same pictures."""
    stored_difference_allowed: float
    """Limit of `max_stored_difference`."""
    max_distance_difference: float = 0.0
    """Largest difference of the model's distance from that of the separate backbone, over the first pictures.

    It is relative, as that of `DISTANCE_TOLERANCE`.

    It is 0 for a model without this output.
    """
    max_stored_distance_difference: float = 0.0
    """Largest relative difference of the separate backbone's distance from that of the stored (float16) features."""
    num_gone: int = 0
    """Number of pictures that were skipped because they cannot be read or have changed."""
    worst: tuple[dict[str, Any], ...] = ()
    """`image` and `difference` of the pictures with the largest differences.

    The differences are from the separate backbone and head if `max_difference` is too large, else from the head on
    stored features.
    """

    @property
    def ok(self) -> bool:
        """Whether all differences are within their limits; False for NaN."""
        return (
            self.max_difference <= TOLERANCE
            and self.max_stored_difference <= self.stored_difference_allowed
            and self.num_flipped <= self.num_flips_allowed
            and self.max_distance_difference <= DISTANCE_TOLERANCE
        )


def check_parity(
    run_model: Callable[[Any], Outputs],
    parts: ModelParts,
    store: FeatureStore,
    classes: Sequence[str],
    pictures: Pictures,
    console: Console,
) -> Parity:
    """Compare an exported model with its parts on pictures.

    Args:
        run_model: the exported model, compiled by `compile_outputs`.
        parts: the backbone and head that it was built from.
        store: the stored features of the pictures.
        classes: class names, in the order of the outputs.
        pictures: the loaded pictures.
        console: receives the progress.
    """
    outputs: list[Array] = []
    separate_outputs: list[Array] = []
    stored_outputs: list[Array] = []
    distances: list[tuple[Array, Array, Array]] = []
    examples = pictures.loaded
    with console.progress("check", len(examples), "pictures") as progress:
        for indices, resized in pictures.read_batches():
            found = run_model(resized)
            for index in pictures.raw.keys() & set(indices):
                for values, value in zip(found, run_model(pictures.raw[index][None]), strict=True):
                    if values is not None and value is not None:
                        values[index - indices.start] = value[0]
            outputs.append(found.probabilities)
            features = store.read([examples[index] for index in indices]).astype(np.float32)
            if indices.start < NUM_SEPARATE:
                scaled = resized * np.float32(FACTOR) + np.float32(OFFSET)
                computed = parts.backbone.predict_on_batch(scaled)
                separate_outputs.append(parts.head.predict_on_batch(computed))
                if parts.measure:
                    measured = parts.measure(computed)
                    exported_distances = measured if found.distances is None else found.distances
                    distances.append((exported_distances, measured, parts.measure(features)))
            stored_outputs.append(parts.run_stored(features))
            progress.advance(len(indices))
    exported, separate, stored = map(np.concatenate, (outputs, separate_outputs, stored_outputs))
    differences = np.abs(exported[: len(separate)] - separate).max(axis=1)
    stored_differences = np.abs(exported - stored).max(axis=1)
    exported, stored = expand_probabilities(exported), expand_probabilities(stored)
    flips = (find_flipped_sets if parts.is_multi_label else find_flips)(exported, stored)
    targets = (encode_label_sets if parts.is_multi_label else encode_labels)(examples, classes)
    is_close = bool((differences <= TOLERANCE).all())
    # argsort puts NaN last, so NaN comes first in the reversed order.
    order = np.argsort(stored_differences + flips if is_close else differences)[::-1][:NUM_WORST]
    shown = stored_differences if is_close else differences
    precision = store.fingerprint.precision
    threshold = parts.detector.threshold if parts.detector else 0.0
    return Parity(
        num_pictures=len(examples),
        max_difference=float(differences.max()),
        max_stored_difference=float(stored_differences.max()),
        num_flipped=int(flips.sum()),
        num_flips_allowed=math.ceil(FLIPPED_SHARE.get(precision, 0.0) * len(examples)),
        accuracy=float(find_correct(targets, exported).mean()),
        stored_accuracy=float(find_correct(targets, stored).mean()),
        stored_difference_allowed=STORED_TOLERANCE.get(precision, STORED_TOLERANCE["float32"]),
        max_distance_difference=compare_distances([(found, other) for found, other, _ in distances], threshold),
        max_stored_distance_difference=compare_distances([(found, other) for _, found, other in distances], threshold),
        num_gone=len(pictures.gone),
        worst=tuple({"image": examples[row].path, "difference": float(shown[row])} for row in order),
    )


def find_flips(exported: Array, stored: Array) -> NDArray[np.bool_]:
    """Find pictures whose most probable class changes, except those near a tie on the stored features.

    Args:
        exported: (n, classes) probabilities of the exported model.
        stored: (n, classes) probabilities of the head on stored features.

    Returns:
        (n,) booleans.
    """
    top = np.sort(stored, axis=1)
    clear = (top[:, -1] - top[:, -2]) / 2 > NEAR_THRESHOLD
    return np.asarray(clear & (predict_classes(exported) != predict_classes(stored)))


def find_flipped_sets(exported: Array, stored: Array) -> NDArray[np.bool_]:
    """Find pictures of which a label changes, except for labels near their threshold on the stored features.

    The arguments and the result are those of `find_flips`.
    """
    clear = np.abs(stored - LABEL_THRESHOLD) > NEAR_THRESHOLD
    return np.asarray((clear & ((exported >= LABEL_THRESHOLD) != (stored >= LABEL_THRESHOLD))).any(axis=1))


def compare_distances(pairs: Sequence[tuple[Array, Array]], threshold: float) -> float:
    """Return the largest relative difference between found and expected distances.

    It is relative to the expected distance, or to the threshold if that is larger.

    Args:
        pairs: found and expected distances, (n,), of each batch.
        threshold: distance above which a picture is an outlier.

    Returns:
        0 without pairs; NaN if a distance is NaN.
    """
    differences = [np.max(np.abs(found - other) / np.maximum(other, max(threshold, 1.0))) for found, other in pairs]
    return float(np.max(differences or [0.0]))
