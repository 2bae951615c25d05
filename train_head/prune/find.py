"""Find what interrupted commands, earlier runs and earlier exports left below a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from base.errors import HeadstartError
from base.files import is_regular
from base.remove import check_removable, hold_places, is_in_use, list_abandoned, remove_abandoned, remove_folder
from base.target import Names, Target
from base.terminal import Console
from features.catalog.catalog import CATALOG_NAME
from features.cuts import list_cuts
from features.maintenance.command import StoreKind
from features.maintenance.leftovers import Leftover, measure_bytes
from features.maintenance.needed import find_needed, locate_runs, walk_all
from features.maintenance.prune import build_store_leftover, list_derived, list_store_leftovers
from features.schema import DERIVED_FOLDER
from train_head.export.description import DESCRIPTION_FILE, read_description
from train_head.export.target import describe_target
from train_head.prune.config import FolderKind
from train_head.runs.card import MODEL_FILE, read_card
from train_head.runs.read import Run
from train_head.runs.record import (
    COMPARISON_FILE,
    RUN_ENTRIES,
    RUN_FILE,
    WITH_DROPOUT,
    WITHOUT_DROPOUT,
    describe_run_target,
    read_record,
    refuse_foreign_run,
)
from train_head.solvers.checkpoint import CHECKPOINT_PREFIX, list_checkpoints, remove_checkpoints

_ARCHIVE = re.compile(r"(.+)-\d{4}-\d\d-\d\d-\d{6}(?:-\d+)?")
"""Name of a run or comparison that was kept beside a newer one, see `name_archive`."""
_OLD_STORE = re.compile(r"(.+)-\d{8}-\d{6}")
"""Name of a store that `--new-store` kept."""
_COMPARED = re.compile(rf"(.+)-(?:{WITHOUT_DROPOUT}|{WITH_DROPOUT}.+)")
"""Name of the checkpoint of a run of a comparison, without the prefix."""


def find_checkpoints(folders: Iterable[Path]) -> Iterator[Leftover]:
    """Find the checkpoints of interrupted trainings, except those of commands that are running."""
    for place in (place for folder in folders for place in sorted(folder.glob(f"{CHECKPOINT_PREFIX}*"))):
        name = place.name.removeprefix(CHECKPOINT_PREFIX)
        # A command locks the run, or the comparison of the run.
        owners = [name, *(match[1] for match in [_COMPARED.fullmatch(name)] if match)]
        targets = [place.parent / owner for owner in owners]
        paths = list_checkpoints(place)
        if not name or not paths or any(map(is_in_use, targets)):
            continue
        reason = f"checkpoint of the interrupted training of {name}, which would start again from its first epoch"
        remove = partial(_remove_held, targets, partial(remove_checkpoints, place))
        yield Leftover(FolderKind.CHECKPOINTS, place, measure_bytes(paths), reason, remove)


def find_staging(folders: Iterable[Path]) -> Iterator[Leftover]:
    """Find the staging folders of interrupted commands, whose results were not complete."""
    for folder in folders:
        for place, target in list_abandoned(folder).items():
            if not is_in_use(target):
                reason = f"incomplete result of an interrupted command on {target.name}"
                remove = partial(_remove_held, [target], partial(remove_abandoned, place))
                yield Leftover(FolderKind.STAGING, place, measure_bytes([place]), reason, remove)


def find_earlier_runs(folders: Collection[Path]) -> Iterator[Leftover]:
    """Find the runs and comparisons that were kept beside newer ones, that have no other files and no export."""
    exported = {head for head in map(_read_exported_head, folders) if head}
    for folder in folders:
        match = _ARCHIVE.fullmatch(folder.name)
        runs = _list_runs_of(folder) if match else []
        if match and runs and _list_runs_of(folder.with_name(match[1])):
            with suppress(HeadstartError):
                if not exported.isdisjoint(read_record(run, checks_digest=False).head for run in runs):
                    continue
                is_run = runs == [folder]
                target = describe_run_target(folder) if is_run else _describe_comparison(folder, runs)
                check_removable(target)
                reason = f"earlier {'run' if is_run else 'comparison'} beside {match[1]}"
                remove = partial(remove_folder, target)
                yield Leftover(FolderKind.RUNS, folder, measure_bytes([folder]), reason, remove)


def find_store_leftovers(
    roots: Sequence[Path],
    folders: Iterable[Path],
    removed: Collection[Path],
    kinds: Collection[FolderKind],
    console: Console,
) -> Iterator[Leftover]:
    """Find the leftovers of stores, and the derived data of packed stores.

    Args:
        roots: folders with the runs of the stores, see `locate_all_runs`.
        folders: folders to search that are not removed.
        removed: folders that are removed before; features that only their runs need are listed.
        kinds: kinds of leftovers to find.
        console: warnings about stores that cannot be read, and progress.
    """
    wanted = [kind for kind in StoreKind if kind in {each.value for each in kinds}]
    find_again, find_once = partial(find_needed, roots), cache(partial(find_needed, roots, removed))
    for folder in folders:
        try:
            if is_regular(folder / CATALOG_NAME):
                yield from list_store_leftovers(folder, wanted, find_once, find_again, console)
            elif StoreKind.DERIVED in wanted and folder.name.endswith(f".{DERIVED_FOLDER}"):
                yield from list_derived(folder)
        except HeadstartError as error:
            console.warning(f"skipped {folder}: {error}")


def find_earlier_stores(
    roots: Sequence[Path], folders: Iterable[Path], removed: Collection[Path]
) -> Iterator[Leftover]:
    """Find the stores that `--new-store` kept beside a newer one, and that no run needs for its export.

    The arguments are those of `find_store_leftovers`.

    Raises:
        HeadstartError: it is unknown which stores a run needs.
        OSError: the same.
    """
    list_once = cache(partial(list_runs, roots, removed))
    for folder in folders:
        match = _OLD_STORE.fullmatch(folder.name)
        if not match or not _list_stores(folder) or not _list_stores(folder.with_name(match[1])):
            continue
        if any(_needs(run, folder) for run in list_once()):
            continue
        for store in _list_stores(folder):
            with suppress(HeadstartError):
                reason = f"earlier store beside {match[1]}, which no run below the folder needs"
                found = build_store_leftover(store, FolderKind.STORES, reason)
                yield replace(found, remove=partial(_remove_unneeded, found, folder, roots))


def find_earlier_exports(
    roots: Sequence[Path], folders: Iterable[Path], removed: Collection[Path]
) -> Iterator[Leftover]:
    """Find the exported models of runs that no longer exist; the arguments are those of `find_store_leftovers`.

    Raises:
        HeadstartError: it is unknown which runs exist.
        OSError: the same.
    """
    list_once = cache(partial(list_runs, roots, removed))
    for folder in folders:
        head = _read_exported_head(folder)
        if head and all(run.record.head != head for run in list_once()):
            target = describe_target(folder)
            with suppress(HeadstartError):
                check_removable(target)
                reason = "exported model of a run that is not below the folder; it cannot be exported again"
                remove = partial(remove_folder, target)
                yield Leftover(FolderKind.EXPORTS, folder, measure_bytes([folder]), reason, remove)


def locate_all_runs(folder: Path) -> list[Path]:
    """Return the folders to search for runs: the given one, or those beside it if this is a store or an export."""
    if _list_stores(folder):
        return locate_runs(folder)
    return [folder.resolve().parent if _read_exported_head(folder) else folder]


def list_runs(folders: Iterable[Path], left_out: Collection[Path] = ()) -> list[Run]:
    """List the runs below folders.

    Raises:
        HeadstartError: a run cannot be read.
        OSError: a folder cannot be read.
    """
    return [Run(place) for place in walk_all(folders, left_out) if is_regular(place / RUN_FILE)]


def _remove_unneeded(store: Leftover, folder: Path, roots: Iterable[Path]) -> None:
    if run := next((run for run in list_runs(roots) if _needs(run, folder)), None):
        expected, advice = "an earlier store that no run needs", "Remove that run first, or keep both"
        raise HeadstartError(folder, expected, f"one that {run.folder} needs", advice)
    store.remove()


def _remove_held(targets: Iterable[Path], remove: Callable[[], None]) -> None:
    """Call a function while no command writes targets."""
    with hold_places(targets):
        remove()


def _list_runs_of(folder: Path) -> list[Path]:
    """Return the folder itself if it has a run, else the folders of the runs of a comparison."""
    if is_regular(folder / RUN_FILE):
        return [folder]
    runs = (folder / WITHOUT_DROPOUT, *folder.glob(f"{WITH_DROPOUT}*"))
    return [run for run in runs if is_regular(run / RUN_FILE)]


def _describe_comparison(folder: Path, runs: Iterable[Path]) -> Target:
    names = [run.name for run in runs]

    def refuse_foreign(place: Path) -> None:
        for name in names:
            refuse_foreign_run(place / name)

    entries: Names = {COMPARISON_FILE: None, **dict.fromkeys(names, RUN_ENTRIES)}
    return Target(folder, entries, refuse_foreign, "folder")


def _list_stores(folder: Path) -> list[Path]:
    if is_regular(folder / CATALOG_NAME):
        return [folder]
    return [folder / cut for cut in list_cuts(folder)]


def _needs(run: Run, store: Path) -> bool:
    """Return whether a run can be exported from a store, and not from another store that it finds itself."""
    is_own = run.locate_store().resolve().is_relative_to(store.resolve())
    return _has_rows(run, str(store)) and (is_own or not _has_rows(run, ""))


def _has_rows(run: Run, store: str) -> bool:
    with suppress(HeadstartError):
        run.find_split(run.open_store(store))
        return True
    return False


def _read_exported_head(folder: Path) -> str:
    """Return the digest of the head of an exported model; empty if the folder has none, or it is unknown."""
    with suppress(HeadstartError):
        if is_regular(folder / DESCRIPTION_FILE):
            return read_description(folder / DESCRIPTION_FILE).card.run
        if is_regular(folder / MODEL_FILE):
            return read_card(folder / MODEL_FILE).run
    return ""
