"""Extraction of several views: augmentations of the training pictures."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import FingerprintMismatchError
from extract.backbone import cut_backbone
from extract.decoding.decode import decode_image
from extract.engines.tensorflow import TensorFlowEngine
from extract.views import compile_views
from features.schema import FeatureKey, ImageStatus
from features.store import FeatureStore
from tests.errors import raises
from tests.extract.extraction import assert_equal_stores, extract, interrupt_before_batch, read_by_key
from tests.files import read_files
from tests.pictures import fill_folder

if TYPE_CHECKING:
    import keras


def hash_contents(folder: Path, paths: Iterable[Path]) -> set[bytes]:
    return {hashlib.sha256((folder / path).read_bytes()).digest() for path in paths}


def test_extract_views_are_stored_only_for_training_pictures(nine_pictures: Path, three_views: Path) -> None:
    train = hash_contents(nine_pictures, nine_pictures.glob("train/*/*.jpg"))
    validation = hash_contents(nine_pictures, nine_pictures.glob("validation/*/*.jpg"))
    assert (len(train), len(validation)) == (6, 3)
    expected = {FeatureKey(content, view) for content in train for view in range(3)}
    assert read_by_key(three_views).keys() == expected | {FeatureKey(content, 0) for content in validation}
    store = FeatureStore(three_views)
    assert (store.num_views, len(store.examples), store.num_pending) == (3, 9, 0)


def test_extract_views_of_an_unsplit_folder_are_stored_for_every_picture(tmp_path: Path) -> None:
    fill_folder(tmp_path / "pictures", {"cats": 2, "dogs": 2})
    assert extract(tmp_path / "pictures", tmp_path / "store", views=3).computed == 4
    contents = hash_contents(tmp_path, (tmp_path / "pictures").glob("*/*.jpg"))
    assert read_by_key(tmp_path / "store").keys() == {
        FeatureKey(content, view) for content in contents for view in range(3)
    }


def test_extract_views_are_keras_features_of_the_augmented_pictures(
    nine_pictures: Path, three_views: Path, backbone: keras.Model
) -> None:
    prepare, model = compile_views(75, 0), cut_backbone(backbone, "mixed0")
    features = read_by_key(three_views)
    for path in ("train/cats/001.jpg", "train/dogs/002.jpg"):
        data = (nine_pictures / path).read_bytes()
        content_hash = hashlib.sha256(data).digest()
        views = prepare(decode_image(data), content_hash, range(3))
        expected = model(np.stack([views[view] for view in range(3)]), training=False).numpy()
        found = np.concatenate([features[FeatureKey(content_hash, view)] for view in range(3)])
        np.testing.assert_allclose(found, expected, rtol=2**-10, atol=1e-4 * float(expected.std()))
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert np.abs(expected[one] - expected[other]).mean() > 0.02 * expected[0].mean()


def test_extract_view_0_has_the_same_bits_with_and_without_augmentations(one_view: Path, three_views: Path) -> None:
    alone, with_views = read_by_key(one_view), read_by_key(three_views)
    assert len(alone) == 9
    for key, feature in alone.items():
        np.testing.assert_array_equal(feature, with_views[key])
    assert FeatureStore(one_view).fingerprint == FeatureStore(three_views).fingerprint


def test_extract_views_do_not_depend_on_names_order_batches_or_threads(
    nine_pictures: Path, three_views: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed"
    for number, path in enumerate(sorted(nine_pictures.rglob("*.jpg"), reverse=True)):
        target = renamed / path.relative_to(nine_pictures).parent / f"new {number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    assert extract(renamed, tmp_path / "store", views=3, batch_size=7, threads=1).computed == 9
    found, expected = read_by_key(tmp_path / "store"), read_by_key(three_views)
    assert found.keys() == expected.keys()
    for key, feature in found.items():
        np.testing.assert_array_equal(feature, expected[key])


def test_extract_more_views_computes_only_the_missing_ones(
    nine_pictures: Path, one_view: Path, three_views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shutil.copytree(one_view, tmp_path / "store")
    before = FeatureStore(store)
    shards = {path.name: path.read_bytes() for path in (store / "shards").iterdir()}
    rows: list[int] = []
    plain_run = TensorFlowEngine.run

    def count(engine: TensorFlowEngine, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        rows.append(len(batch))
        return plain_run(engine, batch)

    monkeypatch.setattr(TensorFlowEngine, "run", count)
    result = extract(nine_pictures, store, views=3)

    assert (result.computed, result.reused, result.failed) == (6, 3, [])
    assert rows[:3] == [1, 4, 4], "the first batch, and the canary"
    assert sum(rows[3:]) == 12, "two views of six pictures"
    after = FeatureStore(store)
    assert after.examples == before.examples
    assert after.shards[: len(before.shards)] == before.shards
    assert {name: (store / "shards" / name).read_bytes() for name in shards} == shards
    assert_equal_stores(store, three_views)
    assert extract(nine_pictures, store, views=3).computed == 0
    assert extract(nine_pictures, store).computed == 0, "fewer views are stored already"


def test_extract_more_views_interrupted_keeps_every_example_and_is_continued(
    nine_pictures: Path, one_view: Path, three_views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shutil.copytree(one_view, tmp_path / "store")
    with monkeypatch.context() as patch:
        interrupt_before_batch(2, patch)
        with pytest.raises(KeyboardInterrupt):
            extract(nine_pictures, store, views=3)

    left, before = FeatureStore(store), FeatureStore(one_view)
    assert left.examples == before.examples
    assert {image.status for image in left.images} == {ImageStatus.DONE}
    # Features of batches that were started are stored too.
    num_kept = (left.num_features - 9) // 2
    assert (left.num_pending, num_kept >= 2) == (0, True)
    result = extract(nine_pictures, store, views=3)
    assert (result.computed, result.reused) == (6 - num_kept, 3 + num_kept)
    assert_equal_stores(store, three_views)


def test_extract_picture_moved_from_validation_to_train_gets_its_views(
    nine_pictures: Path, three_views: Path, tmp_path: Path
) -> None:
    store, folder = (
        shutil.copytree(three_views, tmp_path / "store"),
        shutil.copytree(nine_pictures, tmp_path / "pictures"),
    )
    moved = (folder / "validation/cats/050.jpg").rename(folder / "train/cats/moved.jpg")
    result = extract(folder, store, views=3)
    assert (result.computed, result.reused) == (1, 8)
    (example,) = [e for e in FeatureStore(store).examples if e.path == "train/cats/moved.jpg"]
    assert example.content_hash == hashlib.sha256(moved.read_bytes()).digest()
    assert [view.view for view in FeatureStore(store).list_views(example, 3)] == [0, 1, 2]


def test_extract_views_with_another_seed_are_refused_with_both_seeds(nine_pictures: Path, three_views: Path) -> None:
    before = read_files(three_views)
    with raises(FingerprintMismatchError, where=three_views) as caught:
        extract(nine_pictures, three_views, views=3, view_seed=1)
    assert caught.value.expected.endswith("seed 0")
    assert caught.value.got.endswith("seed 1")
    assert read_files(three_views) == before
