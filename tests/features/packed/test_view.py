"""View `features.h5` of a store."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest

from features.catalog.catalog import CATALOG_NAME
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


def test_run_without_changes_writes_neither_view_nor_catalog(store: Path) -> None:
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in (store / VIEW_NAME, store / CATALOG_NAME)}
    with make_writer(store) as writer:
        writer.update_images([], [])
        writer.write_meta("fingerprint", writer.catalog.read_meta("fingerprint") or "")
        writer.commit()
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in before} == before


def test_view_that_is_missing_or_of_an_earlier_state_is_written_by_the_next_run(store: Path) -> None:
    with suppress(RuntimeError), make_writer(store) as writer:
        writer.update_images([make_image(0)], [])
        raise RuntimeError  # As after a kill: the catalog is written, and the view is not.
    for _ in range(2):
        with make_writer(store):
            pass
        with h5py.File(store / VIEW_NAME) as file:
            assert file["paths"].asstr()[0] == make_image(0).path
        (store / VIEW_NAME).unlink()
