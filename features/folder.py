"""Check the folder of a store, and the fingerprint of its features, before it is written."""

from __future__ import annotations

from pathlib import Path

from base.errors import CatalogDamagedError, FingerprintMismatchError, StoreMissingError
from base.files import PARTIAL_PREFIX
from base.invocation import format_command
from base.lock import LOCK_NAME
from features.catalog.catalog import CATALOG_NAME
from features.schema import BACKBONE_FOLDER, DERIVED_FOLDER, QUARANTINE_FOLDER, VIEW_NAME, Fingerprint
from features.shards.shard import SHARD_FOLDER

STORE_NAMES = frozenset(
    {CATALOG_NAME, LOCK_NAME, SHARD_FOLDER, VIEW_NAME, QUARANTINE_FOLDER, DERIVED_FOLDER, BACKBONE_FOLDER}
)
"""Entries of a store, except the journal of the catalog."""


def check_fingerprint(store: Path, stored: Fingerprint, requested: Fingerprint) -> None:
    """Raise FingerprintMismatchError if two fingerprints differ; the error lists both values of each such field."""
    if stored != requested:
        advice = "Give another --store for these features, or use the options of the existing store"
        raise FingerprintMismatchError(store, *describe_differences(stored, requested), advice)


def describe_differences(expected: Fingerprint, got: Fingerprint) -> tuple[str, str]:
    """Describe the fields in which two fingerprints differ, with their values in the first and in the second."""
    differences = expected.list_differences(got)
    mine = ", ".join(f"{name} {_shorten(value)}" for name, value, _ in differences)
    return mine, ", ".join(f"{name} {_shorten(value)}" for name, _, value in differences)


def _shorten(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def check_store_folder(store: Path) -> None:
    """Raise StoreMissingError for a folder with other files, and CatalogDamagedError for shards without a catalog."""
    if not (store / CATALOG_NAME).exists() and any((store / SHARD_FOLDER).glob("*.h5")):
        advice = f"Run `{format_command('features check', store, '--rebuild-catalog')}`"
        raise CatalogDamagedError(store, "a catalog beside the shards", "shards without a catalog", advice)
    check_entries(store, "Give another --store")


def check_entries(store: Path, advice: str) -> None:
    """Raise StoreMissingError for a file, and for a folder without a catalog that has other entries than a store."""
    if store.exists() and not store.is_dir():
        raise StoreMissingError(store, "a folder for the store", "a file", advice)
    if not store.is_dir() or (store / CATALOG_NAME).exists():
        return
    # The first write of a catalog may have been interrupted.
    names = (entry.name.removeprefix(PARTIAL_PREFIX) for entry in store.iterdir())
    if foreign := sorted(name for name in names if name not in STORE_NAMES):
        got = f"a folder with {foreign[0]!r}"
        raise StoreMissingError(store, "a feature store or an empty folder", got, advice)
