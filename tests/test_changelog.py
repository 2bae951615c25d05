"""The form of CHANGELOG.md, as in Keep a Changelog 1.1.0."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "CHANGELOG.md").read_text().splitlines()
KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
VERSION = re.compile(r"## \[(Unreleased|\d+\.\d+\.\d+)\](?: - (\d{4}-\d\d-\d\d))?")


def list_versions() -> list[tuple[str, str]]:
    """List the versions and their dates, in the order of the file."""
    found = [VERSION.fullmatch(line) for line in LINES if line.startswith("## ")]
    return [(match[1], match[2] or "") for match in found if match]


def test_changelog_headings_are_a_title_versions_and_kinds_of_changes() -> None:
    headings = [line for line in LINES if line.startswith("#")]
    assert headings[0] == "# Changelog"
    for heading in headings[1:]:
        assert VERSION.fullmatch(heading) or heading.removeprefix("### ") in KINDS


def test_changelog_versions_are_in_descending_order_with_dates_of_days() -> None:
    (first, day), *others = list_versions()
    assert (first, day) == ("Unreleased", "")
    numbers = [tuple(map(int, version.split("."))) for version, _ in others]
    days = [date.fromisoformat(day) for _, day in others]
    assert numbers == sorted(numbers, reverse=True)
    assert days == sorted(days, reverse=True)


def test_changelog_has_the_version_of_the_project_or_unreleased_changes() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {version, "Unreleased"} & {name for name, _ in list_versions()}


def test_changelog_kinds_of_changes_are_in_order_and_have_entries() -> None:
    kinds: list[list[str]] = []
    for number, line in enumerate(LINES):
        if line.startswith("## "):
            kinds.append([])
        elif line.startswith("### "):
            kinds[-1].append(line.removeprefix("### "))
            after = LINES[number + 1 :]
            end = next((place for place, other in enumerate(after) if other.startswith("#")), len(after))
            assert any(other.startswith("- ") for other in after[:end])
    assert all(names == [kind for kind in KINDS if kind in names] for names in kinds)
