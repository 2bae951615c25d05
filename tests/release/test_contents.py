"""Expected files of the wheel and of the source distribution, and the version of a release."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from release.check import PYTHONS, check_metadata, check_version
from release.contents import check_sdist, check_wheel, list_tracked
from release.install import find_python

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
TRACKED = ["LICENSE", "base/a.py", "base/page.jinja", "docs/a.md", "tests/test_a.py", ".ci/run"]
WHEEL = ["base/a.py", "base/page.jinja", "x-1.dist-info/METADATA", "x-1.dist-info/licenses/LICENSE"]
SDIST = ["LICENSE", "PKG-INFO", "base/a.py", "base/page.jinja", "docs/a.md", "tests/test_a.py"]


@pytest.mark.parametrize(
    ("names", "num_problems"),
    [(WHEEL, 0), (WHEEL[1:], 1), (WHEEL[:3], 1), ([*WHEEL, "tests/test_a.py"], 1), ([*WHEEL, "base/old.py"], 1)],
)
def test_check_wheel_counts_missing_and_foreign_files(names: list[str], num_problems: int) -> None:
    assert len(check_wheel(names, TRACKED, ["LICENSE"])) == num_problems


@pytest.mark.parametrize(("names", "num_problems"), [(SDIST, 0), (SDIST[1:], 1), ([*SDIST, "build/lib/a.py"], 1)])
def test_check_sdist_counts_missing_and_foreign_files(names: list[str], num_problems: int) -> None:
    assert len(check_sdist(names, TRACKED)) == num_problems


@pytest.mark.parametrize(
    ("tag", "changelog", "num_problems"),
    [
        ("", "## [Unreleased]\n", 0),
        ("v1.2.0", "## [Unreleased]\n\n## [1.2.0] - 2026-11-29\n", 0),
        ("v1.2.0", "## [Unreleased]\n", 1),
        ("1.2.0", "## [1.2.0] - 2026-11-29\n", 1),
        ("v1.3.0", "## [1.2.0]\n", 2),
    ],
)
def test_check_version_compares_tag_and_changelog(tag: str, changelog: str, num_problems: int) -> None:
    assert len(check_version("1.2.0", tag, changelog)) == num_problems


def test_check_metadata_of_a_damaged_wheel_or_without_twine_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "headstart-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"damaged")
    assert check_metadata(wheel)
    # An interpreter without Twine writes to stderr only.
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'No module named twine' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert check_metadata(wheel) == ["No module named twine"]


def test_find_python_finds_the_own_version_and_no_unknown_one() -> None:
    assert find_python("3.11") or find_python("3.12") or find_python("3.13")
    assert find_python("2.5") is None


def test_project_lists_the_checked_versions_of_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = {each.rpartition(" ")[2] for each in project["classifiers"] if "Python :: 3." in each}
    assert listed == set(PYTHONS.split(","))
    assert set(project["license-files"]) <= set(list_tracked(ROOT))
