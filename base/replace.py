"""Replace a folder atomically: after any interruption, either the old or the new version is complete.

The new entries are built in a staging folder beside the target, synchronised, and exchanged with the old ones. If
possible the whole folder is exchanged in one step. A plan in the staging folder is on the disk before the first rename,
and every step can be repeated: the next command that opens the target completes an interrupted exchange. Only one
command at a time writes a target. Entries that Headstart did not write are never changed.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from base.errors import HeadstartError, TargetLockedError
from base.files import (
    PARTIAL_PREFIX,
    is_mount,
    name_beside,
    read_regular_file,
    remove_tree,
    sync_tree,
    write_durably,
)
from base.lock import hold_lock
from base.system import exchange, rename, sync_folder
from base.target import Target, check_target, find_foreign

PLAN_NAME = "headstart-replacement.json"
"""File that marks a staging folder of Headstart."""
NEW, OLD = "new", "old"
_INSIDE = "."
_NUM_RANDOM_BYTES = 4
_MAX_PLAN_BYTES = 2**20


@dataclass(frozen=True)
class _Plan:
    """Plan in the staging folder, for completing an interrupted replacement."""

    target: str
    """Name of the folder to replace, which is beside the staging folder; `_INSIDE` if the staging folder is in it."""
    inodes: dict[str, int] = field(default_factory=dict)
    """Inode of each new entry; empty until the new entries are complete."""
    whole: bool = False
    """Whether the folder itself is exchanged instead of its entries."""
    archive: str = ""
    """Name of the folder that keeps the old entries; empty to remove them."""


class Replacement:
    """Replacement in progress: fill `staging`, then call `commit`."""

    def __init__(self, target: Target, container: Path) -> None:
        """Create the object; use `replace_folder` instead."""
        self._target, self._container = target, container
        self.staging = container / NEW
        """Folder for the new entries, on the file system of the target."""

    def commit(self, archive: str = "") -> None:
        """Replace the old entries with the staged ones.

        After an interruption the next command that opens the target completes the replacement.

        Args:
            archive: name of a folder beside the target that keeps the old entries; empty to remove them.

        Raises:
            HeadstartError: the target now holds foreign files, and is unchanged; or a write failed. If the replacement
                had begun, a later command completes it; otherwise the target is unchanged.
        """
        check_target(self._target)
        with convert_errors(self._target):
            sync_tree(self.staging)
            whole = can_exchange(self._target, self._container)
            entries = [self.staging] if whole else sorted(self.staging.iterdir())
            inodes = {entry.name: entry.lstat().st_ino for entry in entries}
            name = _name_target(self._target.place, self._container)
            _write_plan(self._container, _Plan(name, inodes, whole, archive))
            _finish(self._target, self._container)


@contextmanager
def replace_folder(target: Target) -> Iterator[Replacement]:
    """Lock a target and create a staging folder for it; without `commit` the target is unchanged.

    Raises:
        TargetLockedError: another command is writing the target.
        HeadstartError: the target cannot be written, or holds foreign files.
    """
    with hold_target(target):
        check_target(target)
        with convert_errors(target):
            container = _make_staging(target)
        try:
            yield Replacement(target, container)
        finally:
            with convert_errors(target):
                _finish(target, container)


@contextmanager
def hold_target(target: Target) -> Iterator[None]:
    """Hold the lock of a target, and complete an interrupted replacement first.

    Raises:
        TargetLockedError: another command holds the lock.
        HeadstartError: the target cannot be written.
    """
    place = target.place
    with ExitStack() as stack:
        with convert_errors(target):
            place.parent.mkdir(parents=True, exist_ok=True)
            holder = stack.enter_context(hold_lock(name_lock(place), target.folder, is_removed=True))
        if holder:
            advice = f"Wait until it ends, or give another {target.option}"
            raise TargetLockedError(target.folder, "no other command writing it", f"a lock held by {holder}", advice)
        with convert_errors(target):
            for container, _ in _list_staging(target):
                _finish(target, container)
        yield


def recover_target(target: Target) -> None:
    """Complete an interrupted replacement before the target is read, unless another command is writing it."""
    if any(plan.inodes for _, plan in _list_staging(target)):
        with suppress(TargetLockedError), hold_target(target):
            pass


@contextmanager
def convert_errors(target: Target) -> Iterator[None]:
    """Convert errors of the disk in the block to HeadstartError."""
    try:
        yield
    except OSError as error:
        got = f"{error.strerror or error} ({error.filename})" if error.filename else str(error)
        advice = f"Free some space, check the permissions, or give another {target.option}"
        raise HeadstartError(target.folder, "free space and permission to write", got, advice) from error


def name_lock(place: Path) -> Path:
    """Return the path of the lock of a target, whose links are resolved."""
    return place / ".lock" if is_immovable(place) else name_beside(place, ".", ".lock")


def is_lock_name(name: str) -> bool:
    """Return whether `name_lock` gives paths with this name."""
    return name.startswith(".") and name.endswith(".lock")


def _make_staging(target: Target) -> Path:
    place = target.place
    parent = place if is_immovable(place) else place.parent
    # Unlike a folder of `tempfile.mkdtemp`, it has the usual permissions, which the target keeps.
    container = parent / name_beside(place, PARTIAL_PREFIX, f"-{secrets.token_hex(_NUM_RANDOM_BYTES)}").name
    container.mkdir()
    _write_plan(container, _Plan(_name_target(place, container)))
    (container / NEW).mkdir()
    return container


def _name_target(place: Path, container: Path) -> str:
    """Return the path of a target relative to the folder of its staging folder."""
    return _INSIDE if container.parent == place else place.name


def _list_staging(target: Target) -> list[tuple[Path, _Plan]]:
    """List the staging folders that interrupted commands left for a target, with their plans."""
    place = target.place
    start = name_beside(place, PARTIAL_PREFIX, "-").name
    found = []
    for folder, name in ((place.parent, place.name), (place, _INSIDE)):
        with suppress(OSError):
            for container in sorted(folder.iterdir()):
                is_candidate = container.name.startswith(start)
                plan = read_plan(container) if is_candidate else None
                if plan and plan.target in ("", name):
                    found.append((container, plan))
    return found


def _write_plan(container: Path, plan: _Plan) -> None:
    write_durably(container / PLAN_NAME, json.dumps(asdict(plan)).encode())


def read_plan(container: Path) -> _Plan | None:
    """Read the plan of a staging folder; return None for a folder that Headstart did not create."""
    try:
        if container.is_symlink():
            return None
        # A command can be killed before the plan is written or after it is removed.
        if {entry.name for entry in container.iterdir()} <= {PARTIAL_PREFIX + PLAN_NAME}:
            return _Plan("")
        plan = _Plan(**json.loads(read_regular_file(container / PLAN_NAME, _MAX_PLAN_BYTES)))
        return plan if plan.target in (_INSIDE, Path(plan.target).name) else None
    except (OSError, ValueError, TypeError):
        return None


def _finish(target: Target, container: Path) -> None:
    """Complete a replacement if its new entries are complete, and remove its staging folder; requires the lock."""
    plan = read_plan(container)
    if plan is None:
        return
    if plan.inodes:
        place = target.place
        old = _exchange_folder(place, container, plan) if plan.whole else _exchange_entries(target, container, plan)
        sync_folder(place.parent)
        # If a foreign file has appeared in the meantime, the old entries are kept.
        archive = plan.archive or (
            name_beside(place, "", "-kept").name if old and find_foreign(old, target.names) else ""
        )
        if old and archive:
            kept = (place if container.parent == place else place.parent) / archive
            if not os.path.lexists(kept):
                rename(old, kept)
                sync_folder(kept.parent)
    remove_staging(container)


def remove_staging(container: Path) -> None:
    """Remove a staging folder; its plan is removed last, so that a partly removed one is still recognised."""
    for entry in container.iterdir():
        if entry.name != PLAN_NAME:
            remove_tree(entry)
    (container / PLAN_NAME).unlink(missing_ok=True)
    container.rmdir()


def _exchange_folder(place: Path, container: Path, plan: _Plan) -> Path | None:
    """Exchange the folder itself; return the new path of the old folder, if any."""
    new, old = container / NEW, container / OLD
    if new.exists() and new.stat().st_ino == plan.inodes[NEW]:
        if not os.path.lexists(place):
            rename(new, place)
        else:
            # A read-only folder cannot be moved.
            place.chmod(place.stat().st_mode | stat.S_IRWXU)
            if not exchange(new, place):
                rename(place, old)
                rename(new, place)
    return next((path for path in (old, new) if path.exists()), None)


def _exchange_entries(target: Target, container: Path, plan: _Plan) -> Path | None:
    """Exchange the entries and keep the folder; return the folder with the old entries, if any."""
    place, new, old = target.place, container / NEW, container / OLD
    place.mkdir(exist_ok=True)
    old.mkdir(exist_ok=True)
    left = [name for name in plan.inodes if os.path.lexists(new / name)]
    if len(left) == len(plan.inodes):
        for name in target.names:
            if os.path.lexists(place / name):
                rename(place / name, old / name)
    for name in left:
        rename(new / name, place / name)
    sync_folder(place)
    return old if any(old.iterdir()) else None


def can_exchange(target: Target, container: Path) -> bool:
    """Return whether the folder itself can be exchanged: it has no other entries, and the process is not in it."""
    place, here = target.place, Path.cwd()
    is_ours = not place.exists() or all(entry.name in target.names for entry in place.iterdir())
    return is_ours and container.parent != place and place not in (here, *here.parents)


def is_immovable(folder: Path) -> bool:
    """Return whether a folder cannot be moved: it is a mount point, or its parent folder is read-only."""
    return folder.is_dir() and (is_mount(folder) or not os.access(folder.parent, os.W_OK))
