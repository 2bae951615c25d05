"""Contents of a store except the feature values, from the catalog of a folder or from a packed file."""

from __future__ import annotations

import gc
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from base.terminal import format_count
from features.catalog.catalog import CATALOG_NAME, Catalog, load_fingerprint, load_label_source, load_origin
from features.catalog.database import build_damage_error
from features.catalog.locations import OK_CODE, Locations
from features.catalog.tables import ImageRow, Location
from features.labels import LabelSource
from features.parts import PART_KEY
from features.schema import FEATURE_DTYPE, FeatureKey, Features, FeatureStatus, Fingerprint, ImageStatus, Origin
from features.shards.shard import SHARD_FOLDER, ShardRef, read_features

_NUM_CLASSES_SHOWN = 10


@contextmanager
def pause_collector() -> Iterator[None]:
    """Disable the garbage collector, which would repeatedly scan many objects that are all in use."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Example(NamedTuple):
    """View of an image with a usable feature, and the location of that feature."""

    path: str
    label: str
    split: str
    content_hash: bytes
    shard: int
    row: int
    view: int = 0


class UnusableReason(StrEnum):
    """Reason why an image has no usable feature."""

    PENDING = "pending"
    """The image is not extracted yet, or its shard is lost."""
    FAILED = "failed"
    """The file could not be decoded."""
    UNSOUND = "unsound"
    """The feature has NaN, infinity or a value beyond the range of float16."""


class UnusableImage(NamedTuple):
    """Image without a usable feature."""

    image: ImageRow
    reason: UnusableReason
    detail: str
    """Message of the decoder for FAILED, status of the feature for UNSOUND, otherwise empty."""


@dataclass(frozen=True)
class StoreContents:
    """Metadata of a store, and functions that read its features."""

    fingerprint: Fingerprint
    origin: Origin
    images_folder: str
    images: list[ImageRow]
    """All images found by the last scan of the folder, sorted by the bytes of their paths."""
    locations: Locations
    shards: list[ShardRef]
    read_rows: Callable[[int, Sequence[int], Features], None]
    """Function that reads rows (ascending) of a shard (by number) into an array."""
    hash_shard: Callable[[int], str]
    """Function that returns the SHA-256 of the file of a shard (by number), in hexadecimal digits."""
    locate_shard: Callable[[int], Path]
    """Function that returns the path of the file of a shard (by number)."""
    labels: LabelSource = LabelSource()
    """Source of the labels; by default the names of the class folders."""
    part: str = ""
    """Parts of the folder that the store has, such as `3/16`; empty if it has the whole folder."""

    def find_usable(self, key: FeatureKey) -> Location | None:
        """Return the location of a feature, or None if it is not stored or not usable for training."""
        location = self.locations.get(key)
        return location if location is not None and location.status is FeatureStatus.OK else None

    @pause_collector()
    def list_examples(self) -> list[Example]:
        """Return an example for each image with a usable feature, in the order of the images."""
        locations, places = self.locations, self._find_places()
        stored = np.flatnonzero(places >= 0)
        usable = stored[locations.statuses[places[stored]] == OK_CODE]
        images = map(self.images.__getitem__, usable.tolist())
        shards, rows = locations.shards[places[usable]].tolist(), locations.rows[places[usable]].tolist()
        create = partial(tuple.__new__, Example)
        return [
            create((path, label, split, content_hash, shard, row, 0))
            for (path, label, split, _, _, content_hash, _, _), shard, row in zip(images, shards, rows, strict=True)
        ]

    def list_unusable(self) -> list[UnusableImage]:
        """Return every image without a usable feature, in the order of the images."""
        found = []
        for image, place in zip(self.images, self._find_places().tolist(), strict=True):
            if image.status is ImageStatus.FAILED:
                found.append(UnusableImage(image, UnusableReason.FAILED, image.reason))
            elif place < 0:
                found.append(UnusableImage(image, UnusableReason.PENDING, ""))
            elif self.locations.statuses[place] != OK_CODE:
                status = self.locations.read_status(place)
                found.append(UnusableImage(image, UnusableReason.UNSOUND, status.value))
        return found

    def _find_places(self) -> NDArray[np.int64]:
        """Return the position in `locations` of view 0 of each image, -1 for an image that is not extracted."""
        hashes = [(image.status is ImageStatus.DONE and image.content_hash) or b"" for image in self.images]
        return self.locations.find_first(hashes)

    @property
    def num_pending(self) -> int:
        """Number of images that are not extracted yet or whose shard is lost; the next extraction reads them."""
        return sum(found.reason is UnusableReason.PENDING for found in self.list_unusable())

    def hash_shards(self, numbers: Iterable[int]) -> str:
        """Return a digest of the files of shards, which does not depend on their order and their numbers."""
        return hashlib.sha256("".join(sorted({*map(self.hash_shard, numbers)})).encode()).hexdigest()

    def describe(self, path: Path, examples: Sequence[Example]) -> dict[str, str]:
        """Describe a store with this content in a few words for each of its properties."""
        labels = Counter(label for example in examples for label in self.labels.list_labels(example.label))
        shown = [f"{label!r}: {count}" for label, count in sorted(labels.items())[:_NUM_CLASSES_SHOWN]]
        more = [f"{len(labels) - len(shown)} more"] if len(labels) > len(shown) else []
        splits = Counter(example.split for example in examples if example.split)
        return {
            "path": repr(str(path)),
            "pictures": f"{len(examples)}",
            **({"splits": repr(dict(sorted(splits.items())))} if splits else {}),
            "classes": f"{{{', '.join([*shown, *more])}}}",
            **({"labels": "several for each picture"} if self.labels.is_multi_label else {}),
            "feature_shape": f"{self.origin.feature_shape}",
            "cut": repr(self.fingerprint.cut),
            "dtype": repr(FEATURE_DTYPE.name),
        }

    def list_rows(self, examples: Sequence[Example]) -> list[tuple[str, str]]:
        """Return the rows of a table that describes a store with this content."""
        labels = Counter(label for example in examples for label in self.labels.list_labels(example.label))
        counts = [(label, f"{count:,} pictures") for label, count in sorted(labels.items())]
        more = [("…", format_count(len(counts) - _NUM_CLASSES_SHOWN, "more class", "more classes"))]
        splits = Counter(example.split for example in examples if example.split)
        shares = [f"{count:,} in {split}" for split, count in sorted(splits.items())]
        shape = " x ".join(map(str, self.origin.feature_shape))
        return [
            ("pictures", ", ".join([f"{len(examples):,}", *shares])),
            *counts[:_NUM_CLASSES_SHOWN],
            *(more if len(counts) > _NUM_CLASSES_SHOWN else []),
            ("feature of a picture", f"{shape} {FEATURE_DTYPE.name}, output of {self.fingerprint.cut}"),
        ]


@pause_collector()
def load_folder(path: Path) -> StoreContents:
    """Read the catalog of a store in one snapshot.

    Raises:
        StoreMissingError: the path has no store.
        CatalogDamagedError: the catalog is damaged.
    """
    with closing(Catalog(path / CATALOG_NAME, writable=False)) as catalog, catalog.snapshot():
        fingerprint, origin = load_fingerprint(catalog), load_origin(catalog)
        meta, labels = catalog.read_all_meta(), load_label_source(catalog)
        images, locations = catalog.read_images(), catalog.read_features()
        shards = {shard.number: shard for shard in catalog.read_shards()}
    num_rows = {number: shard.num_rows for number, shard in shards.items()}
    if (place := locations.find_outside(num_rows)) is not None:
        got = f"a feature in row {locations.rows[place]} of shard {locations.shards[place]}, which does not exist"
        raise build_damage_error(path / CATALOG_NAME, got)
    return StoreContents(
        fingerprint,
        origin,
        meta.get("images_folder", ""),
        images,
        locations,
        list(shards.values()),
        read_rows=lambda number, rows, out: read_features(path, shards[number], rows, out),
        hash_shard=lambda number: shards[number].sha256,
        locate_shard=lambda number: path / SHARD_FOLDER / shards[number].name,
        labels=labels,
        part=meta.get(PART_KEY, ""),
    )
