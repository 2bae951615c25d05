"""Check a store, quarantine damaged shards, and rebuild the catalog."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from base.errors import CatalogDamagedError, FeatureStoreError, ShardDamagedError
from base.files import PARTIAL_PREFIX
from base.lock import hold_write_lock
from base.places.open import hash_location
from base.terminal import format_count
from base.urls import Location
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.catalog.database import convert_write_error
from features.contents import StoreContents, load_folder
from features.maintenance import recover
from features.maintenance.recover import list_shard_files
from features.packed.view import write_view
from features.quantized import find_model_problems
from features.schema import Fingerprint, ImageStatus
from features.shards.shard import SHARD_FOLDER, ShardHeader, ShardRef, open_shard, parse_name, read_header


@dataclass(frozen=True)
class Problem:
    """Damage found in a store."""

    where: str
    what: str
    """Description of the damage."""
    shard: int | None = None
    """Number of the shard to quarantine, if any."""


def find_problems(
    store: Path, *, read_data: bool, images: Location | None, advance: Callable[[int], None]
) -> list[Problem]:
    """Check a store without changing anything.

    Args:
        store: folder of the store.
        read_data: whether to read every byte of every shard and compare SHA-256, instead of only the file sizes.
        images: folder of pictures to hash again, or None.
        advance: called with 1 after each shard.

    Returns:
        All problems. With `read_data`, an empty list means that every feature has the value that extraction wrote.
    """
    try:
        with closing(Catalog(store / CATALOG_NAME, writable=False)) as catalog, catalog.snapshot():
            damage = catalog.find_damage()
        if damage:
            return [Problem(CATALOG_NAME, found) for found in damage]
        contents = load_folder(store)
    except CatalogDamagedError as error:
        return [Problem(CATALOG_NAME, str(error))]
    problems = []
    for shard in contents.shards:
        problems += _check_shard(store, shard, contents, read_data=read_data)
        advance(1)
    for path in list_shard_files(store):
        if not path.name.startswith(PARTIAL_PREFIX) and not parse_name(path.name):
            problems.append(Problem(str(path), "is not a shard"))
    problems += [Problem(str(path), text) for path, text in find_model_problems(store, contents.fingerprint)]
    return problems + (_check_images(contents, images) if images else [])


def list_notes(store: Path) -> list[str]:
    """List leftovers of an interrupted run, which the next extraction repairs."""
    contents = load_folder(store)
    known = {shard.name for shard in contents.shards}
    notes = []
    for path in list_shard_files(store):
        if path.name.startswith(PARTIAL_PREFIX):
            notes.append(f"{path}: left by an interrupted write; the next extraction removes it")
        elif path.name not in known and parse_name(path.name):
            notes.append(f"{path}: not in the catalog; the next extraction adds it if it is intact")
    if pending := contents.num_pending:
        notes.append(f"{format_count(pending, 'picture')} without features; the next extraction computes them")
    return notes


def quarantine_shards(store: Path, problems: list[Problem]) -> int:
    """Move the shards with problems to quarantine; return the number of features that must be computed again."""
    bad = {problem.shard for problem in problems if problem.shard is not None}
    if not bad:
        return 0
    with _hold(store):
        with closing(Catalog(store / CATALOG_NAME, writable=True)) as catalog:
            lost = [shard for shard in catalog.read_shards() if shard.number in bad]
            for shard in lost:
                recover.quarantine_shard(store, catalog, shard)
        write_view(store)
    return sum(shard.num_rows for shard in lost)


def rebuild_catalog(store: Path) -> tuple[int, list[str]]:
    """Create a new catalog from the shards; the old catalog is moved to quarantine.

    The new catalog has no images. The next `python -m extract` adds them, and computes only missing features.

    Returns:
        Number of features found, and a line for each file that could not be used.

    Raises:
        FeatureStoreError: no shard is intact.
    """
    with _hold(store):
        header = _choose_header(store)
        for name in (f"{CATALOG_NAME}-journal", CATALOG_NAME):
            if os.path.lexists(store / name):
                recover.move_to_quarantine(store, store / name)
        Catalog.create(store / CATALOG_NAME, header.fingerprint, header.origin)
        with closing(Catalog(store / CATALOG_NAME, writable=True)) as catalog:
            notes = recover.adopt_orphans(store, catalog, header.fingerprint)
            num_features = len(catalog.read_features())
        write_view(store)
    return num_features, [note for note in notes if not note.startswith("adopted")]


@contextmanager
def _hold(store: Path) -> Iterator[None]:
    """Hold the write lock, and convert errors of the disk."""
    try:
        with hold_write_lock(store):
            yield
    except (OSError, sqlite3.OperationalError) as error:
        raise convert_write_error(store, error) from error


def _choose_header(store: Path) -> ShardHeader:
    """Return a header with the most common fingerprint among the features in the intact shards."""
    headers = []
    for path in list_shard_files(store):
        with suppress(FeatureStoreError):
            headers.append(recover.inspect_orphan(path, None)[1])
    if not headers:
        raise FeatureStoreError(store, "at least one intact shard", "none", "Extract into a new --store")
    counts: Counter[Fingerprint] = Counter()
    for header in headers:
        counts[header.fingerprint] += len(header.keys)
    return max(headers, key=lambda header: (counts[header.fingerprint], header.fingerprint.digest))


def _check_shard(store: Path, shard: ShardRef, contents: StoreContents, *, read_data: bool) -> list[Problem]:
    problem = recover.find_size_problem(store, shard)
    is_lost = True
    if read_data and not problem:
        try:
            with open_shard(store, shard, rehash=True) as file:
                header = read_header(file)
            # If two shards contain the same feature, the catalog lists only one of them.
            found = set(zip(range(len(header.keys)), header.keys, header.statuses, strict=True))
            listed = {(place.row, key, place.status) for key, place in contents.locations.list_shard(shard.number)}
            if differences := header.fingerprint.list_differences(contents.fingerprint):
                names = ", ".join(name for name, _, _ in differences)
                problem = f"has features with another fingerprint: {names}"
            elif len(found) != shard.num_rows or not listed <= found:
                problem = "has rows that differ from the catalog"
        except FeatureStoreError as error:
            # Other errors, such as a missing package, do not mean that the shard is damaged.
            problem, is_lost = str(error), isinstance(error, ShardDamagedError)
    path = str(store / SHARD_FOLDER / shard.name)
    return [Problem(path, problem, shard.number if is_lost else None)] if problem else []


def _check_images(contents: StoreContents, folder: Location) -> list[Problem]:
    problems = []
    for image in contents.images:
        if image.status is not ImageStatus.DONE:
            continue
        path = folder / image.path
        try:
            if hash_location(path) != image.content_hash:
                problems.append(Problem(str(path), "was modified after extraction"))
        except OSError as error:
            problems.append(Problem(str(path), f"cannot be read: {error.strerror or error}"))
    return problems
