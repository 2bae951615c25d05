"""From bytes to pixels: every format's values, and what is refused and why."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from extract.config import MAX_PIXELS
from extract.decode import Pixels, UndecodableImageError, decode_image
from tests.pictures import draw_picture, encode

ROOT = Path(__file__).parents[2]
RGB: Pixels = np.random.default_rng(7).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encode_array(array: NDArray[Any], image_format: str = "PNG", **options: object) -> bytes:
    return encode(Image.fromarray(array), image_format, **options)


def gray_to_rgb(gray: NDArray[Any]) -> Pixels:
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)


def declare_png(width: int, height: int) -> bytes:
    """A gray PNG that declares a size and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def fail_to_decode(data: bytes) -> str:
    with pytest.raises(UndecodableImageError) as raised:
        decode_image(data)
    return str(raised.value)


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
def test_decode_lossless_format_gives_the_exact_pixels(image_format: str, options: dict[str, object]) -> None:
    decoded = decode_image(encode_array(RGB, image_format, **options))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, RGB)


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG", "MPO"])
def test_decode_first_picture_of_a_process_works_in_every_format(image_format: str, tmp_path: Path) -> None:
    picture = tmp_path / "picture"
    picture.write_bytes(encode_array(RGB, image_format))
    program = (
        "import sys; from pathlib import Path; from extract.decode import decode_image;"
        "print(decode_image(Path(sys.argv[1]).read_bytes()).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(picture)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("(5, 7, 3)\n", "")


def test_decode_gif_gives_the_exact_palette_colours() -> None:
    image = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(decode_image(encode(image, "GIF")), np.asarray(image.convert("RGB")))


def test_decode_jpeg_keeps_a_flat_colour_and_the_channels_order() -> None:
    flat = np.full((40, 60, 3), (200, 60, 20), np.uint8)
    decoded = decode_image(encode_array(flat, "JPEG", quality=95))
    assert decoded.shape == (40, 60, 3)
    np.testing.assert_allclose(decoded, flat, atol=2)


def test_decode_progressive_jpeg_equals_the_baseline_one() -> None:
    picture = draw_picture("cats", 1)
    baseline = decode_image(encode(picture, "JPEG", quality=90))
    progressive = decode_image(encode(picture, "JPEG", quality=90, progressive=True))
    np.testing.assert_array_equal(progressive, baseline)
    assert len(np.unique(baseline)) > 50


def test_decode_mpo_of_a_camera_gives_its_first_picture() -> None:
    first, second = draw_picture("cats", 1), draw_picture("dogs", 1)
    mpo = encode(first, "MPO", save_all=True, append_images=[second], quality=90)
    np.testing.assert_array_equal(decode_image(mpo), decode_image(encode(first, "JPEG", quality=90)))


def test_decode_cmyk_tiff_gives_the_exact_primaries() -> None:
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
    reason = fail_to_decode(encode(Image.new(mode, (4, 4), 70_000), "TIFF"))
    assert reason == f"32-bit samples (mode {mode}), whose range is not known"


def test_decode_gray_repeats_it_in_every_channel() -> None:
    gray = RGB[..., 0]
    np.testing.assert_array_equal(decode_image(encode_array(gray)), gray_to_rgb(gray))


def test_decode_black_and_white_gives_0_and_255() -> None:
    bits = np.array([[True, False, True], [False, False, True]])
    np.testing.assert_array_equal(decode_image(encode_array(bits)), gray_to_rgb(bits * 255))


def test_decode_palette_gives_its_colours() -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert decode_image(encode(image)).tolist() == [
        [[10, 20, 30], [40, 50, 60]],
        [[70, 80, 90], [40, 50, 60]],
    ]


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\xff"])
def test_decode_palette_with_transparency_shows_white_there(transparency: int | bytes) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    decoded = decode_image(encode(image, transparency=transparency))
    assert decoded.tolist() == [[[10, 20, 30], [255, 255, 255]], [[70, 80, 90], [255, 255, 255]]]


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_decode_rgba_is_laid_over_white(image_format: str) -> None:
    alpha = np.array([[0, 51, 128, 255]], np.uint8)
    rgba = np.dstack([np.full((1, 4), 200), np.full((1, 4), 100), np.zeros((1, 4)), alpha]).astype(np.uint8)
    options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}

    decoded = decode_image(encode_array(rgba, image_format, **options))

    assert decoded.tolist() == [[[255, 255, 255], [244, 224, 204], [227, 177, 127], [200, 100, 0]]]


def test_decode_gray_with_alpha_is_laid_over_white() -> None:
    values = np.array([[(100, 0), (100, 51), (100, 255)]], np.uint8)
    assert decode_image(encode_array(values))[0, :, 0].tolist() == [255, 224, 100]


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


def test_decode_jpeg_with_exif_orientation_6_swaps_the_sides_and_moves_the_corners() -> None:
    red, green, blue, gray = (250, 10, 10), (10, 250, 10), (10, 10, 250), (128, 128, 128)
    stored = np.repeat(np.repeat(np.array([[red, green], [blue, gray]], np.uint8), 16, 0), 24, 1)
    exif = Image.Exif()
    exif[0x0112] = 6

    decoded = decode_image(encode_array(stored, "JPEG", quality=95, subsampling=0, exif=exif))

    assert decoded.shape == (48, 32, 3)
    corners = decoded[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    np.testing.assert_allclose(corners, [blue, red, gray, green], atol=6)


@pytest.mark.parametrize(("image_format", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_decode_animation_gives_the_first_frame(image_format: str, options: dict[str, object]) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], duration=40, **options)
    with Image.open(io.BytesIO(data)) as animation:
        assert getattr(animation, "n_frames", 1) == 3
    np.testing.assert_array_equal(decode_image(data), np.full((4, 6, 3), (255, 0, 0)))


def test_decode_empty_file_says_so() -> None:
    assert fail_to_decode(b"") == "the file is empty"


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_decode_truncated_file_says_damaged(image_format: str) -> None:
    data = encode(draw_picture("dogs", 3), image_format)
    assert fail_to_decode(data[: len(data) // 2]).startswith("damaged: ")


def test_decode_truncated_jpeg_says_how_much_is_missing() -> None:
    data = encode(draw_picture("dogs", 3), "JPEG")
    assert "image file is truncated" in fail_to_decode(data[: len(data) // 2])


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_decode_file_cut_in_its_header_says_cut_off(image_format: str) -> None:
    reason = fail_to_decode(encode_array(RGB, image_format)[:12])
    assert "cut off" in reason or "damaged" in reason


def test_decode_png_with_a_wrong_checksum_says_damaged() -> None:
    data = bytearray(encode(draw_picture("cats", 4)))
    data[len(data) // 2] ^= 0xFF
    assert fail_to_decode(bytes(data)).startswith("damaged: ")


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><p>404</p>", b"\n  <html><body>", b"<?xml version='1.0'?><Error/>", b"<svg/>"]
)
def test_decode_web_page_says_that_it_is_one(page: bytes) -> None:
    assert fail_to_decode(page) == "not a picture: the file holds a web page or XML"


@pytest.mark.parametrize("data", [random.Random(5).randbytes(4096), b"\x00", b"GIF8", b"text"])
def test_decode_foreign_bytes_names_the_known_formats(data: bytes) -> None:
    assert fail_to_decode(data) == (
        "not a picture in a known format (JPEG, PNG, GIF, BMP, WEBP, TIFF, PPM), or cut off in its header"
    )


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"%PDF-1.7\n%...", "a PDF"),
        (b"PK\x03\x04" + bytes(30), "a zip file"),
        (b"\0\0\0\x18ftypheic" + bytes(30), "an HEIC picture"),
        (b"\0\0\0\x1cftypavif" + bytes(30), "an AVIF picture"),
        (b"\0\0\0\x20ftypisom" + bytes(30), "a video"),
    ],
)
def test_decode_foreign_bytes_of_a_known_kind_names_it(data: bytes, kind: str) -> None:
    assert fail_to_decode(data) == (
        f"not a picture in a known format (JPEG, PNG, GIF, BMP, WEBP, TIFF, PPM), but {kind}"
    )


@pytest.mark.parametrize(("side", "told"), [(20_000, "20000 x 20000 pixels"), (9_440, "9440 x 9440 pixels")])
def test_decode_too_many_pixels_says_how_many_and_how_many_are_allowed(side: int, told: str) -> None:
    reason = fail_to_decode(declare_png(side, side))
    assert told in reason
    assert f"more than the {MAX_PIXELS:,}" in reason


@pytest.mark.parametrize("side", [20_000, 9_440])
def test_decode_too_many_pixels_takes_no_memory_for_them(side: int, tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(declare_png(side, side))
    (tmp_path / "small.png").write_bytes(declare_png(1, 1))
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom extract import decode\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "small, bomb = (Path(sys.argv[1], name).read_bytes() for name in ('small.png', 'bomb.png'))\n"
        "decode.decode_image(small)\nbefore = peak()\n"
        "try:\n    decode.decode_image(bomb)\n"
        "except decode.UndecodableImageError:\n    print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 20_000, "kilobytes more than before; one byte a pixel would be 87,000 or more"
