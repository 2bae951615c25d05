"""Dry run: the estimate, and no change of any file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from base.errors import FingerprintMismatchError, NoLocksError, UsageError
from base.terminal import Console
from extract.config import ExtractConfig, Precision
from extract.engines.processor import Instructions, Processor
from extract.estimate import estimate_run
from extract.run import extract_features
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.options import Pool
from features.store import FeatureStore
from tests.errors import raises
from tests.extract.extraction import configure, extract
from tests.files import read_files, remove_locks
from tests.pictures import fill_folder

MIXED0, MIXED1 = 7 * 7 * 256 * 2, 7 * 7 * 288 * 2
"""Bytes of a feature in float16."""
COMPRESSED, COMPRESSED_POOLED = 0.21, 0.95
"""Estimated share of these bytes on disk."""


@pytest.fixture
def new_store(small_pictures: Path, tmp_path: Path) -> ExtractConfig:
    """Options of a run into a store that does not exist yet."""
    return configure(small_pictures, tmp_path / "new")


def test_dry_run_without_a_store_counts_all_pictures_and_creates_nothing(new_store: ExtractConfig) -> None:
    Path(str(new_store.images), "train/cats/notes.txt").write_text("no picture")

    found = estimate_run(new_store, Console())

    assert (found["images"], found["to_read"], found["reused"]) == (16, 16, 0)
    assert found["classes"] == {"train": {"cats": 6, "dogs": 6}, "validation": {"cats": 2, "dogs": 2}}
    assert [skipped["path"] for skipped in found["skipped"]] == ["train/cats/notes.txt"]
    assert found["estimated_bytes"] == round(16 * MIXED0 * COMPRESSED)
    assert found["images_per_second"] is found["estimated_seconds"] is None
    assert not new_store.store.exists()


def test_extract_auto_records_concrete_values_and_repeats_them(
    small_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(instructions: set[Instructions]) -> None:
        processor = Processor("any", frozenset(instructions))
        monkeypatch.setattr("extract.engines.choose.find_processor", lambda: processor)

    choose(set())
    extract(small_pictures, tmp_path / "store", precision=Precision.AUTO)
    fingerprint = FeatureStore(tmp_path / "store").fingerprint
    assert (fingerprint.engine, fingerprint.precision) == ("tensorflow", "float32")
    choose({Instructions.AVX512_BF16})
    for store, num_reused in ((tmp_path / "store", 16), (tmp_path / "new", 0)):
        assert (
            estimate_run(configure(small_pictures, store, precision=Precision.AUTO), Console())["reused"] == num_reused
        )
    assert extract(small_pictures, tmp_path / "store", precision=Precision.AUTO).computed == 0


def test_dry_run_with_a_store_uses_its_last_rate_and_changes_nothing(small_pictures: Path, small_store: Path) -> None:
    with closing(Catalog(small_store / CATALOG_NAME, writable=True)) as catalog:
        catalog.write_meta("rows_per_second", "8.0")
    fill_folder(small_pictures, {"train/cats": 2}, start=500)
    shutil.rmtree(small_pictures / "validation")
    before = read_files(small_store)

    found = estimate_run(configure(small_pictures, small_store), Console())

    assert (found["images"], found["to_read"], found["reused"]) == (14, 2, 12)
    assert (found["images_per_second"], found["estimated_seconds"]) == (8.0, 0.2)
    assert found["estimated_bytes"] == round(2 * MIXED0 * COMPRESSED)
    assert read_files(small_store) == before


@pytest.mark.parametrize(
    ("options", "num_bytes"),
    [
        ({"views": 3}, [(12 * 3 + 4) * MIXED0 * COMPRESSED]),
        ({"pool": Pool.AVG}, [16 * 256 * 2 * COMPRESSED_POOLED]),
        ({"cut": "mixed0,mixed1", "views": 2}, [(12 * 2 + 4) * size * COMPRESSED for size in (MIXED0, MIXED1)]),
    ],
)
def test_dry_run_counts_views_cuts_and_pooling(
    new_store: ExtractConfig, options: dict[str, Any], num_bytes: list[float]
) -> None:
    found = estimate_run(replace(new_store, **options), Console())
    assert (found["images"], found["to_read"], found["reused"]) == (16, 16, 0)
    assert found["estimated_bytes"] == sum(round(estimate) for estimate in num_bytes)
    assert not new_store.store.exists()


@pytest.mark.parametrize(("num_views", "to_read"), [(1, 0), (2, 12)])
def test_dry_run_with_more_views_counts_only_training_pictures(
    small_pictures: Path, small_store: Path, num_views: int, to_read: int
) -> None:
    found = estimate_run(configure(small_pictures, small_store, views=num_views), Console())
    assert (found["to_read"], found["reused"]) == (to_read, 16 - to_read)


def test_dry_run_with_a_second_cut_counts_only_its_features(small_pictures: Path, tmp_path: Path) -> None:
    extract(small_pictures, tmp_path / "stores/mixed0")
    found = estimate_run(configure(small_pictures, tmp_path / "stores", cut="mixed0,mixed1"), Console())
    assert (found["to_read"], found["reused"]) == (16, 0)
    assert found["estimated_bytes"] == round(16 * MIXED1 * COMPRESSED)


def test_dry_run_with_other_features_than_the_store_is_refused(small_pictures: Path, small_store: Path) -> None:
    config = configure(small_pictures, small_store, pool=Pool.AVG)
    with raises(FingerprintMismatchError, where=small_store, expected="pool none", got="pool avg"):
        estimate_run(config, Console())


def test_dry_run_with_a_wrong_option_is_refused(new_store: ExtractConfig) -> None:
    with raises(UsageError, where="--cut", got="'mixd7'") as caught:
        estimate_run(replace(new_store, cut="mixd7"), Console())
    assert "mixed7" in caught.value.advice


def test_dry_run_of_a_layer_of_unknown_shape_uses_the_store_or_gives_no_size(
    small_pictures: Path, tmp_path: Path
) -> None:
    config = configure(small_pictures, tmp_path / "store", cut="conv2d")
    assert estimate_run(config, Console())["estimated_bytes"] is None
    extract(small_pictures, tmp_path / "store", cut="conv2d")
    fill_folder(small_pictures, {"train/cats": 1}, start=600)
    assert estimate_run(config, Console())["estimated_bytes"] == round(37 * 37 * 32 * 2 * COMPRESSED)


def test_dry_run_builds_no_backbone_and_needs_no_weights(
    new_store: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.cut_backbone.build_backbone", None)
    config = replace(new_store, weights="imagenet", weights_sha256="0" * 64)
    assert estimate_run(config, Console())["to_read"] == 16


@pytest.mark.parametrize("run", [estimate_run, extract_features])
def test_extraction_into_a_file_system_without_locks_is_refused_before_the_scan(
    new_store: ExtractConfig, monkeypatch: pytest.MonkeyPatch, run: Callable[[ExtractConfig, Console], object]
) -> None:
    remove_locks(monkeypatch)
    with mock.patch("extract.prepare.scan_pictures") as scan, raises(NoLocksError, where=new_store.store):
        run(new_store, Console())
    scan.assert_not_called()
    assert not new_store.store.exists()
