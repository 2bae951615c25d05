"""Read a packed store: a single HDF5 file written by `python -m features pack`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from base.errors import FeatureStoreError, ShardDamagedError, StoreMissingError
from base.regular import FileIdentity, RegularFile
from features.catalog.locations import Locations
from features.catalog.tables import ImageRow, Location, check_paths, decode_text, encode_text
from features.contents import StoreContents, pause_collector
from features.labels import LABELS_KEY, LabelSource
from features.schema import (
    FEATURE_DTYPE,
    SCHEMA_VERSION,
    FeatureKey,
    Features,
    FeatureStatus,
    Fingerprint,
    ImageStatus,
    Origin,
)
from features.shards.chunks import read_rows
from features.shards.compression import load_filters
from features.shards.hdf5 import read_texts
from features.shards.validate import open_untrusted_hdf5

PACK_KIND = "headstart packed store"
MISSING_GROUP = "missing"
"""HDF5 group of the images without a row."""
NO_ROW = -1
"""Row number of a feature that is not in the file, because it is not usable."""
_PACK_AGAIN = "Pack the store again"
_ERRORS = (OSError, LookupError, ValueError, TypeError, RuntimeError, AttributeError)
"""Errors of h5py and of decoding, raised for a damaged or untrusted file."""


@pause_collector()
def load_pack(path: Path) -> StoreContents:
    """Read the contents of a packed store, except the feature values.

    Raises:
        StoreMissingError: the file is not a valid packed store.
        FeatureStoreError: the file has another schema version.
    """
    try:
        with open_untrusted_hdf5(path) as (file, source):
            contents = _read_contents(path, file, _PackFile(path.resolve(), source.identity))
            if source.identify() != source.identity:
                raise ValueError("a file that changed while it was read")
            return contents
    except _ERRORS as error:
        raise StoreMissingError(path, "a packed store", str(error), _PACK_AGAIN) from error


class _PackFile:
    """File of a packed store; it is opened for each read, and must not change between reads."""

    def __init__(self, path: Path, identity: FileIdentity) -> None:
        self.path, self._identity = path, identity
        self._sha256 = ""

    def read_rows(self, _: int, rows: Sequence[int], out: Features) -> None:
        with self._open() as opened, h5py.File(opened, "r") as file:
            load_filters(file["features"])
            read_rows(file["features"], rows, out)

    def hash(self, _: int) -> str:
        if not self._sha256:
            with self._open() as opened:
                self._sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        return self._sha256

    @contextmanager
    def _open(self) -> Iterator[RegularFile]:
        try:
            with RegularFile(self.path) as opened:
                self._compare(opened.identity)
                yield opened
                self._compare(opened.identify())
        except _ERRORS as error:
            raise ShardDamagedError(self.path, "intact features", str(error), _PACK_AGAIN) from error

    def _compare(self, identity: FileIdentity) -> None:
        if identity != self._identity:
            expected, got = "the packed store as it was opened", "a replaced or modified file"
            raise ShardDamagedError(self.path, expected, got, "Run the command again")


def _read_contents(path: Path, file: h5py.File, pack: _PackFile) -> StoreContents:
    if "kind" not in file.attrs or read_texts(file, "kind") != [PACK_KIND]:
        raise StoreMissingError(path, "a feature store", "another HDF5 file", "Give another --store")
    version = int(file.attrs["headstart_schema_version"])
    if version != SCHEMA_VERSION:
        raise FeatureStoreError(path, f"schema version {SCHEMA_VERSION}", str(version), _PACK_AGAIN)
    fingerprint = Fingerprint.from_json(*read_texts(file, "fingerprint"))
    origin = Origin.from_json(*read_texts(file, "origin"))
    (images_folder,) = read_texts(file, "images_folder")
    # Older files do not have this attribute.
    labels_from = LabelSource.from_json(*read_texts(file, LABELS_KEY)) if LABELS_KEY in file.attrs else LabelSource()
    class_names = read_texts(file, "class_names")
    paths, splits = (_read_text(file[name]) for name in ("paths", "splits"))
    labels = [class_names[number] for number in file["labels"][:].astype(np.uint32).tolist()]
    hashes = _read_hashes(file["content_hashes"], len(paths))
    # Older files have only view 0.
    views = file["views"][:].tolist() if "views" in file else [0] * len(hashes)
    expected = (len(paths), *origin.feature_shape)
    if file["features"].shape != expected or file["features"].dtype != FEATURE_DTYPE:
        found = f"shape {file['features'].shape} and dtype {file['features'].dtype}"
        raise FeatureStoreError(path, f"features of shape {expected} and dtype {FEATURE_DTYPE}", found, _PACK_AGAIN)
    images: list[ImageRow] = []
    locations: dict[FeatureKey, Location] = {}
    for row, (image_path, label, split, content_hash, view) in enumerate(
        zip(paths, labels, splits, hashes, views, strict=True)
    ):
        locations[FeatureKey(content_hash, view)] = Location(0, row, FeatureStatus.OK)
        if view == 0:
            images.append(ImageRow(image_path, label, split, 0, 0, content_hash, ImageStatus.DONE))
    # Older files do not have this group.
    if MISSING_GROUP in file:
        images += _read_missing(file[MISSING_GROUP], locations)
    check_paths(image.path for image in images)
    # In the order of a catalog, so that a store and its packed store give the same head.
    images.sort(key=lambda image: encode_text(image.path))
    return StoreContents(
        fingerprint,
        origin,
        images_folder,
        images,
        Locations.collect(locations),
        [],
        read_rows=pack.read_rows,
        hash_shard=pack.hash,
        locate_shard=lambda _: pack.path,
        labels=labels_from,
    )


def _read_missing(group: h5py.Group, locations: dict[FeatureKey, Location]) -> list[ImageRow]:
    """Read the images without a row, and add the statuses of unusable features to `locations`."""
    columns = [_read_text(group[name]) for name in ("paths", "labels", "splits", "statuses", "reasons")]
    hashes = _read_hashes(group["content_hashes"], len(columns[0]))
    images = []
    for path, label, split, status, reason, content_hash in zip(*columns, hashes, strict=True):
        known = content_hash if any(content_hash) else None
        if status in (FeatureStatus.NONFINITE, FeatureStatus.OVERFLOW):
            locations.setdefault(FeatureKey(content_hash, 0), Location(0, NO_ROW, FeatureStatus(status)))
            status, reason = ImageStatus.DONE, ""
        images.append(ImageRow(path, label, split, 0, 0, known, ImageStatus(status), reason))
    return images


def _read_hashes(dataset: h5py.Dataset, count: int) -> list[bytes]:
    return [row.tobytes() for row in dataset[:].reshape(count, 32)]


def _read_text(dataset: h5py.Dataset) -> list[str]:
    return [decode_text(value) for value in dataset[:].tolist()]
