"""Packages that Headstart does without, until an option asks for one."""

from __future__ import annotations

from importlib.util import find_spec

from base.errors import UsageError


def require_extra(package: str, option: str, target: str) -> None:
    """Makes sure that a package is installed, without importing it.

    Args:
        package: its name, which is the extra's name too.
        option: what asked for it.
        target: the `make` command that installs it.

    Raises:
        UsageError: it is not.
    """
    if find_spec(package) is None:
        advice = f"Run `pip install 'headstart[{package}]'`, or `make {target}`, which installs it"
        raise UsageError(option, f"the package {package}", "none installed", advice)
