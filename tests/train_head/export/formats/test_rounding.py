"""Rounding of convolutions to 8 bits keeps the means of their normalized outputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from extract.pixels import build_pixel_layers
from train_head.export.formats.rounding import round_convolutions, round_kernel


def build_model() -> tuple[Any, Any]:
    """Build a model around a backbone of two convolutions, each followed by ReLU, and a convolution at its end."""
    import keras

    rng = np.random.default_rng(0)
    inputs = values = keras.Input((20, 20, 3))
    for number in range(2):
        values = keras.layers.Conv2D(8, 3, use_bias=False, name=f"first{number}")(values)
        values = keras.layers.ReLU()(keras.layers.BatchNormalization(scale=False)(values))
    backbone = keras.Model(inputs, keras.layers.Conv2D(4, 1, use_bias=False)(values))
    # A few large weights, as in the convolutions of InceptionV3, make the others inexact.
    backbone.set_weights([np.abs(rng.standard_t(1.5, array.shape)) for array in backbone.get_weights()])
    pixels = values = keras.Input((None, None, 3))
    for layer in build_pixel_layers(20):
        values = layer(values)
    return keras.Model(pixels, backbone(values, training=False)), backbone


def test_round_convolutions_keeps_the_mean_outputs_on_the_pictures() -> None:
    model, backbone = build_model()
    rng = np.random.default_rng(1)
    pictures, others = rng.uniform(0, 255, (2, 6, 20, 20, 3)).astype(np.float32)
    original, last = backbone.get_weights(), backbone.layers[-1].get_weights()[0]
    expected = np.asarray(model(others)).mean(axis=(0, 1, 2))
    round_convolutions(model, pictures)
    corrected = np.asarray(model(others)).mean(axis=(0, 1, 2))
    np.testing.assert_array_equal(backbone.layers[-1].get_weights()[0], last)
    kernels = [array for array in backbone.get_weights() if array.ndim == 4]
    np.testing.assert_allclose(kernels[0], round_kernel(original[0]))
    backbone.set_weights([round_kernel(a) if a.ndim == 4 and len(a) == 3 else a for a in original])
    rounded = np.asarray(model(others)).mean(axis=(0, 1, 2))
    assert np.abs(corrected - expected).max() < 0.3 * np.abs(rounded - expected).max()


def test_round_kernel_has_at_most_255_values_for_each_output() -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 3, 200, 2)).astype(np.float32)
    kernel[..., 1] = 0
    found = round_kernel(kernel)
    assert found.dtype == np.float32
    assert 100 < len(np.unique(found[..., 0])) <= 255
    np.testing.assert_allclose(found, kernel, atol=np.abs(kernel).max() / 253)
    np.testing.assert_array_equal(found[..., 1], 0)
    np.testing.assert_allclose(round_kernel(found), found, rtol=1e-6)
