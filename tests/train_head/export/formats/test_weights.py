"""Kernels are rounded to int8 with a small error, whatever their shape and values."""

from __future__ import annotations

import numpy as np
import pytest

from train_head.export.config import Dtype
from train_head.export.formats.weights import MIN_LARGE, choose_storage, quantize_blocks, quantize_columns

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("shape", [(3, 3, 8, 16), (7, 5), (37, 1, 3, 3)])
def test_quantize_blocks_of_any_shape_rounds_to_half_a_step(shape: tuple[int, ...]) -> None:
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    integers, scale = quantize_blocks(kernel)
    restored = integers * scale.astype(np.float32)
    steps = np.broadcast_to(scale, restored.shape)
    assert np.all(np.abs(restored - kernel.reshape(restored.shape)) <= 0.56 * steps)


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-6, 6e4])
def test_quantize_of_extreme_kernels_stays_finite_and_close(size: float) -> None:
    kernel = np.full((32, 16), size, np.float32)
    kernel[:, 1] = 0.0
    for integers, scale in (quantize_blocks(kernel), quantize_columns(kernel)):
        restored = (integers * scale.astype(np.float32)).reshape(kernel.shape)
        np.testing.assert_allclose(restored, kernel, rtol=0.01, atol=1e-7)


@pytest.mark.parametrize(
    ("size", "dtype", "is_distance", "expected"),
    [
        (MIN_LARGE, Dtype.INT8, False, Dtype.INT8),
        (MIN_LARGE, Dtype.INT8, True, Dtype.FLOAT16),
        (100, Dtype.INT8, False, Dtype.FLOAT16),
        (MIN_LARGE, Dtype.FLOAT16, False, Dtype.FLOAT16),
        (100, Dtype.FLOAT16, False, Dtype.FLOAT32),
        (MIN_LARGE, Dtype.FLOAT32, False, Dtype.FLOAT32),
    ],
)
def test_choose_storage_keeps_small_and_sensitive_kernels_more_exact(
    size: int, dtype: Dtype, is_distance: bool, expected: Dtype
) -> None:
    assert choose_storage(np.ones((size, 1), np.float32), dtype, is_distance=is_distance) is expected


def test_choose_storage_of_values_beyond_float16_keeps_float32() -> None:
    assert choose_storage(np.full((8, 8), 1e5, np.float32), Dtype.INT8, is_distance=True) is Dtype.FLOAT32
