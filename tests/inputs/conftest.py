"""What these tests share: one folder of every kind, and what the commands make of it, from pictures to predictions."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from base.terminal import Console
from extract.backbone import build_backbone
from features.store import FeatureStore
from tests.inputs.commands import EXTRACT, PREDICT, SMALL, TRAIN, Done, finish, run, start
from tests.inputs.kinds import KINDS
from tests.pictures import fill_folder
from tests.train_head.synthetic import save_tiny_model
from train_head.config import ExportConfig
from train_head.export.__main__ import export

LABELS = ("cats", "dogs")


@pytest.fixture(scope="package", autouse=True)
def _one_backbone() -> Iterator[None]:
    """Extractions in this process share one backbone: to build it takes most of the time of a small one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.backbone.build_backbone", functools.cache(build_backbone))
        yield


@dataclass(frozen=True)
class Everything:
    """Every kind among the validation pictures, and the store that the command made of them."""

    folder: Path
    store: Path
    extract: Done

    @staticmethod
    def place(name: str) -> str:
        """Where a kind lies in the folder."""
        names = [kind.name for kind in KINDS]
        return f"validation/{LABELS[names.index(name) % 2]}/{KINDS[names.index(name)].file_name}"

    @property
    def pictures(self) -> FeatureStore:
        return FeatureStore(self.store)


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Everything:
    folder = tmp_path_factory.mktemp("everything") / "pictures"
    fill_folder(folder, {"train/cats": 8, "train/dogs": 8, "validation/cats": 0, "validation/dogs": 0})
    for kind in KINDS:
        (folder / Everything.place(kind.name)).write_bytes(kind.make())
    store = folder.parent / "store"
    running = start(EXTRACT, "--images", folder, "--store", store, *SMALL, "--max-bad", 1, "--json")
    # Imports TensorFlow into this process meanwhile.
    request.getfixturevalue("tiny_model")
    done = finish(running)
    assert done.status == 0, done.err
    return Everything(folder, store, done)


@pytest.fixture(scope="session")
def run_folder(everything: Everything) -> Path:
    """The run of a head that the command trained on that store."""
    folder = everything.folder.parent / "run"
    options = ["--epochs", 4, "--units", 16, "--learning-rate", 1e-3, "--solver", "full", "--no-report"]
    done = run(TRAIN, "--store", everything.store, "--run", folder, *options)
    assert done.status == 0, done.err
    return folder


@dataclass(frozen=True)
class Exported:
    """That head's export, and what it said of its check on the validation pictures."""

    model: Path
    result: dict[str, Any]


@pytest.fixture(scope="session")
def export_of_everything(run_folder: Path, quiet: Console) -> Exported:
    out = run_folder.parent / "out"
    return Exported(out / "model.keras", dict(export(ExportConfig(run_folder, out), quiet)))


@pytest.fixture(scope="session")
def predicting(everything: Everything, export_of_everything: Exported) -> subprocess.Popen[bytes]:
    """The command that predicts with that export on every kind, so that others can work while it does."""
    return start(PREDICT, "--model", export_of_everything.model, everything.folder / "validation", "--json")


@pytest.fixture(scope="session")
def predicted(predicting: subprocess.Popen[bytes]) -> Done:
    """What it says."""
    return finish(predicting)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model that tells red cats from blue dogs by their mean."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model.keras", 2)
