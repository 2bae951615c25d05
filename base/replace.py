"""Replace a folder as a whole: after any interruption the old one or the new one is there.

The new entries are built in a staging folder beside the target, synchronised, and exchanged with the old ones: in one
step where the whole folder can be exchanged. A plan in the staging folder is on the disk before the first rename, and
every step can be repeated, so that the next command that opens the target completes an interrupted exchange. One
command at a time writes a target. Entries that do not belong to it, by name or by content, are never touched.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from base.errors import HeadstartError, TargetLockedError
from base.files import (
    PARTIAL_PREFIX,
    exchange,
    is_mount,
    read_regular_file,
    remove_tree,
    sync_folder,
    sync_tree,
    write_durably,
)
from base.lock import hold_lock

PLAN_NAME = "headstart-replacement.json"
"""File by which a staging folder is recognised as ours."""
NEW, OLD = "new", "old"
_MAX_PLAN_BYTES = 2**20

Names = Mapping[str, "Names | None"]
"""Entries of a folder: None for a file, else the entries of that folder."""


@dataclass(frozen=True)
class Target:
    """Folder or file that a command writes as a whole."""

    folder: Path
    names: Names
    """All entries that may belong to a folder. Any other entry stays where it is."""
    check: Callable[[Path], None]
    """Raises HeadstartError where the folder's entries of these names are not ours; called if there are any."""
    option: str
    """Option that chooses another place, for messages: `--run (RUN=)`."""

    @property
    def place(self) -> Path:
        """Real path."""
        return self.folder.resolve()


@dataclass(frozen=True)
class _Plan:
    """Plan by which an interrupted replacement is completed; kept in the staging folder."""

    target: str
    """Name of the folder that is replaced."""
    inodes: dict[str, int] = field(default_factory=dict)
    """Of the new entries; empty before they are complete."""
    whole: bool = False
    """Whether the folder itself is exchanged, not its entries."""
    archive: str = ""


class Replacement:
    """Target in replacement: fill `staging`, then call `commit`."""

    def __init__(self, target: Target, container: Path) -> None:
        """Use `replace_folder` instead."""
        self._target, self._container = target, container
        self.staging = container / NEW
        """Empty folder on the target's file system."""

    def commit(self, archive: str = "") -> None:
        """Put the staging folder in the target's place; from here on an interrupted replacement is completed.

        The old entries are kept in a folder `archive` beside the target, or removed where that is empty.

        Raises:
            HeadstartError: the disk refused, or the target now holds something that is not ours; it is unchanged.
        """
        check_target(self._target)
        with _explain_errors(self._target):
            sync_tree(self.staging)
            whole = _can_exchange(self._target, self._container)
            entries = [self.staging] if whole else sorted(self.staging.iterdir())
            inodes = {entry.name: entry.lstat().st_ino for entry in entries}
            _write_plan(self._container, _Plan(self._target.place.name, inodes, whole, archive))
            _settle(self._target, self._container)


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
            container = _make_staging(target)
        try:
            yield Replacement(target, container)
        finally:
            with _explain_errors(target):
                _settle(target, container)


@contextmanager
def hold_target(target: Target) -> Iterator[None]:
    """Hold a target's lock, after completing an interrupted replacement of it.

    Raises:
        TargetLockedError: another command holds it.
        HeadstartError: the place cannot be written.
    """
    place = target.place
    with ExitStack() as stack:
        with _explain_errors(target):
            place.parent.mkdir(parents=True, exist_ok=True)
            path = place / ".lock" if _is_fixed(place) else place.with_name(f".{place.name}.lock")
            holder = stack.enter_context(hold_lock(path, is_removed=True))
        if holder:
            advice = f"Wait until it has finished, or give another {target.option}"
            raise TargetLockedError(
                target.folder, "no other command that writes it", f"a lock held by {holder}", advice
            )
        with _explain_errors(target):
            for container, _ in _list_staging(target):
                _settle(target, container)
        yield


def recover_target(target: Target) -> None:
    """Complete an interrupted replacement before a target is read; do nothing while another command writes it."""
    if any(plan.inodes for _, plan in _list_staging(target)):
        with suppress(TargetLockedError), hold_target(target):
            pass


def check_target(target: Target) -> None:
    """Raise HeadstartError where a target holds something that is not ours under one of its names."""
    folder = target.folder
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise HeadstartError(folder, "a folder", "something else", f"Give another {target.option}")
    found = [name for name in target.names if os.path.lexists(folder / name)]
    for name in found:
        if foreign := _find_foreign(folder / name, target.names[name]):
            advice = f"Move it, or give another {target.option}"
            raise HeadstartError(foreign, "a file that Headstart wrote", "a link or something else", advice)
    if found:
        target.check(folder)


@contextmanager
def _explain_errors(target: Target) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        got = f"{error.strerror or error} ({error.filename})" if error.filename else str(error)
        advice = f"Make room, or give another {target.option}"
        raise HeadstartError(target.folder, "room and permission to write it", got, advice) from error


def _make_staging(target: Target) -> Path:
    place = target.place
    parent = place if _is_fixed(place) else place.parent
    container = Path(tempfile.mkdtemp(prefix=f"{PARTIAL_PREFIX}{place.name}-", dir=parent))
    # As any folder that the user makes, not private as mkdtemp's.
    mask = os.umask(0)
    os.umask(mask)
    container.chmod(0o777 & ~mask)
    _write_plan(container, _Plan(place.name))
    (container / NEW).mkdir()
    return container


def _list_staging(target: Target) -> list[tuple[Path, _Plan]]:
    """List the staging folders that commands left for a target, with their plans."""
    place = target.place
    found = []
    for folder in (place.parent, place):
        with suppress(OSError):
            for container in sorted(folder.iterdir()):
                is_candidate = container.name.startswith(f"{PARTIAL_PREFIX}{place.name}-")
                plan = _read_plan(container) if is_candidate else None
                if plan and plan.target in ("", place.name):
                    found.append((container, plan))
    return found


def _write_plan(container: Path, plan: _Plan) -> None:
    write_durably(container / PLAN_NAME, json.dumps(asdict(plan)).encode())


def _read_plan(container: Path) -> _Plan | None:
    """Read a staging folder's plan; None for a folder that is not ours."""
    try:
        if container.is_symlink():
            return None
        # A kill may come before the plan is there, or after it is gone again.
        if {entry.name for entry in container.iterdir()} <= {PARTIAL_PREFIX + PLAN_NAME}:
            return _Plan("")
        return _Plan(**json.loads(read_regular_file(container / PLAN_NAME, _MAX_PLAN_BYTES)))
    except (OSError, ValueError, TypeError):
        return None


def _settle(target: Target, container: Path) -> None:
    """Complete a replacement whose new entries are complete, else remove them; the caller holds the lock."""
    plan = _read_plan(container)
    if plan is None:
        return
    if plan.inodes:
        place = target.place
        old = _exchange_folder(place, container, plan) if plan.whole else _exchange_entries(target, container, plan)
        sync_folder(place.parent)
        # An entry that appeared in the last moment is not ours to remove.
        archive = plan.archive or (f"{place.name}-kept" if old and _find_foreign(old, target.names) else "")
        if old and archive:
            kept = (place if container.parent == place else place.parent) / archive
            if not os.path.lexists(kept):
                old.rename(kept)
                sync_folder(kept.parent)
    # The plan is removed last, so that a staging folder that is removed in part is still recognised.
    for entry in container.iterdir():
        if entry.name != PLAN_NAME:
            remove_tree(entry)
    (container / PLAN_NAME).unlink(missing_ok=True)
    container.rmdir()


def _exchange_folder(place: Path, container: Path, plan: _Plan) -> Path | None:
    """Exchange the folder itself; return where the old one is now."""
    new, old = container / NEW, container / OLD
    if new.exists() and new.stat().st_ino == plan.inodes[NEW]:
        if not os.path.lexists(place):
            new.rename(place)
        else:
            # A folder that is read-only itself cannot be moved.
            place.chmod(place.stat().st_mode | stat.S_IRWXU)
            if not exchange(new, place):
                place.rename(old)
                new.rename(place)
    return next((path for path in (old, new) if path.exists()), None)


def _exchange_entries(target: Target, container: Path, plan: _Plan) -> Path | None:
    """Exchange the entries of a folder that stays; return where the old ones are now."""
    place, new, old = target.place, container / NEW, container / OLD
    place.mkdir(exist_ok=True)
    old.mkdir(exist_ok=True)
    left = [name for name in plan.inodes if os.path.lexists(new / name)]
    if len(left) == len(plan.inodes):
        for name in target.names:
            if os.path.lexists(place / name):
                (place / name).rename(old / name)
    for name in left:
        (new / name).rename(place / name)
    sync_folder(place)
    return old if any(old.iterdir()) else None


def _can_exchange(target: Target, container: Path) -> bool:
    """Return whether the folder itself can be exchanged: it holds nothing else, and nobody depends on its inode."""
    place, here = target.place, Path.cwd()
    is_ours = not place.exists() or all(entry.name in target.names for entry in place.iterdir())
    return is_ours and container.parent != place and place not in (here, *here.parents)


def _is_fixed(folder: Path) -> bool:
    """Return whether a folder must stay where it is: a mount point, or one in a place that cannot be written."""
    return folder.is_dir() and (is_mount(folder) or not os.access(folder.parent, os.W_OK))


def _find_foreign(path: Path, names: Names | None) -> Path | None:
    """Find an entry, links included, that is not what its name is for."""
    mode = path.lstat().st_mode
    if names is None:
        return None if stat.S_ISREG(mode) else path
    if not stat.S_ISDIR(mode):
        return path
    for entry in sorted(path.iterdir()):
        foreign = entry if entry.name not in names else _find_foreign(entry, names[entry.name])
        if foreign:
            return foreign
    return None
