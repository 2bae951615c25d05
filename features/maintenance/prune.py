"""Leftovers of a store: features of pictures that are gone, derived data, partial files, quarantine, old cut layers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path

from base.errors import FeatureStoreError, TargetLockedError, convert_os_error
from base.files import PARTIAL_PREFIX, hash_file, is_regular
from base.invocation import format_command
from base.lock import LOCK_NAME, hold_write_lock
from base.remove import check_removable, remove_folder
from base.system import MOVES_OPEN_FILES
from base.target import Names, Target
from base.terminal import Console, format_count
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.contents import StoreContents, load_folder
from features.derived import list_abandoned, list_cached
from features.maintenance.command import StoreKind
from features.maintenance.leftovers import Leftover, measure_bytes, unlink_files
from features.maintenance.recover import list_partial_files
from features.maintenance.trim import is_incomplete, plan_trim, trim_store
from features.quantized import MODEL_NAMES
from features.schema import BACKBONE_FOLDER, DERIVED_FOLDER, QUARANTINE_FOLDER, VIEW_NAME
from features.shards.shard import SHARD_FOLDER, ShardRef, open_shard_file, parse_name, read_header

MAX_DEPTH = 6
"""Largest number of levels below a folder that are searched."""
_QUARANTINED = re.compile(rf"([0-9]+-[0-9a-f]{{64}}\.h5|{re.escape(CATALOG_NAME)}(?:-journal)?)(?:\.[0-9]+)?")


def walk_folders(folder: Path, depth: int = MAX_DEPTH) -> Iterator[Path]:
    """Yield a folder and the folders below it that can be read, without links, hidden folders and insides of stores.

    Raises:
        OSError: the folder itself cannot be read.
    """
    try:
        is_store = is_regular(folder / CATALOG_NAME)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        if depth == MAX_DEPTH:
            raise
        return
    yield folder
    for entry in entries if depth and not is_store else ():
        if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
            yield from walk_folders(folder / entry.name, depth - 1)


def list_store_leftovers(
    store: Path,
    kinds: Collection[StoreKind],
    find_needed: Callable[[], Collection[bytes]],
    find_again: Callable[[], Collection[bytes]],
    console: Console,
) -> list[Leftover]:
    """List the leftovers of a store, without changing anything.

    Args:
        store: folder of the store.
        kinds: kinds of leftovers to list.
        find_needed: function that returns the content hashes of pictures whose features are kept.
        find_again: the same before features are removed: a run may be new, or could not be removed.
        console: progress, and why features are not listed.

    Raises:
        FeatureStoreError: the store or one of its shards is damaged.
    """
    found = []
    if StoreKind.DERIVED in kinds:
        found += list_derived(store / DERIVED_FOLDER)
    if StoreKind.PARTIAL in kinds:
        paths = list_partial_files(store)
        reason = f"{format_count(len(paths), 'partial file')} of interrupted writes"
        found += _build_leftover(StoreKind.PARTIAL, store, paths, reason, partial(_remove_locked, store, paths))
    contents = load_folder(store)
    if StoreKind.QUARANTINE in kinds:
        paths = _list_quarantined(store, contents)
        reason = f"{format_count(len(paths), 'damaged or redundant file')} that no command reads"
        place, remove = store / QUARANTINE_FOLDER, partial(_remove_locked, store, paths)
        found += _build_leftover(StoreKind.QUARANTINE, place, paths, reason, remove)
    if StoreKind.FEATURES in kinds:
        found += _list_features(store, contents, find_needed, partial(trim_store, store, find_again), console)
    return found


def list_derived(folder: Path) -> list[Leftover]:
    """List the files of derived data in a folder as one leftover, or none."""
    paths = _list_derived_files(folder)
    reason = "reductions and other data that the next training computes again"
    return _build_leftover(StoreKind.DERIVED, folder, paths, reason, partial(unlink_files, paths))


def build_store_leftover(store: Path, kind: StrEnum, reason: str) -> Leftover:
    """Return a whole store as a leftover.

    Raises:
        HeadstartError: the folder has entries that Headstart did not write, or no intact catalog.
    """
    check_removable(_describe_store(store))

    def remove() -> None:
        with ExitStack() as lock:
            lock.enter_context(hold_write_lock(store))
            if not MOVES_OPEN_FILES:
                lock.close()
            remove_folder(_describe_store(store))

    return Leftover(kind, store, measure_bytes([store]), reason, remove)


def _list_derived_files(folder: Path) -> list[Path]:
    return [] if folder.is_symlink() else [*list_cached(folder), *list_abandoned(folder)]


def _build_leftover(
    kind: StoreKind, path: Path, paths: Collection[Path], reason: str, remove: Callable[[], int]
) -> list[Leftover]:
    return [Leftover(kind, path, measure_bytes(paths), reason, remove)] if paths else []


def _remove_locked(store: Path, paths: Collection[Path]) -> int:
    with hold_write_lock(store):
        return unlink_files(paths)


def _list_features(
    store: Path,
    contents: StoreContents,
    find_needed: Callable[[], Collection[bytes]],
    remove: Callable[[], int],
    console: Console,
) -> list[Leftover]:
    if is_incomplete(contents):
        if len(contents.locations):
            got = format_count(contents.num_pending, "picture") if contents.images else "all pictures"
            console.info(f"{store}: features are not pruned before `{format_command('extract')}` has read {got}")
        return []
    try:
        needed = find_needed()
    except (TargetLockedError, OSError) as error:
        text = convert_os_error(error, "") if isinstance(error, OSError) else error
        console.warning(f"{store}: kept all features, because runs may need them. {text}")
        return []
    with console.progress("prune", len(contents.shards), "shards") as progress:
        plan = plan_trim(store, needed, progress.advance)
    if plan.num_kept:
        console.info(f"{store}: kept the features of {format_count(plan.num_kept, 'picture')} that runs need")
    if not plan.trims:
        return []
    reason = (
        f"features of {format_count(plan.num_pictures, 'picture')} that are gone; runs elsewhere that were fitted on "
        "them could not be exported"
    )
    return [Leftover(StoreKind.FEATURES, store, plan.num_bytes, reason, remove)]


def _list_quarantined(store: Path, contents: StoreContents) -> list[Path]:
    """List the files in quarantine without those that are intact and have features which the store lacks."""
    folder = store / QUARANTINE_FOLDER
    if folder.is_symlink() or not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.iterdir()):
        match = _QUARANTINED.fullmatch(path.name)
        if not match or not is_regular(path):
            continue
        # A shard that belongs to another store may have been moved here.
        if match[1].startswith(CATALOG_NAME) or _is_redundant(path, match[1], contents):
            found.append(path)
    return found


def _is_redundant(path: Path, name: str, contents: StoreContents) -> bool:
    """Return whether the file of a shard with a name is damaged, or the store has all of its features."""
    number, digest = parse_name(name) or (0, "")
    # An intact shard that cannot be read may come from a newer version. A file that cannot be read now is kept too.
    with suppress(FeatureStoreError, OSError):
        if hash_file(path) != digest:
            return True
        with open_shard_file(path, ShardRef(number, digest, 0, path.stat().st_size)) as file:
            header = read_header(file)
        return header.fingerprint == contents.fingerprint and all(key in contents.locations for key in header.keys)
    return False


def _describe_store(store: Path) -> Target:
    """Describe the entries of a store, as far as Headstart wrote them, for its removal."""

    def find_names(folder: str, is_ours: Callable[[str], object]) -> Names:
        return {path.name: None for path in (store / folder).glob("*") if is_ours(path.name)}

    names: Names = {
        **dict.fromkeys((CATALOG_NAME, f"{CATALOG_NAME}-journal", LOCK_NAME, VIEW_NAME)),
        **{path.name: None for path in list_partial_files(store)},
        SHARD_FOLDER: find_names(SHARD_FOLDER, lambda name: parse_name(name.removeprefix(PARTIAL_PREFIX))),
        QUARANTINE_FOLDER: find_names(QUARANTINE_FOLDER, _QUARANTINED.fullmatch),
        DERIVED_FOLDER: {path.name: None for path in _list_derived_files(store / DERIVED_FOLDER)},
        BACKBONE_FOLDER: find_names(BACKBONE_FOLDER, lambda name: name.removeprefix(PARTIAL_PREFIX) in MODEL_NAMES),
    }
    return Target(store, names, _check_catalog, "STORE")


def _check_catalog(store: Path) -> None:
    with closing(Catalog(store / CATALOG_NAME, writable=False)):
        pass
