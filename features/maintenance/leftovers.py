"""Leftovers: files that can be removed to free disk space. They are shown first, and removed only on request."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from base.command_line import CommandFailed
from base.errors import HeadstartError, TargetLockedError, UsageError, convert_os_error
from base.lock import hold_lock
from base.replace import name_lock
from base.terminal import Console, format_bytes, format_count

Kind = TypeVar("Kind", bound=StrEnum)


@dataclass(frozen=True)
class Leftover:
    """Files or folders that one command no longer needs."""

    kind: StrEnum
    path: Path
    num_bytes: int
    """Disk space that removing them frees; files with another hard link free none."""
    reason: str
    """Description of the files, and the consequence of removing them."""
    remove: Callable[[], int | None] = field(repr=False, compare=False)
    """Function that removes them, or raises HeadstartError or OSError; it may return the freed space, in bytes."""


def parse_kinds(text: str, kinds: type[Kind]) -> list[Kind]:
    """Parse comma-separated kinds of leftovers, in the order of the enum; raise UsageError for an unknown one."""
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in list(kinds)]:
        advice = "Give one or more of them, separated by commas"
        raise UsageError("--only", f"kinds among {', '.join(kinds)}", repr(unknown[0]), advice)
    return [kind for kind in kinds if kind in names]


def measure_bytes(paths: Iterable[Path]) -> int:
    """Return the disk space that removing files and folders frees, without following links.

    Files with another hard link count nothing, because their content stays on the disk.
    """
    total = 0
    for path in paths:
        # A running command may have removed a file, and some folders cannot be read.
        with suppress(OSError):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                total += measure_bytes(path.iterdir())
            elif stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                total += status.st_size
    return total


def unlink_files(paths: Iterable[Path]) -> int:
    """Remove files, and return the freed disk space in bytes; missing files are ignored."""
    total = 0
    for path in paths:
        num_bytes = measure_bytes([path])
        with suppress(FileNotFoundError):
            path.unlink()
            total += num_bytes
    return total


def free_leftovers(
    folder: Path, found: Sequence[Leftover], console: Console, *, confirm: bool, command: str
) -> dict[str, Any]:
    """Show leftovers in a table, and remove them if `confirm` is set.

    Args:
        folder: the folder that was searched, for messages.
        found: the leftovers, in the order in which they are removed.
        console: output of the table and of messages.
        confirm: whether to remove the leftovers.
        command: line for the shell that removes them, for a message.

    Returns:
        The JSON object of a command: `bytes` (freed, or to be freed), `removed`, and `leftovers`.

    Raises:
        TargetLockedError: another command is removing leftovers in the folder.
        CommandFailed: some leftovers could not be removed; the others were.
    """
    total = sum(each.num_bytes for each in found)
    if found:
        rows = [(each.kind.value, os.fspath(each.path), format_bytes(each.num_bytes), each.reason) for each in found]
        console.show_table(f"no longer needed in {folder}", [*rows, ("total", "", format_bytes(total), "")])
    else:
        console.info(f"{folder}: nothing to remove")
    freed, failed = _remove(folder, found, console) if found and confirm else ([], [])
    shown = freed if confirm else found
    num_bytes = sum(each.num_bytes for each in shown)
    result = {
        "removed": confirm,
        "bytes": num_bytes,
        "leftovers": [
            {"kind": each.kind.value, "path": os.fspath(each.path), "bytes": each.num_bytes, "reason": each.reason}
            for each in shown
        ],
    }
    if freed:
        console.info(f"freed {format_bytes(num_bytes)}")
    elif found and not confirm:
        console.info(f"nothing was removed. To remove these files: {command}")
    if failed:
        raise CommandFailed(result, f"{format_count(len(failed), 'entry', 'entries')} could not be removed")
    return result


def _remove(folder: Path, found: Iterable[Leftover], console: Console) -> tuple[list[Leftover], list[Leftover]]:
    """Remove leftovers; return those that were removed, with the freed space, and those that could not be."""
    freed, failed = [], []
    with _hold_lock(folder):
        for each in found:
            try:
                if os.path.lexists(each.path):
                    num_freed = each.remove()
                    freed.append(each if num_freed is None else replace(each, num_bytes=num_freed))
            except (HeadstartError, OSError) as error:
                # Another command may have removed it in the meantime.
                if os.path.lexists(each.path):
                    text = convert_os_error(error, os.fspath(each.path)) if isinstance(error, OSError) else error
                    console.warning(f"kept {each.path}: {text}")
                    failed.append(each)
    return freed, failed


@contextmanager
def _hold_lock(folder: Path) -> Iterator[None]:
    """Hold a lock, so that two commands do not refuse each other's leftovers one by one.

    Raises:
        TargetLockedError: another command holds the lock.
    """
    # The name differs from that of the lock of a target, which the folder may be.
    path = name_lock(folder.resolve()).with_suffix(".prune")
    with ExitStack() as stack:
        # The folder may be read-only, and have folders that are not.
        with suppress(OSError):
            if holder := stack.enter_context(hold_lock(path, folder, is_removed=True)):
                got, advice = f"a lock held by {holder}", "Wait until it ends"
                raise TargetLockedError(folder, "no other command that removes files", got, advice)
        yield
