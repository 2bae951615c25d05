"""Extraction of several cuts in one pass, and of pooled features."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from base.errors import FeatureStoreError, FingerprintMismatchError, StoreMissingError, UsageError
from extract.engines import build_engine
from extract.stores import OtherFolderError
from features.options import Pool
from features.store import FeatureStore
from tests.errors import raises
from tests.extract.extraction import ScaledEngine, assert_equal_stores, extract, interrupt_before_batch, read_by_key
from tests.files import read_files
from tests.pictures import fill_folder

CUTS = ("mixed0", "mixed1")


@pytest.fixture(scope="module")
def alone(nine_pictures: Path, one_view: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores of each cut from a run of one cut; must not be changed."""
    store = tmp_path_factory.mktemp("alone") / "store"
    assert extract(nine_pictures, store, cut="mixed1").computed == 9
    return {"mixed0": one_view, "mixed1": store}


def test_extract_two_cuts_in_one_pass_equals_two_runs_bit_for_bit(
    nine_pictures: Path, alone: dict[str, Path], tmp_path: Path
) -> None:
    result = extract(nine_pictures, tmp_path / "stores", cut=",".join(CUTS))

    assert (result.images, result.computed, result.reused, result.unsound) == (9, 9, 0, 0)
    digests = [FeatureStore(alone[cut]).fingerprint.digest for cut in CUTS]
    assert result.fingerprint == ",".join(digests)
    assert sorted(path.name for path in (tmp_path / "stores").iterdir()) == list(CUTS)
    for cut in CUTS:
        assert_equal_stores(tmp_path / "stores" / cut, alone[cut])
    for cuts in ("mixed0,mixed1", "mixed1,mixed0", "mixed0", "mixed1"):
        again = extract(nine_pictures, tmp_path / "stores", cut=cuts)
        assert (again.computed, again.reused) == (0, 9)


def test_extract_with_an_added_cut_computes_only_its_features(
    nine_pictures: Path, alone: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "stores").mkdir()
    shutil.copytree(alone["mixed0"], tmp_path / "stores/mixed0")
    before = FeatureStore(tmp_path / "stores/mixed0")

    assert extract(nine_pictures, tmp_path / "stores", cut="mixed0,mixed1").computed == 9

    assert_equal_stores(tmp_path / "stores/mixed1", alone["mixed1"])
    after = FeatureStore(tmp_path / "stores/mixed0")
    assert (after.examples, after.shards) == (before.examples, before.shards)


@pytest.mark.parametrize(
    ("rows_per_shard", "num_stored", "num_examples"),
    [((4, 100), [8, 0], [4, 0]), ((100, 4), [0, 8], [0, 4]), ((4, 3), [8, 6], [4, 4])],
)
def test_extract_two_cuts_killed_at_different_pictures_are_completed_by_the_next_run(
    nine_pictures: Path,
    alone: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows_per_shard: tuple[int, int],
    num_stored: list[int],
    num_examples: list[int],
) -> None:
    stores = tmp_path / "stores"
    with monkeypatch.context() as patch:
        rows = dict(zip((256, 288), rows_per_shard, strict=True))
        patch.setattr("features.store_writer.count_rows_per_shard", lambda shape: rows[shape[-1]])
        interrupt_before_batch(3, patch, kill=True)
        with pytest.raises(KeyboardInterrupt):
            extract(nine_pictures, stores, cut=",".join(CUTS))
    left = [FeatureStore(stores / cut) for cut in CUTS]
    assert [store.num_features for store in left] == num_stored
    assert [len(store.examples) for store in left] == num_examples

    result = extract(nine_pictures, stores, cut=",".join(CUTS))

    assert (result.computed, result.reused) == (9 - min(num_stored), min(num_stored))
    for cut in CUTS:
        assert_equal_stores(stores / cut, alone[cut])
        assert sum(shard.num_rows for shard in FeatureStore(stores / cut).shards) == 9, "each feature is stored once"


def test_extract_two_cuts_with_different_pictures_are_completed_by_the_next_run(
    nine_pictures: Path, alone: dict[str, Path], tmp_path: Path
) -> None:
    stores = tmp_path / "stores"
    smaller = shutil.copytree(nine_pictures, tmp_path / "smaller")
    (smaller / "train/dogs/000.jpg").unlink()
    (smaller / "validation/cats/050.jpg").unlink()
    (smaller / "train/cats/000.jpg").rename(smaller / "train/dogs/another name and class.jpg")
    extract(smaller, stores / "mixed0")
    extract(nine_pictures, stores / "mixed1", cut="mixed1")

    result = extract(nine_pictures, stores, cut=",".join(CUTS))

    assert (result.computed, result.reused, result.removed) == (2, 7, 1)
    for cut in CUTS:
        assert_equal_stores(stores / cut, alone[cut])


def test_extract_with_an_added_cut_interrupted_keeps_the_complete_store(
    nine_pictures: Path, alone: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = tmp_path / "stores"
    shutil.copytree(alone["mixed0"], stores / "mixed0")
    with monkeypatch.context() as patch:
        interrupt_before_batch(2, patch)
        with pytest.raises(KeyboardInterrupt):
            extract(nine_pictures, stores, cut=",".join(CUTS))

    assert_equal_stores(stores / "mixed0", alone["mixed0"])
    assert FeatureStore(stores / "mixed0").num_pending == 0
    partial = FeatureStore(stores / "mixed1")
    num_kept = len(partial.examples)
    assert (num_kept >= 4, partial.num_pending) == (True, 9 - num_kept)
    result = extract(nine_pictures, stores, cut=",".join(CUTS))
    assert (result.computed, result.reused) == (9 - num_kept, num_kept)
    for cut in CUTS:
        assert_equal_stores(stores / cut, alone[cut])


def test_extract_with_an_added_cut_and_other_features_than_stored_is_refused(
    nine_pictures: Path, alone: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = tmp_path / "stores"
    shutil.copytree(alone["mixed0"], stores / "mixed0")
    monkeypatch.setattr("extract.cut_backbone.build_engine", lambda *given: ScaledEngine(build_engine(*given), 1.01))
    with raises(FeatureStoreError, where=stores / "mixed0") as caught:
        extract(nine_pictures, stores, cut=",".join(CUTS))
    assert "0.01" in caught.value.got.split()
    assert_equal_stores(stores / "mixed0", alone["mixed0"])
    assert FeatureStore(stores / "mixed1").num_features == 0


def test_extract_two_cuts_refused_for_one_creates_no_store_for_the_other(
    nine_pictures: Path, alone: dict[str, Path], tmp_path: Path
) -> None:
    stores = tmp_path / "stores"
    shutil.copytree(alone["mixed1"], stores / "mixed1")
    with raises(FingerprintMismatchError, where=stores / "mixed1", expected="pool none", got="pool avg"):
        extract(nine_pictures, stores, cut=",".join(CUTS), pool=Pool.AVG)
    assert [path.name for path in stores.iterdir()] == ["mixed1"]
    assert_equal_stores(stores / "mixed1", alone["mixed1"])


def test_extract_another_folder_into_two_cuts_is_refused_for_the_existing_store(
    nine_pictures: Path, alone: dict[str, Path], tmp_path: Path
) -> None:
    stores = tmp_path / "stores"
    shutil.copytree(alone["mixed1"], stores / "mixed1")
    fill_folder(tmp_path / "others", {"train/cats": 2, "train/dogs": 2}, start=900)
    with raises(OtherFolderError, where=stores / "mixed1") as caught:
        extract(tmp_path / "others", stores, cut=",".join(CUTS))
    assert str(nine_pictures) in caught.value.expected
    assert [path.name for path in stores.iterdir()] == ["mixed1"]
    assert_equal_stores(stores / "mixed1", alone["mixed1"])


@pytest.mark.parametrize(
    ("cut", "got"), [("mixed0,mixed0", "mixed0,mixed0"), ("mixed0,mixd1", "'mixd1'"), ("mixed0,", "''")]
)
def test_extract_impossible_cuts_are_refused(nine_pictures: Path, tmp_path: Path, cut: str, got: str) -> None:
    with raises(UsageError, where="--cut", got=got):
        extract(nine_pictures, tmp_path / "store", cut=cut)
    assert not (tmp_path / "store").exists()


def test_extract_two_cuts_into_a_store_of_one_are_refused(nine_pictures: Path, one_view: Path) -> None:
    before = read_files(one_view)
    with raises(StoreMissingError, where=one_view):
        extract(nine_pictures, one_view, cut=",".join(CUTS))
    assert read_files(one_view) == before


# Pooling.


def test_extract_pooled_features_are_the_means_over_height_and_width(
    nine_pictures: Path, three_views: Path, tmp_path: Path
) -> None:
    assert extract(nine_pictures, tmp_path / "pooled", views=3, pool=Pool.AVG).computed == 9

    store = FeatureStore(tmp_path / "pooled")
    assert (store.feature_shape, store.fingerprint.pool) == ((256,), "avg")
    plain, pooled = read_by_key(three_views), read_by_key(tmp_path / "pooled")
    assert plain.keys() == pooled.keys()
    for key, feature in pooled.items():
        expected = plain[key].astype(np.float64).mean(axis=(1, 2))
        assert expected.std() > 0.01
        # Each of the two roundings is at most 2**-11 of a value.
        np.testing.assert_allclose(feature, expected, rtol=2**-10, atol=1e-6)
    assert extract(nine_pictures, tmp_path / "pooled", views=3, pool=Pool.AVG).computed == 0


def test_extract_pooled_into_a_store_of_whole_features_is_refused(nine_pictures: Path, one_view: Path) -> None:
    with raises(FingerprintMismatchError, where=one_view, expected="pool none", got="pool avg"):
        extract(nine_pictures, one_view, pool=Pool.AVG)


def test_extract_two_pooled_cuts_writes_a_store_for_each(
    nine_pictures: Path, alone: dict[str, Path], tmp_path: Path
) -> None:
    extract(nine_pictures, tmp_path / "stores", cut=",".join(CUTS), pool=Pool.AVG)
    for cut, channels in zip(CUTS, (256, 288), strict=True):
        plain, pooled = read_by_key(alone[cut]), read_by_key(tmp_path / "stores" / cut)
        assert plain.keys() == pooled.keys()
        for key, feature in pooled.items():
            assert feature.shape == (1, channels)
            np.testing.assert_allclose(feature, plain[key].astype(np.float64).mean(axis=(1, 2)), rtol=2**-10, atol=1e-6)
