"""What the tests of stage one share: a backbone, weights files made from it, a server, Keras's cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from extract.backbone import build_backbone
from extract.weights.find import Weights, WeightsName
from tests.extract.webserver import WebServer, run_server
from tests.extract.weight_files import write_legacy_file

if TYPE_CHECKING:
    import keras


@pytest.fixture(scope="session")
def backbone() -> keras.Model:
    """InceptionV3 at 75 px with the weights of `--weights random`; never to be changed."""
    return build_backbone(75, Weights(WeightsName.RANDOM))


@pytest.fixture(scope="session")
def source() -> keras.Model:
    """InceptionV3 at 75 px in which no two arrays are alike, normalisations too; never to be changed."""
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
    """The weights of `source` in Keras's legacy layout, 88 MB; never to be changed."""
    layers = [(layer.name, layer.get_weights()) for layer in source.layers]
    return write_legacy_file(tmp_path_factory.mktemp("weights") / "legacy_notop.h5", layers)


@pytest.fixture(scope="session")
def keras3_file(source: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of `source` as Keras 3 saves them; never to be changed."""
    path = tmp_path_factory.mktemp("weights") / "source.weights.h5"
    source.save_weights(path)
    return path


@pytest.fixture
def server() -> Iterator[WebServer]:
    """A web server of the test's own."""
    with run_server() as site:
        yield site


@pytest.fixture
def keras_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for `keras.utils.get_file`, which is never sent through a proxy."""
    import keras  # noqa: F401  # reads its own settings, from the real home, before the home is moved

    folder = tmp_path / "keras-home"
    folder.mkdir()
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(folder))
    monkeypatch.setenv("no_proxy", "*")
    return folder
