"""Versions: Headstart, Python, and the packages that Headstart needs, compared with the ranges that are tested."""

from __future__ import annotations

import platform
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.version import find_version
from headstart.doctor.findings import Finding, Status

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_PROJECT = Path(__file__).parents[2] / "pyproject.toml"
_LEFT_OUT = frozenset({"dev", "docs", "release", "gpu"})
"""Extras for the development of Headstart, and one that replaces a package."""


def check_versions() -> Iterator[Finding]:
    """Check the versions of Python and of the required packages."""
    project = read_project()
    yield Finding("headstart", f"{find_version('headstart')}, {project['origin']}")
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield check_python(project["requires-python"], f"{platform.python_implementation()} {{}} on {system}")
    packages = list(check_requirements(parse_requirements(project["dependencies"])))
    yield Finding("packages", ", ".join(f"{each.name} {each.value}" for each in packages if each.status is Status.OK))
    yield from (each for each in packages if each.status is not Status.OK)


def read_project() -> dict[str, Any]:
    """Read the requirements of Headstart, from pyproject.toml in a checkout, else from the installed package.

    Returns:
        `origin`, `requires-python`, `dependencies` and `optional-dependencies`, as in pyproject.toml.
    """
    if _PROJECT.is_file():
        project = tomllib.loads(_PROJECT.read_text())["project"]
        return {"origin": "from a checkout", "optional-dependencies": {}, **project}
    found = distribution("headstart")
    extras = {extra: list[str]() for extra in found.metadata.get_all("Provides-Extra", [])}
    required: list[str] = []
    for line in found.requires or []:
        name = next((extra for extra in extras if f'extra == "{extra}"' in line.replace("'", '"')), None)
        (required if name is None else extras[name]).append(line)
    return {
        "origin": "installed",
        "requires-python": found.metadata["Requires-Python"],
        "dependencies": required,
        "optional-dependencies": extras,
    }


def check_python(required: str, text: str) -> Finding:
    """Compare the running Python with the required versions; `text` describes it, with its version at `{}`."""
    from packaging.specifiers import SpecifierSet

    found = platform.python_version()
    if SpecifierSet(required).contains(found, prereleases=True):
        return Finding("Python", text.format(found))
    advice = "Create a virtual environment with one of these versions, and install Headstart in it"
    return Finding("Python", f"{text.format(found)}; required: {required}", Status.PROBLEM, advice)


def parse_requirements(lines: Iterable[str], extra: str = "") -> list[Requirement]:
    """Parse requirements, and keep those that apply to this system.

    Args:
        lines: requirements, as in pyproject.toml.
        extra: name of the extra that they belong to.
    """
    from packaging.requirements import Requirement

    parsed = [Requirement(line) for line in lines]
    return [each for each in parsed if each.marker is None or each.marker.evaluate({"extra": extra})]


def check_requirements(requirements: Sequence[Requirement]) -> Iterator[Finding]:
    """Check that each required package is installed in a tested version."""
    for requirement in requirements:
        name, command = requirement.name, _format_install(requirement)
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, f"not installed; required: {requirement.specifier}", Status.PROBLEM, f"Run `{command}`")
            continue
        if requirement.specifier.contains(found, prereleases=True):
            yield Finding(name, found)
        else:
            yield Finding(name, f"{found}; required: {requirement.specifier}", Status.PROBLEM, f"Run `{command}`")


def _format_install(requirement: Requirement) -> str:
    return shlex.join(["python", "-m", "pip", "install", f"{requirement.name}{requirement.specifier}"])


def check_extras() -> Iterator[Finding]:
    """List the optional packages that are installed, and warn of versions that are not tested."""
    complete: list[str] = []
    missing: list[str] = []
    for extra, lines in read_project()["optional-dependencies"].items():
        if extra in _LEFT_OUT:
            continue
        requirements = [each for each in parse_requirements(lines, extra) if each.name != "headstart"]
        found = list(check_requirements(requirements))
        is_missing = any(each.value.startswith("not installed") for each in found)
        (missing if is_missing else complete).append(extra)
        if not is_missing:
            yield from (
                Finding(f"{each.name} (extra {extra})", each.value, Status.NOTE, each.advice)
                for each in found
                if each.status is Status.PROBLEM
            )
    yield Finding("optional extras", ", ".join(complete) or "none")
    if missing:
        yield Finding("extras not installed", ", ".join(missing))
