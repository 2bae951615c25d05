"""Write a store: features are collected, and committed a shard at a time."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Self

import numpy as np

from base.errors import CatalogDamagedError, FingerprintMismatchError, StoreMissingError
from base.files import sync_folder
from base.lock import LOCK_NAME, hold_write_lock
from base.signals import defer_interrupt
from features.catalog.catalog import CATALOG_NAME, Catalog, load_fingerprint, load_origin
from features.catalog.database import convert_write_error
from features.catalog.tables import ImageRow
from features.maintenance.recover import recover_store
from features.packed.view import write_view
from features.schema import (
    DERIVED_FOLDER,
    FEATURE_DTYPE,
    QUARANTINE_FOLDER,
    VIEW_NAME,
    FeatureKey,
    Features,
    FeatureStatus,
    Fingerprint,
    Origin,
    count_rows_per_shard,
    encode_json,
)
from features.shards.compression import Compression
from features.shards.shard import SHARD_FOLDER, ShardHeader, encode_shard, write_shard

STORE_NAMES = frozenset({CATALOG_NAME, LOCK_NAME, SHARD_FOLDER, VIEW_NAME, QUARANTINE_FOLDER, DERIVED_FOLDER})
"""Entries of a store, beside the catalog's journal."""


class FeatureWriter:
    """Writes features into a store, creating it where there is none, under the store's lock.

    A shard is the unit of commit: its file reaches the disk under its final name, then one transaction
    enters its rows, and the images recorded so far, in the catalog. What is committed stays.
    """

    def __init__(
        self,
        store: Path,
        fingerprint: Fingerprint,
        origin: Origin,
        *,
        compression: Compression = Compression.GZIP,
        rows_per_shard: int = 0,
    ) -> None:
        """Name the store, which is created where it does not exist; nothing is written before the `with`.

        Args:
            store: the store's folder.
            fingerprint: of the features to come.
            origin: their source.
            compression: of their shards.
            rows_per_shard: features in a commit; 0 for as many as suit their size.
        """
        self.folder = store
        self._fingerprint = fingerprint
        self._origin = origin
        self._compression = compression
        self._rows_per_shard = rows_per_shard or count_rows_per_shard(origin.feature_shape)
        self._added: dict[FeatureKey, FeatureStatus] = {}
        self._features: Features = np.empty((self._rows_per_shard, *origin.feature_shape), FEATURE_DTYPE)
        self._images: list[ImageRow] = []
        self._known: dict[FeatureKey, FeatureStatus] = {}
        self.notes: list[str] = []
        """Changes that were made when the store was opened after an interrupted run, a line each."""

    def __enter__(self) -> Self:
        """Take the lock, open or create the store, and bring in order what an interrupted run left.

        Raises:
            StoreLockedError: another process is writing.
            FingerprintMismatchError: the store's features were computed in another way.
            StoreMissingError: the folder holds something else.
        """
        check_store_folder(self.folder)
        with self._explain_write_errors(), ExitStack() as stack:
            if not (self.folder / SHARD_FOLDER).is_dir():
                (self.folder / SHARD_FOLDER).mkdir(parents=True, exist_ok=True)
                sync_folder(self.folder)
                sync_folder(self.folder.parent)
            stack.enter_context(hold_write_lock(self.folder))
            Catalog.create(self.folder / CATALOG_NAME, self._fingerprint, self._origin)
            self.catalog = stack.enter_context(closing(Catalog(self.folder / CATALOG_NAME, writable=True)))
            self._settle_fingerprint()
            self.notes = recover_store(self.folder, self.catalog, self._fingerprint)
            self._known = {key: place.status for key, place in self.catalog.read_features().items()}
            self._stack = stack.pop_all()
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        """Release the lock; what was not committed is dropped. A run without an error writes the view."""
        with self._explain_write_errors(), self._stack:
            if error_type is None:
                self.catalog.close()
                self._known = {}
                write_view(self.folder)

    def _settle_fingerprint(self) -> None:
        """Refuse other features than the store's; a store without features takes on the new fingerprint."""
        stored, origin = load_fingerprint(self.catalog), load_origin(self.catalog)
        if stored != self._fingerprint and not self.catalog.read_shards():
            with self.catalog.transaction():
                self.catalog.write_meta("fingerprint", self._fingerprint.encode())
                self.catalog.write_meta("origin", encode_json(asdict(self._origin)))
            return
        check_fingerprint(self.folder, stored, self._fingerprint)
        # The same weights file may be in another place now.
        now = self._origin
        if now.weights_file not in ("", origin.weights_file) and now.weights_file_sha256 == origin.weights_file_sha256:
            self.catalog.write_meta("origin", encode_json(asdict(replace(origin, weights_file=now.weights_file))))

    @property
    def num_stored(self) -> int:
        """Number of committed features."""
        return len(self._known)

    def holds(self, key: FeatureKey) -> bool:
        """Return whether a feature is committed, or added and about to be."""
        return self.read_status(key) is not None

    def read_status(self, key: FeatureKey) -> FeatureStatus | None:
        """Return whether a feature that is held may be trained on; None where it is not held."""
        return self._known.get(key) or self._added.get(key)

    def update_images(self, images: Sequence[ImageRow], removed: Sequence[str]) -> None:
        """Replace the catalog's images by those of the folder, in one transaction."""
        with self._explain_write_errors(), self.catalog.transaction():
            self.catalog.remove_images(removed)
            self.catalog.write_images(images)

    def write_meta(self, key: str, value: str) -> None:
        """Record a value about the store as a whole."""
        with self._explain_write_errors():
            self.catalog.write_meta(key, value)

    def add_image(self, image: ImageRow) -> None:
        """Record the outcome for an image at the next commit; its features were added before."""
        self._images.append(image)

    def add_features(self, keys: Sequence[FeatureKey], features: Features, statuses: Sequence[FeatureStatus]) -> None:
        """Add rows of keys that are not held, features being (len(keys), ...) float16; commit full shards."""
        for key, feature, status in zip(keys, features, statuses, strict=True):
            if len(self._added) == self._rows_per_shard:
                # The commit of a full shard was interrupted.
                self.commit()
            self._features[len(self._added)] = feature
            self._added[key] = status
            if len(self._added) == self._rows_per_shard:
                self.commit()

    def commit(self) -> None:
        """Commit what was added: one shard with its rows, and the images recorded so far.

        Raises:
            StoreWriteError: the disk refused; everything committed earlier is safe.
        """
        with defer_interrupt(), self._explain_write_errors():
            # What was added is kept until it is committed: after an interrupt the same commit can be made again.
            if self._added:
                self._commit_rows()
            else:
                self.catalog.write_images(self._images)
            self._known.update(self._added)
            self._added, self._images = {}, []

    def _commit_rows(self) -> None:
        keys, statuses = list(self._added), list(self._added.values())
        # Shards are passed on: the folder of the weights on this machine is in the catalog alone.
        origin = replace(self._origin, weights_file=Path(self._origin.weights_file).name)
        header = ShardHeader(self._fingerprint, origin, keys, statuses)
        data = encode_shard(header, self._features[: len(keys)], self._compression)
        shards = self.catalog.read_shards()
        # An interrupt may have come after the transaction. Equal rows give equal bytes.
        if hashlib.sha256(data).hexdigest() in {shard.sha256 for shard in shards}:
            self.catalog.write_images(self._images)
            return
        number = max((shard.number for shard in shards), default=0) + 1
        shard = write_shard(self.folder, number, data, len(keys))
        with self.catalog.transaction():
            self.catalog.add_shard(shard, keys, statuses)
            self.catalog.write_images(self._images)

    @contextmanager
    def _explain_write_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            safe = f"{self.num_stored:,} features are safe; " if self._known else ""
            raise convert_write_error(self.folder, error, safe) from error


def check_fingerprint(store: Path, stored: Fingerprint, asked: Fingerprint) -> None:
    """Raise FingerprintMismatchError, naming each field that differs with both values."""
    differences = stored.list_differences(asked)
    if differences:
        expected = ", ".join(f"{name} {_shorten(has)}" for name, has, _ in differences)
        got = ", ".join(f"{name} {_shorten(wanted)}" for name, _, wanted in differences)
        advice = "Give another --store for these features, or extract as the store was made"
        raise FingerprintMismatchError(store, expected, got, advice)


def _shorten(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def check_store_folder(store: Path) -> None:
    """Raise StoreMissingError for a folder that holds something else, CatalogDamagedError for shards alone."""
    if store.exists() and not store.is_dir():
        raise StoreMissingError(store, "a folder for the store", "a file", "Give another --store")
    if not store.is_dir() or (store / CATALOG_NAME).exists():
        return
    if any((store / SHARD_FOLDER).glob("*.h5")):
        advice = "Run `python -m features check STORE --rebuild-catalog`"
        raise CatalogDamagedError(store, "a catalog beside the shards", "shards alone", advice)
    foreign = sorted(entry.name for entry in store.iterdir() if entry.name not in STORE_NAMES)
    if foreign:
        got = f"a folder with {foreign[0]!r} in it"
        raise StoreMissingError(store, "a feature store or an empty folder", got, "Give another --store")
