"""The dry run: what it foretells, and that it leaves nothing behind."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from base.errors import FingerprintMismatchError, HeadstartError
from base.terminal import Console
from extract.config import ExtractConfig
from extract.run import estimate_run, extract_features
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.schema import Pool
from tests.pictures import fill_folder

if TYPE_CHECKING:
    import keras


def test_dry_run_without_a_store_counts_everything_and_makes_nothing(pictures: Path, tmp_path: Path) -> None:
    (pictures / "train/cats/notes.txt").write_text("no picture")
    config = ExtractConfig(pictures, tmp_path / "new", weights="random", image_size=75, cut="mixed0", batch_size=4)

    found = estimate_run(config, Console())

    assert (found["images"], found["to_read"], found["reused"]) == (36, 36, 0)
    assert found["classes"] == {"train": {"cats": 12, "dogs": 12}, "validation": {"cats": 6, "dogs": 6}}
    assert found["skipped"] == [{"path": "train/cats/notes.txt", "reason": "a file with an unknown extension (.txt)"}]
    assert found["estimated_bytes"] == round(36 * 7 * 7 * 256 * 2 * 0.26)
    assert found["images_per_second"] > 0
    assert found["estimated_seconds"] == pytest.approx(36 / found["images_per_second"], rel=0.05, abs=0.06)
    assert not (tmp_path / "new").exists()


def test_dry_run_on_a_store_takes_its_last_rate_and_leaves_it_as_it_was(pictures: Path, store: Path) -> None:
    catalog = Catalog(store / CATALOG_NAME, writable=True)
    catalog.write_meta("rows_per_second", "8.0")
    catalog.close()
    fill_folder(pictures, {"train/cats": 2}, start=500)
    shutil.rmtree(pictures / "validation")
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    config = ExtractConfig(pictures, store, weights="random", image_size=75)

    found = estimate_run(config, Console())

    assert (found["images"], found["to_read"], found["reused"]) == (26, 2, 24)
    assert (found["images_per_second"], found["estimated_seconds"]) == (8.0, 0.2)
    assert found["estimated_bytes"] == round(2 * 3 * 3 * 768 * 2 * 0.26)
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "num_bytes"),
    [
        ({"views": 3}, [(24 * 3 + 12) * 7 * 7 * 256 * 2 * 0.26]),
        ({"pool": Pool.AVG}, [36 * 256 * 2 * 0.9]),
        (
            {"cut": "mixed0,mixed1", "views": 2},
            [(24 * 2 + 12) * 7 * 7 * channels * 2 * 0.26 for channels in (256, 288)],
        ),
    ],
)
def test_dry_run_counts_views_cuts_and_pooling(
    pictures: Path,
    tmp_path: Path,
    backbone: keras.Model,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    num_bytes: list[float],
) -> None:
    monkeypatch.setattr("extract.backbone.build_backbone", lambda *_: backbone)
    defaults: dict[str, Any] = {"weights": "random", "image_size": 75, "cut": "mixed0", "batch_size": 2}
    config = ExtractConfig(pictures, tmp_path / "new", **(defaults | options))

    found = estimate_run(config, Console())

    assert (found["images"], found["to_read"], found["reused"]) == (36, 36, 0)
    assert found["estimated_bytes"] == sum(round(estimate) for estimate in num_bytes)
    assert found["estimated_seconds"] == pytest.approx(36 / found["images_per_second"], rel=0.05, abs=0.06)
    assert not (tmp_path / "new").exists()


def test_dry_run_of_more_views_reads_the_training_pictures_alone(
    pictures: Path, store: Path, quiet: Console, backbone: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.backbone.build_backbone", lambda *_: backbone)
    config = ExtractConfig(pictures, store, weights="random", image_size=75)
    extract_features(config, quiet)  # The store was made from another copy: files have other times.
    for num_views, to_read in ((1, 0), (2, 24)):
        config = replace(config, views=num_views)
        found = estimate_run(config, Console())
        assert (found["to_read"], found["reused"]) == (to_read, 36 - to_read)


def test_dry_run_of_a_second_cut_counts_what_that_one_lacks(
    pictures: Path, tmp_path: Path, quiet: Console, backbone: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.backbone.build_backbone", lambda *_: backbone)
    config = ExtractConfig(pictures, tmp_path / "stores/mixed0", weights="random", image_size=75, cut="mixed0")
    extract_features(config, quiet)
    config = replace(config, store=tmp_path / "stores", cut="mixed0,mixed1")
    found = estimate_run(config, Console())
    assert (found["to_read"], found["reused"]) == (36, 0)
    assert found["estimated_bytes"] == round(36 * 7 * 7 * 288 * 2 * 0.26), "mixed1's alone"


def test_dry_run_of_other_features_than_the_stores_is_refused(pictures: Path, store: Path) -> None:
    config = ExtractConfig(pictures, store, weights="random", image_size=75, pool=Pool.AVG)
    with pytest.raises(FingerprintMismatchError, match="expected pool none, got pool avg"):
        estimate_run(config, Console())


def test_dry_run_bad_argument_is_refused_like_a_real_run(pictures: Path, tmp_path: Path) -> None:
    config = ExtractConfig(pictures, tmp_path / "new", weights="random", cut="mixd7")
    with pytest.raises(HeadstartError, match="Did you mean mixed7"):
        estimate_run(config, Console())
