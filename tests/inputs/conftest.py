"""Shared fixtures: a folder with a picture of each kind, its store, and a small exported model."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from features.store import FeatureStore
from tests.commands import CommandResult, run_command
from tests.inputs.folders import SMALL, list_reasons
from tests.inputs.kinds import KINDS, Kind
from tests.pictures import fill_folder
from tests.train_head.synthetic import save_tiny_model


@pytest.fixture(scope="package", autouse=True)
def _shared_models() -> Iterator[None]:
    """Load and compile each exported model once, instead of for each prediction."""
    from train_head.export.load import compile_outputs, load_export

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train_head.export.load.load_export", functools.cache(load_export))
        patch.setattr("train_head.export.load.compile_outputs", functools.cache(compile_outputs))
        yield


@dataclass(frozen=True)
class Extracted:
    """Folder with a picture of each kind in its validation split, and the result of its extraction."""

    folder: Path
    path: Path
    """Folder of the store."""
    command: CommandResult

    @functools.cached_property
    def store(self) -> FeatureStore:
        """Store of the folder."""
        return FeatureStore(self.path)

    @property
    def reasons(self) -> dict[str, str]:
        """Reasons of the failed pictures, by path."""
        return list_reasons(self.command.json["failed"])


def locate(kind: Kind) -> str:
    """Return the path of a kind in the folder."""
    return f"validation/{('cats', 'dogs')[KINDS.index(kind) % 2]}/{kind.file_name}"


@pytest.fixture(scope="session")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Extracted:
    """Extraction of 16 training pictures, and of a validation picture of each kind."""
    folder = tmp_path_factory.mktemp("kinds") / "pictures"
    fill_folder(folder, {"train/cats": 8, "train/dogs": 8, "validation/cats": 0, "validation/dogs": 0})
    for kind in KINDS:
        (folder / locate(kind)).write_bytes(kind.make())
    store = folder.parent / "store"
    options = ["--images", folder, "--store", store, *SMALL, "--max-bad", 1, "--json"]
    result = run_command("extract.__main__", *options)
    assert result.status == 0, result.err
    return Extracted(folder, store, result)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported model that separates red cats from blue dogs by their mean colour."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model.keras", 2)
