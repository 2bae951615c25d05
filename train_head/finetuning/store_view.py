"""A store seen through a part of the backbone: what that makes of each stored feature in its place."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from base.errors import UsageError
from features.schema import FEATURE_DTYPE, Features, count_rows_per_shard
from features.store import FeatureStore

if TYPE_CHECKING:
    import keras

BATCH_SIZE = 64


def extend_store(store: FeatureStore, model: keras.Model, name: str) -> FeatureStore:
    """Returns the same examples with a model's outputs in the place of their features.

    Args:
        store: with features that the model takes.
        model: frozen.
        name: of the layer whose output it gives; what is derived of it is kept under that.

    Raises:
        UsageError: the store's features are means, which no layer takes.
    """
    if len(store.feature_shape) != 3:
        raise UsageError(
            "--unfreeze-from",
            "features with height and width",
            f"{store.feature_shape} in {store.path}",
            "Extract without --pool",
        )
    extended = copy.copy(store)
    extended.contents = replace(
        store.contents,
        fingerprint=replace(store.fingerprint, cut=f"{name} of stored {store.fingerprint.cut}"),
        origin=replace(store.origin, feature_shape=tuple(model.output_shape[1:])),
        read_rows=_ExtendedRows(store, model),
    )
    return extended


class _ExtendedRows:
    def __init__(self, store: FeatureStore, model: keras.Model) -> None:
        self._shape, self._read_rows, self._model = store.feature_shape, store.contents.read_rows, model

    def __call__(self, shard: int, rows: Sequence[int], out: Features) -> None:
        step = count_rows_per_shard(self._shape)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            features = np.empty((len(some), *self._shape), FEATURE_DTYPE)
            self._read_rows(shard, some, features)
            for place in range(0, len(some), BATCH_SIZE):
                outputs = self._model.predict_on_batch(features[place : place + BATCH_SIZE].astype(np.float32))
                out[start + place : start + place + len(outputs)] = outputs
