"""Extraction as a whole: the features, bad pictures, and settings that do not match the store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from base.errors import FingerprintMismatchError, HeadstartError
from base.terminal import Console
from extract.backbone import cut_backbone, hash_weights, name_layers
from extract.config import ExtractConfig
from extract.counts import BadPicturesError
from extract.engines.tensorflow import TensorFlowEngine
from extract.images.scan import scan_images
from extract.plan import hash_path
from extract.run import extract_features
from features.options import Pool
from features.schema import ImageStatus
from features.store import FeatureStore
from tests.errors import raises
from tests.extract.extraction import extract, find_examples, read_by_path
from tests.files import read_files
from tests.pictures import fill_folder

if TYPE_CHECKING:
    import keras


def test_extract_features_equal_a_plain_keras_computation_for_every_picture(
    pictures: Path, store: Path, backbone: keras.Model
) -> None:
    import keras

    found = FeatureStore(store)
    paths = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.jpg"))
    raw = []
    for path in paths:
        with Image.open(pictures / path) as image:
            raw.append(np.asarray(image.convert("RGB"), np.float32))
    resized = keras.layers.Resizing(75, 75, interpolation="bilinear")(np.stack(raw))
    mixed7 = next(layer for layer, name in name_layers(backbone).items() if name == "mixed7")
    expected = keras.Model(backbone.inputs, mixed7.output).predict(resized / 127.5 - 1, verbose=0)

    features = read_by_path(found, paths)

    assert len(paths) == 36
    assert sorted(find_examples(found)) == paths
    assert features.shape == (36, 3, 3, 768)
    assert features.dtype == np.float16
    np.testing.assert_allclose(features.astype(np.float32), expected, rtol=2**-10, atol=1e-4 * float(expected.std()))
    distances = np.abs(expected[:, None] - expected[None]).max(axis=(2, 3, 4)) + np.eye(36) * 1e9
    assert distances.min() > 0.01, "the features of each picture are unique"


def test_extract_takes_labels_and_splits_from_the_folders(store: Path) -> None:
    for example in FeatureStore(store).examples:
        split, label, _ = example.path.split("/")
        assert (example.split, example.label) == (split, label)


def test_extract_records_fingerprint_and_origin(store: Path, backbone: keras.Model) -> None:
    found = FeatureStore(store)
    fingerprint, origin = found.fingerprint, found.origin
    assert (fingerprint.backbone, fingerprint.cut, fingerprint.image_size) == ("InceptionV3", "mixed7", 75)
    assert fingerprint.weights_sha256 == hash_weights(cut_backbone(backbone, "mixed7"))
    assert (fingerprint.resize, fingerprint.scale) == ("bilinear", "[-1, 1]")
    assert (origin.weights_name, found.feature_shape) == ("random", (3, 3, 768))
    assert set(origin.versions) == {"tensorflow", "keras", "pillow", "h5py", "numpy"}
    assert "unknown" not in origin.versions.values()


def test_extract_again_computes_nothing_and_changes_no_shard(pictures: Path, store: Path, quiet: Console) -> None:
    before = FeatureStore(store)
    config = ExtractConfig(pictures, store, weights="random", image_size=75)

    result = extract_features(config, quiet)

    assert (result.images, result.computed, result.reused, result.failed) == (36, 0, 36, [])
    assert (result.removed, result.images_per_second) == (0, 0.0)
    assert result.fingerprint == before.fingerprint.digest
    assert result.weights == "random"
    after = FeatureStore(store)
    assert after.shards == before.shards
    assert after.examples == before.examples
    assert after.images_folder == str(pictures.resolve())


# Bad pictures.


def test_extract_strict_stops_at_the_first_bad_picture_and_commits_the_computed_features(tmp_path: Path) -> None:
    pictures, store = tmp_path / "pictures", tmp_path / "store"
    fill_folder(pictures, {"cats": 10, "dogs": 10})
    order = [image.path for image in sorted(scan_images(pictures).images, key=hash_path)]
    bad = order[9]
    (pictures / bad).write_bytes(b"")

    result = extract(pictures, store, strict=True)

    assert [failure["image"] for failure in result.failed] == [bad]
    assert (result.computed, result.reused) == (11, 0)
    assert isinstance(result.stopped, BadPicturesError)
    assert result.stopped.where == pictures
    assert bad in result.stopped.got
    assert result.error == str(result.stopped)
    found = FeatureStore(store)
    assert found.num_features == 11, "the good ones of three batches of four"
    assert sorted(find_examples(found)) == sorted(order[:9] + order[10:12])
    failed = {image.path: image.reason for image in found.images if image.status is ImageStatus.FAILED}
    assert failed == {failure["image"]: failure["reason"] for failure in result.failed}


def test_extract_folder_of_bad_pictures_lists_them_all(tmp_path: Path) -> None:
    pictures, store = tmp_path / "pictures", tmp_path / "store"
    fill_folder(pictures, {"cats": 2, "dogs": 2})
    paths = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.jpg"))
    for path in paths:
        (pictures / path).write_bytes(b"")

    result = extract(pictures, store, max_bad=1.0)

    assert (result.images, result.computed, result.reused) == (4, 0, 0)
    assert sorted(failure["image"] for failure in result.failed) == paths
    assert FeatureStore(store).examples == []


# Settings that do not match the store.


@pytest.mark.parametrize(("field", "asked", "stored"), [("image_size", 76, 75), ("cut", "mixed1", "mixed0")])
def test_extract_with_other_settings_than_the_store_is_refused_with_both_values(
    small_pictures: Path, small_store: Path, field: str, asked: object, stored: object
) -> None:
    before = read_files(small_store)
    expected, got = f"{field} {stored}", f"{field} {asked}"
    with raises(FingerprintMismatchError, where=small_store, expected=expected, got=got):
        extract(small_pictures, small_store, **{field: asked})
    assert read_files(small_store) == before


def test_extract_with_other_weights_than_the_store_is_refused_with_both_hashes(
    small_pictures: Path, small_store: Path, legacy_file: Path, source: keras.Model, backbone: keras.Model
) -> None:
    before = read_files(small_store)
    with raises(FingerprintMismatchError, where=small_store) as caught:
        extract(small_pictures, small_store, weights=str(legacy_file))
    asked, stored = (hash_weights(cut_backbone(model, "mixed0"))[:12] for model in (source, backbone))
    assert stored in caught.value.expected
    assert asked in caught.value.got
    assert read_files(small_store) == before


def test_extract_into_a_store_without_features_accepts_other_settings(small_pictures: Path, tmp_path: Path) -> None:
    for label in ("cats", "dogs"):
        (tmp_path / "bad" / label).mkdir(parents=True)
        for name in ("1.jpg", "2.jpg"):
            (tmp_path / "bad" / label / name).write_bytes(b"no picture")
    assert len(extract(tmp_path / "bad", tmp_path / "store").failed) == 4
    result = extract(small_pictures, tmp_path / "store", pool=Pool.AVG)
    assert (result.computed, FeatureStore(tmp_path / "store").fingerprint.pool) == (16, "avg")


# An engine that fails.


@pytest.mark.parametrize("message", ["OOM when allocating tensor\nwith shape [4, 75]", ""])
def test_extract_with_a_failing_engine_reports_the_first_line_and_keeps_the_stored_features(
    small_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    plain_run, sizes = TensorFlowEngine.run, list[int]()

    def run_out_of_memory(engine: TensorFlowEngine, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        sizes.append(len(batch))
        if len(sizes) == 3:
            raise RuntimeError(message)
        return plain_run(engine, batch)

    # One core, so that the batches reach the engine in order: one of zeros, then those of pictures.
    with monkeypatch.context() as patch:
        patch.setattr(TensorFlowEngine, "run", run_out_of_memory)
        with raises(HeadstartError, where="--engine tensorflow") as caught:
            extract(small_pictures, tmp_path / "store", threads=1)
    assert re.findall(r"\d+", caught.value.expected) == ["4", "75"]
    assert caught.value.got == f"RuntimeError: {message.splitlines()[0] if message else ''}"
    assert FeatureStore(tmp_path / "store").num_features == 4
    assert extract(small_pictures, tmp_path / "store").computed == 12
