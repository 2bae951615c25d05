"""Pictures unlike the training pictures: the distance above which a picture is one, and how often it is exceeded.

The threshold is a quantile of the distances that the training pictures have to the classes without them. The validation
pictures take no part, so they show how often a picture like the training pictures is rejected. docs/how-to/outliers.md
has measurements.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from base.terminal import Console
from features.pooled import POOLED, pool_store
from features.schema import FeatureKey, Features
from features.store import Example, FeatureStore
from features.validation_split import sort_examples
from train_head.config import NO_FINE_TUNING, HeadConfig
from train_head.data.batches import Array
from train_head.data.blocks import sort_features
from train_head.data.split import Split, order_by_class
from train_head.evaluation.mahalanobis import ClassModel, fit_classes
from train_head.evaluation.uncertainty import compute_interval
from train_head.reduction.cache import Pooled, get, make_key, put

MAX_PICTURES = 20_000
"""Largest number of training pictures that are used. More would change the covariance of 2,048 channels little."""
_BLOCK_PICTURES = 4096


@dataclass(frozen=True)
class OutlierDetector:
    """The training pictures as class means and a covariance, and the distances of a run's pictures to them."""

    model: ClassModel
    held_out: Array
    """(n,) distances of training pictures to the classes without them, in ascending order."""
    validation: Array
    """(m,) distances of the validation pictures, in the order of predictions.csv."""
    false_alarms: float
    """Chosen share of pictures like the training pictures whose distance is above the threshold."""

    @property
    def threshold(self) -> float:
        """Largest distance of a picture that is no outlier: the k-th smallest of the n held-out distances.

        k is (n + 1)(1 - α), rounded up, or n if that is smaller. A further picture of the same distribution is then
        above the threshold with a probability of about 1 - k / (n + 1). Source: conformal prediction, Vovk et al. 2005.
        """
        return float(self.held_out[self._rank - 1])

    @property
    def expected_rate(self) -> float:
        """Share of false alarms to expect: nearly the chosen one, or 1 / (n + 1) if the pictures are few."""
        return 1 - self._rank / (len(self.held_out) + 1)

    @property
    def _rank(self) -> int:
        num = len(self.held_out)
        return min(num, math.ceil((num + 1) * (1 - self.false_alarms)))

    def describe(self) -> dict[str, Any]:
        """Return the metrics, ready for JSON, with the share of the validation pictures that are rejected."""
        num_rejected, num_pictures = int(np.sum(self.validation > self.threshold)), len(self.validation)
        return {
            "threshold": self.threshold,
            "false_alarms": self.false_alarms,
            "expected_rate": self.expected_rate,
            "num_held_out": len(self.held_out),
            "num_validation": num_pictures,
            "num_rejected": num_rejected,
            "share_rejected": num_rejected / num_pictures,
            "share_rejected_interval": list(compute_interval(num_rejected, num_pictures)),
        }

    def save(self, path: Path) -> None:
        """Write the arrays to an uncompressed .npz file."""
        arrays: dict[str, Any] = {**self.model._asdict(), "held_out": self.held_out, "validation": self.validation}
        np.savez(path, false_alarms=np.float64(self.false_alarms), **arrays)

    @classmethod
    def parse(cls, data: bytes) -> OutlierDetector:
        """Parse the bytes of a file that `save` wrote, without loading pickled objects.

        Raises:
            ValueError: an array has the wrong shape or dtype, or is not finite.
            KeyError: an array is missing.
            Exception: the file is damaged; zipfile, zlib and NumPy raise different exceptions.
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*ClassModel._fields, "held_out", "validation")}
            rate = float(file["false_alarms"])
        if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("arrays that are not float32 or not finite")
        held_out, validation = arrays.pop("held_out"), arrays.pop("validation")
        model = ClassModel(**arrays)
        model.check()
        if held_out.ndim != 1 or validation.ndim != 1 or not len(held_out) or not 0 < rate < 1:
            raise ValueError("distances of the wrong shape, or a rate that is not between 0 and 1")
        return cls(model, held_out, validation, rate)


def fit_detector(store: FeatureStore, split: Split, config: HeadConfig, console: Console) -> OutlierDetector | None:
    """Fit the detector of a run, and measure its validation pictures.

    Args:
        store: the store that the head is fitted on.
        split: the training and validation pictures.
        config: options of the run.
        console: receives warnings about the cache.

    Returns:
        The detector. None for a fine-tuned run, whose features differ from the stored ones, and if no class has two
        training pictures with different features, because then none can be left out, or all distances are rounding.
    """
    if config.unfreeze_from != NO_FINE_TUNING:
        return None
    chosen = choose_training_pictures(split)
    # Sets of labels are no classes, because most have few pictures: all pictures with several labels are one class.
    labels = ["" if split.is_multi_label else example.label for example in chosen]
    class_numbers = np.unique(labels, return_inverse=True)[1]
    model, held_out = fit_classes(read_pooled(store, chosen, console), class_numbers)
    held_out = np.sort(held_out[np.isfinite(held_out)])
    if not len(held_out):
        return None
    validation = [model.measure(block) for block in _read_blocks(store, split.validation, console)]
    return OutlierDetector(model, held_out, np.concatenate(validation), config.false_alarms)


def choose_training_pictures(split: Split) -> list[Example]:
    """Choose at most `MAX_PICTURES` training pictures, in proportion to the classes, in the order of their contents."""
    # One example for each content: a copy of a picture that is left out would make its distance too small.
    contents = {example.content_hash: example for example in reversed(split.train)}
    return sort_examples(order_by_class([*contents.values()])[:MAX_PICTURES])


def read_pooled(store: FeatureStore, examples: Sequence[Example], console: Console) -> Features:
    """Read features, (n, channels), of the last of several cut layers.

    Averages over height and width are kept in the store's `derived/`.
    """
    store, examples = _choose_features(store, examples)
    if store.fingerprint.pool != POOLED:
        return store.read(examples)
    key = make_key(store, [examples], 0)
    if cached := get(store.derived_folder, key, Pooled, console):
        return cached.features
    features = store.read(examples)
    with suppress(OSError):
        put(store.derived_folder, key, Pooled(features))
    return features


def _read_blocks(store: FeatureStore, examples: Sequence[Example], console: Console) -> Iterator[Features]:
    """Yield the features of `read_pooled` in blocks; of several blocks, each shard is read once and nothing is kept."""
    if len(examples) <= _BLOCK_PICTURES:
        yield read_pooled(store, examples, console)
        return
    blocks = sort_features(*_choose_features(store, examples), _BLOCK_PICTURES)
    for number in range(blocks.num_blocks):
        yield blocks.read(number)


def _choose_features(store: FeatureStore, examples: Sequence[Example]) -> tuple[FeatureStore, Sequence[Example]]:
    """Return the store of the pooled features of the last cut layer, and the examples in it."""
    if store.parts:
        store = store.parts[-1]
        examples = store.find_stored(FeatureKey(example.content_hash, 0) for example in examples)
    return (pool_store(store) if len(store.feature_shape) == 3 else store), examples
