"""Extraction in int8: one quantised backbone for one set of pictures, kept in the store."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import FingerprintMismatchError, HeadstartError, UsageError
from extract.calibrate import Calibrator
from extract.config import Precision
from extract.engines.choose import list_instructions
from extract.engines.processor import find_processor
from extract.result import ExtractResult
from features.cuts import open_store
from features.options import Pool
from features.quantized import ModelDamagedError
from features.schema import BACKBONE_FOLDER
from features.store import FeatureStore
from tests.errors import raises
from tests.extract.extraction import (
    assert_equal_stores,
    extract,
    interrupt_before_batch,
    read_by_path,
)
from tests.features.stores import flip_byte
from tests.files import read_files
from tests.pictures import fill_folder

pytestmark = pytest.mark.skipif(
    not list_instructions(find_processor(), Precision.INT8), reason="the processor does not support int8"
)

CUT, CUTS = "max_pooling2d", "max_pooling2d,max_pooling2d_1"


def extract_int8(images: Path, store: Path, **options: Any) -> ExtractResult:
    """Extract from the first layers in int8."""
    return extract(images, store, **({"cut": CUT, "precision": Precision.INT8} | options))


@pytest.fixture(scope="module")
def shared_int8(nine_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of `nine_pictures` in int8; must not be changed."""
    store = tmp_path_factory.mktemp("int8") / "store"
    assert extract_int8(nine_pictures, store).computed == 9
    return store


@pytest.fixture
def pictures(nine_pictures: Path, tmp_path: Path) -> Path:
    """Copy of `nine_pictures`."""
    return shutil.copytree(nine_pictures, tmp_path / "pictures")


@pytest.fixture
def store(shared_int8: Path, tmp_path: Path) -> Path:
    """Copy of `shared_int8`."""
    return shutil.copytree(shared_int8, tmp_path / "store")


def forbid_quantising(patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    patch.setattr(Calibrator, "_quantize", fail)


def read_calibration(store: Path) -> str:
    return FeatureStore(store).fingerprint.calibration


def test_extract_in_int8_is_close_to_float32(nine_pictures: Path, shared_int8: Path, tmp_path: Path) -> None:
    extract(nine_pictures, tmp_path / "exact", cut=CUT)
    exact, store = FeatureStore(tmp_path / "exact"), FeatureStore(shared_int8)
    paths = [example.path for example in exact.examples]
    expected = read_by_path(exact, paths).astype(np.float32)
    error = np.linalg.norm(read_by_path(store, paths) - expected) / np.linalg.norm(expected)
    assert 0.001 < error < 0.05
    assert (store.fingerprint.precision, store.fingerprint.engine) == ("int8", "openvino")
    assert len(store.fingerprint.calibration) == 64
    assert exact.fingerprint.calibration == ""


def test_extract_in_int8_of_renamed_pictures_gives_the_same_backbone(
    pictures: Path, shared_int8: Path, tmp_path: Path
) -> None:
    for number, path in enumerate(sorted(pictures.rglob("*.jpg"), reverse=True)):
        path.rename(path.with_name(f"picture-{number}.jpg"))
    first = next(pictures.glob("train/*/*.jpg"))
    shutil.copy(first, first.with_name("duplicate.jpg"))
    first.with_name("broken.jpg").write_bytes(b"\xff\xd8 no picture")
    # Other validation pictures change nothing.
    fill_folder(pictures, {"validation/cats": 1}, start=900)

    result = extract_int8(pictures, tmp_path / "again", max_bad=1.0)

    assert (result.computed, result.duplicates, len(result.failed)) == (10, 1, 1)
    assert read_files(tmp_path / "again" / BACKBONE_FOLDER) == read_files(shared_int8 / BACKBONE_FOLDER)
    assert read_calibration(tmp_path / "again") == read_calibration(shared_int8)


def test_extract_in_int8_without_a_usable_training_picture_is_refused(pictures: Path, tmp_path: Path) -> None:
    for path in pictures.glob("train/*/*.jpg"):
        path.write_bytes(b"\xff\xd8 no picture")
    with raises(HeadstartError, where=pictures):
        extract_int8(pictures, tmp_path / "store", max_bad=1.0)
    assert not (tmp_path / "store").exists()


def test_extract_in_int8_appends_with_the_backbone_of_the_store(
    pictures: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_files(store / BACKBONE_FOLDER)
    fill_folder(pictures, {"train/cats": 2}, start=500)
    forbid_quantising(monkeypatch)
    assert extract_int8(pictures, store).computed == 2
    assert extract_int8(pictures, store, precision=Precision.AUTO).computed == 0
    assert read_files(store / BACKBONE_FOLDER) == before


def test_extract_in_int8_with_a_damaged_backbone_makes_it_again_from_the_same_pictures(
    pictures: Path, store: Path
) -> None:
    before = read_files(store / BACKBONE_FOLDER)
    flip_byte(store / BACKBONE_FOLDER / "int8.bin", 1000)
    fill_folder(pictures, {"train/cats": 2}, start=500)
    for path in pictures.rglob("*.jpg"):
        os.utime(path, (1, 1))  # as if the files had been copied
    assert extract_int8(pictures, store).computed == 2
    assert read_files(store / BACKBONE_FOLDER) == before


@pytest.mark.parametrize("num_missing", [1, None])
def test_extract_in_int8_with_a_damaged_backbone_and_other_pictures_is_refused(
    pictures: Path, store: Path, num_missing: int | None
) -> None:
    extract_int8(pictures, store)  # otherwise this is another folder
    for path in list(pictures.glob("train/*/*.jpg"))[:num_missing]:
        path.unlink()
    fill_folder(pictures, {"train/cats": 2, "train/dogs": 2}, start=500)
    shutil.rmtree(store / BACKBONE_FOLDER)
    before = FeatureStore(store).examples
    with raises(ModelDamagedError):
        extract_int8(pictures, store)
    assert FeatureStore(store).examples == before
    assert not (store / BACKBONE_FOLDER).exists()


def test_extract_in_int8_killed_before_the_first_commit_is_completed_by_the_next_run(
    nine_pictures: Path, shared_int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_before_batch(1, patch, kill=True)
        with pytest.raises(KeyboardInterrupt):
            extract_int8(nine_pictures, tmp_path / "store")
    assert (tmp_path / "store" / BACKBONE_FOLDER).is_dir()
    assert FeatureStore(tmp_path / "store").num_features == 0
    assert extract_int8(nine_pictures, tmp_path / "store").computed == 9
    assert_equal_stores(tmp_path / "store", shared_int8)


def test_extract_in_int8_with_the_calibration_of_a_store_uses_its_backbone(
    pictures: Path, shared_int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Parts on other computers, or of another folder, could give another backbone.
    fill_folder(pictures, {"train/cats": 2}, start=500)
    forbid_quantising(monkeypatch)
    for _ in range(2):
        assert extract_int8(pictures, tmp_path / "part", calibration=shared_int8, part="1/2").error == ""
    assert read_files(tmp_path / "part" / BACKBONE_FOLDER) == read_files(shared_int8 / BACKBONE_FOLDER)
    assert FeatureStore(tmp_path / "part").fingerprint == FeatureStore(shared_int8).fingerprint


def test_extract_with_the_calibration_of_a_store_with_other_settings_is_refused(
    pictures: Path, shared_int8: Path, store: Path, one_view: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raises(FingerprintMismatchError, where=shared_int8, expected="image_size 75", got="image_size 76"):
        extract_int8(pictures, tmp_path / "new", calibration=shared_int8, image_size=76)
    with raises(FingerprintMismatchError, where=one_view):
        extract_int8(pictures, tmp_path / "new", calibration=one_view)
    assert not (tmp_path / "new").exists()
    with raises(UsageError, where="--calibration"):
        extract(pictures, tmp_path / "new", calibration=shared_int8)


def test_extract_two_cuts_in_int8_keeps_one_backbone_in_both_stores(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = tmp_path / "stores"
    assert extract_int8(pictures, stores, cut=CUTS, pool=Pool.AVG).computed == 9
    models = [read_files(stores / cut / BACKBONE_FOLDER) for cut in CUTS.split(",")]
    assert models[0] == models[1]

    fill_folder(pictures, {"train/cats": 2}, start=500)
    forbid_quantising(monkeypatch)
    assert extract_int8(pictures, stores, cut="max_pooling2d_1", pool=Pool.AVG).computed == 2
    shutil.rmtree(stores / CUT / BACKBONE_FOLDER)
    # The other store has the same backbone.
    assert extract_int8(pictures, stores, cut=CUTS, pool=Pool.AVG).computed == 2
    assert read_files(stores / CUT / BACKBONE_FOLDER) == models[0]
    joined = open_store(stores, CUTS)
    assert len(joined) == 11
    assert joined.fingerprint.calibration == read_calibration(stores / CUT)


def test_extract_an_added_cut_in_int8_has_a_backbone_of_its_own(pictures: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "stores").mkdir()
    store.rename(tmp_path / "stores" / CUT)
    before = read_files(tmp_path / "stores" / CUT / BACKBONE_FOLDER)
    assert extract_int8(pictures, tmp_path / "stores", cut=CUTS).computed == 9
    fill_folder(pictures, {"train/cats": 1}, start=500)
    assert extract_int8(pictures, tmp_path / "stores", cut=CUTS).computed == 1
    assert read_files(tmp_path / "stores" / CUT / BACKBONE_FOLDER) == before
    assert len({read_calibration(tmp_path / "stores" / cut) for cut in CUTS.split(",")}) == 2
