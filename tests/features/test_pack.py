"""A packed store and the view: one plain file that says the same as the store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from features.compression import Compression
from features.errors import FeatureStoreError, StoreMissingError, UsageError
from features.pack import pack_store
from features.shard import SHARD_FOLDER
from features.store import FeatureStore
from features.view import VIEW_NAME
from tests.features.stores import SHAPE, add_views, fill_store, make_features, make_image, make_writer


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    fill_store(tmp_path / "store", range(10))
    with make_writer(tmp_path / "store") as writer:
        copy = make_image(3)._replace(path="dogs/not-utf8-\udcff.jpg", split="train")
        writer.sync_images([copy], ["cats/00000.jpg"])
        writer.catalog.write_meta("images_folder", "/pictures")
    return FeatureStore(tmp_path / "store")


@pytest.mark.parametrize("compression", list(Compression))
def test_packed_store_read_as_a_store_has_equal_examples_and_features(
    store: FeatureStore, tmp_path: Path, compression: Compression
) -> None:
    assert pack_store(store, tmp_path / "out.h5", compression, lambda _: None) == 10
    packed = FeatureStore(tmp_path / "out.h5")
    assert (packed.fingerprint, packed.origin, packed.images_folder) == (store.fingerprint, store.origin, "/pictures")
    by_path = {example.path: example for example in packed.examples}
    assert {(e.path, e.label, e.split, e.content_hash) for e in packed.examples} == {
        (e.path, e.label, e.split, e.content_hash) for e in store.examples
    }
    same_order = [by_path[example.path] for example in store.examples]
    np.testing.assert_array_equal(packed.read(same_order), store.read(store.examples))


def test_packed_store_is_plain_hdf5_for_anyone(store: FeatureStore, tmp_path: Path) -> None:
    pack_store(store, tmp_path / "out.h5", Compression.GZIP, lambda _: None)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file.attrs["class_names"].astype(str).tolist() == ["cats", "dogs"]
        assert [dimension.label for dimension in file["features"].dims] == ["row", "y", "x", "channel"]
        paths = file["paths"].asstr("utf-8", "surrogateescape")[:]
        for path, label, feature in zip(paths, file["labels"][:], file["features"][:], strict=True):
            assert path.split("/")[0] == ("cats", "dogs")[label]
            number = 3 if "not-utf8" in path else int(Path(path).stem)
            np.testing.assert_array_equal(feature, make_features(range(number, number + 1))[0])


def test_packed_store_keeps_views(store: FeatureStore, tmp_path: Path) -> None:
    add_views(store.path, range(2, 6), range(1, 4))
    store = FeatureStore(store.path)
    # Image 0 is gone; image 3 is there twice.
    assert pack_store(store, tmp_path / "out.h5", Compression.GZIP, lambda _: None) == 10 + 3 * 5
    packed = FeatureStore(tmp_path / "out.h5")
    assert (len(packed.examples), packed.num_views) == (10, 4)
    by_path = {example.path: example for example in packed.examples}
    for example in store.examples:
        expected, found = store.list_views(example, 4), packed.list_views(by_path[example.path], 4)
        number = 3 if "not-utf8" in example.path else int(Path(example.path).stem)
        assert len(expected) == (4 if number in range(2, 6) else 1)
        assert [view.view for view in found] == [view.view for view in expected]
        np.testing.assert_array_equal(packed.read(found), store.read(expected))


def test_packed_store_from_before_there_were_views_has_one_of_each(tmp_path: Path) -> None:
    packed = FeatureStore(Path(__file__).parents[1] / "golden/v1/packed.h5")
    assert packed.num_views == 1
    assert [packed.list_views(example, 3) for example in packed.examples] == [[e] for e in packed.examples]


def test_packed_store_with_a_flipped_feature_byte_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    pack_store(store, path, Compression.NONE, lambda _: None)
    with h5py.File(path) as file:
        offset = file["features"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 1] ^= 1
    path.write_bytes(data)
    packed = FeatureStore(path)
    with pytest.raises(FeatureStoreError, match="sound features"):
        packed.read(packed.examples)


def test_pack_onto_an_existing_file_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "out.h5").write_bytes(b"precious")
    with pytest.raises(UsageError, match="a name that is free"):
        pack_store(store, tmp_path / "out.h5", Compression.GZIP, lambda _: None)
    assert (tmp_path / "out.h5").read_bytes() == b"precious"


def test_store_that_is_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_bytes(b"text")
    with pytest.raises(StoreMissingError):
        FeatureStore(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(StoreMissingError, match="another HDF5 file"):
        FeatureStore(tmp_path / "other.h5")


def test_view_shows_every_row_with_its_path_label_and_split(store: FeatureStore) -> None:
    with h5py.File(store.path / VIEW_NAME) as file:
        np.testing.assert_array_equal(file["features"][:], make_features(range(10)))
        paths = file["paths"].asstr("utf-8", "surrogateescape")[:].tolist()
        assert paths == ["", *(make_image(number).path for number in range(1, 10))]
        assert file["labels"].asstr()[:4].tolist() == ["", "dogs", "cats", "dogs"]


def test_view_shows_augmentations_with_their_number_and_the_pictures_path(store: FeatureStore) -> None:
    add_views(store.path, range(4, 6), range(1, 3))
    with h5py.File(store.path / VIEW_NAME) as file:
        assert file["views"][:].tolist() == [0] * 10 + [1, 2, 1, 2]
        paths = file["paths"].asstr("utf-8", "surrogateescape")[10:].tolist()
        assert paths == [make_image(number).path for number in (4, 4, 5, 5)]
        expected = [make_features(range(number, number + 1))[0] for number in (1004, 2004, 1005, 2005)]
        np.testing.assert_array_equal(file["features"][10:], expected)


def test_view_shows_nan_for_a_missing_shard(store: FeatureStore) -> None:
    (store.path / SHARD_FOLDER / store.shards[1].name).unlink()
    with h5py.File(store.path / VIEW_NAME) as file:
        assert np.isnan(file["features"][4:8]).all()
        np.testing.assert_array_equal(file["features"][:4], make_features(range(4)))


def test_info_and_pack_commands_print_what_they_found(store: FeatureStore, tmp_path: Path) -> None:
    def run(*arguments: str) -> dict[str, object]:
        command = [sys.executable, "-m", "features", *arguments, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        return dict(json.loads(done.stdout))

    info = run("info", str(store.path))
    assert info["images"] == [
        {"split": "", "label": "cats", "status": "done", "count": 4},
        {"split": "", "label": "dogs", "status": "done", "count": 5},
        {"split": "train", "label": "dogs", "status": "done", "count": 1},
    ]
    assert (info["features"], info["examples"], info["feature_shape"]) == (10, 10, list(SHAPE))
    packed = run("pack", str(store.path), str(tmp_path / "out.h5"))
    assert packed["features"] == 10
    assert run("info", str(tmp_path / "out.h5"))["examples"] == 10
