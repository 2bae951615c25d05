"""The canary stops a store from being added to by libraries that give other features."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import FeatureStoreError
from extract.canary import NUM_ROWS, choose_examples, compare_rows, describe_version_changes, measure_differences
from extract.config import ExtractConfig
from extract.decode import Pixels
from extract.engines import Streams, plan_streams
from extract.views import Prepare, Prepared
from features.catalog.tables import ImageRow
from features.schema import FeatureKey, ImageStatus, round_features
from features.store import Example, FeatureStore
from features.writer import FeatureWriter
from tests.features.stores import make_fingerprint, make_origin
from tests.pictures import draw_picture, encode

SHAPE = (1, 1, 3)


def prepare(pixels: Pixels, content_hash: bytes, views: Iterable[int]) -> Prepared:
    """Stands in for augmentations: a view is as much darker as its number and the content say."""
    return {view: pixels.astype(np.float32) / (1 + view * (1 + content_hash[0] / 256)) for view in views}


def average(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stands in for a backbone: the mean colour."""
    means: NDArray[np.float32] = images.mean(axis=(1, 2), keepdims=True, dtype=np.float32) / np.float32(255)
    return means


@dataclass
class Averages:
    """A backbone whose features are mean colours times a factor."""

    factor: float = 1.0
    prepare: Prepare = prepare
    streams: Streams = plan_streams(1)

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return [average(batch) * np.float32(self.factor)]


def make_store(tmp_path: Path, num_views: int = 1) -> FeatureStore:
    (tmp_path / "pictures").mkdir()
    with FeatureWriter(tmp_path / "store", make_fingerprint(), make_origin(SHAPE), rows_per_shard=6) as writer:
        for number in range(20):
            picture = draw_picture(("cats", "dogs")[number % 2], number)
            data = encode(picture)
            (tmp_path / f"pictures/{number:02}.png").write_bytes(data)
            content_hash = hashlib.sha256(data).digest()
            views = prepare(np.asarray(picture), content_hash, range(num_views))
            keys = [FeatureKey(content_hash, view) for view in views]
            writer.add_features(keys, *round_features(average(np.stack(list(views.values())))))
            done = ImageStatus.DONE
            writer.add_image(ImageRow(f"{number:02}.png", "cats", "", len(data), 0, content_hash, done))
        writer.commit()
    return FeatureStore(tmp_path / "store")


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """A store of the mean colours of twenty pictures."""
    return make_store(tmp_path)


def compare(store: FeatureStore, paths: Iterable[str], backbone: Averages) -> int:
    config = ExtractConfig(store.path.parent / "pictures", store.path)
    return compare_rows(store, list(paths), config, backbone, {"keras": "4"})


def test_canary_equal_features_pass_with_eight_rows(store: FeatureStore, tmp_path: Path) -> None:
    paths = [example.path for example in store.examples]
    assert compare(store, paths, Averages()) == NUM_ROWS


def test_canary_other_features_stop_naming_picture_and_libraries(store: FeatureStore, tmp_path: Path) -> None:
    paths = [example.path for example in store.examples]
    with pytest.raises(FeatureStoreError, match=r"a difference of 0\.01 for \d\d\.png \(keras 3 then, 4 now\)"):
        compare(store, paths, Averages(1.01))


def test_canary_of_nan_stops(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(FeatureStoreError, match="a difference of nan"):
        compare(store, [example.path for example in store.examples], Averages(np.nan))


def test_canary_compares_views_with_the_views_that_are_stored(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_views=3)
    seen: list[int] = []

    def note(pixels: Pixels, content_hash: bytes, views: Iterable[int]) -> Prepared:
        seen.extend(views := list(views))
        return prepare(pixels, content_hash, views)

    assert compare(store, [example.path for example in store.examples], Averages(prepare=note)) == NUM_ROWS
    assert {1, 2} & set(seen)


def test_canary_other_augmentations_stop(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_views=3)

    def brighten(pixels: Pixels, content_hash: bytes, views: Iterable[int]) -> Prepared:
        return {view: image * (1.1 if view else 1) for view, image in prepare(pixels, content_hash, views).items()}

    with pytest.raises(FeatureStoreError, match=r"a difference of 0\.1 for \d\d\.png"):
        compare(store, [example.path for example in store.examples], Averages(prepare=brighten))


def test_canary_edited_missing_and_changed_pictures_are_not_compared(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "pictures/00.png").write_bytes(encode(draw_picture("owls", 1)))
    (tmp_path / "pictures/01.png").unlink()
    assert compare(store, ["00.png", "01.png", "02.png"], Averages()) == 1


def test_canary_without_a_picture_to_compare_refuses(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "pictures/00.png").write_bytes(encode(draw_picture("owls", 1)))
    with pytest.raises(FeatureStoreError) as raised:
        compare(store, ["00.png", "missing.png"], Averages())
    assert (raised.value.where, raised.value.got) == (store.path, "none (keras 3 then, 4 now)")


@pytest.mark.parametrize(("factor", "is_same"), [(1.0, True), (1.5, False)])
def test_canary_finds_renamed_pictures_by_their_content(
    store: FeatureStore, tmp_path: Path, factor: float, is_same: bool
) -> None:
    names = [path.rename(path.with_name(f"new {path.name}")).name for path in (tmp_path / "pictures").iterdir()]
    if is_same:
        assert compare(store, names, Averages(factor)) == NUM_ROWS
    else:
        with pytest.raises(FeatureStoreError, match=r"a difference of 0\.5 for new "):
            compare(store, names, Averages(factor))


def test_choose_examples_are_spread_over_the_shards() -> None:
    examples = [Example(f"{n:03}", "cats", "", b"", n // 10, n % 10) for n in reversed(range(100))]
    chosen = choose_examples(examples)
    assert [example.path for example in chosen] == ["000", "014", "028", "042", "057", "071", "085", "099"]


def test_measure_differences_are_relative_to_each_row() -> None:
    stored = np.array([[100, 50], [1, 0], [0, 0]], np.float16)
    again = np.array([[101, 50], [1, 0.5], [0, 0]], np.float16)
    np.testing.assert_allclose(measure_differences(stored, again), [0.01, 0.5, 0])


def test_describe_versions_names_what_changed() -> None:
    found = describe_version_changes({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"})
    assert found == "b 2 then, 3 now, c None then, 4 now"
    assert describe_version_changes({"a": "1"}, {"a": "1"}) == "the same library versions"
