"""Builds one Keras model from a run and the backbone its features came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from extract.pixels import build_pixel_layers

if TYPE_CHECKING:
    import keras


def stitch(backbone: keras.Model, head: keras.Model, image_size: int) -> keras.Model:
    """Joins pixel layers, backbone and head.

    Args:
        backbone: the cut backbone.
        head: from the backbone's output to probabilities.
        image_size: what pictures are resized to, in pixels.

    Returns:
        A model from (n, height, width, 3) raw RGB, 0–255, any size, to the head's probabilities.
    """
    import keras

    pixels = keras.Input((None, None, 3), name="rgb")
    values = pixels
    for layer in build_pixel_layers(image_size):
        values = layer(values)
    # Keras's Resizing calls with training=True where nobody says otherwise, and what follows it would too:
    # `model(x)` would drop units at random. `fit` still trains.
    features = backbone(values, training=False)
    return keras.Model(pixels, head(features, training=False), name="headstart")
