"""Several cut layers as one feature: the pooled features of several stores, scaled and concatenated."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from base.errors import FeatureStoreError, UsageError
from base.terminal import format_count
from features.catalog.locations import Locations
from features.catalog.tables import ImageRow, Location
from features.contents import StoreContents
from features.schema import FEATURE_DTYPE, FeatureKey, Features, FeatureStatus, Fingerprint, ImageStatus, Origin
from features.shards.size import MAX_ROWS_PER_SHARD
from features.store import Example, FeatureStore

_LARGEST = float(np.finfo(FEATURE_DTYPE).max)


def join_stores(stores: Sequence[FeatureStore], scales: Sequence[float]) -> FeatureStore:
    """Return a store whose features are those of several cut layers, each times its scale, one after the other.

    A picture or view is usable if all stores have its feature. Pictures are those of all catalogs; one that a store
    does not have yet is pending. Locations are those of the first store, and rows of the others are found by content
    hash and view. Values beyond the range of float16 are limited to it.

    Args:
        stores: the stores of two or more cut layers, in one folder, with features of shape (channels,).
        scales: factor of each store, as `measure_scales` returns them.

    Raises:
        UsageError: features have height and width.
        FeatureStoreError: the stores have different options, weights, labels or pictures.
    """
    first, *others = stores
    for store in stores:
        _check_shape(store)
    for other in others:
        _check_same_source(first, other)
    locations = _join_locations(stores)
    keys_of = _list_keys(locations)

    @cache
    def hash_joined(shard: int) -> str:
        """Return a digest of all files that contain a feature whose location is in a shard of the first store."""
        digests = [first.contents.hash_shard(shard)]
        for other in others:
            numbers = {other.contents.locations[key].shard for key in keys_of.get(shard, {}).values()}
            digests += sorted(map(other.contents.hash_shard, numbers))
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    contents = replace(
        first.contents,
        origin=_join_origins(stores),
        images=_join_images(stores),
        locations=locations,
        shards=[shard for store in stores for shard in store.shards],
        hash_shard=hash_joined,
    )
    return _scale(stores, contents, scales)


def rescale_store(store: FeatureStore, scales: Sequence[float]) -> FeatureStore:
    """Return a joined store with other scales."""
    return _scale(store.parts, store.contents, scales)


def measure_scales(store: FeatureStore, examples: Sequence[Example]) -> list[float]:
    """Return the factor of each cut layer that gives its features unit mean square on some pictures.

    The factors are rounded to float32 and do not depend on the order of the pictures. A factor is 1 if all features of
    the cut layer are 0, or if there is no picture.

    Args:
        store: a joined store, with any scales.
        examples: examples of the store.
    """
    keys = [FeatureKey(example.content_hash, example.view) for example in examples]
    return [_measure_scale(part, part.find_stored(keys)) for part in store.parts]


def _scale(stores: Sequence[FeatureStore], contents: StoreContents, scales: Sequence[float]) -> FeatureStore:
    """Return the joined store with some scales; `contents` is complete except for the fingerprint and the reading."""
    keys_of = _list_keys(contents.locations)

    def read_joined(shard: int, rows: Sequence[int], out: Features) -> None:
        keys = [keys_of[shard][row] for row in rows]
        for start in range(0, len(keys), MAX_ROWS_PER_SHARD):
            block = slice(start, start + MAX_ROWS_PER_SHARD)
            column = 0
            for store, scale in zip(stores, scales, strict=True):
                values = store.read(store.find_stored(keys[block])).astype(np.float32) * np.float32(scale)
                out[block, column : column + values.shape[1]] = np.clip(values, -_LARGEST, _LARGEST)
                column += values.shape[1]

    contents = replace(contents, fingerprint=_join_fingerprints(stores, scales), read_rows=read_joined)
    arguments = tuple(stores), tuple(scales)
    joined = FeatureStore.derive(stores[0].path.parent, contents, join_stores, arguments)
    joined.parts, joined.scales = arguments
    return joined


def _measure_scale(store: FeatureStore, examples: Sequence[Example]) -> float:
    # In the order of the shards, so that each is read once. The sum is exact, so the order does not change it.
    ordered = sorted(examples, key=lambda example: (example.shard, example.row))
    sums: list[float] = []
    for start in range(0, len(ordered), MAX_ROWS_PER_SHARD):
        features = store.read(ordered[start : start + MAX_ROWS_PER_SHARD])
        squares: NDArray[np.float64] = np.square(features, dtype=np.float64)
        sums += squares.sum(axis=1).tolist()
    total = math.fsum(sums)
    return float(np.float32(math.sqrt(len(ordered) * store.feature_shape[0] / total))) if total else 1.0


def _list_keys(locations: Mapping[FeatureKey, Location]) -> dict[int, dict[int, FeatureKey]]:
    """Return the key of each feature by shard and row."""
    keys_of: dict[int, dict[int, FeatureKey]] = {}
    for key, location in locations.items():
        keys_of.setdefault(location.shard, {})[location.row] = key
    return keys_of


def _join_locations(stores: Sequence[FeatureStore]) -> Locations:
    """Return the locations in the first store of the features that all stores have, with the worst status."""
    first, *others = (store.contents.locations for store in stores)
    joined: dict[FeatureKey, Location] = {}
    for key, location in first.items():
        found = [location, *filter(None, (locations.get(key) for locations in others))]
        if len(found) == len(stores):
            unusable = (each.status for each in found if each.status is not FeatureStatus.OK)
            joined[key] = location._replace(status=next(unusable, FeatureStatus.OK))
    return Locations.collect(joined)


def _join_images(stores: Sequence[FeatureStore]) -> list[ImageRow]:
    """Return the pictures of all stores, sorted by the bytes of their paths; a picture that one store lacks is pending.

    Raises:
        FeatureStoreError: a picture has different labels or splits.
    """
    rows_of = [{image.path: image for image in store.images} for store in stores]
    joined = []
    for path in sorted(set().union(*rows_of), key=os.fsencode):
        rows = [rows[path] for rows in rows_of if path in rows]
        chosen = next((row for row in rows if row.status is not ImageStatus.DONE), rows[0])
        if len(rows) < len(stores) or len({row.content_hash for row in rows}) > 1:
            chosen = chosen._replace(status=ImageStatus.PENDING)
        if len({(row.label, row.split) for row in rows}) > 1:
            found = ", ".join(f"{row.split}/{row.label}".lstrip("/") for row in rows)
            advice = "Extract all cut layers in one command, so that they have the same labels"
            raise FeatureStoreError(f"{stores[0].path.parent}, {path}", "one label for all cut layers", found, advice)
        joined.append(chosen)
    return joined


def _join_fingerprints(stores: Sequence[FeatureStore], scales: Sequence[float]) -> Fingerprint:
    fingerprints = [store.fingerprint for store in stores]
    digest = hashlib.sha256("".join(found.weights_sha256 for found in fingerprints).encode()).hexdigest()
    return replace(
        fingerprints[0],
        weights_sha256=digest,
        cut=",".join(found.cut for found in fingerprints),
        calibration=",".join(dict.fromkeys(found.calibration for found in fingerprints)),
        scale=f"{fingerprints[0].scale}, features times {', '.join(map(repr, scales))}",
    )


def _join_origins(stores: Sequence[FeatureStore]) -> Origin:
    return replace(stores[0].origin, feature_shape=(sum(store.feature_shape[0] for store in stores),))


def _check_shape(store: FeatureStore) -> None:
    if len(store.feature_shape) > 1:
        got = f"{store.feature_shape} in {store.path}"
        advice = "Add --pool avg to train on means, or extract with --pool avg"
        raise UsageError("--cut", "features without height and width, to join several cut layers", got, advice)


def _check_same_source(first: FeatureStore, other: FeatureStore) -> None:
    """Raise FeatureStoreError unless two stores have features of the same pictures, options and weights."""
    advice = "Extract all cut layers in one command, with the same options"
    for name, wanted, found in first.fingerprint.list_differences(other.fingerprint):
        if name not in ("cut", "weights_sha256", "calibration"):
            expected = f"{name} {wanted}, as in {first.path}"
            raise FeatureStoreError(other.path, expected, f"{name} {found}", advice)
    weights = [store.origin.weights_file_sha256 or store.origin.weights_name for store in (first, other)]
    if weights[0] != weights[1]:
        wanted, found = (f"the weights {weight[:12]}" for weight in weights)
        raise FeatureStoreError(other.path, f"{wanted}, as in {first.path}", found, advice)
    if len(first) and len(other) and first.contents.locations.keys().isdisjoint(other.contents.locations):
        expected, got = f"the pictures of {first.path}", f"{format_count(len(other), 'other picture')}"
        raise FeatureStoreError(other.path, expected, got, "Extract all cut layers from the same folder")
