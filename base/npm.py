"""Packages of npm: they are downloaded once with `npm pack`, and their files are read without running any of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from base.errors import HeadstartError

_TIMEOUT_S = 600


@dataclass(frozen=True)
class NpmPackage:
    """Package of npm in one version."""

    name: str
    version: str
    sha256: str
    """SHA-256 of the file that `npm pack` writes."""

    @property
    def file(self) -> str:
        """Name of the file that `npm pack` writes."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    def __str__(self) -> str:
        """Return name and version, as npm accepts them."""
        return f"{self.name}@{self.version}"


def find_cache_folder() -> Path:
    """Return the folder for downloads: `$HEADSTART_CACHE`, else `headstart` in the user's cache folder."""
    own = os.environ.get("HEADSTART_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headstart"


def fetch_package(package: NpmPackage, folder: Path, alternative: str) -> Path:
    """Download a package into a folder with `npm pack`, unless it is already there; return its path.

    Args:
        package: the package; its digest is not checked.
        folder: the folder, which is created.
        alternative: what works without npm, as the second half of an advice: "or give ...".

    Raises:
        HeadstartError: npm is not installed, or the download failed.
    """
    path = folder / package.file
    if path.is_file():
        return path
    expected, advice = "the package from `npm pack`", f"Check the network, {alternative}"
    npm = shutil.which("npm")
    if npm is None:
        raise HeadstartError(str(package), "npm on the PATH", "none", f"Install Node.js, {alternative}")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".fetching-") as aside:
        command = [npm, "pack", "--loglevel=error", str(package), "--pack-destination", aside]
        try:
            done = subprocess.run(
                command,
                cwd=aside,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise HeadstartError(str(package), expected, "no answer within 10 minutes", advice) from None
        fetched = Path(aside, package.file)
        if done.returncode != 0 or not fetched.is_file():
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no file"]
            # The last line of npm can be the path of its log.
            reason = next((line for line in lines if "Error: " in line), lines[-1])
            raise HeadstartError(str(package), expected, f"exit status {done.returncode}: {reason[:300]}", advice)
        fetched.replace(path)
    return path
