"""Synthetic stores and pictures of the benchmark of many rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from base.progress import ProgressBar
from benchmarks.process import Cost
from benchmarks.scale import describe_growth
from benchmarks.synthetic import FINGERPRINT, ORIGIN, link_pictures, write_pictures, write_store
from extract.images.scan import scan_images
from extract.plan import KnownStore, plan_images
from features.store import FeatureStore

pytestmark = pytest.mark.unit


def test_linked_pictures_of_a_synthetic_store_need_no_extraction(tmp_path: Path) -> None:
    places = ["train/cats", "train/dogs"]
    files = write_pictures(tmp_path / "pictures", places, 2)
    paths = [f"{places[number % 2]}/{number}.png" for number in range(50)]
    images = link_pictures(files, tmp_path / "pictures", paths, ProgressBar(50))
    for file in files:
        file.unlink()
    write_store(tmp_path / "store", images, lambda rows: np.zeros((len(rows), *ORIGIN.feature_shape), np.float16))
    store = FeatureStore(tmp_path / "store")
    assert (len(store), store.fingerprint) == (50, FINGERPRINT)
    scan = scan_images(tmp_path / "pictures")
    plan = plan_images(scan.images, KnownStore(store.images, store.contents.locations.__contains__))
    assert (len(plan.unchanged), plan.to_read, plan.gone, plan.rows) == (50, [], [], [])


def test_real_pictures_come_before_synthetic_ones_by_content(tmp_path: Path) -> None:
    files = write_pictures(tmp_path / "pictures", ["train/cats"], 1)
    (image,) = link_pictures(files, tmp_path / "pictures", ["train/cats/1.png"], ProgressBar(1))
    assert image.content_hash is not None
    assert image.content_hash[0] >= 16


@pytest.mark.parametrize(("seconds", "expected"), [([1, 10], "n^1.00"), ([5, 5], "n^0.00"), ([9, 1, 100], "n^2.00")])
def test_describe_growth_is_the_exponent_between_the_last_two_sizes(seconds: list[float], expected: str) -> None:
    sizes = [10**number for number in range(len(seconds))]
    assert describe_growth(sizes, [Cost(value, 1) for value in seconds]) == expected
