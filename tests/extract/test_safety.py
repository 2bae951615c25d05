"""Extraction that stops before it stores wrong features, and repairs a store."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from base.errors import FeatureStoreError, StoreWriteError
from extract import canary
from extract.engines import build_engine
from features.catalog.catalog import CATALOG_NAME
from features.maintenance.check import find_problems, rebuild_catalog
from features.schema import FeatureStatus
from features.store import FeatureStore
from tests.commands import list_warnings
from tests.errors import raises
from tests.extract.extraction import ScaledEngine, extract, read_by_path
from tests.pictures import fill_folder


def test_extract_without_space_for_the_new_features_is_refused(
    small_pictures: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_folder(small_pictures, {"train/cats": 2}, start=500)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with raises(StoreWriteError, where=small_store) as caught:
        extract(small_pictures, small_store)
    assert "1" in caught.value.got.split()
    assert len(FeatureStore(small_store).examples) == 16


def test_extract_with_other_features_than_the_stored_ones_stores_nothing(
    small_pictures: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = FeatureStore(small_store).examples
    fill_folder(small_pictures, {"train/cats": 2}, start=500)
    with monkeypatch.context() as patch:
        patch.setattr(canary, "TOLERANCE", -1.0)
        with raises(FeatureStoreError, where=small_store):
            extract(small_pictures, small_store)
    assert FeatureStore(small_store).examples == before
    assert extract(small_pictures, small_store).computed == 2


def test_extract_with_features_beyond_float16_stops_and_leaves_no_examples(
    small_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.cut_backbone.build_engine", lambda *given: ScaledEngine(build_engine(*given), 1e6))
    result = extract(small_pictures, tmp_path / "huge")
    assert (result.error != "", result.unsound) == (True, 4)
    store = FeatureStore(tmp_path / "huge")
    assert {place.status for place in store.contents.locations.values()} == {FeatureStatus.OVERFLOW}
    assert store.num_features == 4
    assert store.examples == []


def test_extract_after_the_catalog_was_rebuilt_computes_nothing_and_equals_the_store_before(
    small_pictures: Path, small_store: Path
) -> None:
    before = FeatureStore(small_store)
    features = before.read(before.examples)
    (small_store / CATALOG_NAME).unlink()
    assert rebuild_catalog(small_store) == (16, [])
    result = extract(small_pictures, small_store)
    assert (result.computed, result.reused) == (0, 16)
    after = FeatureStore(small_store)
    assert [example[:4] for example in after.examples] == [example[:4] for example in before.examples]
    np.testing.assert_array_equal(after.read(after.examples), features)


def test_extract_after_a_shard_was_lost_warns_and_computes_only_its_features(
    small_pictures: Path, small_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = FeatureStore(small_store)
    paths = [example.path for example in before.examples]
    features = before.read(before.examples)
    fill_folder(small_pictures, {"train/cats": 3}, start=500)
    assert extract(small_pictures, small_store).computed == 3
    first, second = sorted((small_store / "shards").iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    capsys.readouterr()
    result = extract(small_pictures, small_store)
    assert (result.computed, result.reused) == (16, 3)
    (warning,) = list_warnings(capsys.readouterr().err)
    assert first.name in warning
    np.testing.assert_array_equal(read_by_path(FeatureStore(small_store), paths), features)
    assert second.exists()
    assert find_problems(small_store, read_data=True, images=small_pictures, advance=lambda _: None) == []
