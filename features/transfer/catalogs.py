"""Copies of catalogs: of a store without the paths of this computer, and of an untrusted one at a URL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from base.errors import CatalogDamagedError, FeatureStoreError, FingerprintMismatchError, convert_os_error
from base.terminal import format_count, format_list
from base.urls import is_url
from features.catalog.catalog import CATALOG_NAME, Catalog, load_fingerprint, load_origin, replace_meta
from features.contents import load_folder
from features.folder import describe_differences
from features.maintenance.recover import PRUNED_KEY
from features.packed.view import VIEW_KEY
from features.schema import Fingerprint, Origin, encode_json
from features.shards.shard import ShardRef

IMAGES_KEY, ORIGIN_KEY = "images_folder", "origin"
_LOCAL_KEYS = frozenset([IMAGES_KEY, ORIGIN_KEY, VIEW_KEY, PRUNED_KEY, "images_per_second", "rows_per_second"])
"""Keys in `meta` that describe a computer, not the features."""


class CatalogCopy(NamedTuple):
    """Copy of a catalog in memory. Only its shards and its metadata have been read."""

    where: str
    """Path or URL, for errors."""
    data: bytes
    fingerprint: Fingerprint
    origin: Origin
    shards: list[ShardRef]
    images_folder: str
    state: str
    """Text that is equal for catalogs of the same pictures and features, on any computer."""


class StoreDivergedError(FeatureStoreError):
    """Store that has features which the other store lacks, so that a copy would lose them."""


def copy_catalog(store: Path) -> CatalogCopy:
    """Copy the catalog of a store in one snapshot.

    Raises:
        StoreMissingError: the path has no store.
        CatalogDamagedError: the catalog is damaged.
    """
    with _open(store) as catalog, catalog.snapshot():
        fingerprint, origin, shards = load_fingerprint(catalog), load_origin(catalog), catalog.read_shards()
        meta = catalog.read_all_meta()
        shared = {key: value for key, value in meta.items() if key not in _LOCAL_KEYS}
        state = encode_json([catalog.describe_contents(), shared])
        data = catalog.serialize()
    return CatalogCopy(f"{store}", data, fingerprint, origin, shards, meta.get(IMAGES_KEY, ""), state)


def read_catalog(data: bytes, where: str) -> CatalogCopy:
    """Read the shards and the metadata in the bytes of an untrusted catalog.

    Args:
        data: the bytes.
        where: their URL, for errors.

    Raises:
        FeatureStoreError: the bytes are not a catalog of this version, or these parts are damaged.
    """
    with _open_folder(data, where) as folder:
        return copy_catalog(folder)._replace(where=where)


def check_catalog(copied: CatalogCopy) -> None:
    """Raise FeatureStoreError if anything in an untrusted catalog is damaged."""
    with _open_folder(copied.data, copied.where) as folder:
        with _open(folder) as catalog:
            damage = catalog.find_damage()
        load_folder(folder)
    if damage:
        raise CatalogDamagedError(copied.where, "an intact catalog", damage[0], "Push the store again")


@contextmanager
def _open_folder(data: bytes, where: str) -> Iterator[Path]:
    """Write the bytes of a catalog to a temporary folder; errors in the block name their URL."""
    with tempfile.TemporaryDirectory(prefix="headstart-") as folder:
        path = Path(folder) / CATALOG_NAME
        try:
            path.write_bytes(data)
            yield path.parent
        except OSError as error:
            raise convert_os_error(error, str(path)) from error
        except FeatureStoreError as error:
            raise type(error)(where, error.expected, error.got, "Check the URL, or push the store again") from error


def convert_paths(found: CatalogCopy, local: CatalogCopy | None) -> bytes:
    """Return the bytes of a catalog for another place.

    Args:
        found: the catalog.
        local: catalog that the result replaces on this computer, whose paths are kept; None for a catalog without any
            path of a computer. URLs are kept.
    """
    folder = found.images_folder if is_url(found.images_folder) else ""
    file = found.origin.weights_file if is_url(found.origin.weights_file) else Path(found.origin.weights_file).name
    if local:
        folder, file = local.images_folder or folder, local.origin.weights_file or file
    origin = encode_json(asdict(replace(found.origin, weights_file=file)))
    # The view is not copied.
    return replace_meta(found.data, {IMAGES_KEY: folder, ORIGIN_KEY: origin, VIEW_KEY: ""})


def require_same_fingerprint(where: object, stored: Fingerprint, copied: Fingerprint) -> None:
    """Raise FingerprintMismatchError if the store to be changed has other settings than the one to be copied."""
    if stored != copied:
        expected, got = describe_differences(copied, stored)
        raise FingerprintMismatchError(where, expected, got, "Copy to another URL or folder")


def require_ancestor(where: object, old: CatalogCopy, new: CatalogCopy, advice: str, *, pictures: bool) -> None:
    """Raise StoreDivergedError if a copy of a store over an older one would lose features.

    Args:
        where: path or URL of the older one.
        old: its catalog.
        new: the catalog that replaces it.
        advice: advice of the error.
        pictures: whether every picture of the older one must be in the new one as well.
    """
    if old.state == new.state:
        return
    with _open_folder(old.data, old.where) as ours, _open_folder(new.data, new.where) as theirs:
        lacking = _find_lacking(ours, theirs, old.shards, new.shards)
        lost = len(_read_content_hashes(ours) - _read_content_hashes(theirs)) if pictures else 0
    names = [shard.name for shard in old.shards if shard.number in lacking]
    if names or lost:
        got = [f"other features in {format_count(len(names), 'shard')} ({format_list(names)})"] if names else []
        got += [format_count(lost, "other picture")] if lost else []
        expected = f"no features{' or pictures' if pictures else ''} that the copied store lacks"
        raise StoreDivergedError(where, expected, " and ".join(got), advice)


def _find_lacking(old: Path, new: Path, old_shards: list[ShardRef], new_shards: list[ShardRef]) -> set[int]:
    """Return the numbers of the shards of a store with a feature that another store lacks."""
    known = {shard.sha256 for shard in new_shards}
    others = {shard.number for shard in old_shards if shard.sha256 not in known}
    if not others:
        return set()
    # A lost shard may have been computed again, as another one.
    with _open(old) as mine, _open(new) as theirs:
        found, features = theirs.read_features(), mine.read_features()
    return {place.shard for key, place in features.items() if place.shard in others and key not in found}


def _read_content_hashes(folder: Path) -> frozenset[bytes]:
    with _open(folder) as catalog:
        return catalog.read_content_hashes()


def _open(folder: Path) -> closing[Catalog]:
    return closing(Catalog(folder / CATALOG_NAME, writable=False))
