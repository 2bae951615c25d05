"""Files that a wheel and a source distribution must have, by the files that git tracks."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

PACKAGES = ("base", "extract", "features", "headstart", "train_head")
"""Packages of the wheel."""
LEFT_OUT = (".ci", ".github", ".gitignore")
"""Files and folders that the source distribution leaves out."""
_GENERATED = ("PKG-INFO", "setup.cfg")


def list_tracked(root: Path) -> list[str]:
    """List the files of a checkout: those that git tracks, and new ones that it does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE)
    names = done.stdout.decode().rstrip("\0").split("\0")
    return sorted(name for name in names if (root / name).is_file())


def list_wheel(path: Path) -> list[str]:
    """List the files of a wheel."""
    with zipfile.ZipFile(path) as archive:
        return sorted(archive.namelist())


def list_sdist(path: Path) -> list[str]:
    """List the files of a source distribution, without its top folder."""
    with tarfile.open(path) as archive:
        return sorted(member.name.partition("/")[2] for member in archive if member.isfile())


def check_wheel(names: Iterable[str], tracked: Iterable[str], licenses: Iterable[str]) -> list[str]:
    """Return a line for each file that a wheel lacks or must not have: it has all files of the packages, and no other.

    Args:
        names: files of the wheel.
        tracked: files of the checkout.
        licenses: licence files, which the wheel also has in the folder of its metadata.
    """
    files = {name for name in names if not PurePosixPath(name).parts[0].endswith(".dist-info")}
    wanted = {name for name in tracked if name.split("/")[0] in PACKAGES}
    held = {name.partition(".dist-info/licenses/")[2] for name in names}
    missing = [f"the wheel lacks the licence {name}" for name in licenses if name not in held]
    return [*_compare("the wheel", files, wanted), *missing]


def check_sdist(names: Iterable[str], tracked: Iterable[str]) -> list[str]:
    """Return a line for each file that a source distribution lacks or must not have: it has all tracked files."""
    files = {name for name in names if name not in _GENERATED and not name.startswith("headstart.egg-info/")}
    wanted = {name for name in tracked if name.split("/")[0] not in LEFT_OUT}
    return _compare("the source distribution", files, wanted)


def _compare(what: str, files: set[str], wanted: set[str]) -> list[str]:
    lacks = [f"{what} lacks {name}" for name in sorted(wanted - files)]
    return lacks + [f"{what} has {name}, which is not a file of the checkout" for name in sorted(files - wanted)]
