"""Versions of Headstart and of installed packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

UNKNOWN = "unknown"


def find_version(package: str) -> str:
    """Return the version of a package, or of its CPU-only variant; `unknown` if it is not installed.

    In a checkout of Headstart that is not installed, the version of Headstart is that of pyproject.toml.
    """
    for name in (package, f"{package}-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return _read_own_version() if package == "headstart" else UNKNOWN


def _read_own_version() -> str:
    import tomllib

    path = Path(__file__).parents[1] / "pyproject.toml"
    return str(tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"]) if path.exists() else UNKNOWN
