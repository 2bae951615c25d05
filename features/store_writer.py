"""Write a feature store: features are collected and committed one shard at a time."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple, Self

from base.errors import StoreWriteError
from base.lock import hold_write_lock
from base.signals import defer_interrupt
from base.system import sync_folder
from features.catalog.catalog import CATALOG_NAME, Catalog, load_fingerprint, load_label_source, load_origin
from features.catalog.database import convert_write_error
from features.catalog.locations import Locations
from features.catalog.tables import ImageRow
from features.folder import check_fingerprint, check_store_folder
from features.labels import LABELS_KEY, LabelSource
from features.maintenance.recover import find_size_problem, recover_store
from features.options import Compression
from features.packed.view import update_view
from features.quantized import QuantizedModel, write_model
from features.schema import FeatureKey, Features, FeatureStatus, Fingerprint, Origin, encode_json
from features.shards.shard import SHARD_FOLDER, ShardRef, write_shard
from features.shards.size import count_rows_per_shard
from features.shards.write import ShardEncoder


class _Row(NamedTuple):
    """Feature that is added, but not committed."""

    data: bytes
    """Stored bytes: the compressed values and their checksum."""
    status: FeatureStatus


class FeatureWriter:
    """Context manager that writes features to a store and holds its lock; it creates a missing store.

    A shard is the unit of commit: its file is written durably under its final name, then one transaction adds its rows
    and the images recorded so far to the catalog. Committed features survive any interruption.
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
        """Create a writer; nothing is written before the `with` block.

        Args:
            store: folder of the store.
            fingerprint: fingerprint of the features to write.
            origin: shape and source of the features.
            compression: compression of new shards.
            rows_per_shard: number of features in a shard; 0 chooses it from their size.
        """
        self.folder = store
        num_rows = rows_per_shard or count_rows_per_shard(origin.feature_shape)
        self.encoder = ShardEncoder(store, fingerprint, origin, compression, num_rows)
        """Encoder of the shards; other processes write shards with it that `commit_shard` commits."""
        self._num_reserved = 0
        self._added: dict[FeatureKey, _Row] = {}
        self._images: list[ImageRow] = []
        self.stored, self._committed = Locations([]), dict[FeatureKey, FeatureStatus]()
        """Features that the store had when it was opened, and those committed since then."""
        self.notes: list[str] = []
        """Repairs made after an interrupted run when the store was opened, one line each."""

    def __enter__(self) -> Self:
        """Acquire the lock, open or create the store, and recover from an interrupted run.

        Raises:
            StoreLockedError: another process is writing to the store.
            FingerprintMismatchError: the stored features were computed with other settings.
            StoreMissingError: the folder contains other files.
            CatalogDamagedError: the catalog is damaged, or missing beside shards.
            StoreWriteError: the store cannot be written.
        """
        check_store_folder(self.folder)
        with self._convert_write_errors(), ExitStack() as stack:
            if not (self.folder / SHARD_FOLDER).is_dir():
                (self.folder / SHARD_FOLDER).mkdir(parents=True, exist_ok=True)
                sync_folder(self.folder)
                sync_folder(self.folder.parent)
            stack.enter_context(hold_write_lock(self.folder))
            Catalog.create(self.folder / CATALOG_NAME, self.encoder.fingerprint, self.encoder.origin)
            self.catalog = stack.enter_context(closing(Catalog(self.folder / CATALOG_NAME, writable=True)))
            self._check_fingerprint()
            self.notes = recover_store(self.folder, self.catalog, self.encoder.fingerprint)
            self.stored = self.catalog.read_features()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        """Release the lock and discard uncommitted features; without an error, update the view `features.h5`."""
        with self._convert_write_errors(), self._stack:
            if error_type is None:
                self.stored, self._committed = Locations([]), {}
                update_view(self.folder, self.catalog)

    def _check_fingerprint(self) -> None:
        """Check the fingerprint against the stored one; an empty store gets the new fingerprint."""
        stored, origin = load_fingerprint(self.catalog), load_origin(self.catalog)
        if stored != self.encoder.fingerprint and not self.catalog.read_shards():
            with self.catalog.transaction():
                self.catalog.write_meta("fingerprint", self.encoder.fingerprint.encode())
                self.catalog.write_meta("origin", encode_json(asdict(self.encoder.origin)))
            return
        check_fingerprint(self.folder, stored, self.encoder.fingerprint)
        # The same weights file may have moved.
        now = self.encoder.origin
        if now.weights_file not in ("", origin.weights_file) and now.weights_file_sha256 == origin.weights_file_sha256:
            self.catalog.write_meta("origin", encode_json(asdict(replace(origin, weights_file=now.weights_file))))

    @property
    def num_stored(self) -> int:
        """Number of committed features."""
        return len(self.stored) + len(self._committed)

    def holds(self, key: FeatureKey) -> bool:
        """Return whether a feature is committed or added."""
        return key in self._added or key in self._committed or key in self.stored

    def read_status(self, key: FeatureKey) -> FeatureStatus | None:
        """Return the status of a committed or added feature, or None if there is none."""
        if added := self._added.get(key):
            return added.status
        if committed := self._committed.get(key):
            return committed
        stored = self.stored.get(key)
        return stored.status if stored else None

    def list_unsound(self) -> list[FeatureKey]:
        """List the features that earlier runs committed and that are not usable for training."""
        return self.stored.list_unsound()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Open one transaction of the catalog for all changes in the block; without it, each change is its own."""
        with self._convert_write_errors(), self.catalog.transaction():
            yield

    def update_images(
        self, images: Sequence[ImageRow], removed: Sequence[str], labels: LabelSource | None = None
    ) -> None:
        """Add or replace images in the catalog, remove others (by path), and record the source of the labels, if given.

        All changes are one transaction, so that labels are never read as those of another source.
        """
        with self.transaction():
            self.catalog.remove_images(removed)
            self.catalog.write_images(images)
            if labels is not None and labels != load_label_source(self.catalog):
                self.catalog.write_meta(LABELS_KEY, labels.encode())

    def write_meta(self, key: str, value: str) -> None:
        """Set a metadata value of the store."""
        with self._convert_write_errors():
            self.catalog.write_meta(key, value)

    def write_quantized(self, model: QuantizedModel) -> None:
        """Write the quantised backbone that computes the features, unless the store has it."""
        with self._convert_write_errors():
            write_model(self.folder, model)

    def add_image(self, image: ImageRow) -> None:
        """Record an image for the next commit; its features must have been added before."""
        self._images.append(image)

    def add_features(self, keys: Sequence[FeatureKey], features: Features, statuses: Sequence[FeatureStatus]) -> None:
        """Compress and add new features: `add_rows` of the result of `encoder.encode_rows`."""
        self.add_rows(keys, self.encoder.encode_rows(features), statuses)

    def add_rows(self, keys: Sequence[FeatureKey], rows: Sequence[bytes], statuses: Sequence[FeatureStatus]) -> None:
        """Add new features, and commit each full shard.

        Args:
            keys: keys of features that are not yet in the store.
            rows: the features, as compressed by `encoder.encode_rows`.
            statuses: status of each feature.

        Raises:
            StoreWriteError: a commit failed; everything committed earlier is intact.
        """
        for key, data, status in zip(keys, rows, statuses, strict=True):
            if len(self._added) == self.encoder.rows_per_shard:
                # An earlier commit of the full shard was interrupted.
                self.commit()
            self._added[key] = _Row(data, status)
            if len(self._added) == self.encoder.rows_per_shard:
                self.commit()

    def commit(self) -> None:
        """Commit the added features as one shard, and the images recorded so far.

        Raises:
            StoreWriteError: a write failed; everything committed earlier is intact.
        """
        with defer_interrupt(), self._convert_write_errors():
            # Added features are discarded only after the commit, so that an interrupted commit can be repeated.
            if self._added:
                self._commit_rows()
            else:
                self.catalog.write_images(self._images)
            self._committed.update((key, row.status) for key, row in self._added.items())
            self._added, self._images = {}, []

    def _commit_rows(self) -> None:
        keys, statuses = list(self._added), [row.status for row in self._added.values()]
        data = self.encoder.encode_shard(keys, [row.data for row in self._added.values()], statuses)
        # After an interrupted commit the shard may be in the catalog already. Equal rows give equal bytes.
        if hashlib.sha256(data).hexdigest() in {shard.sha256 for shard in self.catalog.read_shards()}:
            self.catalog.write_images(self._images)
            return
        shard = write_shard(self.folder, self.reserve_number(), data, len(keys))
        with self.catalog.transaction():
            self.catalog.add_shard(shard, keys, statuses)
            self.catalog.write_images(self._images)

    def reserve_number(self) -> int:
        """Return a number for a new shard that no shard has, and that is not returned again."""
        last = max((shard.number for shard in self.catalog.read_shards()), default=0)
        self._num_reserved = max(last, self._num_reserved) + 1
        return self._num_reserved

    def commit_shard(self, shard: ShardRef, keys: Sequence[FeatureKey], statuses: Sequence[FeatureStatus]) -> int:
        """Commit a shard that another process wrote, and the images recorded so far; return the number of new features.

        Args:
            shard: the shard, with a number from `reserve_number`.
            keys: key of each row. The shard's file is removed if the store has all of them already.
            statuses: status of each row.

        Raises:
            StoreWriteError: the file is not in the store, or a write failed.
        """
        if problem := find_size_problem(self.folder, shard):
            expected, advice = f"shard {shard.name} that a worker wrote", "Give a --store that all workers share"
            raise StoreWriteError(self.folder, expected, f"a file that {problem}", advice)
        new = {key: status for key, status in zip(keys, statuses, strict=True) if not self.holds(key)}
        with defer_interrupt(), self._convert_write_errors():
            with self.catalog.transaction():
                if new:
                    self.catalog.add_shard(shard, keys, statuses)
                self.catalog.write_images(self._images)
            self._committed.update(new)
            self._images = []
            if not new:
                (self.folder / SHARD_FOLDER / shard.name).unlink()
        return len(new)

    @contextmanager
    def _convert_write_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            raise convert_write_error(self.folder, error, self.num_stored) from error
