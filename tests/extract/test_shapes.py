"""Shapes of features without the backbone, compared with those of the backbone."""

from __future__ import annotations

import keras
import pytest

from extract.backbone import LAYER_NAMES, MAX_IMAGE_SIZE, MIN_IMAGE_SIZE, name_layers
from extract.shapes import compute_feature_shape
from features.options import Pool


@pytest.fixture(scope="module")
def layers() -> dict[str, keras.layers.Layer]:
    """Layers of a backbone for inputs of any size, with their names."""
    model = keras.applications.InceptionV3(input_shape=(None, None, 3), include_top=False, weights=None)
    return {name: layer for layer, name in name_layers(model).items()}


def test_layer_names_are_those_of_the_backbone(layers: dict[str, keras.layers.Layer]) -> None:
    assert set(LAYER_NAMES) == {name for name in layers if not name.startswith("input")}


def test_compute_feature_shape_equals_the_output_of_the_backbone_at_each_size(
    layers: dict[str, keras.layers.Layer],
) -> None:
    names = [name for name in layers if name.startswith("mixed")]
    model = keras.Model(layers["conv2d"].input, [layers[name].output for name in names])
    for size in (MIN_IMAGE_SIZE, 76, 96, 139, 150, 299, 512, MAX_IMAGE_SIZE):
        expected = dict(zip(names, model.compute_output_shape((1, size, size, 3)), strict=True))
        assert {name: (1, *(compute_feature_shape(name, size) or ())) for name in names} == expected
        assert compute_feature_shape("mixed7", size, Pool.AVG) == (768,)


def test_compute_feature_shape_of_another_layer_is_none() -> None:
    assert compute_feature_shape("conv2d_3", 150) is None
