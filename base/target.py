"""Targets of commands: folders whose entries Headstart wrote, and may replace or remove."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from base.errors import HeadstartError

Names = Mapping[str, "Names | None"]
"""Entries of a folder: None for a file, the nested entries for a folder."""
LINKS: Names = {}
"""Names of a folder with any number of links to files; compared by identity, not by value."""


@dataclass(frozen=True)
class Target:
    """Folder whose entries a command replaces together, or a file that it replaces."""

    folder: Path
    names: Names
    """All entries that Headstart may write in the folder. Other entries are kept."""
    check: Callable[[Path], None]
    """Function that raises HeadstartError if Headstart did not write the existing entries of these names."""
    option: str
    """Option that sets the target, such as `--run`; used in error messages."""

    @property
    def place(self) -> Path:
        """Path with links resolved."""
        return self.folder.resolve()


def check_target(target: Target) -> None:
    """Raise HeadstartError if Headstart did not write the entries that a replacement would remove."""
    folder = target.folder
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise HeadstartError(folder, "a folder", "another kind of file", f"Give another {target.option}")
    found = [name for name in target.names if os.path.lexists(folder / name)]
    for name in found:
        if foreign := find_foreign(folder / name, target.names[name]):
            advice = f"Move it, or give another {target.option}"
            raise HeadstartError(foreign, "an entry that Headstart wrote", "a link or a foreign file", advice)
    if found:
        target.check(folder)


def find_foreign(path: Path, names: Names | None) -> Path | None:
    """Return the first entry with an unknown name or of an unexpected kind, such as a link; None if there is none."""
    mode = path.lstat().st_mode
    if names is None:
        return None if stat.S_ISREG(mode) else path
    if not stat.S_ISDIR(mode):
        return path
    if names is LINKS:
        return next((entry for entry in sorted(path.iterdir()) if not _is_link(entry)), None)
    for entry in sorted(path.iterdir()):
        foreign = entry if entry.name not in names else find_foreign(entry, names[entry.name])
        if foreign:
            return foreign
    return None


def _is_link(path: Path) -> bool:
    """Return whether a path is a symbolic link, or a file with another hard link, which keeps its content."""
    status = path.lstat()
    return stat.S_ISLNK(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink > 1)
