"""Decide, before anything is written, whether a folder's features may go into the store that is there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from base.errors import HeadstartError, StoreMissingError, StoreWriteError
from base.files import sync_folder
from base.lock import hold_write_lock
from extract.identity import open_catalog
from extract.images.scan import Scan
from extract.images.walk import OWN_STORE, identify_own
from features.catalog.tables import ImageRow
from features.cuts import list_cuts, place_cuts
from features.writer import refuse_foreign_folder

NEW_STORE = "Give another --store (STORE=), or --new-store (NEW_STORE=1), which keeps this one under another name"


class OtherFolderError(HeadstartError):
    """A store was filled from another folder, most of whose pictures would leave it."""


def place_stores(store: Path, cuts: Sequence[str], *, is_new: bool) -> Mapping[str, Path]:
    """Return where the features of each cut are to be stored.

    Args:
        store: the folder of a store, or of several.
        cuts: what is extracted.
        is_new: whether the store that is there, if any, will be set aside.

    Raises:
        StoreMissingError: the folder holds something else.
    """
    if is_new:
        if not _list_stores(store):
            refuse_foreign_folder(store)
        return {cut: store / cut if len(cuts) > 1 else store for cut in cuts}
    places = place_cuts(store, cuts)
    for place in places.values():
        refuse_foreign_folder(place)
    return places


def refuse_other_folder(store: Path, folder: Path, scan: Scan) -> None:
    """Raise OtherFolderError where fewer than half of a store's pictures are in the folder, and it had another one.

    A folder that was merely moved has the same relative paths and sizes.
    """
    catalog = open_catalog(store)
    if catalog is None:
        return
    with closing(catalog):
        before = catalog.read_meta("images_folder")
        if before in (None, "", str(folder.resolve())) or not catalog.read_shards():
            return
        known = catalog.read_images()
    num_same = count_same(known, scan)
    if 2 * num_same < len(known):
        raise OtherFolderError(
            store,
            f"pictures of {before}, which the store was filled from",
            f"{folder.resolve()}, which has {num_same:,} of its {len(known):,} pictures",
            NEW_STORE,
        )


def count_same(known: Sequence[ImageRow], scan: Scan) -> int:
    """Return how many of a store's pictures a folder has, by relative path and size."""
    today = {(image.path, image.num_bytes) for image in scan.images}
    return sum((image.path, image.num_bytes) in today for image in known)


def set_aside(store: Path) -> Path | None:
    """Rename a store, or a folder of stores by cut, so that a new one can be made in its place.

    Args:
        store: the folder; need not exist.

    Returns:
        Where the old store is now; None where there was none.

    Raises:
        StoreLockedError: another process is writing to it.
        StoreWriteError: it cannot be renamed, as where a disk is mounted on it.
    """
    held = _list_stores(store)
    if not held:
        return None
    folder = store.resolve()
    aside = folder.with_name(f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        with ExitStack() as locks:
            for found in held:
                locks.enter_context(hold_write_lock(found))
            folder.rename(aside)
        sync_folder(folder.parent)
    except OSError as error:
        raise StoreWriteError(
            store, "a store that can be renamed", error.strerror or str(error), "Give another --store (STORE=)"
        ) from error
    return aside


def _list_stores(store: Path) -> list[Path]:
    """Return the stores that a folder is, or holds by cut; none where it holds something else.

    Raises:
        StoreMissingError: a catalog in it is not ours.
    """
    held = [store / cut for cut in list_cuts(store)] or [store]
    held = [found for found in held if found.is_dir() and any(found.iterdir())]
    stores = [found for found in held if identify_own(found, {entry.name for entry in found.iterdir()}) == OWN_STORE]
    if stores and len(stores) < len(held):
        other = next(found for found in held if found not in stores)
        raise StoreMissingError(other, "a feature store", "something else", "Give another --store (STORE=)")
    return stores
