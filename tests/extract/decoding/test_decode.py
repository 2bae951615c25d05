"""Decode picture files: the pixels of every format, and the reasons of refused files."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from extract.config import MAX_PIXELS
from extract.decoding.convert import Pixels
from extract.decoding.decode import decode_image
from extract.decoding.read import UndecodableImageError
from tests.inputs.makers import write_bmp, write_png, write_rows, write_tiff
from tests.pictures import draw_picture, encode

pytestmark = pytest.mark.unit

RGB: Pixels = np.random.default_rng(7).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encode_array(array: NDArray[Any], image_format: str = "PNG", **options: object) -> bytes:
    return encode(Image.fromarray(array), image_format, **options)


def gray_to_rgb(gray: NDArray[Any]) -> Pixels:
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)


def refuse(data: bytes) -> str:
    """Return the reason why a file is not decoded."""
    with pytest.raises(UndecodableImageError) as caught:
        decode_image(data)
    return str(caught.value)


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("PPM", {}),
    ],
)
def test_decode_lossless_format_returns_the_exact_pixels(image_format: str, options: dict[str, object]) -> None:
    decoded = decode_image(encode_array(RGB, image_format, **options))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, RGB)


def test_decode_gif_returns_the_exact_palette_colours() -> None:
    image = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(decode_image(encode(image, "GIF")), np.asarray(image.convert("RGB")))


def test_decode_jpeg_keeps_a_flat_colour_and_the_channel_order() -> None:
    flat = np.full((40, 60, 3), (200, 60, 20), np.uint8)
    decoded = decode_image(encode_array(flat, "JPEG", quality=95))
    assert decoded.shape == (40, 60, 3)
    np.testing.assert_allclose(decoded, flat, atol=2)


def test_decode_progressive_jpeg_equals_the_baseline_jpeg() -> None:
    picture = draw_picture("cats", 1)
    baseline = decode_image(encode(picture, "JPEG", quality=90))
    progressive = decode_image(encode(picture, "JPEG", quality=90, progressive=True))
    np.testing.assert_array_equal(progressive, baseline)
    assert len(np.unique(baseline)) > 50


def test_decode_mpo_returns_its_first_picture() -> None:
    first, second = draw_picture("cats", 1), draw_picture("dogs", 1)
    mpo = encode(first, "MPO", save_all=True, append_images=[second], quality=90)
    np.testing.assert_array_equal(decode_image(mpo), decode_image(encode(first, "JPEG", quality=90)))


def test_decode_cmyk_tiff_returns_the_exact_primaries() -> None:
    inks = np.array([[(0, 0, 0, 0), (0, 255, 255, 0), (255, 0, 255, 0), (255, 255, 0, 0), (0, 0, 0, 255)]], np.uint8)
    decoded = decode_image(encode(Image.fromarray(inks, "CMYK"), "TIFF"))
    assert decoded.tolist() == [[[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]]]


def test_decode_cmyk_jpeg_is_not_inverted() -> None:
    inks = np.full((16, 16, 4), (0, 255, 255, 0), np.uint8)
    decoded = decode_image(encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=95))
    np.testing.assert_allclose(decoded, np.full((16, 16, 3), (255, 0, 0)), atol=3)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_decode_sixteen_bit_gray_takes_the_upper_byte(image_format: str) -> None:
    values = np.array([[0, 255, 256], [0x1234, 0x80FF, 65535]], np.uint16)
    decoded = decode_image(encode_array(values, image_format))
    np.testing.assert_array_equal(decoded, gray_to_rgb(np.array([[0, 0, 1], [0x12, 0x80, 255]])))


def test_decode_sixteen_bit_big_endian_tiff_takes_the_upper_byte() -> None:
    values = np.array([[0, 256, 0x1234, 65535]], ">u2")
    image = Image.frombytes("I;16B", (4, 1), values.tobytes())
    np.testing.assert_array_equal(decode_image(encode(image, "TIFF")), gray_to_rgb(np.array([[0, 1, 0x12, 255]])))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_decode_thirty_two_bit_samples_are_refused(mode: str) -> None:
    reason = refuse(encode(Image.new(mode, (4, 4), 70_000), "TIFF"))
    assert "32-bit" in reason
    assert f"mode {mode}" in reason


def test_decode_gray_repeats_the_value_in_every_channel() -> None:
    gray = RGB[..., 0]
    np.testing.assert_array_equal(decode_image(encode_array(gray)), gray_to_rgb(gray))


def test_decode_black_and_white_returns_0_and_255() -> None:
    bits = np.array([[True, False, True], [False, False, True]])
    np.testing.assert_array_equal(decode_image(encode_array(bits)), gray_to_rgb(bits * 255))


def test_decode_palette_returns_its_colours() -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert decode_image(encode(image)).tolist() == [
        [[10, 20, 30], [40, 50, 60]],
        [[70, 80, 90], [40, 50, 60]],
    ]


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\xff"])
def test_decode_transparent_palette_colour_becomes_white(transparency: int | bytes) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    decoded = decode_image(encode(image, transparency=transparency))
    assert decoded.tolist() == [[[10, 20, 30], [255, 255, 255]], [[70, 80, 90], [255, 255, 255]]]


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_decode_rgba_is_blended_with_white(image_format: str) -> None:
    alpha = np.array([[0, 51, 128, 255]], np.uint8)
    rgba = np.dstack([np.full((1, 4), 200), np.full((1, 4), 100), np.zeros((1, 4)), alpha]).astype(np.uint8)
    options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}

    decoded = decode_image(encode_array(rgba, image_format, **options))

    assert decoded.tolist() == [[[255, 255, 255], [244, 224, 204], [227, 177, 127], [200, 100, 0]]]


def test_decode_gray_with_alpha_is_blended_with_white() -> None:
    values = np.array([[(100, 0), (100, 51), (100, 255)]], np.uint8)
    assert decode_image(encode_array(values))[0, :, 0].tolist() == [255, 224, 100]


def clear(samples: NDArray[Any]) -> NDArray[Any]:
    """Return samples with alpha 0 in the last channel."""
    return np.dstack([samples, np.zeros(samples.shape[:2], samples.dtype)])


CLEAR = {
    "rgba png": encode_array(clear(RGB)),
    "gray png": encode_array(clear(RGB[..., 0])),
    "tiff": encode_array(clear(RGB), "TIFF"),
    "webp": encode_array(clear(RGB), "WEBP", lossless=True, exact=True),
    "bmp": write_bmp(clear(RGB)),
    "16-bit png": write_png(7, 5, 16, 6, write_rows(clear(RGB.astype(np.uint16) * 257))),
    "16-bit tiff": write_tiff(clear(RGB.astype(np.uint16) * 257), 2, extra=(2,)),
    "palette png": encode(Image.fromarray(RGB).quantize(16), transparency=bytes(256)),
    "one colour png": encode(Image.new("RGB", (7, 5), (9, 8, 7)), transparency=(9, 8, 7)),
}
"""Pictures whose alpha is 0 in every pixel."""


@pytest.mark.parametrize("name", CLEAR)
def test_decode_alpha_that_is_0_everywhere_is_ignored(name: str) -> None:
    expected = np.repeat(RGB[..., :1], 3, axis=2) if name == "gray png" else RGB
    if name == "palette png":
        expected = np.asarray(Image.fromarray(RGB).quantize(16).convert("RGB"))
    if name == "one colour png":
        expected = np.full_like(RGB, (9, 8, 7))
    np.testing.assert_array_equal(decode_image(CLEAR[name]), expected)


def test_decode_one_pixel_with_alpha_makes_all_others_white() -> None:
    rgba = clear(RGB)
    rgba[-1, -1, 3] = 255
    decoded = decode_image(encode_array(rgba))
    np.testing.assert_array_equal(decoded[-1, -1], RGB[-1, -1])
    assert (decoded.reshape(-1, 3)[:-1] == 255).all()


def test_decode_alpha_in_the_last_of_many_strips_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.decoding.convert._STRIP_PIXELS", 7)
    test_decode_one_pixel_with_alpha_makes_all_others_white()
    np.testing.assert_array_equal(decode_image(CLEAR["rgba png"]), RGB)


UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_decode_exif_orientation_turns_the_picture_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encode_array(RGB, exif=exif))
    np.testing.assert_array_equal(decoded, UPRIGHT[orientation](RGB))


def test_decode_jpeg_with_exif_orientation_6_is_turned_by_90_degrees() -> None:
    red, green, blue, gray = (250, 10, 10), (10, 250, 10), (10, 10, 250), (128, 128, 128)
    stored = np.repeat(np.repeat(np.array([[red, green], [blue, gray]], np.uint8), 16, 0), 24, 1)
    exif = Image.Exif()
    exif[0x0112] = 6

    decoded = decode_image(encode_array(stored, "JPEG", quality=95, subsampling=0, exif=exif))

    assert decoded.shape == (48, 32, 3)
    corners = decoded[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    np.testing.assert_allclose(corners, [blue, red, gray, green], atol=6)


@pytest.mark.parametrize(("image_format", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_decode_animation_returns_the_first_frame(image_format: str, options: dict[str, object]) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], duration=40, **options)
    with Image.open(io.BytesIO(data)) as animation:
        assert getattr(animation, "n_frames", 1) == 3
    np.testing.assert_array_equal(decode_image(data), np.full((4, 6, 3), (255, 0, 0)))


# Refused files.


def test_decode_empty_file_is_refused_as_empty() -> None:
    assert "empty" in refuse(b"")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_decode_truncated_file_is_refused_as_damaged(image_format: str) -> None:
    data = encode(draw_picture("dogs", 3), image_format)
    assert "damaged" in refuse(data[: len(data) // 2])


def test_decode_truncated_jpeg_is_refused_with_the_number_of_missing_bytes() -> None:
    data = encode(draw_picture("dogs", 3), "JPEG")
    assert re.search(r"truncated \(\d+ bytes", refuse(data[: len(data) // 2]))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_decode_file_truncated_in_its_header_is_refused(image_format: str) -> None:
    assert refuse(encode_array(RGB, image_format)[:12])


def test_decode_png_with_a_wrong_checksum_is_refused_as_damaged() -> None:
    data = bytearray(encode(draw_picture("cats", 4)))
    data[len(data) // 2] ^= 0xFF
    assert "damaged" in refuse(bytes(data))


@pytest.mark.parametrize("side", [20_000, 9_440])
def test_decode_picture_with_too_many_pixels_is_refused_with_its_size_and_the_limit(side: int) -> None:
    reason = refuse(write_png(side, side, 8, 0, bytes(1000)))
    assert f"{side} x {side} pixels" in reason
    assert f"{MAX_PIXELS:,}" in reason
