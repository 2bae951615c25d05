"""One model from pixel layers, backbone and head; and the backbone that a store's features came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from base.errors import HeadstartError
from base.terminal import Console
from extract.decode import decode_image
from extract.pixels import prepare_pixels
from features.store import FeatureStore
from tests.pictures import COLOURS
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
from train_head.export.stitch import stitch
from train_head.finetuning.backbone import rebuild_backbone
from train_head.solvers.head import restore_head


def build_tiny(num_classes: int) -> Any:
    return stitch(build_tiny_backbone(), build_tiny_head(num_classes), TINY_SIZE)


def test_stitched_model_takes_pixels_of_any_size_and_holds_named_layers() -> None:
    model = build_tiny(2)
    assert model.name == "headstart"
    assert model.input_shape == (None, None, None, 3)
    assert model.output_shape == (None, 1)
    assert [layer.name for layer in model.layers] == ["rgb", "resize", "scale", "tiny", "head"]


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (7, 90), (300, 40)])
def test_stitched_model_tells_plain_colours_of_any_size(size: tuple[int, int]) -> None:
    model = build_tiny(3)
    for number, label in enumerate(CLASSES):
        pixels = np.full((1, *size, 3), COLOURS[label], np.float32)
        assert model.predict_on_batch(pixels).argmax() == number


def test_stitched_model_computes_resize_scale_backbone_and_head_by_hand() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    weights = choose_tiny_weights(2)
    # Halving by 2 and by 3 with bilinear sampling at pixel centres, as `tf.image.resize` defines it.
    values = pixels.astype(np.float64)
    rows = (values[0::2] + values[1::2]) / 2
    scaled = rows[:, 1::3] / 127.5 - 1
    means = scaled.reshape(4, 4, 4, 4, 3).mean(axis=(1, 3))
    hidden = np.maximum(means.reshape(-1) @ weights.hidden_kernel + weights.hidden_bias, 0)
    expected = 1 / (1 + np.exp(-(hidden @ weights.output_kernel + weights.output_bias)))
    np.testing.assert_allclose(build_tiny(2).predict_on_batch(pixels[None])[0], expected, atol=1e-6)


@pytest.mark.parametrize("reloaded", [False, True], ids=["built", "reloaded"])
def test_stitched_model_drops_units_only_where_training_is_asked_for(tmp_path: Path, reloaded: bool) -> None:
    import keras

    head = restore_head(choose_tiny_weights(2), TINY_SHAPE, 2, dropout=0.5)
    model = stitch(build_tiny_backbone(), head, TINY_SIZE)
    if reloaded:
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
    pixels = np.full((1, 20, 20, 3), COLOURS["dogs"], np.float32)
    predicted = model.predict_on_batch(pixels)
    for _ in range(10):
        np.testing.assert_allclose(model(pixels), predicted, atol=1e-6)
        np.testing.assert_allclose(model(pixels, training=False), predicted, atol=1e-6)
    trained = {float(model(pixels, training=True)[0, 0]) for _ in range(20)}
    assert len(trained) > 1


def test_stitched_model_takes_uint8_and_float_pixels_alike() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 33, 21, 3), np.uint8)
    model = build_tiny(3)
    np.testing.assert_array_equal(model.predict_on_batch(pixels), model.predict_on_batch(pixels.astype(np.float32)))


def test_rebuilt_backbone_gives_the_stored_features_again(
    backbone: Any, shared_store: Path, shared_pictures: Path
) -> None:
    store = FeatureStore(shared_store)
    examples = store.examples[::7]
    size = store.fingerprint.image_size
    images = [prepare_pixels(decode_image((shared_pictures / example.path).read_bytes()), size) for example in examples]
    features = backbone(np.stack(images), training=False)
    assert backbone.output_shape == (None, 3, 3, 768)
    np.testing.assert_allclose(features, store.read(examples), rtol=1e-3, atol=1e-4)


def test_rebuild_of_a_store_made_with_other_weights_gives_both_digests(tmp_path: Path, quiet: Console) -> None:
    store = make_store(tmp_path / "store", list_paths({"cats": 1}))
    with pytest.raises(HeadstartError) as caught:
        rebuild_backbone(store, "", quiet)
    assert str(caught.value).startswith(
        f"random: expected the weights of {store.path}, SHA-256 000000000000… up to the cut, got "
    )
    assert str(caught.value).endswith("Give the file that the features were extracted with: --weights FILE.")


def test_rebuild_from_a_weights_file_that_was_moved_takes_it_where_it_is_now(
    tmp_path: Path, quiet: Console, shared_store: Path
) -> None:
    from extract.backbone import build_backbone
    from extract.weights.find import Weights, WeightsName

    file = tmp_path / "moved.weights.h5"
    build_backbone(75, Weights(WeightsName.RANDOM)).save_weights(file)
    fingerprint = FeatureStore(shared_store).fingerprint
    store = make_store(
        tmp_path / "store",
        list_paths({"cats": 1}),
        fingerprint=fingerprint,
        weights_name="file",
        weights_file=str(tmp_path / "before.weights.h5"),
    )
    with pytest.raises(
        HeadstartError, match=r"before\.weights\.h5: expected the weights .*got no such file\. Give --weights"
    ):
        rebuild_backbone(store, "", quiet)
    model = rebuild_backbone(store, str(file), quiet)
    assert model.output_shape == (None, 3, 3, 768)
    assert store.fingerprint == replace(FINGERPRINT, **vars(fingerprint))


def test_rebuild_with_weights_that_are_neither_name_nor_file_is_refused(tmp_path: Path, quiet: Console) -> None:
    store = make_store(tmp_path / "store", list_paths({"cats": 1}))
    with pytest.raises(HeadstartError, match=r"--weights nowhere\.h5: expected .*got no such file"):
        rebuild_backbone(store, "nowhere.h5", quiet)


def test_pictures_of_the_classes_are_told_apart_by_the_stitched_model(shared_pictures: Path) -> None:
    model = build_tiny(2)
    for number, label in enumerate(["cats", "dogs"]):
        for path in sorted((shared_pictures / "validation" / label).iterdir()):
            with Image.open(path) as image:
                outputs = model.predict_on_batch(np.asarray(image, np.float32)[None])
            assert (outputs[0, 0] > 0.5) == bool(number), path
