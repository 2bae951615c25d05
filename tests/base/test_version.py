"""Versions of Headstart and of packages."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import base.version
from base.version import UNKNOWN, find_version

pytestmark = pytest.mark.unit


def test_find_version_in_a_checkout_is_that_of_pyproject(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(base.version, "version", fail)
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert find_version("headstart") == project["version"]
    assert find_version("numpy") == UNKNOWN


def test_find_version_of_an_installed_package() -> None:
    assert find_version("numpy") == version("numpy")
