"""Find what interrupted commands, earlier runs and earlier exports left below a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from base.errors import HeadstartError
from base.files import is_regular
from base.remove import check_removable, is_in_use, list_abandoned, remove_folder
from base.replace import hold_target
from base.target import Names, Target
from base.terminal import Console
from features.catalog.catalog import CATALOG_NAME
from features.cuts import list_cuts
from features.maintenance.command import StoreKind
from features.maintenance.leftovers import Leftover, measure_bytes
from features.maintenance.prune import (
    build_store_leftover,
    find_needed,
    list_derived,
    list_store_leftovers,
    walk_folders,
)
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
        targets = [place.with_name(owner) for owner in owners]
        paths = list_checkpoints(place)
        if not paths or any(map(is_in_use, targets)):
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
                # Holding a target removes its abandoned folders.
                remove = partial(_remove_held, [target], lambda: None)
                yield Leftover(FolderKind.STAGING, place, measure_bytes([place]), reason, remove)


def find_earlier_runs(folders: Collection[Path]) -> Iterator[Leftover]:
    """Find the runs and comparisons that were kept beside newer ones, and that have no other files."""
    for folder in folders:
        match = _ARCHIVE.fullmatch(folder.name)
        if match and _is_result(folder.with_name(match[1])) and _is_result(folder):
            target = describe_run_target(folder) if is_regular(folder / RUN_FILE) else _describe_comparison(folder)
            with suppress(HeadstartError):
                check_removable(target)
                reason = f"earlier {'run' if (folder / RUN_FILE).exists() else 'comparison'} beside {match[1]}"
                remove = partial(remove_folder, target)
                yield Leftover(FolderKind.RUNS, folder, measure_bytes([folder]), reason, remove)


def find_store_leftovers(
    root: Path, folders: Collection[Path], kinds: Collection[FolderKind], console: Console
) -> Iterator[Leftover]:
    """Find the leftovers of stores, and the derived data of packed stores.

    Args:
        root: the folder that was searched.
        folders: folders in it that are not removed; the features that their runs need are kept.
        kinds: kinds of leftovers to find.
        console: warnings about stores that cannot be read, and progress.
    """
    wanted = [kind for kind in StoreKind if kind in {each.value for each in kinds}]
    # The runs of a store are usually beside it.
    place = root.resolve().parent if _list_stores(root) else None

    def search() -> frozenset[bytes]:
        return find_needed(walk_folders(place or root))

    needed = search() if place else find_needed(folders)
    for folder in folders:
        try:
            if is_regular(folder / CATALOG_NAME):
                yield from list_store_leftovers(folder, wanted, needed, search, console)
            elif StoreKind.DERIVED in wanted and folder.name.endswith(f".{DERIVED_FOLDER}"):
                yield from list_derived(folder)
        except HeadstartError as error:
            console.warning(f"skipped {folder}: {error}")


def find_earlier_stores(folders: Iterable[Path], runs: Collection[Run]) -> Iterator[Leftover]:
    """Find the stores that `--new-store` kept beside a newer one, and that no run needs for its export."""
    for folder in folders:
        match = _OLD_STORE.fullmatch(folder.name)
        if not match or not _list_stores(folder) or not _list_stores(folder.with_name(match[1])):
            continue
        if any(_needs(run, folder) for run in runs):
            continue
        for store in _list_stores(folder):
            with suppress(HeadstartError):
                reason = f"earlier store beside {match[1]}, which no run below the folder needs"
                found = build_store_leftover(store, StoreKind.CUTS, reason)
                yield Leftover(FolderKind.STORES, found.path, found.num_bytes, found.reason, found.remove)


def find_earlier_exports(folders: Iterable[Path], runs: Collection[Run]) -> Iterator[Leftover]:
    """Find the exported models of runs that no longer exist."""
    heads = {run.record.head for run in runs}
    for folder in folders:
        head = _read_exported_head(folder)
        if head and head not in heads:
            target = describe_target(folder)
            with suppress(HeadstartError):
                check_removable(target)
                reason = "exported model of a run that is not below the folder; it cannot be exported again"
                remove = partial(remove_folder, target)
                yield Leftover(FolderKind.EXPORTS, folder, measure_bytes([folder]), reason, remove)


def list_runs(folders: Iterable[Path]) -> list[Run]:
    """List the runs among folders; those that cannot be read are left out."""
    runs = []
    for folder in folders:
        if is_regular(folder / RUN_FILE):
            with suppress(HeadstartError):
                runs.append(Run(folder))
    return runs


def _remove_held(targets: Iterable[Path], remove: Callable[[], None]) -> None:
    """Call a function while no command writes targets; this completes or removes what interrupted commands left."""
    with ExitStack() as stack:
        for folder in targets:
            stack.enter_context(hold_target(Target(folder, {}, lambda _: None, "folder")))
        remove()


def _is_result(folder: Path) -> bool:
    """Return whether a folder has a run or a comparison."""
    return is_regular(folder / RUN_FILE) or any(
        is_regular(run / RUN_FILE) for run in (folder / WITHOUT_DROPOUT, *folder.glob(f"{WITH_DROPOUT}*"))
    )


def _describe_comparison(folder: Path) -> Target:
    runs = [path.name for path in (folder / WITHOUT_DROPOUT, *folder.glob(f"{WITH_DROPOUT}*")) if path.is_dir()]

    def refuse_foreign(place: Path) -> None:
        for name in runs:
            refuse_foreign_run(place / name)

    names: Names = {COMPARISON_FILE: None, **dict.fromkeys(runs, RUN_ENTRIES)}
    return Target(folder, names, refuse_foreign, "folder")


def _list_stores(folder: Path) -> list[Path]:
    if is_regular(folder / CATALOG_NAME):
        return [folder]
    return [folder / cut for cut in list_cuts(folder)]


def _needs(run: Run, store: Path) -> bool:
    """Return whether a run can be exported from a store, and not from the store that it finds itself."""
    return _has_rows(run, str(store)) and not _has_rows(run, "")


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
