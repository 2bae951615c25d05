"""Summary of a store that takes part in a merge: everything except its pictures and features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from base.errors import FeatureStoreError, StoreLockedError
from base.lock import is_locked
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.catalog.database import convert_sqlite_errors
from features.contents import StoreContents, load_folder
from features.labels import LabelSource
from features.merging.place import require_size
from features.parts import FOLDER_KEY, PART_KEY, Parts, find_part
from features.schema import FeatureKey, Fingerprint, ImageStatus, Origin, is_training
from features.shards.shard import SHARD_FOLDER, ShardRef


@dataclass(frozen=True)
class StoreSummary:
    """Store that takes part in a merge, as it was when its catalog was read."""

    path: Path
    parts: Parts | None
    """Parts of the folder that the store has; None for a store of the whole folder."""
    folder: str
    """Description of the whole folder when the parts were extracted; for a whole store, at its last merge of parts."""
    labels: LabelSource
    fingerprint: Fingerprint
    origin: Origin
    shards: tuple[ShardRef, ...]
    meta: Mapping[str, str]
    """All values of the catalog's `meta`."""
    num_images: int
    num_pending: int
    """Number of pictures that the next extraction reads, also those that lack views."""
    num_views: int
    """Number of views of a training picture; 0 if the store has none."""

    @property
    def numbers(self) -> frozenset[int]:
        """Numbers of the parts; empty for a store of the whole folder."""
        return self.parts.numbers if self.parts else frozenset()

    @property
    def count(self) -> int:
        """Number of parts of the folder; 0 for a store of the whole folder."""
        return self.parts.count if self.parts else 0


def summarise_store(path: Path) -> StoreSummary:
    """Read the catalog of a store.

    Raises:
        StoreMissingError: the path has no store.
        CatalogDamagedError: the catalog is damaged.
    """
    return _summarise(path, load_folder(path))


def _summarise(path: Path, contents: StoreContents) -> StoreSummary:
    with closing(Catalog(path / CATALOG_NAME, writable=False)) as catalog:
        meta = catalog.read_all_meta()
    with convert_sqlite_errors(path / CATALOG_NAME):
        parts = Parts.parse(meta[PART_KEY]) if meta.get(PART_KEY) else None
    num_views = _count_views(contents)
    return StoreSummary(
        path,
        parts,
        meta.get(FOLDER_KEY, ""),
        contents.labels,
        contents.fingerprint,
        contents.origin,
        tuple(contents.shards),
        meta,
        len(contents.images),
        contents.num_pending + _count_without_views(contents, num_views),
        num_views,
    )


def summarise_part(path: Path) -> StoreSummary:
    """Read the catalog of a store to merge, and check that no process is writing it, and the sizes of its shards.

    Raises:
        StoreLockedError: a process is writing to the store.
        FeatureStoreError: the store has pictures of other parts than it records.
        ShardDamagedError: a shard is missing or truncated.
    """
    if is_locked(path):
        expected, advice = "a store that no process is writing", "Wait until its extraction ends, then merge again"
        raise StoreLockedError(path, expected, "a running extraction", advice)
    contents = load_folder(path)
    found = _summarise(path, contents)
    # Two stores of different parts therefore never have the same path.
    foreign = (image.path for image in contents.images if found.parts and not found.parts.holds(image.path))
    if path_outside := next(foreign, ""):
        got = f"{path_outside}, which is in part {find_part(path_outside, found.count)}"
        advice = "Give the stores of the parts, instead of a store into which unfinished parts were merged"
        raise FeatureStoreError(path, f"pictures of part {found.parts}", got, advice)
    for shard in found.shards:
        require_size(path / SHARD_FOLDER / shard.name, shard)
    return found


def _count_views(contents: StoreContents) -> int:
    return int(contents.locations.views.max(initial=0)) + 1 if any(_list_trained(contents)) else 0


def _count_without_views(contents: StoreContents, num_views: int) -> int:
    if num_views < 2:
        return 0
    found = contents.locations
    return sum(not all(FeatureKey(h, view) in found for view in range(1, num_views)) for h in _list_trained(contents))


def _list_trained(contents: StoreContents) -> Iterator[bytes]:
    """Yield the content hashes of the training pictures that have features."""
    images = (image for image in contents.images if is_training(image.split))
    return (image.content_hash or b"" for image in images if image.status is ImageStatus.DONE)
