"""Prepare pixels for the backbone: the same bits as Keras's layers."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from extract.decoding.convert import turn_pixels_upright
from extract.pixels import build_pixel_layers, prepare_pixels, resize_pixels
from tests.pictures import draw_picture


@pytest.mark.parametrize("shape", [(90, 80), (75, 75), (20, 31), (300, 200)])
def test_prepare_pixels_equals_the_keras_layers_bit_for_bit(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(shape).integers(0, 256, (*shape, 3), dtype=np.uint8)
    resize, scale = build_pixel_layers(75)

    prepared = prepare_pixels(pixels, 75)

    assert prepared.shape == (75, 75, 3)
    assert prepared.dtype == np.float32
    np.testing.assert_array_equal(prepared, scale(resize(pixels.astype(np.float32))).numpy())


def test_prepare_pixels_of_the_target_size_are_only_scaled() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (75, 75, 3), dtype=np.uint8)
    prepared = prepare_pixels(pixels, 75)
    np.testing.assert_allclose(prepared, pixels / 127.5 - 1, atol=1e-6)


def test_prepare_pixels_of_twice_the_size_averages_neighbours_without_rounding() -> None:
    columns = np.arange(150) % 2
    pixels = np.broadcast_to(columns[None, :, None], (150, 150, 3)).astype(np.uint8)
    prepared = prepare_pixels(pixels, 75)
    np.testing.assert_allclose(prepared, 0.5 / 127.5 - 1, rtol=1e-6)


@pytest.mark.parametrize(("value", "expected"), [(0, -1.0), (255, 1.0)])
def test_prepare_pixels_maps_black_and_white_to_exactly_minus_1_and_1(value: int, expected: float) -> None:
    prepared = prepare_pixels(np.full((33, 47, 3), value, np.uint8), 75)
    np.testing.assert_array_equal(prepared, np.full((75, 75, 3), expected, np.float32))


def test_prepare_pixels_stays_within_the_range() -> None:
    pixels = np.random.default_rng(2).choice([0, 255], (64, 200, 3)).astype(np.uint8)
    prepared = prepare_pixels(pixels, 75)
    assert prepared.min() == -1.0
    assert prepared.max() == 1.0


def test_prepare_pixels_in_several_threads_equals_one_thread() -> None:
    pictures = [np.asarray(draw_picture("owls", number, (60 + number, 90))) for number in range(16)]
    expected = [prepare_pixels(picture, 75) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda picture: prepare_pixels(picture, 75), pictures))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(90, 80), (75, 75), (1, 1), (7, 400), (401, 3), (299, 298), (37, 1000), (700, 650)])
@pytest.mark.parametrize("size", [75, 150, 299])
def test_resize_pixels_equals_the_operation_of_tensorflow(shape: tuple[int, int], size: int) -> None:
    import tensorflow as tf

    pixels = np.random.default_rng(shape).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = tf.raw_ops.ResizeBilinear(images=pixels[None], size=[size, size], half_pixel_centers=True)[0]
    resized = resize_pixels(pixels, size)
    assert resized.shape == (size, size, 3)
    assert resized.dtype == np.float32
    # Compilers for other processors than x86 may fuse TensorFlow's multiplications and additions.
    tolerance = 0 if platform.machine() == "x86_64" else 1e-4
    np.testing.assert_allclose(resized, expected, rtol=0, atol=tolerance)


def test_resize_pixels_of_the_same_size_changes_nothing() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (75, 75, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_pixels(pixels, 75), pixels)


@pytest.mark.parametrize("shape", [(90, 80), (1, 7), (7, 1), (400, 210)])
@pytest.mark.parametrize("orientation", range(1, 10))
def test_resize_pixels_of_a_turned_view_equals_that_of_its_copy(shape: tuple[int, int], orientation: int) -> None:
    pixels = np.random.default_rng(shape).integers(0, 256, (*shape, 3), dtype=np.uint8)
    turned = turn_pixels_upright(pixels, orientation)
    resized = resize_pixels(turned, 75)
    assert resized.flags.c_contiguous
    np.testing.assert_array_equal(resized, resize_pixels(turned.copy(), 75))


def test_resize_pixels_of_a_part_equals_that_of_its_copy() -> None:
    part = np.random.default_rng(2).integers(0, 256, (90, 80, 4), dtype=np.uint8)[3:, 5:70:2, :3]
    np.testing.assert_array_equal(resize_pixels(part, 75), resize_pixels(part.copy(), 75))
