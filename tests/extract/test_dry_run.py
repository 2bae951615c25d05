"""The dry run: what it foretells, and that it leaves nothing behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from extract.config import ExtractConfig
from extract.dry_run import estimate_run
from extract.run import check_arguments
from features.catalog import CATALOG_NAME, Catalog
from features.errors import HeadstartError
from tests.pictures import fill_folder


def test_dry_run_without_a_store_counts_everything_and_makes_nothing(pictures: Path, tmp_path: Path) -> None:
    (pictures / "train/cats/notes.txt").write_text("no picture")
    config = ExtractConfig(pictures, tmp_path / "new", weights="random", image_size=75, cut="mixed0", batch_size=4)

    found = estimate_run(config, check_arguments(config))

    assert (found["images"], found["to_read"], found["reused"]) == (36, 36, 0)
    assert found["classes"] == {"train": {"cats": 12, "dogs": 12}, "validation": {"cats": 6, "dogs": 6}}
    assert found["skipped"] == [{"path": "train/cats/notes.txt", "reason": "not a picture by its name (.txt)"}]
    assert found["estimated_bytes"] == round(36 * 7 * 7 * 256 * 2 * 0.26)
    assert found["images_per_second"] > 0
    assert found["estimated_seconds"] == pytest.approx(36 / found["images_per_second"], rel=0.05, abs=0.06)
    assert not (tmp_path / "new").exists()


def test_dry_run_on_a_store_takes_its_last_rate_and_leaves_it_as_it_was(pictures: Path, store: Path) -> None:
    catalog = Catalog(store / CATALOG_NAME, writable=True)
    catalog.write_meta("images_per_second", "8.0")
    catalog.close()
    fill_folder(pictures, {"train/cats": 2}, start=500)
    shutil.rmtree(pictures / "validation")
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    config = ExtractConfig(pictures, store, weights="random", image_size=75)

    found = estimate_run(config, check_arguments(config))

    assert (found["images"], found["to_read"], found["reused"]) == (26, 2, 24)
    assert (found["images_per_second"], found["estimated_seconds"]) == (8.0, 0.2)
    assert found["estimated_bytes"] == round(2 * 3 * 3 * 768 * 2 * 0.26)
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


def test_dry_run_bad_argument_is_refused_like_a_real_run(pictures: Path, tmp_path: Path) -> None:
    config = ExtractConfig(pictures, tmp_path / "new", weights="random", cut="mixd7")
    with pytest.raises(HeadstartError, match="Did you mean mixed7"):
        estimate_run(config, check_arguments(config))
