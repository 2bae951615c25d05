"""Remove a folder of Headstart in one step, and find what interrupted commands left beside it."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from base.errors import HeadstartError, TargetLockedError
from base.files import PARTIAL_PREFIX
from base.lock import hold_lock, is_held
from base.replace import (
    can_exchange,
    convert_errors,
    is_immovable,
    name_lock,
    read_plan,
    remove_staging,
    replace_folder,
)
from base.system import rename, sync_folder
from base.target import Target, check_target, find_foreign


def is_in_use(folder: Path) -> bool:
    """Return whether a command is writing the target in this folder."""
    return is_held(name_lock(folder.resolve()))


def list_abandoned(folder: Path) -> dict[Path, Path]:
    """List the staging folders in a folder that interrupted commands left with incomplete entries.

    Returns:
        The target of each.
    """
    found = {}
    for container in sorted(folder.glob(f"{PARTIAL_PREFIX}*")):
        plan = read_plan(container) if container.is_dir() else None
        if plan and plan.target and not plan.inodes:
            found[container] = folder / plan.target
    return found


def remove_abandoned(container: Path) -> None:
    """Remove a staging folder that `list_abandoned` found, unless its entries are complete; requires the locks."""
    plan = read_plan(container)
    if plan and not plan.inodes:
        remove_staging(container)


@contextmanager
def hold_places(folders: Iterable[Path]) -> Iterator[None]:
    """Hold the locks of targets with these folders, without a change of their entries.

    Raises:
        TargetLockedError: another command is writing one of them.
        OSError: a lock cannot be created.
    """
    with ExitStack() as stack:
        for folder in folders:
            holder = stack.enter_context(hold_lock(name_lock(folder.resolve()), folder, is_removed=True))
            if holder:
                got, advice = f"a lock held by {holder}", "Wait until it ends"
                raise TargetLockedError(folder, "no other command writing it", got, advice)
        yield


def check_removable(target: Target) -> None:
    """Raise HeadstartError if Headstart did not write all entries of a folder, or the folder cannot be moved."""
    check_target(target)
    place, advice = target.place, "Move or remove it yourself"
    if is_immovable(place):
        raise HeadstartError(place, "a folder that can be moved", "a mount point, or a read-only parent folder", advice)
    if other := next((entry for entry in sorted(place.iterdir()) if entry.name not in target.names), None):
        raise HeadstartError(other, "an entry that Headstart wrote", "another file or folder", advice)
    if not can_exchange(target, place.parent):
        raise HeadstartError(place, "a folder other than the current one", "the current folder", "Change the folder")


def remove_folder(target: Target) -> None:
    """Remove a folder: one step moves it into a staging folder, which is removed. A missing one is ignored.

    After an interruption, the staging folder is listed by `list_abandoned`.

    Raises:
        TargetLockedError: another command is writing the target.
        HeadstartError: the folder has other entries, or cannot be moved; it is unchanged.
    """
    with replace_folder(target) as replacement:
        # Another process may have removed it in the meantime.
        if not target.place.exists():
            return
        check_removable(target)
        moved = replacement.staging / target.place.name
        with convert_errors(target):
            # A read-only folder cannot be moved.
            target.place.chmod(target.place.stat().st_mode | stat.S_IRWXU)
            rename(target.place, moved)
            sync_folder(target.place.parent)
            if foreign := find_foreign(moved, target.names):
                rename(moved, target.place)
                expected, got = "only entries that Headstart wrote", f"a new file {foreign.name}"
                raise HeadstartError(target.folder, expected, got, "Move or remove it yourself")
