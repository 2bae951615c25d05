"""Checks that a store holds what it says; finds, and repairs only what it is told to."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from base.errors import CatalogDamagedError, FeatureStoreError, ShardDamagedError
from base.files import PARTIAL_PREFIX, hash_file
from base.lock import hold_write_lock
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.catalog.database import describe_write_error
from features.catalog.manifest import SEAL_NAME, break_seal, find_broken_seals, write_seal
from features.maintenance.quarantine import move_to_quarantine
from features.maintenance.recover import adopt_orphans, inspect_orphan
from features.packed.view import write_view
from features.schema import FeatureKey, FeatureStatus, Fingerprint, ImageStatus
from features.shards.shard import SHARD_FOLDER, ShardHeader, ShardRef, open_shard, parse_name, read_header
from features.store import StoreContents, count_pending, load_folder


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be."""

    where: str
    what: str
    shard: int | None = None
    """The number of the shard that is to be quarantined for it."""


def find_problems(
    store: Path, *, read_data: bool, images: Path | None, advance: Callable[[int], None]
) -> list[Problem]:
    """Checks a store without changing anything.

    Args:
        store: its folder.
        read_data: read every byte of every shard and compare SHA-256, instead of looking at sizes.
        images: also hash the pictures in this folder again.
        advance: told of each shard that is done.

    Returns:
        Every problem; none means that every feature is what extraction wrote.
    """
    problems = _check_seal(store)
    damage = _check_catalog(store)
    if damage:
        return [*problems, *damage]
    contents = load_folder(store)
    rows_of: dict[int, list[tuple[int, FeatureKey, FeatureStatus]]] = {}
    for key, place in contents.locations.items():
        rows_of.setdefault(place.shard, []).append((place.row, key, place.status))
    for shard in contents.shards:
        problem = _check_shard(store, shard, contents, rows_of.pop(shard.number, []), read_data=read_data)
        problems += [problem] if problem else []
        advance(1)
    known = {shard.name for shard in contents.shards}
    for path in list_shard_files(store):
        if path.name not in known and not path.name.startswith(PARTIAL_PREFIX) and not parse_name(path.name):
            problems.append(Problem(str(path), "is no shard"))
    return problems + (_check_images(contents, images) if images else [])


def list_shard_files(store: Path) -> list[Path]:
    """Lists what stands in the shards' folder, nothing where that is gone."""
    folder = store / SHARD_FOLDER
    return sorted(folder.iterdir()) if folder.is_dir() else []


def list_notes(store: Path) -> list[str]:
    """Lists what an interrupted run left, which the next one brings into order by itself."""
    contents = load_folder(store)
    known = {shard.name for shard in contents.shards}
    notes = []
    for path in list_shard_files(store):
        if path.name.startswith(PARTIAL_PREFIX):
            notes.append(f"{path}: left by an interrupted write; the next extraction removes it")
        elif path.name not in known and parse_name(path.name):
            notes.append(f"{path}: not in the catalog; the next extraction adopts it if it is sound")
    if pending := count_pending(contents):
        notes.append(f"{pending:,} images have no features; the next extraction computes them")
    if not (store / SEAL_NAME).exists():
        notes.append(f"{store / SEAL_NAME} is missing: the last run did not end; the next one writes it")
    return notes


def quarantine_shards(store: Path, problems: list[Problem]) -> int:
    """Moves the shards that have problems out of the way and forgets their rows.

    Returns:
        How many features the next extraction has to compute again.
    """
    bad = {problem.shard for problem in problems if problem.shard is not None}
    if not bad:
        return 0
    num_lost = 0
    with _hold(store):
        break_seal(store)
        catalog = Catalog(store / CATALOG_NAME, writable=True)
        try:
            for shard in catalog.read_shards():
                if shard.number in bad:
                    path = store / SHARD_FOLDER / shard.name
                    if path.exists():
                        move_to_quarantine(store, path)
                    catalog.forget_shard(shard.number)
                    num_lost += shard.num_rows
        finally:
            catalog.close()
        write_view(store)
        write_seal(store)
    return num_lost


def rebuild_catalog(store: Path) -> tuple[int, list[str]]:
    """Makes a new catalog from the shards alone; the old one goes to quarantine.

    Images, labels and splits are entered by the next `python -m extract`, which computes nothing for
    pictures whose features are there.

    Returns:
        How many features were found, and a line for each file that could not be used.

    Raises:
        FeatureStoreError: there is no sound shard to begin with.
    """
    with _hold(store):
        header = _choose_header(store)
        break_seal(store)
        for name in (f"{CATALOG_NAME}-journal", CATALOG_NAME):
            if os.path.lexists(store / name):
                move_to_quarantine(store, store / name)
        Catalog.create(store / CATALOG_NAME, header.fingerprint, header.origin)
        catalog = Catalog(store / CATALOG_NAME, writable=True)
        try:
            notes = adopt_orphans(store, catalog, header.fingerprint)
            num_features = len(catalog.read_features())
        finally:
            catalog.close()
        write_view(store)
        write_seal(store)
    return num_features, [note for note in notes if not note.startswith("adopted")]


@contextmanager
def _hold(store: Path) -> Iterator[None]:
    """Hold the write lock, and explain what the disk refuses."""
    try:
        with hold_write_lock(store):
            yield
    except (OSError, sqlite3.OperationalError) as error:
        raise describe_write_error(store, error) from error


def _choose_header(store: Path) -> ShardHeader:
    """Return the header of the fingerprint that most features in the sound shards have.

    Raises:
        FeatureStoreError: there is no sound shard.
    """
    headers: dict[Fingerprint, ShardHeader] = {}
    counts: Counter[Fingerprint] = Counter()
    for path in sorted((store / SHARD_FOLDER).glob("*.h5")):
        try:
            _, header = inspect_orphan(path, None)
        except FeatureStoreError:
            continue
        headers.setdefault(header.fingerprint, header)
        counts[header.fingerprint] += len(header.keys)
    if not headers:
        raise FeatureStoreError(store, "a sound shard", "none", "Extract into a new --store")
    return headers[max(headers, key=lambda fingerprint: (counts[fingerprint], fingerprint.digest))]


def _check_seal(store: Path) -> list[Problem]:
    return [Problem(str(store / name), _describe_seal(store, name)) for name in find_broken_seals(store)]


def _check_catalog(store: Path) -> list[Problem]:
    """Find what keeps the catalog from being read; a catalog that the seal does not fit may be read all the same."""
    try:
        catalog = Catalog(store / CATALOG_NAME, writable=False)
        try:
            damage = catalog.find_damage()
        finally:
            catalog.close()
        if not damage:
            load_folder(store)
    except CatalogDamagedError as error:
        return [Problem(CATALOG_NAME, str(error))]
    return [Problem(CATALOG_NAME, found) for found in damage]


def _describe_seal(store: Path, name: str) -> str:
    state = f"is not the file that {SEAL_NAME} was written for" if (store / name).exists() else "is missing"
    remedy = "check with --rebuild-catalog" if name == CATALOG_NAME else "the next extraction writes it anew"
    return f"{state}; {remedy}"


def _check_shard(
    store: Path,
    shard: ShardRef,
    contents: StoreContents,
    rows: list[tuple[int, FeatureKey, FeatureStatus]],
    *,
    read_data: bool,
) -> Problem | None:
    path = store / SHARD_FOLDER / shard.name
    if not path.exists():
        return Problem(str(path), "is missing", shard.number)
    size = path.stat().st_size
    if size != shard.num_bytes:
        return Problem(str(path), f"has {size:,} bytes instead of {shard.num_bytes:,}", shard.number)
    if not read_data:
        return None
    try:
        with open_shard(store, shard, anew=True) as file:
            header = read_header(file)
    except ShardDamagedError as error:
        return Problem(str(path), str(error), shard.number)
    except FeatureStoreError as error:
        # Its features are not lost: it cannot be opened now, or a package is missing.
        return Problem(str(path), str(error))
    if header.fingerprint != contents.fingerprint:
        return Problem(str(path), _describe_fingerprints(header.fingerprint, contents.fingerprint), shard.number)
    # Where two shards hold the same feature the catalog names one of them.
    found = dict(enumerate(zip(header.keys, header.statuses, strict=True)))
    if len(found) != shard.num_rows or any(found.get(row) != (key, status) for row, key, status in rows):
        return Problem(str(path), "its rows are not those that the catalog has", shard.number)
    return None


def _describe_fingerprints(found: Fingerprint, expected: Fingerprint) -> str:
    names = ", ".join(name for name, _, _ in found.list_differences(expected))
    return f"its features were made in another way: {names}"


def _check_images(contents: StoreContents, folder: Path) -> list[Problem]:
    problems = []
    for image in contents.images:
        if image.status is not ImageStatus.DONE:
            continue
        path = folder / image.path
        try:
            found = bytes.fromhex(hash_file(path))
        except OSError as error:
            problems.append(Problem(str(path), f"cannot be read: {error.strerror or error}"))
            continue
        if found != image.content_hash:
            problems.append(Problem(str(path), "was edited since it was extracted"))
    return problems
