"""Resize and scale RGB pixels for the backbone. Extraction, prediction and export share this definition."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from extract.decoding.convert import Pixels

if TYPE_CHECKING:
    import keras

RESIZE = "bilinear"
SCALE = "[-1, 1]"
FACTOR, OFFSET = 1 / 127.5, -1.0
_BLOCK_ROWS = 75
"""Number of rows resized at a time; larger temporary arrays would be allocated again for each picture."""


def build_pixel_layers(image_size: int) -> list[keras.layers.Layer]:
    """Build the `Resizing` and `Rescaling` layers that turn RGB pixels (0–255, any size) into the backbone's input."""
    import keras

    return [
        keras.layers.Resizing(image_size, image_size, interpolation=RESIZE, name="resize"),
        keras.layers.Rescaling(FACTOR, offset=OFFSET, name="scale"),
    ]


def resize_pixels(pixels: Pixels, image_size: int) -> NDArray[np.float32]:
    """Resize one picture; on x86 processors bit for bit as the `Resizing` layer does.

    Applying the layer to the result has no effect. Each operation is rounded on its own, so the result is the same on
    any processor; TensorFlow's own operation may fuse some of them on others than x86. Only the neighbours of the new
    samples are read, so the time hardly depends on the size of the picture.

    Args:
        pixels: (height, width, 3) uint8.
        image_size: height and width of the result, in pixels.

    Returns:
        (image_size, image_size, 3) float32 in 0–255. The function is thread-safe.
    """
    rows, columns = (_find_neighbours(length, image_size) for length in pixels.shape[:2])
    resized = np.empty((image_size, image_size, pixels.shape[2]), np.float32)
    target, interpolate = resized, _interpolate_width_first
    # A turned picture is a view. Its array is read in the order of the memory, because a copy would take longer.
    if pixels.strides[0] < 0:
        pixels, rows = pixels[::-1], rows.reverse(pixels.shape[0])
    if pixels.strides[1] < 0:
        pixels, columns = pixels[:, ::-1], columns.reverse(pixels.shape[1])
    if pixels.strides[0] < pixels.strides[1]:
        pixels, rows, columns = pixels.swapaxes(0, 1), columns, rows
        target, interpolate = resized.swapaxes(0, 1), _interpolate_height_first
    height, width, channels = pixels.shape
    flat, columns = pixels.reshape(height, width * channels), columns.spread(channels)
    for start in range(0, image_size, _BLOCK_ROWS):
        block = rows.select(slice(start, start + _BLOCK_ROWS))
        target[start : start + _BLOCK_ROWS] = interpolate(flat, block, columns).reshape(-1, image_size, channels)
    return resized


def prepare_pixels(pixels: Pixels, image_size: int) -> NDArray[np.float32]:
    """Resize and scale one picture, bit for bit as the pixel layers do, in a third of the time.

    Returns:
        (image_size, image_size, 3) float32 in [-1, 1]. The function is thread-safe.
    """
    scaled = resize_pixels(pixels, image_size)
    scaled *= np.float32(FACTOR)
    scaled += np.float32(OFFSET)
    return scaled


@dataclass(frozen=True)
class _Neighbours:
    """Samples along an axis between which each new sample is interpolated."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    weight: NDArray[np.float32]
    """Weight of the second, 0–1."""

    def reverse(self, length: int) -> _Neighbours:
        """Return the same samples in the reversed axis."""
        return _Neighbours(length - 1 - self.first, length - 1 - self.second, self.weight)

    def select(self, part: slice) -> _Neighbours:
        """Return the neighbours of some of the new samples."""
        return _Neighbours(self.first[part], self.second[part], self.weight[part])

    def spread(self, channels: int) -> _Neighbours:
        """Return the neighbours for rows in which the channels of each sample follow each other."""
        first, second = ((side[:, None] * channels + np.arange(channels)).ravel() for side in (self.first, self.second))
        return _Neighbours(first, second, np.repeat(self.weight, channels))


@lru_cache
def _find_neighbours(length: int, new_length: int) -> _Neighbours:
    """Return the neighbours of each new sample.

    Source: TensorFlow's ResizeBilinear with half_pixel_centers, `compute_interpolation_weights`.
    """
    scale = np.float32(length) / np.float32(new_length)
    places = (np.arange(new_length, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    lower = np.floor(places)
    first, second = np.maximum(lower, 0), np.minimum(np.ceil(places), length - 1)
    return _Neighbours(first.astype(np.intp), second.astype(np.intp), places - lower)


def _interpolate_width_first(pixels: Pixels, rows: _Neighbours, columns: _Neighbours) -> NDArray[np.float32]:
    """Interpolate along the rows of the array, then between them, as TensorFlow does."""

    def resize_width(chosen: Pixels) -> NDArray[np.float32]:
        first, second = (chosen.take(side, axis=1).astype(np.float32) for side in (columns.first, columns.second))
        return _interpolate(first, second, columns.weight)

    # Both sides rise, or fall in a turned picture.
    ends = [side[place] for side in (rows.first, rows.second) for place in (0, -1)]
    start, end = min(ends), max(ends) + 1
    if end - start < 2 * len(rows.first):
        every = resize_width(pixels[start:end])
        first, second = (every.take(side - start, axis=0) for side in (rows.first, rows.second))
    else:
        first, second = (resize_width(pixels.take(side, axis=0)) for side in (rows.first, rows.second))
    return _interpolate(first, second, rows.weight[:, None])


def _interpolate_height_first(pixels: Pixels, rows: _Neighbours, columns: _Neighbours) -> NDArray[np.float32]:
    """Interpolate between the rows of the array, then along them: the same operations for a transposed picture."""
    both = [pixels.take(side, axis=0) for side in (rows.first, rows.second)]

    def resize_height(side: NDArray[np.intp]) -> NDArray[np.float32]:
        first, second = (chosen.take(side, axis=1).astype(np.float32) for chosen in both)
        return _interpolate(first, second, rows.weight[:, None])

    return _interpolate(resize_height(columns.first), resize_height(columns.second), columns.weight)


def _interpolate(
    first: NDArray[np.float32], second: NDArray[np.float32], weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return `first + (second - first) * weight`, rounded after each operation; `second` is overwritten."""
    second -= first
    second *= weight
    second += first
    return second
