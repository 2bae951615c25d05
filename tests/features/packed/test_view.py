"""View `features.h5` of a store."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from features.schema import VIEW_NAME
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from tests.features.stores import add_views, copy_store, make_features, make_image, make_writer

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Folder of a store of ten features; the first picture is no longer in the images folder."""
    folder = copy_store(tmp_path / "store", range(10))
    with make_writer(folder) as writer:
        writer.update_images([], ["cats/00000.jpg"])
    return folder


def test_view_has_every_row_with_path_label_and_split(store: Path) -> None:
    with h5py.File(store / VIEW_NAME) as file:
        np.testing.assert_array_equal(file["features"][:], make_features(range(10)))
        paths = file["paths"].asstr("utf-8", "surrogateescape")[:].tolist()
        assert paths == ["", *(make_image(number).path for number in range(1, 10))]
        assert file["labels"].asstr()[:4].tolist() == ["", "dogs", "cats", "dogs"]


def test_view_has_augmentations_with_the_path_of_the_picture(store: Path) -> None:
    add_views(store, range(4, 6), range(1, 3))
    with h5py.File(store / VIEW_NAME) as file:
        assert file["views"][:].tolist() == [0] * 10 + [1, 2, 1, 2]
        paths = file["paths"].asstr("utf-8", "surrogateescape")[10:].tolist()
        assert paths == [make_image(number).path for number in (4, 4, 5, 5)]
        np.testing.assert_array_equal(file["features"][10:], make_features([1004, 2004, 1005, 2005]))


def test_view_has_nan_for_a_missing_shard(store: Path) -> None:
    (store / SHARD_FOLDER / FeatureStore(store).shards[1].name).unlink()
    with h5py.File(store / VIEW_NAME) as file:
        assert np.isnan(file["features"][4:8]).all()
        np.testing.assert_array_equal(file["features"][:4], make_features(range(4)))
