"""`stitch` joins pixel layers, backbone and head; `rebuild_backbone` gives the backbone of a store's features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from base.errors import HeadstartError
from base.terminal import Console
from extract.decoding.decode import decode_image
from extract.pixels import prepare_pixels
from extract.weights.find import Weights, WeightsName
from features.store import FeatureStore
from tests.backbones import build_backbone_once
from tests.errors import raises
from tests.pictures import COLOURS
from tests.train_head.export.conftest import Exported
from tests.train_head.export.edits import read_members
from tests.train_head.synthetic import (
    CLASSES,
    FINGERPRINT,
    TINY_SHAPE,
    TINY_SIZE,
    build_tiny_backbone,
    build_tiny_head,
    choose_tiny_weights,
    list_paths,
    make_store,
)
from train_head.export.stitch import ADDED_KEYS, OLDEST_KERAS, remove_added_keys, stitch
from train_head.finetuning.backbone import rebuild_backbone
from train_head.runs.card import read_card
from train_head.solvers.head import restore_head


def build_tiny(num_classes: int) -> Any:
    return stitch(build_tiny_backbone(), build_tiny_head(num_classes), TINY_SIZE)


@pytest.fixture(scope="session")
def tiny_model() -> Any:
    """Stitched model of three classes, not to be changed."""
    return build_tiny(3)


def test_stitch_builds_named_layers_for_pixels_of_any_size() -> None:
    model = build_tiny(2)
    assert model.name == "headstart"
    assert model.input_shape == (None, None, None, 3)
    assert model.output_shape == (None, 1)
    assert [layer.name for layer in model.layers] == ["rgb", "resize", "scale", "tiny", "head"]


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (7, 90), (300, 40)])
def test_stitched_model_classifies_plain_colours_of_any_size(tiny_model: Any, size: tuple[int, int]) -> None:
    for number, label in enumerate(CLASSES):
        pixels = np.full((1, *size, 3), COLOURS[label], np.float32)
        assert tiny_model.predict_on_batch(pixels).argmax() == number


def test_stitched_model_equals_resize_scale_backbone_and_head_by_hand() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    weights = choose_tiny_weights(2)
    # Bilinear sampling at pixel centres: half the height averages pairs of rows, and a third of the width takes the
    # middle one of three columns.
    values = pixels.astype(np.float64)
    rows = (values[0::2] + values[1::2]) / 2
    scaled = rows[:, 1::3] / 127.5 - 1
    means = scaled.reshape(4, 4, 4, 4, 3).mean(axis=(1, 3))
    hidden = np.maximum(means.reshape(-1) @ weights.input_kernel + weights.input_bias, 0)
    expected = 1 / (1 + np.exp(-(hidden @ weights.output_kernel + weights.output_bias)))
    np.testing.assert_allclose(build_tiny(2).predict_on_batch(pixels[None])[0], expected, atol=1e-6)


@pytest.mark.parametrize("is_reloaded", [False, True], ids=["built", "reloaded"])
def test_stitched_model_applies_dropout_only_in_training(tmp_path: Path, is_reloaded: bool) -> None:
    import keras

    head = restore_head(choose_tiny_weights(2), TINY_SHAPE, 2, dropout=0.5)
    model = stitch(build_tiny_backbone(), head, TINY_SIZE)
    if is_reloaded:
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
    pixels = np.full((1, 20, 20, 3), COLOURS["dogs"], np.float32)
    predicted = model.predict_on_batch(pixels)
    for _ in range(5):
        np.testing.assert_allclose(model(pixels), predicted, atol=1e-6)
    np.testing.assert_allclose(model(pixels, training=False), predicted, atol=1e-6)
    trained = {float(model(pixels, training=True)[0, 0]) for _ in range(20)}
    assert len(trained) > 1


@pytest.mark.unit
def test_remove_added_keys_keeps_other_keys_and_other_values() -> None:
    added = {key.name: key.default for key in ADDED_KEYS}
    initializer = {"class_name": "GlorotUniform", "config": {"seed": None, **added}}
    config = {"layers": [{"config": {"kernel_initializer": initializer, "axis": 3, **added}}], "renorm": True}
    expected = {
        "layers": [{"config": {"kernel_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}}}}]
    }
    expected["layers"][0]["config"] |= {"axis": 3}  # type: ignore[dict-item]
    assert remove_added_keys(config) == expected | {"renorm": True}


def test_exported_configuration_has_no_argument_that_the_oldest_keras_lacks(exported: Exported) -> None:
    config = read_members(exported.model)["config.json"].decode()
    assert [key.name for key in ADDED_KEYS if f'"{key.name}"' in config] == []
    assert read_card(exported.model).oldest_keras == OLDEST_KERAS


def test_stitched_model_gives_the_same_outputs_for_uint8_and_float_pixels(tiny_model: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 33, 21, 3), np.uint8)
    outputs = tiny_model.predict_on_batch(pixels)
    np.testing.assert_array_equal(outputs, tiny_model.predict_on_batch(pixels.astype(np.float32)))


def test_stitched_model_classifies_pictures(tiny_model: Any, shared_pictures: Path) -> None:
    for number, label in enumerate(["cats", "dogs"]):
        for path in sorted((shared_pictures / "validation" / label).iterdir()):
            with Image.open(path) as image:
                outputs = tiny_model.predict_on_batch(np.asarray(image, np.float32)[None])
            assert outputs[0].argmax() == number, path


def test_rebuild_backbone_gives_the_stored_features(early_store: Path, shared_pictures: Path, quiet: Console) -> None:
    store = FeatureStore(early_store)
    examples = store.examples[::7]
    size = store.fingerprint.image_size
    images = [prepare_pixels(decode_image((shared_pictures / example.path).read_bytes()), size) for example in examples]
    backbone = rebuild_backbone(store, "", quiet)
    assert backbone.output_shape == (None, *store.feature_shape) == (None, 7, 7, 256)
    np.testing.assert_allclose(backbone(np.stack(images), training=False), store.read(examples), rtol=1e-3, atol=1e-4)


def test_rebuild_backbone_with_other_weights_is_refused(tmp_path: Path, quiet: Console) -> None:
    store = make_store(tmp_path / "store", list_paths({"cats": 1}))
    with pytest.raises(HeadstartError) as caught:
        rebuild_backbone(store, "", quiet)
    assert str(store.path) in caught.value.expected
    assert FINGERPRINT.weights_sha256[:12] in caught.value.expected


def test_rebuild_backbone_with_a_moved_weights_file_needs_its_path(
    tmp_path: Path, quiet: Console, early_store: Path
) -> None:
    file = tmp_path / "moved.weights.h5"
    build_backbone_once(75, Weights(WeightsName.RANDOM)).save_weights(file)
    fingerprint = FeatureStore(early_store).fingerprint
    store = make_store(
        tmp_path / "store",
        list_paths({"cats": 1}),
        fingerprint=fingerprint,
        weights_name="file",
        weights_file=str(tmp_path / "before.weights.h5"),
    )
    with raises(HeadstartError, where=tmp_path / "before.weights.h5"):
        rebuild_backbone(store, "", quiet)
    assert rebuild_backbone(store, str(file), quiet).output_shape == (None, 7, 7, 256)
    assert store.fingerprint == replace(FINGERPRINT, **vars(fingerprint))


def test_rebuild_backbone_with_neither_name_nor_file_is_refused(tmp_path: Path, quiet: Console) -> None:
    store = make_store(tmp_path / "store", list_paths({"cats": 1}))
    with pytest.raises(HeadstartError) as caught:
        rebuild_backbone(store, "nowhere.h5", quiet)
    assert "nowhere.h5" in str(caught.value.where)


@pytest.mark.unit
@pytest.mark.parametrize("page", ["README.md", "docs/how-to/export.md"])
def test_pages_name_the_oldest_keras(page: str) -> None:
    assert f"Keras {OLDEST_KERAS}" in (Path(__file__).parents[3] / page).read_text()
