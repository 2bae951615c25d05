"""The table in docs/how-to/inputs.md of pictures that TensorFlow's decoder refuses or decodes differently."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from PIL import Image

from extract.decoding.decode import decode_image
from tests.inputs.makers import (
    SIZE,
    draw,
    save,
    save_clear,
    save_frames,
    save_heic,
    save_jpeg_xl,
    save_palette,
    save_turned,
    write_bmp,
    write_sixteen,
)

Make = Callable[[], bytes]


def write_old_bmp(bits: int) -> bytes:
    """Write a BMP with 16 bits a pixel, or with 1 bit and a palette of black and white."""
    if bits == 1:
        return save("BMP", "1")
    rows = np.full((SIZE[1], SIZE[0]), 0b11111, "<u2").tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, *SIZE, 1, 16, 0, len(rows), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + header + rows


REFUSED: dict[str, Make] = {
    "TIFF": partial(save, "TIFF"),
    "PPM": partial(save, "PPM"),
    "AVIF": partial(save, "AVIF"),
    "HEIC": save_heic,
    "gray JPEG XL": partial(save_jpeg_xl, "L"),
    "JPEG XL with alpha": partial(save_clear, "JXL", "RGBA"),
    "animated WebP": partial(save_frames, "WEBP", lossless=True),
    "WebP with alpha": partial(save_clear, "WEBP", "RGBA", lossless=True),
    "BMP of 1 bit": partial(write_old_bmp, 1),
    "BMP of 16 bits": partial(write_old_bmp, 16),
}
DIFFERENT: dict[str, Make] = {
    "PNG with alpha": partial(save_clear, "PNG", "RGBA"),
    "BMP with alpha": lambda: write_bmp(np.dstack([np.asarray(draw()), np.full(SIZE[::-1], 9, np.uint8)])),
    "PNG with a transparent palette": partial(save_palette, "PNG", transparency=bytes(range(0, 256, 16))),
    "GIF with a transparent colour": partial(save_palette, "GIF", transparency=3),
    "EXIF orientation in a JPEG": partial(save_turned, 3),
    "EXIF orientation in a PNG": partial(save_turned, 3, "PNG"),
    "BMP with a palette": partial(save_palette, "BMP"),
}
EQUAL: dict[str, Make] = {
    "PNG": partial(save, "PNG"),
    "BMP": partial(save, "BMP"),
    "GIF": partial(save_frames, "GIF"),
    "WebP": partial(save, "WEBP"),
    "lossless JPEG XL": save_jpeg_xl,
    "PNG of 16 bits": partial(write_sixteen, 3, 2),
}
CLOSE: dict[str, Make] = {
    "JPEG": partial(save, "JPEG"),
    "progressive JPEG": partial(save, "JPEG", progressive=True),
    "CMYK JPEG": partial(save, "JPEG", "CMYK"),
}


def decode_with_tensorflow(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Decode a picture as `image_dataset_from_directory` does."""
    import tensorflow as tf

    return np.asarray(tf.io.decode_image(data, channels=3, expand_animations=False))


@pytest.mark.parametrize("name", REFUSED)
def test_tensorflow_refuses_a_picture_that_is_decoded(name: str) -> None:
    from tensorflow.errors import InvalidArgumentError

    assert decode_image(REFUSED[name]()).shape == (SIZE[1], SIZE[0], 3)
    with pytest.raises(InvalidArgumentError):
        decode_with_tensorflow(REFUSED[name]())


@pytest.mark.parametrize("name", DIFFERENT)
def test_tensorflow_decodes_a_picture_differently(name: str) -> None:
    data = DIFFERENT[name]()
    found, expected = decode_with_tensorflow(data), decode_image(data)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() > 100


@pytest.mark.parametrize("name", [*EQUAL, *CLOSE])
def test_tensorflow_decodes_a_picture_to_the_same_pixels(name: str) -> None:
    data = (EQUAL | CLOSE)[name]()
    difference = np.abs(decode_with_tensorflow(data).astype(int) - decode_image(data))
    assert difference.max() <= (0 if name in EQUAL else 20)
    assert difference.mean() < 1.5


def test_tensorflow_decodes_12_bits_in_16_as_almost_black() -> None:
    from tests.pictures import encode

    samples = np.full((SIZE[1], SIZE[0]), 2**12 - 1, np.uint16)
    assert decode_with_tensorflow(encode(Image.fromarray(samples))).max() == 15
