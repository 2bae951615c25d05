"""Number formats of stored weights, for the formats whose converters do not choose them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from train_head.data.batches import Array
from train_head.export.config import Dtype

MIN_LARGE = 2**16
"""Number of elements from which a kernel is large.

The first convolutions of InceptionV3 have smaller kernels. Together, these take a twentieth of the space, and rounding
them to int8 changes the logits more than rounding all others.
"""
BLOCK_LENGTH = 16
"""Number of elements with one scale; a block of 16 changes the logits a third as much as a whole output channel."""


def choose_storage(kernel: Array, dtype: Dtype, *, is_distance: bool) -> Dtype:
    """Choose the number format in which a kernel is stored.

    Args:
        kernel: the kernel of a convolution or of a dense layer.
        dtype: the number format asked for. Small kernels are stored in the next larger one.
        is_distance: whether the kernel serves only the distance. It is then not stored as int8: whitening divides by
            small variances, and enlarges the rounding errors.
    """
    is_large = kernel.size >= MIN_LARGE
    if dtype is Dtype.INT8 and is_large and not is_distance:
        return Dtype.INT8
    fits = kernel.size > 0 and float(np.abs(kernel).max()) <= float(np.finfo(np.float16).max)
    return Dtype.FLOAT16 if fits and (dtype is Dtype.INT8 or (dtype is Dtype.FLOAT16 and is_large)) else Dtype.FLOAT32


def quantize_blocks(kernel: Array) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Round a kernel to int8, with one scale for each block of consecutive elements.

    Returns:
        The integers, (blocks, length) from -127 to 127, and the scales, (blocks, 1). Their product, in the shape of the
        kernel, approximates the kernel.
    """
    blocks = kernel.reshape(-1, math.gcd(kernel.size, BLOCK_LENGTH))
    scale = (np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)).astype(np.float16)
    scale = np.maximum(scale, np.finfo(np.float16).smallest_subnormal)
    return np.clip(np.rint(blocks / scale.astype(np.float32)), -127, 127).astype(np.int8), scale


def quantize_columns(kernel: Array) -> tuple[NDArray[np.int8], Array]:
    """Round a dense layer's kernel, (inputs, outputs), to int8, with one scale for each output.

    Returns:
        The integers, from -127 to 127, and the scales, (1, outputs).
    """
    scale = np.maximum(np.abs(kernel).max(axis=0, keepdims=True) / np.float32(127), np.finfo(np.float32).tiny)
    return np.rint(kernel / scale).astype(np.int8), scale
