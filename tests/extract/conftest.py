"""Shared fixtures: backbones, weights files, a small folder with its store, a web server, Keras's cache."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from extract.backbone import build_backbone
from extract.weights.find import Weights, WeightsName
from tests.backbones import build_backbone_once
from tests.extract.extraction import extract
from tests.extract.webserver import WebServer, run_server
from tests.extract.weight_files import write_legacy_file
from tests.pictures import fill_folder

if TYPE_CHECKING:
    import keras


@pytest.fixture(scope="session")
def backbone() -> keras.Model:
    """InceptionV3 at 75 px with the weights of `--weights random`; must not be changed."""
    return build_backbone_once(75, Weights(WeightsName.RANDOM))


@pytest.fixture(scope="session")
def source() -> keras.Model:
    """InceptionV3 at 75 px in which no two arrays are equal, normalisations included; must not be changed."""
    model = build_backbone(75, None)
    rng = np.random.default_rng(3)
    for layer in model.layers:
        arrays = []
        for weight in layer.weights:
            shape = tuple(weight.shape)
            if "variance" in weight.path:
                array = rng.uniform(0.5, 1.5, shape)
            elif len(shape) == 1:
                array = rng.normal(0, 0.1, shape)
            else:
                array = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
            arrays.append(array.astype(np.float32))
        layer.set_weights(arrays)
    return model


@pytest.fixture(scope="session")
def legacy_file(source: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of the weights of `source` in Keras's legacy layout, 88 MB; must not be changed."""
    layers = [(layer.name, layer.get_weights()) for layer in source.layers]
    return write_legacy_file(tmp_path_factory.mktemp("weights") / "legacy_notop.h5", layers)


@pytest.fixture(scope="session")
def keras3_file(source: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of the weights of `source` in the layout of Keras 3; must not be changed."""
    path = tmp_path_factory.mktemp("weights") / "source.weights.h5"
    source.save_weights(path)
    return path


@pytest.fixture(scope="session")
def shared_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 12 training and 4 validation pictures of cats and dogs; must not be changed."""
    folder = tmp_path_factory.mktemp("small") / "pictures"
    fill_folder(folder, {"train/cats": 6, "train/dogs": 6})
    fill_folder(folder, {"validation/cats": 2, "validation/dogs": 2}, start=50)
    return folder


@pytest.fixture(scope="session")
def shared_store(shared_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of `shared_pictures`: random weights, mixed0, 75 px, (7, 7, 256); must not be changed."""
    store = tmp_path_factory.mktemp("small") / "store"
    assert extract(shared_pictures, store).computed == 16
    return store


@pytest.fixture
def small_pictures(shared_pictures: Path, tmp_path: Path) -> Path:
    """Copy of `shared_pictures`."""
    return shutil.copytree(shared_pictures, tmp_path / "pictures")


@pytest.fixture
def small_store(shared_store: Path, small_pictures: Path, tmp_path: Path) -> Path:
    """Copy of `shared_store` whose catalog records `small_pictures` as its folder."""
    store = shutil.copytree(shared_store, tmp_path / "store")
    assert extract(small_pictures, store).computed == 0
    return store


@pytest.fixture(scope="session")
def nine_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of six training and three validation pictures; must not be changed."""
    folder = tmp_path_factory.mktemp("nine") / "pictures"
    fill_folder(folder, {"train/cats": 3, "train/dogs": 3})
    fill_folder(folder, {"validation/cats": 2, "validation/dogs": 1}, start=50)
    return folder


@pytest.fixture(scope="session")
def one_view(nine_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of `nine_pictures` at mixed0, without augmentations; must not be changed."""
    store = tmp_path_factory.mktemp("one") / "store"
    assert extract(nine_pictures, store).computed == 9
    return store


@pytest.fixture(scope="session")
def three_views(nine_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of `nine_pictures` at mixed0, with two augmentations of each training picture; must not be changed."""
    store = tmp_path_factory.mktemp("three") / "store"
    assert extract(nine_pictures, store, views=3).computed == 9
    return store


@pytest.fixture
def server() -> Iterator[WebServer]:
    """Web server on 127.0.0.1, new for each test."""
    with run_server() as site:
        yield site


@pytest.fixture
def keras_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty cache for `keras.utils.get_file`, which uses no proxy."""
    import keras  # noqa: F401  # reads its settings from the real home directory

    folder = tmp_path / "keras-home"
    folder.mkdir()
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(folder))
    monkeypatch.setenv("no_proxy", "*")
    return folder
