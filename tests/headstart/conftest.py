"""Shared fixtures: a store of an early cut layer, and backbones that are built once."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import headstart as hs
from extract.backbone import build_backbone
from tests.backbones import build_backbone_once

EXTRACTION: dict[str, Any] = {"weights": "random", "image_size": 75, "cut": "mixed0"}
"""Options of the extractions; exports of an early cut layer are fast."""


@pytest.fixture(autouse=True)
def _program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Format messages as those of the Python API."""
    monkeypatch.setattr("base.invocation._program", [])


@pytest.fixture(scope="package", autouse=True)
def _built_once() -> Iterator[None]:
    """Build the backbone of exports and of exported models once; none of these tests changes its weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train_head.finetuning.backbone.build_backbone", build_backbone_once)
        patch.setattr("train_head.export.load.build_backbone", functools.cache(build_backbone))
        yield


@pytest.fixture(scope="session")
def early_store(_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store with the features of `pictures`: mixed0, 75 px, (7, 7, 256), not to be changed."""
    return hs.extract(_pictures, tmp_path_factory.mktemp("early") / "store", **EXTRACTION).path


@pytest.fixture
def store(early_store: Path, tmp_path: Path) -> Path:
    """Copy of `early_store`."""
    return shutil.copytree(early_store, tmp_path / "store")
