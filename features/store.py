"""The read side of a store: which examples there are, and their features straight from the shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.catalog import CATALOG_NAME, Catalog, ImageRow
from features.errors import FeatureStoreError, ShardDamagedError
from features.schema import (
    FEATURE_DTYPE,
    FeatureKey,
    Features,
    FeatureStatus,
    Fingerprint,
    ImageStatus,
    Origin,
)
from features.shard import ShardRef, read_features


@dataclass(frozen=True)
class Example:
    """An image of today's folder that has a feature to learn from, and where that is."""

    path: str
    label: str
    split: str
    content_hash: bytes
    shard: int
    row: int


class FeatureStore:
    """A store opened for reading: a snapshot of its catalog, and its shards on demand.

    Reading takes no lock and never waits for a writer: shards do not change, and the catalog is read
    in one go.
    """

    def __init__(self, path: Path) -> None:
        """Reads the catalog.

        Args:
            path: the store's folder.

        Raises:
            StoreMissingError: there is no store.
        """
        self.path = path
        catalog = Catalog(path / CATALOG_NAME, writable=False)
        try:
            with catalog.snapshot():
                self.fingerprint = load_fingerprint(catalog)
                self.origin = Origin.from_json(catalog.read_meta("origin") or "{}")
                self.images_folder = catalog.read_meta("images_folder") or ""
                self.images = catalog.read_images()
                locations = catalog.read_features()
                self._shards = {shard.number: shard for shard in catalog.read_shards()}
        finally:
            catalog.close()
        self.num_features = len(locations)
        self.examples = list_examples(self.images, locations)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of one feature, (7, 7, 768) for mixed7 at 150 px."""
        return self.origin.feature_shape

    @property
    def num_pending(self) -> int:
        """How many of the folder's images extraction has not come to yet."""
        return sum(image.status is ImageStatus.PENDING for image in self.images)

    @property
    def shards(self) -> list[ShardRef]:
        """Every committed shard, by number."""
        return [self._shards[number] for number in sorted(self._shards)]

    def read(self, examples: Sequence[Example]) -> Features:
        """Reads the features of examples, in their order, opening each shard once.

        Args:
            examples: from this store, in any order, repeats allowed.

        Returns:
            (len(examples), *feature_shape) float16.

        Raises:
            ShardDamagedError: a shard is missing or fails its checksum.
        """
        features = np.empty((len(examples), *self.feature_shape), FEATURE_DTYPE)
        by_shard: dict[int, dict[int, list[int]]] = {}
        for position, example in enumerate(examples):
            by_shard.setdefault(example.shard, {}).setdefault(example.row, []).append(position)
        for number, positions_of_row in by_shard.items():
            rows = sorted(positions_of_row)
            block = np.empty((len(rows), *self.feature_shape), FEATURE_DTYPE)
            read_features(self.path, self._shards[number], rows, block)
            for row, feature in zip(rows, block, strict=True):
                features[positions_of_row[row]] = feature
        if not np.isfinite(features).all():
            raise ShardDamagedError(
                self.path,
                "finite features",
                "NaN or infinity in rows that the catalog calls sound",
                "Extract again into a new --store",
            )
        return features


def list_examples(
    images: Sequence[ImageRow], locations: dict[FeatureKey, tuple[int, int, FeatureStatus]]
) -> list[Example]:
    """Joins today's images with the sound features of their content; pure, and in the images' order."""
    examples = []
    for image in images:
        if image.status is not ImageStatus.DONE or image.content_hash is None:
            continue
        found = locations.get(FeatureKey(image.content_hash, 0))
        if found is not None and found[2] is FeatureStatus.OK:
            examples.append(
                Example(image.path, image.label, image.split, image.content_hash, found[0], found[1])
            )
    return examples


def load_fingerprint(catalog: Catalog) -> Fingerprint:
    """Reads the fingerprint that a store was made with."""
    text = catalog.read_meta("fingerprint")
    try:
        return Fingerprint(**json.loads(text or ""))
    except (TypeError, ValueError) as error:
        raise FeatureStoreError(
            CATALOG_NAME, "a fingerprint", f"{text!r} ({error})", "Extract into a new --store"
        ) from error
