"""Contents of a store without its features, from a folder's catalog or from a packed file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from features.catalog.catalog import CATALOG_NAME, Catalog, load_fingerprint, load_origin
from features.catalog.database import build_damage_error
from features.catalog.tables import ImageRow, Location
from features.schema import FeatureKey, Features, FeatureStatus, Fingerprint, ImageStatus, Origin
from features.shards.shard import SHARD_FOLDER, ShardRef, read_features


class Example(NamedTuple):
    """View of an image of the folder that has a sound feature, and the feature's location."""

    path: str
    label: str
    split: str
    content_hash: bytes
    shard: int
    row: int
    view: int = 0


class UnusableReason(StrEnum):
    """Why an image has no usable feature."""

    PENDING = "pending"
    """Not extracted yet, or its shard is lost."""
    FAILED = "failed"
    """Its file could not be decoded."""
    UNSOUND = "unsound"
    """Its feature is NaN, infinite or beyond float16."""


class UnusableImage(NamedTuple):
    """Image without a usable feature."""

    image: ImageRow
    reason: UnusableReason
    detail: str
    """The decoder's message of FAILED, the feature's status of UNSOUND, else empty."""


@dataclass(frozen=True)
class StoreContents:
    """Everything known of a store, and functions to read its features."""

    fingerprint: Fingerprint
    origin: Origin
    images_folder: str
    images: list[ImageRow]
    """Every image of the folder as it was last scanned, in the order of the paths' bytes."""
    locations: dict[FeatureKey, Location]
    shards: list[ShardRef]
    read_rows: Callable[[int, Sequence[int], Features], None]
    """Reads rows, ascending, of the shard of a number into an array."""
    hash_shard: Callable[[int], str]
    """Returns the SHA-256 of the file that holds the shard of a number, in hexadecimal digits."""
    locate_shard: Callable[[int], Path]
    """Returns the path of the file that holds the shard of a number."""

    def find_usable(self, key: FeatureKey) -> Location | None:
        """Return the location of a feature that may be trained on; None where there is none."""
        place = self.locations.get(key)
        return place if place is not None and place.status is FeatureStatus.OK else None

    def list_examples(self) -> list[Example]:
        """Join the images with the sound features of their content, in the images' order."""
        examples = []
        for image in self.images:
            if image.status is not ImageStatus.DONE or image.content_hash is None:
                continue
            if place := self.find_usable(FeatureKey(image.content_hash, 0)):
                example = Example(image.path, image.label, image.split, image.content_hash, place.shard, place.row)
                examples.append(example)
        return examples

    def list_unusable(self) -> list[UnusableImage]:
        """Return every image without a usable feature, in the images' order."""
        found = []
        for image in self.images:
            place = self.locations.get(FeatureKey(image.content_hash or b"", 0))
            if image.status is ImageStatus.FAILED:
                found.append(UnusableImage(image, UnusableReason.FAILED, image.reason))
            elif image.status is ImageStatus.PENDING or place is None:
                found.append(UnusableImage(image, UnusableReason.PENDING, ""))
            elif place.status is not FeatureStatus.OK:
                found.append(UnusableImage(image, UnusableReason.UNSOUND, place.status.value))
        return found

    @property
    def num_pending(self) -> int:
        """Number of images that the next extraction will read: not extracted yet, or their shard is lost."""
        return sum(found.reason is UnusableReason.PENDING for found in self.list_unusable())


def load_folder(path: Path) -> StoreContents:
    """Read a store's catalog, in one snapshot.

    Raises:
        StoreMissingError: there is no store.
        CatalogDamagedError: the catalog does not hold what was written to it.
    """
    with closing(Catalog(path / CATALOG_NAME, writable=False)) as catalog, catalog.snapshot():
        fingerprint, origin = load_fingerprint(catalog), load_origin(catalog)
        images_folder = catalog.read_meta("images_folder") or ""
        images, locations = catalog.read_images(), catalog.read_features()
        shards = {shard.number: shard for shard in catalog.read_shards()}
    num_rows = {number: shard.num_rows for number, shard in shards.items()}
    for shard, row, _ in locations.values():
        if not 0 <= row < num_rows.get(shard, 0):
            raise build_damage_error(
                path / CATALOG_NAME, f"a feature in row {row} of shard {shard}, which is not there"
            )
    return StoreContents(
        fingerprint,
        origin,
        images_folder,
        images,
        locations,
        list(shards.values()),
        read_rows=lambda number, rows, out: read_features(path, shards[number], rows, out),
        hash_shard=lambda number: shards[number].sha256,
        locate_shard=lambda number: path / SHARD_FOLDER / shards[number].name,
    )
