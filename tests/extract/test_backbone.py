"""Frozen backbone: weights files, cuts, layer names, hashes and summary."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from base.errors import HeadstartError, UsageError
from extract.backbone import (
    build_backbone,
    check_backbone_arguments,
    cut_backbone,
    hash_weights,
    name_layers,
    summarise_layers,
)
from extract.weights.find import FILE_NAME, Weights, WeightsName
from extract.weights.keras_file import check_weights_file
from extract.weights.nsfwjs import PACKAGE
from tests.errors import raises
from tests.extract.weight_files import KERNEL_SHAPES, Tensor, write_package

if TYPE_CHECKING:
    import keras

IMAGENET_FILE = Path.home() / ".keras/models" / FILE_NAME


@pytest.fixture(scope="module")
def second() -> keras.Model:
    """Second backbone with the weights of `--weights random`; a test that changes weights restores them."""
    return build_backbone(75, Weights(WeightsName.RANDOM))


@pytest.fixture
def architecture(second: keras.Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[keras.Model]:
    """Model into which `build_backbone` loads weights in this test, instead of one that takes 2 s to build."""
    kept = second.get_weights()
    second.set_weights([np.full_like(array, 7) for array in kept])
    monkeypatch.setattr("keras.applications.InceptionV3", lambda **_: second)
    yield second
    second.set_weights(kept)


def from_file(path: Path, name: WeightsName = WeightsName.FILE) -> Weights:
    return Weights(name, path, hashlib.sha256(path.name.encode()).hexdigest())


def find_layer(model: keras.Model, name: str) -> Any:
    return {named: layer for layer, named in name_layers(model).items()}[name]


def assert_same_weights(found: keras.Model, expected: keras.Model) -> None:
    names = list(name_layers(expected).values())
    for name, one, other in zip(names, found.layers, expected.layers, strict=True):
        for array, original in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(array, original, err_msg=name)


def assert_same_outputs(found: keras.Model, expected: keras.Model) -> None:
    batch = np.random.default_rng(11).uniform(-1, 1, (2, 75, 75, 3)).astype(np.float32)
    outputs = [cut_backbone(model, "mixed7")(batch, training=False).numpy() for model in (found, expected)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert outputs[1].std() > 0.01


@pytest.mark.parametrize("layout", ["legacy_file", "keras3_file"])
def test_build_loads_exactly_the_weights_of_a_file(
    layout: str, source: keras.Model, architecture: keras.Model, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(layout)
    assert not check_weights_file(path)
    model = build_backbone(75, from_file(path))
    assert_same_weights(model, source)
    assert_same_outputs(model, source)


def test_build_from_legacy_file_equals_the_loader_of_keras(
    legacy_file: Path, architecture: keras.Model, source: keras.Model
) -> None:
    architecture.load_weights(legacy_file)
    assert_same_weights(architecture, source)


@pytest.mark.skipif(not IMAGENET_FILE.is_file(), reason="needs ImageNet's weights in Keras's cache")
def test_build_from_imagenet_file_equals_the_loader_of_keras(second: keras.Model) -> None:
    kept = second.get_weights()
    try:
        second.load_weights(IMAGENET_FILE)
        loaded = build_backbone(75, from_file(IMAGENET_FILE))
        assert_same_weights(loaded, second)
        assert hash_weights(loaded) == hash_weights(second)
    finally:
        second.set_weights(kept)


@pytest.mark.usefixtures("architecture")
def test_build_from_legacy_file_with_a_wrong_shape_is_refused_with_both_shapes(
    legacy_file: Path, source: keras.Model, tmp_path: Path
) -> None:
    path = shutil.copyfile(legacy_file, tmp_path / "w.h5")
    name = find_layer(source, "conv2d_1").name
    with h5py.File(path, "a") as file:
        del file[f"{name}/{name}/weight_0:0"]
        file[f"{name}/{name}/weight_0:0"] = np.zeros((3, 3, 32, 31), np.float32)

    with raises(HeadstartError, where=path) as caught:
        build_backbone(75, from_file(path))

    assert "(3, 3, 32, 32)" in caught.value.got
    assert "(3, 3, 32, 31)" in caught.value.got


@pytest.mark.usefixtures("architecture")
def test_build_from_legacy_file_without_an_array_is_refused(
    legacy_file: Path, source: keras.Model, tmp_path: Path
) -> None:
    path = shutil.copyfile(legacy_file, tmp_path / "w.h5")
    name = find_layer(source, "conv2d_7").name
    with h5py.File(path, "a") as file:
        del file[f"{name}/{name}/weight_0:0"]
    with raises(HeadstartError, where=path):
        build_backbone(75, from_file(path))


@pytest.mark.usefixtures("architecture")
def test_build_from_legacy_file_with_nan_is_refused_with_the_layer(
    legacy_file: Path, source: keras.Model, tmp_path: Path
) -> None:
    path = shutil.copyfile(legacy_file, tmp_path / "w.h5")
    name = find_layer(source, "batch_normalization").name
    with h5py.File(path, "a") as file:
        file[f"{name}/{name}/weight_1:0"][5] = np.nan
    with raises(HeadstartError) as caught:
        build_backbone(75, from_file(path))
    assert str(path) in str(caught.value.where)
    assert "'batch_normalization'" in str(caught.value.where)


@pytest.mark.usefixtures("architecture")
def test_build_from_keras3_file_with_nan_is_refused_with_the_layer(keras3_file: Path, tmp_path: Path) -> None:
    path = shutil.copyfile(keras3_file, tmp_path / "w.weights.h5")
    with h5py.File(path, "a") as file:
        file["layers/conv2d_7/vars/0"][0, 0, 0, 0] = np.nan
    with raises(HeadstartError) as caught:
        build_backbone(75, from_file(path))
    assert str(path) in str(caught.value.where)
    assert re.search(r"'conv2d_\d+'", str(caught.value.where))


@pytest.mark.usefixtures("architecture")
def test_build_from_keras3_file_of_another_model_is_refused(tmp_path: Path) -> None:
    import keras

    path = tmp_path / "other.weights.h5"
    keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)]).save_weights(path)
    with raises(HeadstartError, where=path) as caught:
        build_backbone(75, from_file(path))
    assert "InceptionV3" in caught.value.expected


@pytest.mark.usefixtures("architecture")
def test_build_from_npm_package_loads_convolutions_in_the_order_of_creation(tmp_path: Path) -> None:
    tensors = {}
    for number, shape in enumerate(KERNEL_SHAPES, start=1):
        width = (shape[-1],)
        tensors[f"conv2d_{number}/kernel"] = Tensor(np.full(shape, number, np.uint8), "0", "1")
        for place, part in enumerate(("beta", "moving_mean", "moving_variance"), start=1):
            tensors[f"batch_normalization_{number}/{part}"] = Tensor(
                np.full(width, number, np.uint8), f"{place}000", "1"
            )
    path = write_package(tmp_path / PACKAGE.file, tensors)

    model = build_backbone(75, from_file(path, WeightsName.NSFWJS))

    for number, shape in enumerate(KERNEL_SHAPES, start=1):
        suffix = f"_{number - 1}" if number > 1 else ""
        (kernel,) = find_layer(model, f"conv2d{suffix}").get_weights()
        norm = find_layer(model, f"batch_normalization{suffix}").get_weights()
        assert kernel.shape == shape
        assert np.unique(kernel).tolist() == [number]
        assert [np.unique(part).tolist() for part in norm] == [
            [1000 + number],
            [2000 + number],
            [3000 + number],
        ]


def test_build_freezes_every_layer(backbone: keras.Model) -> None:
    assert [layer.name for layer in backbone.layers if layer.trainable] == []
    assert backbone.trainable_weights == []
    assert cut_backbone(backbone, "mixed7").trainable_weights == []
    assert len(backbone.weights) == 94 + 3 * 94


@pytest.mark.parametrize(("cut", "shape"), [("mixed7", (3, 3, 768)), ("mixed0", (7, 7, 256)), ("conv2d", (37, 37, 32))])
def test_cut_ends_at_the_given_layer(backbone: keras.Model, cut: str, shape: tuple[int, ...]) -> None:
    model = cut_backbone(backbone, cut)
    assert tuple(model.output.shape) == (None, *shape)
    assert name_layers(model)[model.layers[-1]] == cut


def test_cut_at_an_unknown_layer_is_refused_with_the_nearest_names(backbone: keras.Model) -> None:
    with raises(UsageError, where="--cut", got="'conv2d_940'") as caught:
        cut_backbone(backbone, "conv2d_940")
    assert caught.value.exit_status == 2
    assert "conv2d_9" in caught.value.advice


@pytest.mark.unit
@pytest.mark.parametrize(("cut", "nearest"), [("mixd7", "mixed7"), ("mixed11", "mixed1"), ("Mixed5", "mixed5")])
def test_check_backbone_arguments_misspelt_cut_is_refused_with_the_nearest_name(cut: str, nearest: str) -> None:
    with raises(UsageError, where="--cut", got=repr(cut)) as caught:
        check_backbone_arguments([cut], 150)
    assert nearest in caught.value.advice


@pytest.mark.unit
@pytest.mark.parametrize("size", [0, 74, 1025])
def test_check_backbone_arguments_size_out_of_range_is_refused_with_the_range(size: int) -> None:
    with raises(UsageError, where="--image-size", got=size) as caught:
        check_backbone_arguments(["mixed7"], size)
    assert re.findall(r"\d+", caught.value.expected.replace(",", "")) == ["75", "1024"]


@pytest.mark.unit
@pytest.mark.parametrize("size", [75, 1024])
def test_check_backbone_arguments_limits_of_the_range_pass(size: int) -> None:
    check_backbone_arguments(["mixed9_0"], size)


def test_name_layers_of_a_second_model_equals_the_names_in_a_new_process(
    backbone: keras.Model, second: keras.Model
) -> None:
    names = list(name_layers(second).values())
    assert names == list(name_layers(backbone).values())
    assert {layer.name for layer in second.layers} != set(names), "Keras continues its count of layers"
    families = Counter(name.rsplit("_", 1)[0] if name[-1].isdigit() else name for name in names)
    assert families["conv2d"] == families["batch_normalization"] == families["activation"] == 94
    assert {"conv2d", "conv2d_1", "conv2d_93", "batch_normalization_93", "mixed10"} <= set(names)
    assert "conv2d_94" not in names


def test_hash_weights_is_equal_for_every_build_and_differs_for_other_weights(
    backbone: keras.Model, second: keras.Model, source: keras.Model
) -> None:
    assert hash_weights(second) == hash_weights(backbone)
    assert hash_weights(source) != hash_weights(backbone)
    assert len(hash_weights(backbone)) == 64


def test_hash_weights_changes_with_a_single_weight(backbone: keras.Model, second: keras.Model) -> None:
    layer = find_layer(second, "conv2d_20")
    kept = layer.get_weights()
    changed = kept[0].copy()
    changed[0, 0, 0, 0] = np.nextafter(changed[0, 0, 0, 0], np.float32(1))
    try:
        layer.set_weights([changed])
        assert hash_weights(cut_backbone(second, "mixed7")) != hash_weights(cut_backbone(backbone, "mixed7"))
    finally:
        layer.set_weights(kept)
    assert hash_weights(cut_backbone(second, "mixed7")) == hash_weights(cut_backbone(backbone, "mixed7"))


def test_hash_weights_does_not_depend_on_layers_after_the_cut(backbone: keras.Model, second: keras.Model) -> None:
    layer = find_layer(second, "conv2d_60")
    kept = layer.get_weights()
    try:
        layer.set_weights([kept[0] * 2])
        assert hash_weights(cut_backbone(second, "mixed3")) == hash_weights(cut_backbone(backbone, "mixed3"))
        assert hash_weights(cut_backbone(second, "mixed7")) != hash_weights(cut_backbone(backbone, "mixed7"))
    finally:
        layer.set_weights(kept)


def test_summarise_parameters_before_and_after_the_cut_add_up_to_the_total(backbone: keras.Model) -> None:
    layers = summarise_layers(backbone, "mixed7")
    before = sum(layer["num_parameters"] for layer in layers if layer["in_prefix"])
    after = sum(layer["num_parameters"] for layer in layers if not layer["in_prefix"])
    assert before == 8_975_264
    assert before + after == backbone.count_params() == 21_802_784


def test_summarise_lists_every_layer_with_its_shape(backbone: keras.Model) -> None:
    layers = summarise_layers(backbone, "mixed7")
    by_name = {layer["name"]: layer for layer in layers}
    assert len(by_name) == len(layers) == len(backbone.layers)
    assert (by_name["conv2d"]["kind"], by_name["conv2d"]["output_shape"]) == ("Conv2D", (37, 37, 32))
    assert by_name["conv2d"]["num_parameters"] == 3 * 3 * 3 * 32
    assert by_name["mixed7"]["output_shape"] == (3, 3, 768)
    assert by_name["mixed7"]["in_prefix"]
    assert not by_name["mixed8"]["in_prefix"]


def test_random_weights_give_nonzero_features_that_differ_by_picture(backbone: keras.Model) -> None:
    batch = np.random.default_rng(11).uniform(-1, 1, (2, 75, 75, 3)).astype(np.float32)
    features = cut_backbone(backbone, "mixed7")(batch, training=False).numpy()
    assert 0.1 < features.std() < 100
    assert 0.2 < (features == 0).mean() < 0.9
    assert np.abs(features[0] - features[1]).max() > 0.1
