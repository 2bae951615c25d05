"""The read side of a store: which examples there are, and their features straight from the shards."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from base.errors import ShardDamagedError
from features.catalog.catalog import CATALOG_NAME, Catalog, load_fingerprint, load_origin
from features.catalog.database import damaged
from features.catalog.tables import ImageRow, Location
from features.schema import (
    FEATURE_DTYPE,
    FeatureKey,
    Features,
    FeatureStatus,
    Fingerprint,
    ImageStatus,
    Origin,
)
from features.shards.shard import SHARD_FOLDER, ShardRef, read_features
from features.unusable import UnusableImage, UnusableReason, list_unusable

DERIVED_FOLDER = "derived"


class Example(NamedTuple):
    """A view of an image of today's folder that has a feature to learn from, and where that is."""

    path: str
    label: str
    split: str
    content_hash: bytes
    shard: int
    row: int
    view: int = 0


@dataclass(frozen=True)
class StoreContents:
    """What is known of a store without its features."""

    fingerprint: Fingerprint
    origin: Origin
    images_folder: str
    images: list[ImageRow]
    locations: dict[FeatureKey, Location]
    shards: list[ShardRef]
    read_rows: Callable[[int, Sequence[int], Features], None]
    """Reads rows, ascending, of the shard of a number into an array."""
    hash_shard: Callable[[int], str]
    """Returns the SHA-256 of the file that holds the shard of a number, in hexadecimal digits."""
    locate_shard: Callable[[int], Path]
    """Returns the path of the file that holds the shard of a number."""


class FeatureStore:
    """A store opened for reading: a snapshot of its catalog, and its shards on demand.

    Reading takes no lock and never waits for a writer: shards do not change, and the catalog is read
    in one go.
    """

    def __init__(self, path: Path) -> None:
        """Reads the catalog, or the header of a packed store.

        Args:
            path: the store's folder, or one HDF5 file that `python -m features pack` made.

        Raises:
            StoreMissingError: there is no store.
            CatalogDamagedError: the catalog does not hold what was written to it.
        """
        from features.packed.read import load_pack

        self.path = path
        with _pause_collector():
            self.contents = load_pack(path) if path.is_file() else load_folder(path)
            self.examples = list_examples(self.contents.images, self.contents.locations)
            """View 0 of each image that has a sound one, in the order of the paths."""

    @property
    def fingerprint(self) -> Fingerprint:
        """How the features were made."""
        return self.contents.fingerprint

    @property
    def origin(self) -> Origin:
        """Where the features came from."""
        return self.contents.origin

    @property
    def images_folder(self) -> str:
        """The folder that was scanned last, an absolute path."""
        return self.contents.images_folder

    @property
    def images(self) -> list[ImageRow]:
        """Every image of the folder as it was last scanned."""
        return self.contents.images

    @property
    def shards(self) -> list[ShardRef]:
        """Every committed shard, by number."""
        return self.contents.shards

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of one feature, (7, 7, 768) for mixed7 at 150 px."""
        return self.origin.feature_shape

    @property
    def derived_folder(self) -> Path:
        """Where things that can be made again are kept, not made yet maybe; beside the file of a packed store."""
        if self.path.is_file():
            return self.path.with_name(f"{self.path.name}.{DERIVED_FOLDER}")
        return self.path / DERIVED_FOLDER

    @property
    def num_features(self) -> int:
        """How many features are stored, also those that no image of today has."""
        return len(self.contents.locations)

    @cached_property
    def num_views(self) -> int:
        """How many views the images that have most of them have."""
        return max((key.view for key in self.contents.locations), default=0) + 1

    def list_views(self, example: Example, num_views: int) -> list[Example]:
        """Lists the sound views of an example's image, itself first.

        Args:
            example: view 0 of an image.
            num_views: how many views to look for.
        """
        found = [example]
        for view in range(1, num_views):
            place = self.contents.locations.get(FeatureKey(example.content_hash, view))
            if place is not None and place.status is FeatureStatus.OK:
                found.append(example._replace(shard=place.shard, row=place.row, view=view))
        return found

    def find_examples(self, keys: Iterable[FeatureKey]) -> list[Example | None]:
        """Find stored rows by content hash and view, whatever images the folder has today.

        Args:
            keys: content hashes and views.

        Returns:
            For each key an example to `read`, with empty path, label and split; None where no sound row is stored.
        """
        places = [(key, self.contents.locations.get(key)) for key in keys]
        return [
            Example("", "", "", key.content_hash, place.shard, place.row, key.view)
            if place is not None and place.status is FeatureStatus.OK
            else None
            for key, place in places
        ]

    def hash_sources(self, examples: Iterable[Example]) -> str:
        """Return a digest of the stored bytes that hold examples: equal digests mean equal features.

        It depends on the files, not on the order of the examples. The first call on a packed store reads its file.
        """
        numbers = {example.shard for example in examples}
        digests = sorted({self.contents.hash_shard(number) for number in numbers})
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def describe_source(self, example: Example) -> str:
        """Return the path of the file that holds an example's feature, for messages."""
        return str(self.contents.locate_shard(example.shard))

    def list_unusable(self) -> list[UnusableImage]:
        """Return every image of the folder that is no example, with the reason."""
        return list_unusable(self.images, self.contents.locations)

    @property
    def num_pending(self) -> int:
        """How many of the folder's images have no feature yet, or none any more."""
        return count_pending(self.contents)

    def read(self, examples: Sequence[Example]) -> Features:
        """Reads the features of examples, in their order, opening each shard once.

        Args:
            examples: from this store, in any order, repeats allowed.

        Returns:
            (len(examples), *feature_shape) float16.

        Raises:
            ShardDamagedError: a shard is missing, or is not the one that was committed.
        """
        features = np.empty((len(examples), *self.feature_shape), FEATURE_DTYPE)
        by_shard: dict[int, dict[int, list[int]]] = {}
        for position, example in enumerate(examples):
            by_shard.setdefault(example.shard, {}).setdefault(example.row, []).append(position)
        for number, positions_of_row in by_shard.items():
            rows = sorted(positions_of_row)
            first = positions_of_row[rows[0]][0]
            if all(positions_of_row[row] == [first + offset] for offset, row in enumerate(rows)):
                self._read_sound(number, rows, features[first : first + len(rows)])
            else:
                block = np.empty((len(rows), *self.feature_shape), FEATURE_DTYPE)
                self._read_sound(number, rows, block)
                for row, feature in zip(rows, block, strict=True):
                    features[positions_of_row[row]] = feature
        return features

    def _read_sound(self, number: int, rows: Sequence[int], out: Features) -> None:
        self.contents.read_rows(number, rows, out)
        if not np.isfinite(out).all():
            raise ShardDamagedError(
                self.path,
                "finite features",
                "NaN or infinity in rows that the catalog calls sound",
                "Extract again into a new --store",
            )


@contextmanager
def _pause_collector() -> Iterator[None]:
    """Keeps the garbage collector from walking, again and again, objects that all stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load_folder(path: Path) -> StoreContents:
    """Reads what a store's catalog holds, in one snapshot."""
    catalog = Catalog(path / CATALOG_NAME, writable=False)
    try:
        with catalog.snapshot():
            fingerprint = load_fingerprint(catalog)
            origin = load_origin(catalog)
            images_folder = catalog.read_meta("images_folder") or ""
            images, locations, shards = catalog.read_images(), catalog.read_features(), catalog.read_shards()
    finally:
        catalog.close()
    by_number = {shard.number: shard for shard in shards}
    num_rows = {shard.number: shard.num_rows for shard in shards}
    for place in locations.values():
        if not 0 <= place.row < num_rows.get(place.shard, 0):
            raise damaged(
                path / CATALOG_NAME, f"a feature in row {place.row} of shard {place.shard}, which is not there"
            )
    return StoreContents(
        fingerprint,
        origin,
        images_folder,
        images,
        locations,
        shards,
        read_rows=partial(_read_rows, path, by_number),
        hash_shard=lambda number: by_number[number].sha256,
        locate_shard=lambda number: path / SHARD_FOLDER / by_number[number].name,
    )


def _read_rows(path: Path, shards: Mapping[int, ShardRef], number: int, rows: Sequence[int], out: Features) -> None:
    read_features(path, shards[number], rows, out)


def list_examples(images: Sequence[ImageRow], locations: Mapping[FeatureKey, Location]) -> list[Example]:
    """Joins today's images with the sound features of their content; pure, and in the images' order."""
    examples = []
    for image in images:
        if image.status is not ImageStatus.DONE or image.content_hash is None:
            continue
        found = locations.get(FeatureKey(image.content_hash, 0))
        if found is not None and found.status is FeatureStatus.OK:
            examples.append(Example(image.path, image.label, image.split, image.content_hash, found.shard, found.row))
    return examples


def count_pending(contents: StoreContents) -> int:
    """Counts images that the next extraction will come to: not extracted yet, or their shard is lost."""
    unusable = list_unusable(contents.images, contents.locations)
    return sum(found.reason is UnusableReason.PENDING for found in unusable)
