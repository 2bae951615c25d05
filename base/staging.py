"""Staging folders: what a replacement is built in, and how it is completed after an interruption.

A staging folder holds the new entries and a plan. The plan is on the disk before the first rename, and every step can
be repeated, so that an interrupted replacement is completed by the next command that opens the target.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from base.files import PARTIAL_PREFIX, sync_folder, write_durably

PLAN_NAME = "headstart-replacement.json"
"""The file by which a staging folder is recognised as ours."""
NEW, OLD = "new", "old"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_MOUNTS = Path("/proc/self/mountinfo")

Names = Mapping[str, "Names | None"]
"""Entries of a folder: None for a file, else the entries of that folder."""


@dataclass(frozen=True)
class Target:
    """A folder that a command makes as a whole."""

    folder: Path
    names: Names
    """All entries that may belong to it. Any other entry stays where it is."""
    check: Callable[[Path], None]
    """Raise HeadstartError where the folder's entries of these names are not ours; called if there are any."""
    option: str
    """What chooses another folder, for messages: `--run (RUN=)`."""

    @property
    def place(self) -> Path:
        """The folder's real path."""
        return self.folder.resolve()


@dataclass(frozen=True)
class Plan:
    """What is needed to complete an interrupted replacement; kept in the staging folder."""

    target: str
    """Name of the folder that is replaced."""
    inodes: dict[str, int] = field(default_factory=dict)
    """Of the new entries; empty before the new ones are complete."""
    whole: bool = False
    """Whether the folder itself is exchanged, not its entries."""
    archive: str = ""
    """Name for the old folder, to be kept beside the new one; empty where it is removed."""


def make_staging(target: Target) -> Path:
    """Make an empty staging folder on the target's file system; the new entries go into `NEW` in it."""
    folder = target.place
    parent = folder if is_fixed(folder) else folder.parent
    container = Path(tempfile.mkdtemp(prefix=_name_container(folder), dir=parent))
    # As any folder that the user makes, not private as mkdtemp's.
    mask = os.umask(0)
    os.umask(mask)
    container.chmod(0o777 & ~mask)
    _write_plan(container, Plan(folder.name))
    (container / NEW).mkdir()
    return container


def plan_exchange(target: Target, container: Path, archive: str) -> None:
    """Declare the new entries complete: from here on the replacement is completed, whatever interrupts it.

    Args:
        target: what is replaced.
        container: its staging folder.
        archive: name under which the old entries are kept, in a folder beside the target; empty removes them.
    """
    new = container / NEW
    sync_tree(new)
    whole = _can_exchange(target, container)
    entries = [new] if whole else sorted(new.iterdir())
    inodes = {entry.name: entry.lstat().st_ino for entry in entries}
    _write_plan(container, Plan(target.place.name, inodes, whole, archive))


def is_fixed(folder: Path) -> bool:
    """Whether a folder must stay where it is: a mount point, or one in a place that cannot be written."""
    return folder.is_dir() and (_is_mount(folder) or not os.access(folder.parent, os.W_OK))


def list_staging(target: Target) -> list[tuple[Path, Plan]]:
    """List the staging folders that commands left for a target, with their plans."""
    folder = target.place
    prefix = _name_container(folder)
    found: list[tuple[Path, Plan]] = []
    for place in (folder.parent, folder):
        try:
            entries = sorted(place.iterdir()) if place.is_dir() else []
        except OSError:
            continue
        for container in entries:
            plan = _read_plan(container) if container.name.startswith(prefix) else None
            if plan and plan.target in ("", folder.name):
                found.append((container, plan))
    return found


def settle(target: Target, container: Path) -> None:
    """Complete a replacement whose new entries are complete, else remove them; the caller holds the lock."""
    plan = _read_plan(container)
    if plan is None:
        return
    if plan.inodes:
        folder = target.place
        old = _exchange_folder(folder, container, plan) if plan.whole else _exchange_entries(target, container, plan)
        sync_folder(folder.parent)
        # An entry that appeared in the last moment is not ours to remove.
        archive = plan.archive or (f"{folder.name}-kept" if old and find_foreign(old, target.names) else "")
        if old and archive:
            place = folder if container.parent == folder else folder.parent
            if not os.path.lexists(place / archive):
                old.rename(place / archive)
                sync_folder(place)
    remove_staging(container)


def remove_staging(container: Path) -> None:
    """Remove a staging folder, its plan last, so that one that is removed in part is still recognised."""
    for entry in container.iterdir():
        if entry.name != PLAN_NAME:
            _remove(entry)
    (container / PLAN_NAME).unlink(missing_ok=True)
    container.rmdir()


def find_foreign(path: Path, names: Names | None) -> Path | None:
    """Find an entry, links included, that is not what its name is for."""
    mode = path.lstat().st_mode
    if names is None:
        return None if stat.S_ISREG(mode) else path
    if not stat.S_ISDIR(mode):
        return path
    for entry in sorted(path.iterdir()):
        if entry.name not in names:
            return entry
        if foreign := find_foreign(entry, names[entry.name]):
            return foreign
    return None


def sync_tree(folder: Path) -> None:
    """Make everything in a folder, and the names in it, survive a power cut."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            descriptor = os.open(Path(place) / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(place))


def _remove(path: Path) -> None:
    """Remove a file or a folder, read-only folders too; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    for place, _, _ in os.walk(path):
        Path(place).chmod(Path(place).stat().st_mode | stat.S_IRWXU)
    shutil.rmtree(path)


def _can_exchange(target: Target, container: Path) -> bool:
    """Decide whether the folder itself can be exchanged: it holds nothing else, and nobody depends on its inode."""
    folder = target.place
    if container.parent == folder:
        return False
    if not folder.exists():
        return True
    here = Path.cwd()
    return folder not in (here, *here.parents) and all(entry.name in target.names for entry in folder.iterdir())


def _is_mount(folder: Path) -> bool:
    if folder.is_mount():
        return True
    # A folder mounted from its own file system is in this list alone. Source: proc_pid_mountinfo(5), field 5.
    escaped = str(folder)
    for char in ("\\", " ", "\t", "\n"):
        escaped = escaped.replace(char, f"\\{ord(char):03o}")
    lines = _MOUNTS.read_text(errors="surrogateescape").splitlines() if _MOUNTS.exists() else []
    return any(line.split(" ")[4] == escaped for line in lines)


def _name_container(folder: Path) -> str:
    return f"{PARTIAL_PREFIX}{folder.name}-"


def _write_plan(container: Path, plan: Plan) -> None:
    write_durably(container / PLAN_NAME, json.dumps(asdict(plan)).encode())


def _read_plan(container: Path) -> Plan | None:
    """Read a staging folder's plan; None for a folder that is not ours."""
    try:
        if not stat.S_ISDIR(container.lstat().st_mode):
            return None
        # A kill may come before the plan is there, or after it is gone again.
        if {entry.name for entry in container.iterdir()} <= {PARTIAL_PREFIX + PLAN_NAME}:
            return Plan("")
        if not stat.S_ISREG((container / PLAN_NAME).lstat().st_mode):
            return None
        return Plan(**json.loads((container / PLAN_NAME).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _exchange_folder(folder: Path, container: Path, plan: Plan) -> Path | None:
    """Exchange the folder itself; return where the old one is now."""
    new, old = container / NEW, container / OLD
    if _read_inode(new) == plan.inodes[NEW]:
        if not os.path.lexists(folder):
            new.rename(folder)
        else:
            # A folder that is read-only itself cannot be moved.
            folder.chmod(folder.stat().st_mode | stat.S_IRWXU)
            if not _exchange(new, folder):
                folder.rename(old)
                new.rename(folder)
    return next((place for place in (old, new) if place.exists()), None)


def _exchange_entries(target: Target, container: Path, plan: Plan) -> Path | None:
    """Exchange the entries of a folder that stays; return where the old ones are now."""
    folder, new, old = target.place, container / NEW, container / OLD
    folder.mkdir(exist_ok=True)
    old.mkdir(exist_ok=True)
    if all(_read_inode(new / name) == inode for name, inode in plan.inodes.items()):
        for name in target.names:
            if os.path.lexists(folder / name):
                (folder / name).rename(old / name)
    for name, inode in plan.inodes.items():
        if _read_inode(new / name) == inode:
            (new / name).rename(folder / name)
    sync_folder(folder)
    return old if any(old.iterdir()) else None


def _read_inode(path: Path) -> int:
    """Read a path's inode, of a link its own; 0 where there is nothing."""
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return 0


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; return False where the system cannot. Source: rename(2), RENAME_EXCHANGE."""
    renameat2: Any = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if not renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))
