"""Resize and scale RGB pixels for the backbone. Extraction, prediction and export share this definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from extract.decoding.convert import Pixels

if TYPE_CHECKING:
    import keras

RESIZE = "bilinear"
SCALE = "[-1, 1]"
FACTOR, OFFSET = 1 / 127.5, -1.0


def build_pixel_layers(image_size: int) -> list[keras.layers.Layer]:
    """Build the `Resizing` and `Rescaling` layers that turn RGB pixels (0–255, any size) into the backbone's input."""
    import keras

    return [
        keras.layers.Resizing(image_size, image_size, interpolation=RESIZE, name="resize"),
        keras.layers.Rescaling(FACTOR, offset=OFFSET, name="scale"),
    ]


def resize_pixels(pixels: Pixels, image_size: int) -> NDArray[np.float32]:
    """Resize one picture, bit for bit as the `Resizing` layer does; applying the layer to the result has no effect.

    Args:
        pixels: (height, width, 3) uint8.
        image_size: height and width of the result, in pixels.

    Returns:
        (image_size, image_size, 3) float32 in 0–255. The function is thread-safe.
    """
    import tensorflow as tf

    # The operation inside `Resizing`. The layer itself would round the result of integers, and copy an input of floats.
    resized = tf.raw_ops.ResizeBilinear(images=pixels[None], size=[image_size, image_size], half_pixel_centers=True)
    values: NDArray[np.float32] = resized.numpy()[0]
    return values


def prepare_pixels(pixels: Pixels, image_size: int) -> NDArray[np.float32]:
    """Resize and scale one picture, bit for bit as the pixel layers do, in a third of the time.

    Returns:
        (image_size, image_size, 3) float32 in [-1, 1]. The function is thread-safe.
    """
    scaled = resize_pixels(pixels, image_size)
    scaled *= np.float32(FACTOR)
    scaled += np.float32(OFFSET)
    return scaled
