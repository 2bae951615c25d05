"""Shared fixtures: a quiet console, a small folder of pictures, and the store of its features."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

os.environ["KERAS_BACKEND"] = "tensorflow"
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores, so each computes with one thread.
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(_name, "1")

from base.terminal import TENSORFLOW_VARIABLES, Console, ConsoleOptions
from extract.config import ExtractConfig
from extract.run import extract_features
from tests.backbones import share_backbones, use_small_backbone
from tests.browser import browser as browser
from tests.browser import page as page
from tests.pictures import fill_folder
from tests.servers import bucket as bucket
from tests.servers import s3_server as s3_server

for _name, _value in TENSORFLOW_VARIABLES.items():
    # As `import_quietly` does: some tests import Keras themselves.
    os.environ.setdefault(_name, _value)


def pytest_collection() -> None:
    """Do not search for garbage while modules are imported, which takes a quarter of their time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave all imported modules out of the searches for garbage: with TensorFlow, each takes 0.2 s."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def quiet() -> Console:
    """Console that prints only warnings and errors."""
    return Console(ConsoleOptions(quiet=True))


@pytest.fixture(scope="session", autouse=True)
def _no_fsync() -> Iterator[None]:
    """Do not wait for the disk, which takes half of the time of a small fit. Subprocesses still do."""
    with mock.patch("os.fsync", os.fstat):
        yield


@pytest.fixture(scope="session", autouse=True)
def _shared_backbones() -> Iterator[None]:
    with share_backbones():
        yield


@pytest.fixture(scope="module")
def small_backbone() -> Iterator[None]:
    """Use `build_small_backbone` in place of InceptionV3 in a whole module."""
    with use_small_backbone():
        yield


@pytest.fixture(scope="session")
def _pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "pictures"
    fill_folder(folder, {"train/cats": 12, "train/dogs": 12})
    fill_folder(folder, {"validation/cats": 6, "validation/dogs": 6}, start=100)
    return folder


@pytest.fixture(scope="session")
def _store(_pictures: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    store = tmp_path_factory.mktemp("shared") / "store"
    extract_features(ExtractConfig(_pictures, store, weights="random", image_size=75), quiet)
    return store


@pytest.fixture
def pictures(_pictures: Path, tmp_path: Path) -> Path:
    """Copy of a folder with train/ and validation/: 24 and 12 pictures of cats and dogs."""
    return shutil.copytree(_pictures, tmp_path / "pictures")


@pytest.fixture
def store(_store: Path, tmp_path: Path) -> Path:
    """Copy of the store with the features of `pictures`: random weights, mixed7, 75 px, (3, 3, 768)."""
    return shutil.copytree(_store, tmp_path / "store")


@pytest.fixture(autouse=True)
def _program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Format messages as those of a command; `tests/headstart` sets the Python API."""
    monkeypatch.setattr("base.invocation._program", ["python", "-m", "train_head"])
