"""The write side of a store: collects features and commits them a shard at a time."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Self

import numpy as np

from base.errors import (
    CatalogDamagedError,
    FingerprintMismatchError,
    StoreMissingError,
)
from base.files import sync_folder
from base.lock import LOCK_NAME, hold_write_lock
from base.signals import defer_interrupt
from features.catalog.catalog import CATALOG_NAME, Catalog, is_missing, load_fingerprint, load_origin
from features.catalog.database import describe_write_error
from features.catalog.manifest import SEAL_NAME, break_seal, write_seal
from features.catalog.tables import ImageRow
from features.maintenance.quarantine import QUARANTINE_FOLDER
from features.maintenance.recover import recover_store
from features.packed.view import VIEW_NAME, write_view
from features.schema import (
    FEATURE_DTYPE,
    FeatureKey,
    Features,
    FeatureStatus,
    Fingerprint,
    Origin,
    count_rows_per_shard,
    encode_json,
)
from features.shards.compression import Compression
from features.shards.shard import SHARD_FOLDER, ShardRows, encode_shard, write_shard
from features.store import DERIVED_FOLDER

STORE_NAMES = frozenset(
    {
        CATALOG_NAME,
        f"{CATALOG_NAME}-journal",
        LOCK_NAME,
        SHARD_FOLDER,
        SEAL_NAME,
        VIEW_NAME,
        QUARANTINE_FOLDER,
        DERIVED_FOLDER,
    }
)
"""What may stand in a store."""


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
        """Names the store; nothing is touched before the `with`.

        Args:
            store: the store's folder; made where it does not exist.
            fingerprint: how the features to come are made.
            origin: what is recorded about them.
            compression: of the features to come.
            rows_per_shard: how many features are committed at a time; 0 for as many as suit their size.
        """
        self._store = store
        self._fingerprint = fingerprint
        self._origin = origin
        # Shards are passed on: where the weights lie on this machine is in the catalog alone.
        self._shard_origin = replace(origin, weights_file=Path(origin.weights_file).name)
        self._compression = compression
        self._rows_per_shard = rows_per_shard or count_rows_per_shard(origin.feature_shape)
        self._added: dict[FeatureKey, FeatureStatus] = {}
        self._features: Features = np.empty((self._rows_per_shard, *origin.feature_shape), FEATURE_DTYPE)
        self._images: list[ImageRow] = []
        self._known: dict[FeatureKey, FeatureStatus] = {}
        self.notes: list[str] = []
        """What had to be brought into order when the store was opened, a line each."""

    def __enter__(self) -> Self:
        """Takes the lock, opens or creates the store, and brings in order what an interrupted run left.

        Raises:
            StoreLockedError: another process is writing.
            FingerprintMismatchError: the store's features were made in another way.
            StoreMissingError: the folder holds something else.
        """
        refuse_foreign_folder(self._store)
        with self._explain_write_errors(), ExitStack() as stack:
            create_folders(self._store)
            stack.enter_context(hold_write_lock(self._store))
            Catalog.create(self._store / CATALOG_NAME, self._fingerprint, self._origin)
            self.catalog = Catalog(self._store / CATALOG_NAME, writable=True)
            stack.callback(self.catalog.close)
            self._settle_fingerprint()
            break_seal(self._store)
            self._note_weights_file()
            self.notes = recover_store(self._store, self.catalog, self._fingerprint)
            self._known = {key: place.status for key, place in self.catalog.read_features().items()}
            self._stack = stack.pop_all()
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        """Lets go of the lock; what was not committed is dropped. A run that ended well seals the catalog."""
        with self._explain_write_errors(), self._stack:
            if error_type is None:
                self.catalog.close()
                self._known = {}
                write_view(self._store)
                write_seal(self._store)

    def _settle_fingerprint(self) -> None:
        """Refuses other features than the store's; a store that has none yet takes on what comes."""
        stored = load_fingerprint(self.catalog)
        if stored != self._fingerprint and not self.catalog.read_shards():
            break_seal(self._store)
            with self.catalog.transaction():
                self.catalog.write_meta("fingerprint", self._fingerprint.encode())
                self.catalog.write_meta("origin", encode_json(asdict(self._origin)))
            return
        refuse_other_fingerprint(self._store, stored, self._fingerprint)

    def _note_weights_file(self) -> None:
        """Record where the weights lie now, if they are the same."""
        stored, now = load_origin(self.catalog), self._origin
        if now.weights_file not in ("", stored.weights_file) and now.weights_file_sha256 == stored.weights_file_sha256:
            moved = replace(stored, weights_file=now.weights_file)
            self.catalog.write_meta("origin", encode_json(asdict(moved)))

    @property
    def folder(self) -> Path:
        """Where the store is."""
        return self._store

    @property
    def num_stored(self) -> int:
        """How many features are committed."""
        return len(self._known)

    def holds(self, key: FeatureKey) -> bool:
        """Says whether a feature is committed, or added and about to be."""
        return key in self._known or key in self._added

    def read_status(self, key: FeatureKey) -> FeatureStatus | None:
        """Return whether a feature that is held may be trained on; None where it is not held."""
        return self._known.get(key) or self._added.get(key)

    def sync_images(self, images: Sequence[ImageRow], gone: Sequence[str]) -> None:
        """Makes the catalog's images today's folder's, in one transaction."""
        with self._explain_write_errors(), self.catalog.transaction():
            self.catalog.remove_images(gone)
            self.catalog.write_images(images)

    def write_meta(self, key: str, value: str) -> None:
        """Records something about the store as a whole."""
        with self._explain_write_errors():
            self.catalog.write_meta(key, value)

    def add_image(self, image: ImageRow) -> None:
        """Records, at the next commit, how extraction went with an image; its features were added before."""
        self._images.append(image)

    def add_features(self, keys: Sequence[FeatureKey], features: Features, statuses: Sequence[FeatureStatus]) -> None:
        """Adds rows, committing whenever a shard is full.

        Args:
            keys: who they are; none is held already.
            features: (len(keys), ...) float16.
            statuses: whether each may be trained on.
        """
        for key, feature, status in zip(keys, features, statuses, strict=True):
            if len(self._added) == self._rows_per_shard:
                # The commit of a full shard was interrupted.
                self.commit()
            self._features[len(self._added)] = feature
            self._added[key] = status
            if len(self._added) == self._rows_per_shard:
                self.commit()

    def commit(self) -> None:
        """Commits what was added: one shard with its rows, and the images recorded so far.

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
        rows = ShardRows(keys, statuses, self._features[: len(keys)])
        data = encode_shard(rows, self._fingerprint, self._shard_origin, self._compression)
        # An interrupt may have come after the transaction. Equal rows give equal bytes.
        if self.catalog.holds_digest(hashlib.sha256(data).hexdigest()):
            self.catalog.write_images(self._images)
            return
        shard = write_shard(self._store, self.catalog.find_next_number(), data, len(keys))
        with self.catalog.transaction():
            self.catalog.add_shard(shard, keys, statuses)
            self.catalog.write_images(self._images)

    @contextmanager
    def _explain_write_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            safe = f"{self.num_stored:,} features are safe; " if self._known else ""
            raise describe_write_error(self._store, error, safe) from error


def create_folders(store: Path) -> None:
    """Makes a store's folders, so that they survive a power cut."""
    folder = store / SHARD_FOLDER
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(store)
        sync_folder(store.parent)


def refuse_stored_fingerprint(store: Path, asked: Fingerprint) -> None:
    """Raises FingerprintMismatchError where a store's features are of another fingerprint; touches nothing."""
    if is_missing(store / CATALOG_NAME):
        return
    catalog = Catalog(store / CATALOG_NAME, writable=False)
    try:
        if catalog.read_shards():
            refuse_other_fingerprint(store, load_fingerprint(catalog), asked)
    finally:
        catalog.close()


def refuse_other_fingerprint(store: Path, stored: Fingerprint, asked: Fingerprint) -> None:
    """Raises FingerprintMismatchError, naming each field that differs with both values."""
    differences = stored.list_differences(asked)
    if differences:
        raise FingerprintMismatchError(
            store,
            ", ".join(f"{name} {_shorten(has)}" for name, has, _ in differences),
            ", ".join(f"{name} {_shorten(wanted)}" for name, _, wanted in differences),
            "Give another --store for these features, or extract as the store was made",
        )


def _shorten(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def refuse_foreign_folder(store: Path) -> None:
    """Raises StoreMissingError for a folder that holds something else, CatalogDamagedError for shards alone."""
    if store.exists() and not store.is_dir():
        raise StoreMissingError(store, "a folder for the store", "a file", "Give another --store")
    if not store.is_dir() or (store / CATALOG_NAME).exists():
        return
    if any((store / SHARD_FOLDER).glob("*.h5")):
        raise CatalogDamagedError(
            store,
            "a catalog beside the shards",
            "shards alone",
            "Run `python -m features check STORE --rebuild-catalog`",
        )
    foreign = sorted(entry.name for entry in store.iterdir() if entry.name not in STORE_NAMES)
    if foreign:
        raise StoreMissingError(
            store,
            "a feature store or an empty folder",
            f"a folder with {foreign[0]!r} in it",
            "Give another --store",
        )
