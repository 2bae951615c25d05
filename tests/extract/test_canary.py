"""Canary: a store gets no features from libraries that compute other values."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import FeatureStoreError
from extract.canary import NUM_ROWS, choose_examples, compare_rows, describe_version_changes, measure_differences
from extract.config import ExtractConfig
from extract.decoding.convert import Pixels
from extract.engines import Streams, plan_streams
from extract.views import Prepare, Prepared
from features.catalog.tables import ImageRow
from features.schema import FeatureKey, ImageStatus, round_features
from features.store import Example, FeatureStore
from features.store_writer import FeatureWriter
from tests.errors import raises
from tests.features.stores import make_fingerprint, make_origin
from tests.pictures import draw_picture, encode

pytestmark = pytest.mark.unit

SHAPE = (1, 1, 3)


def prepare(pixels: Pixels, content_hash: bytes, views: Iterable[int]) -> Prepared:
    """Return views that get darker with increasing index; the factor also depends on the content."""
    return {view: pixels.astype(np.float32) / (1 + view * (1 + content_hash[0] / 256)) for view in views}


def average(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean colours, (n, 1, 1, 3) in [0, 1]."""
    means: NDArray[np.float32] = images.mean(axis=(1, 2), keepdims=True, dtype=np.float32) / np.float32(255)
    return means


@dataclass
class Averages:
    """Backbone that returns mean colours times a factor."""

    factor: float = 1.0
    prepare: Prepare = prepare
    streams: Streams = plan_streams(1)
    round = staticmethod(round_features)

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return [average(batch) * np.float32(self.factor)]


def make_store(folder: Path, num_views: int = 1) -> Path:
    """Write twenty pictures and the store of their mean colours; return the folder of both."""
    (folder / "pictures").mkdir()
    with FeatureWriter(folder / "store", make_fingerprint(), make_origin(SHAPE), rows_per_shard=6) as writer:
        for number in range(20):
            picture = draw_picture(("cats", "dogs")[number % 2], number, (12, 10))
            data = encode(picture)
            (folder / f"pictures/{number:02}.png").write_bytes(data)
            content_hash = hashlib.sha256(data).digest()
            views = prepare(np.asarray(picture), content_hash, range(num_views))
            keys = [FeatureKey(content_hash, view) for view in views]
            writer.add_features(keys, *round_features(average(np.stack(list(views.values())))))
            done = ImageStatus.DONE
            writer.add_image(ImageRow(f"{number:02}.png", "cats", "", len(data), 0, content_hash, done))
        writer.commit()
    return folder


@pytest.fixture(scope="module")
def one_view(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("one_view"))


@pytest.fixture(scope="module")
def three_views(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Store of three views of each picture."""
    return FeatureStore(make_store(tmp_path_factory.mktemp("three_views"), num_views=3) / "store")


@pytest.fixture
def store(one_view: Path, tmp_path: Path) -> FeatureStore:
    """Store of the mean colours of the twenty pictures in `tmp_path / "pictures"`."""
    return FeatureStore(shutil.copytree(one_view, tmp_path, dirs_exist_ok=True) / "store")


def compare(store: FeatureStore, paths: Iterable[str], backbone: Averages) -> int:
    config = ExtractConfig(store.path.parent / "pictures", store.path)
    return compare_rows(store, list(paths), config, backbone, {"keras": "4"})


def list_paths(store: FeatureStore) -> list[str]:
    return [example.path for example in store.examples]


def find_numbers(text: str) -> list[str]:
    return re.findall(r"\bnan\b|\b\d+\.\d+", text)


def test_canary_equal_features_pass_with_eight_rows(store: FeatureStore) -> None:
    assert compare(store, list_paths(store), Averages()) == NUM_ROWS == 8


@pytest.mark.parametrize(("factor", "difference"), [(1.01, "0.01"), (np.nan, "nan")])
def test_canary_other_features_are_refused_with_difference_picture_and_versions(
    store: FeatureStore, factor: float, difference: str
) -> None:
    with raises(FeatureStoreError, where=store.path) as caught:
        compare(store, list_paths(store), Averages(factor))
    assert difference in find_numbers(caught.value.got)
    assert [path for path in list_paths(store) if path in caught.value.got]
    assert describe_version_changes({"keras": "3"}, {"keras": "4"}) in caught.value.got


def test_canary_compares_stored_views_with_the_same_views(three_views: FeatureStore) -> None:
    seen: list[int] = []

    def record(pixels: Pixels, content_hash: bytes, views: Iterable[int]) -> Prepared:
        seen.extend(views := list(views))
        return prepare(pixels, content_hash, views)

    assert compare(three_views, list_paths(three_views), Averages(prepare=record)) == NUM_ROWS
    assert {1, 2} & set(seen)


def test_canary_other_augmentations_are_refused(three_views: FeatureStore) -> None:
    def brighten(pixels: Pixels, content_hash: bytes, views: Iterable[int]) -> Prepared:
        return {view: image * (1.1 if view else 1) for view, image in prepare(pixels, content_hash, views).items()}

    with raises(FeatureStoreError, where=three_views.path) as caught:
        compare(three_views, list_paths(three_views), Averages(prepare=brighten))
    assert "0.1" in find_numbers(caught.value.got)


def test_canary_edited_and_missing_pictures_are_not_compared(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "pictures/00.png").write_bytes(encode(draw_picture("owls", 1)))
    (tmp_path / "pictures/01.png").unlink()
    assert compare(store, ["00.png", "01.png", "02.png"], Averages()) == 1


def test_canary_without_a_picture_to_compare_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "pictures/00.png").write_bytes(encode(draw_picture("owls", 1)))
    with raises(FeatureStoreError, where=store.path) as caught:
        compare(store, ["00.png", "missing.png"], Averages())
    assert describe_version_changes({"keras": "3"}, {"keras": "4"}) in caught.value.got
    assert not [path for path in list_paths(store) if path in caught.value.got]


@pytest.mark.parametrize(("factor", "is_same"), [(1.0, True), (1.5, False)])
def test_canary_finds_renamed_pictures_by_their_content(
    store: FeatureStore, tmp_path: Path, factor: float, is_same: bool
) -> None:
    names = [path.rename(path.with_name(f"new {path.name}")).name for path in (tmp_path / "pictures").iterdir()]
    if is_same:
        assert compare(store, names, Averages(factor)) == NUM_ROWS
    else:
        with raises(FeatureStoreError, where=store.path) as caught:
            compare(store, names, Averages(factor))
        assert [name for name in names if name in caught.value.got]
        assert "0.5" in find_numbers(caught.value.got)


def test_choose_examples_are_spread_over_the_shards() -> None:
    examples = [Example(f"{n:03}", "cats", "", b"", n // 10, n % 10) for n in reversed(range(100))]
    chosen = choose_examples(examples)
    assert [example.path for example in chosen] == ["000", "014", "028", "042", "057", "071", "085", "099"]


def test_measure_differences_are_relative_to_the_largest_value_of_each_row() -> None:
    stored = np.array([[100, 50], [1, 0], [0, 0]], np.float16)
    again = np.array([[101, 50], [1, 0.5], [0, 0]], np.float16)
    np.testing.assert_allclose(measure_differences(stored, again), [0.01, 0.5, 0])


def test_describe_version_changes_lists_changed_libraries_with_both_versions() -> None:
    then = {"keras": "3.1", "pillow": "11"}
    words = re.split(r"[\s,]+", describe_version_changes(then, {"keras": "3.1", "pillow": "12", "numpy": "2.0"}))
    assert {"pillow", "11", "12", "numpy", "2.0"} <= set(words)
    assert "keras" not in words
    assert "3.1" not in describe_version_changes(then, then)
