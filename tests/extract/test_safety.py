"""What stops a run of stage one before or while features would be wrong, and what brings a store back."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from base.errors import FeatureStoreError, StoreWriteError
from base.terminal import Console
from extract import canary
from extract.backbone import build_backbone
from extract.config import ExtractConfig
from extract.run import extract_features
from extract.weights.find import Weights, WeightsName
from features.catalog.catalog import CATALOG_NAME
from features.maintenance.check import find_problems, rebuild_catalog
from features.schema import FeatureStatus
from features.store import FeatureStore
from tests.errors import raises
from tests.pictures import fill_folder


@pytest.fixture
def config(pictures: Path, store: Path) -> ExtractConfig:
    return ExtractConfig(pictures, store, weights="random", image_size=75)


def list_files(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.rglob("*") if path.is_file() and path.name != "LOCK"}


def test_extract_without_room_for_the_new_features_stops_before_it_computes(
    config: ExtractConfig, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_folder(config.images, {"train/cats": 2}, start=50)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with raises(StoreWriteError, got="1"):
        extract_features(config, quiet)
    assert len(FeatureStore(config.store).examples) == 36


def test_extract_whose_features_differ_from_the_stored_ones_adds_nothing(
    config: ExtractConfig, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract_features(config, quiet)
    before = FeatureStore(config.store).examples
    fill_folder(config.images, {"train/cats": 2}, start=50)
    with monkeypatch.context() as patch:
        patch.setattr(canary, "TOLERANCE", -1.0)
        with pytest.raises(FeatureStoreError, match="to extract the same features again"):
            extract_features(config, quiet)
    assert FeatureStore(config.store).examples == before
    assert extract_features(config, quiet).computed == 2


def test_extract_of_features_beyond_float16_stops_records_them_and_never_offers_them(
    config: ExtractConfig, tmp_path: Path, quiet: Console
) -> None:
    model = build_backbone(75, Weights(WeightsName.RANDOM))
    first = next(layer for layer in model.layers if layer.weights)
    first.set_weights([first.get_weights()[0] * np.float32(1e6)])
    model.save_weights(tmp_path / "huge.weights.h5")
    huge = replace(config, store=tmp_path / "huge", weights=str(tmp_path / "huge.weights.h5"))
    result = extract_features(huge, quiet)
    assert (result.error != "", result.unsound) == (True, 32)
    store = FeatureStore(huge.store)
    assert {place.status for place in store.contents.locations.values()} == {FeatureStatus.OVERFLOW}
    assert store.num_features == 32
    assert store.examples == []


def test_extract_after_a_rebuilt_catalog_computes_nothing_and_equals_the_store_before(
    config: ExtractConfig, quiet: Console
) -> None:
    before = FeatureStore(config.store)
    features = before.read(before.examples)
    (config.store / CATALOG_NAME).unlink()
    assert rebuild_catalog(config.store) == (36, [])
    result = extract_features(config, quiet)
    assert (result.computed, result.reused) == (0, 36)
    after = FeatureStore(config.store)
    assert [example[:4] for example in after.examples] == [example[:4] for example in before.examples]
    np.testing.assert_array_equal(after.read(after.examples), features)


def test_extract_after_a_lost_shard_computes_its_features_alone_and_says_so(
    config: ExtractConfig, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    before = FeatureStore(config.store)
    features = before.read(before.examples)
    fill_folder(config.images, {"train/cats": 3}, start=50)
    assert extract_features(config, quiet).computed == 3
    first, second = sorted((config.store / "shards").iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    result = extract_features(config, quiet)
    assert (result.computed, result.reused) == (36, 3)
    assert f"{first.name} has" in capsys.readouterr().err
    after = FeatureStore(config.store)
    by_path = {example.path: example for example in after.examples}
    np.testing.assert_array_equal(after.read([by_path[example.path] for example in before.examples]), features)
    assert second.exists()
    assert find_problems(config.store, read_data=True, images=config.images, advance=lambda _: None) == []
