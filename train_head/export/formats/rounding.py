"""Round the convolutions of a model to 8 bits, and correct the means that the rounding changes.

An error of the rounded kernel changes the mean of each output channel, because the inputs of a convolution after the
first are positive. The batch normalization after the convolution subtracts this change, which is the sum of the errors
times the mean inputs. Source: Nagel et al. 2019, section 4.2, https://arxiv.org/abs/1906.04721.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from extract.pixels import FACTOR, OFFSET
from train_head.data.batches import Array

if TYPE_CHECKING:
    import keras


def round_convolutions(model: keras.Model, pictures: Array) -> None:
    """Round the convolutions of an exported model in place, and correct the batch normalizations after them.

    A convolution without a batch normalization after it is not changed.

    Args:
        model: a model of `load_export`.
        pictures: (n, image_size, image_size, 3) pixels in 0-255, on which the mean inputs are measured.
    """
    import keras

    parts = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    backbone = next(part for part in parts if part.input_shape[1:] == pictures.shape[1:])
    pairs = [(layer, node.operation) for layer in backbone.layers for node in layer._outbound_nodes]
    pairs = [
        (layer, after)
        for layer, after in pairs
        if isinstance(layer, keras.layers.Conv2D) and isinstance(after, keras.layers.BatchNormalization)
    ]
    if not pairs:
        return
    means = keras.Model(backbone.inputs[0], [keras.ops.mean(layer.input, axis=(0, 1, 2)) for layer, _ in pairs])
    found = means(pictures * np.float32(FACTOR) + np.float32(OFFSET), training=False)
    found = found if len(pairs) > 1 else [found]
    for (convolution, normalization), inputs in zip(pairs, found, strict=True):
        kernel = np.asarray(convolution.kernel)
        rounded = round_kernel(kernel)
        change = np.einsum("hwio,i->o", rounded - kernel, np.asarray(inputs))
        convolution.kernel.assign(rounded)
        normalization.moving_mean.assign(np.asarray(normalization.moving_mean) + change)


def round_kernel(kernel: Array) -> Array:
    """Round a kernel, (..., outputs), to 255 values for each output, as a converter does to store it in 8 bits."""
    scale = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)), keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    return np.asarray(np.rint(kernel / scale) * scale, np.float32)
