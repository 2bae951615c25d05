"""Replace a folder or a file as a whole: whatever interrupts, the old one or the new one is there.

The new one is built in a staging folder beside the target, synchronised, and exchanged with the old one, in one step
where the kernel can do that. One command at a time writes a target. Entries that do not belong to the target, by name
or by content, are never touched.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from base.errors import HeadstartError, TargetLockedError
from base.files import sync_folder
from base.lock import hold_lock
from base.staging import (
    NEW,
    Target,
    find_foreign,
    is_fixed,
    list_staging,
    make_staging,
    plan_exchange,
    remove_staging,
    settle,
    sync_tree,
)


class Replacement:
    """A target in replacement: fill `staging`, then call `commit`."""

    def __init__(self, target: Target, container: Path) -> None:
        """Use `replace_folder` instead."""
        self._target, self._container = target, container
        self.staging = container / NEW
        """An empty folder on the target's own file system."""

    def commit(self, archive: str = "") -> None:
        """Put the staging folder in the target's place.

        Args:
            archive: name under which the old entries are kept, in a folder beside the target; empty removes them.

        Raises:
            HeadstartError: the disk refused, or the target now holds something that is not ours; it is as it was.
        """
        check_target(self._target)
        with _explain_errors(self._target):
            plan_exchange(self._target, self._container, archive)
            settle(self._target, self._container)


@contextmanager
def replace_folder(target: Target) -> Iterator[Replacement]:
    """Lock a target and open a staging folder for it; without `commit` the target stays as it is.

    Raises:
        TargetLockedError: another command is writing the target.
        HeadstartError: the target cannot be written, or holds something that is not ours.
    """
    with hold_target(target):
        check_target(target)
        with _explain_errors(target):
            container = make_staging(target)
        try:
            yield Replacement(target, container)
        finally:
            with _explain_errors(target):
                settle(target, container)


@contextmanager
def hold_target(target: Target) -> Iterator[None]:
    """Hold a target's lock, after completing an interrupted replacement of it.

    Raises:
        TargetLockedError: another command holds it.
        HeadstartError: the place cannot be written.
    """
    folder = target.place
    with ExitStack() as stack:
        with _explain_errors(target):
            folder.parent.mkdir(parents=True, exist_ok=True)
            path = folder / ".lock" if is_fixed(folder) else folder.with_name(f".{folder.name}.lock")
            holder = stack.enter_context(hold_lock(path, is_removed=True))
        if holder:
            advice = f"Wait until it has finished, or give another {target.option}"
            raise TargetLockedError(
                target.folder, "no other command that writes it", f"a lock held by {holder}", advice
            )
        with _explain_errors(target):
            for container, _ in list_staging(target):
                settle(target, container)
        yield


def recover_target(target: Target) -> None:
    """Complete an interrupted replacement before a target is read; do nothing while another command writes it."""
    if any(plan.inodes for _, plan in list_staging(target)):
        with suppress(TargetLockedError), hold_target(target):
            pass


@contextmanager
def replace_file(path: Path, option: str, check: Callable[[Path], None]) -> Iterator[Path]:
    """Lock a file's name and yield the path to write the new one at; it takes the old one's place at the end.

    Args:
        path: the file, existing or not.
        option: what chooses another file, for messages.
        check: raise HeadstartError where an existing file is not ours.

    Raises:
        TargetLockedError: another command is writing it.
        HeadstartError: its folder cannot be written, or something that is not ours has its name.
    """
    target = Target(path, {}, check, option)
    with hold_target(target):
        if os.path.lexists(path):
            if not stat.S_ISREG(path.stat().st_mode):
                raise HeadstartError(path, "a file", "something else", f"Give another {option}")
            check(path)
        with _explain_errors(target):
            container = make_staging(target)
            try:
                (container / NEW).rmdir()
                yield container / NEW
                sync_tree(container)
                (container / NEW).replace(target.place)
                sync_folder(target.place.parent)
            finally:
                remove_staging(container)


def check_target(target: Target) -> None:
    """Raise HeadstartError where a target holds something that is not ours under one of its names."""
    folder = target.folder
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise HeadstartError(folder, "a folder", "something else", f"Give another {target.option}")
    found = [name for name in target.names if os.path.lexists(folder / name)]
    for name in found:
        if foreign := find_foreign(folder / name, target.names[name]):
            got = "a link or something else"
            raise HeadstartError(
                foreign, "a file that Headstart wrote", got, f"Move it, or give another {target.option}"
            )
    if found:
        target.check(folder)


@contextmanager
def _explain_errors(target: Target) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        got = f"{error.strerror or error} ({error.filename})" if error.filename else str(error)
        raise HeadstartError(
            target.folder, "room and permission to write it", got, f"Make room, or give another {target.option}"
        ) from error
