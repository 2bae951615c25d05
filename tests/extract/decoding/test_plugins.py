"""AVIF, HEIC and JPEG XL: rotation, depth, alpha, frames, damage, limits, and installations without a decoder."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from extract.decoding.convert import turn_upright
from extract.decoding.decode import decode_image, find_sample_bits
from extract.decoding.policy import DecodePolicy
from extract.decoding.read import UndecodableImageError
from extract.images.formats import AVIF, HEIC, JPEG_XL, PLUGIN_FORMATS, PluginFormat, recognize_format
from tests.inputs.jpeg_xl import ALPHA, ANIMATION, BLACK, PREMULTIPLIED, JpegXlFields, change_header
from tests.inputs.makers import SIZE, draw, encode_heic, encode_jpeg_xl, save, save_heic, save_jpeg_xl, write_box
from tests.pictures import draw_pixels, encode

pytestmark = pytest.mark.unit

MAKERS: dict[str, Callable[[], bytes]] = {
    "AVIF": partial(save, "AVIF", quality=95),
    "HEIC": save_heic,
    "JPEG XL": save_jpeg_xl,
}
FORMATS = {each.name: each for each in PLUGIN_FORMATS}
each_format = pytest.mark.parametrize("name", MAKERS)
SMOOTH = Image.fromarray(draw_pixels(48, 64, 3))
"""Picture that lossy formats keep to a few levels."""
LEVELS = 6


def refuse(data: bytes, max_pixels: int = 89_000_000) -> str:
    """Return the reason why a picture is not decoded."""
    with pytest.raises(UndecodableImageError) as caught:
        decode_image(data, max_pixels)
    return str(caught.value)


def assert_close(found: NDArray[np.uint8], expected: NDArray[np.uint8] | Image.Image, levels: int = LEVELS) -> None:
    """Assert that pixels differ by few levels, as after lossy compression."""
    assert found.shape == np.asarray(expected).shape
    assert np.abs(found.astype(int) - np.asarray(expected)).mean() < levels


def encode_as(name: str, picture: Image.Image, **options: object) -> bytes:
    """Encode a picture with the least loss."""
    if name == "AVIF":
        return encode(picture, "AVIF", quality=95, speed=10, **options)
    return encode_heic(picture, **options) if name == "HEIC" else encode_jpeg_xl(picture, **options)


@each_format
def test_decode_gives_the_pixels_of_the_encoded_picture(name: str) -> None:
    assert_close(decode_image(encode_as(name, SMOOTH)), SMOOTH)
    gray = SMOOTH.convert("L")
    assert_close(decode_image(encode_as(name, gray)), gray.convert("RGB"))


@each_format
def test_decode_format_is_recognized_and_has_no_significant_bits(name: str) -> None:
    assert recognize_format(MAKERS[name]()) is FORMATS[name]
    assert find_sample_bits(MAKERS[name]()) == 0


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (write_box(b"heic"), HEIC),
        (write_box(b"hevx"), HEIC),
        (write_box(b"mif1"), HEIC),
        (write_box(b"avis"), AVIF),
        (write_box(b"mif1").replace(b"mif1\0", b"avif\0"), AVIF),
        (b"\0\0\0\x0cJXL \r\n\x87\n", JPEG_XL),
        (write_box(b"isom"), None),
        (write_box(b"mp42"), None),
        (b"\0\0\0\x08ftyp", None),
        (b"", None),
    ],
)
def test_recognize_format_reads_the_brands(start: bytes, expected: PluginFormat | None) -> None:
    assert recognize_format(start) is expected


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["AVIF", "HEIC"])
def test_decode_picture_turned_by_its_container_is_turned_once(name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Both encoders write the orientation to the container too.
    assert_close(decode_image(encode_as(name, SMOOTH, exif=exif.tobytes())), turn_upright(SMOOTH, orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_jpeg_xl_turned_by_its_header_is_turned_once(orientation: int) -> None:
    data = change_header(save_jpeg_xl(), JpegXlFields(SIZE), JpegXlFields(SIZE, orientation))
    np.testing.assert_array_equal(decode_image(data), np.asarray(turn_upright(draw(), orientation)))


def test_decode_jpeg_xl_with_an_exif_orientation_ignores_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = save_jpeg_xl(exif=exif.tobytes(), use_container=True)
    assert b"Exif" in data
    np.testing.assert_array_equal(decode_image(data), np.asarray(draw()))


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("mode", ["RGB;16", "L;16"])
def test_decode_heic_with_deep_samples_scales_them_by_the_header(
    mode: str, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pillow_heif

    monkeypatch.setattr("pillow_heif.options.SAVE_HDR_TO_12_BIT", bits == 12)
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))
    buffer = io.BytesIO()
    samples = ramp if mode == "L;16" else np.dstack([ramp] * 3)
    pillow_heif.encode(mode, (64, 48), samples.tobytes(), buffer, quality=-1)
    expected = np.dstack([ramp >> 8] * 3).astype(np.uint8)
    for policy in (DecodePolicy(16), DecodePolicy(10), DecodePolicy(edition=1)):
        decoded = decode_image(buffer.getvalue(), policy=policy)
        assert decoded.shape == expected.shape
        assert np.abs(decoded.astype(int) - expected).max() <= 2


def test_decode_jpeg_xl_with_16_bits_has_their_upper_bytes() -> None:
    samples = np.tile(np.arange(0, 65536, 1024, dtype=np.uint16), (48, 1))
    decoded = decode_image(encode_jpeg_xl(Image.fromarray(samples)))
    np.testing.assert_array_equal(decoded, np.dstack([samples >> 8] * 3))


@pytest.mark.parametrize("policy", [DecodePolicy(), DecodePolicy(edition=1)], ids=str)
@each_format
def test_decode_alpha_is_composited_over_white(name: str, policy: DecodePolicy) -> None:
    clear = SMOOTH.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(SMOOTH.size))
    expected = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    assert_close(decode_image(encode_as(name, clear), policy=policy), expected)


@each_format
def test_decode_alpha_of_0_everywhere_is_ignored(name: str) -> None:
    hidden = SMOOTH.convert("RGBA")
    hidden.putalpha(0)
    assert_close(decode_image(encode_as(name, hidden)), SMOOTH, 12)
    assert (decode_image(encode_as(name, hidden), policy=DecodePolicy(edition=1)) == 255).all()


def test_decode_premultiplied_jpeg_xl_equals_the_picture_with_plain_alpha() -> None:
    clear = draw().convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(SIZE))
    multiplied = Image.frombytes("RGBA", SIZE, clear.convert("RGBa").tobytes())
    plain, changed = JpegXlFields(SIZE, channel=ALPHA), JpegXlFields(SIZE, channel=PREMULTIPLIED)
    data = change_header(encode_jpeg_xl(multiplied), plain, changed)
    assert np.abs(decode_image(data).astype(int) - decode_image(encode_jpeg_xl(clear))).max() <= 1


def test_decode_premultiplied_avif_equals_the_picture_with_plain_alpha() -> None:
    clear = SMOOTH.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(SMOOTH.size))
    assert_close(
        decode_image(encode_as("AVIF", clear, alpha_premultiplied=True)), decode_image(encode_as("AVIF", clear))
    )


def test_decode_first_frame_of_an_animated_avif() -> None:
    frames = [draw(label) for label in ("dogs", "cats")]
    data = encode(frames[0], "AVIF", save_all=True, append_images=frames[1:], duration=40, quality=95)
    assert_close(decode_image(data), frames[0], 20)


@pytest.mark.parametrize("primary", [0, 1, 2])
def test_decode_primary_picture_of_a_heic_burst(primary: int) -> None:
    frames = [draw(label) for label in ("dogs", "cats", "owls")]
    data = encode_heic(frames[0], save_all=True, append_images=frames[1:], primary_index=primary)
    assert_close(decode_image(data), frames[primary], 20)


def test_decode_heic_in_tiles_and_with_thumbnails_gives_the_whole_picture() -> None:
    large = SMOOTH.resize((300, 200))
    data = encode_heic(large, tile_size=64, thumbnails=[64])
    assert data.count(b"hvc1") > 6
    assert_close(decode_image(data), large)


def test_decode_jpeg_xl_made_from_a_jpeg_gives_the_pixels_of_the_jpeg(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = encode(draw(), "JPEG", exif=exif)
    (tmp_path / "plain.jpg").write_bytes(jpeg)
    data = encode_jpeg_xl(Image.open(tmp_path / "plain.jpg"), lossless_jpeg=True)
    expected = decode_image(jpeg)
    assert expected.shape == (SIZE[0], SIZE[1], 3)
    np.testing.assert_array_equal(decode_image(data), expected)
    # Without its metadata, the JPEG file cannot be restored.
    stripped = data.replace(b"Exif", b"free")
    assert stripped != data
    assert_close(decode_image(stripped), expected, 2)


@pytest.mark.parametrize(
    ("fields", "term"),
    [
        (JpegXlFields(SIZE, animation=ANIMATION), "animated"),
        (JpegXlFields(SIZE, is_float=True), "floating-point"),
        (JpegXlFields(SIZE, channel=BLACK), "CMYK"),
    ],
)
def test_decode_jpeg_xl_that_would_be_decoded_wrongly_is_refused(fields: JpegXlFields, term: str) -> None:
    assert term in refuse(change_header(save_jpeg_xl(), JpegXlFields(SIZE), fields))


@each_format
def test_decode_picture_above_max_pixels_is_refused_before_decoding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, num_pixels = MAKERS[name](), SIZE[0] * SIZE[1]
    assert decode_image(data, num_pixels).shape == (SIZE[1], SIZE[0], 3)
    monkeypatch.setattr("PIL.AvifImagePlugin.AvifImageFile.load", None)
    monkeypatch.setattr("pillow_heif.HeifImage.load", None)
    monkeypatch.setattr("extract.decoding.plugins.decode_jpeg_xl", None)
    assert f"{num_pixels - 1:,}" in refuse(data, num_pixels - 1)


def test_decode_jpeg_xl_with_a_huge_size_is_refused_by_its_header() -> None:
    assert "100000" in refuse(JpegXlFields(SIZE).pack()[:2] + _pack_size(100_000))


def _pack_size(side: int) -> bytes:
    """Return the size of a square picture as a header has it, with a code of 30 bits."""
    return ((0b110 | (side - 1) << 3) | 1 << 33).to_bytes(40, "little")


@each_format
def test_decode_truncated_picture_is_refused_with_its_format(name: str) -> None:
    data = MAKERS[name]()
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        assert name in refuse(data[: int(share * len(data))])


@each_format
def test_decode_without_the_decoder_is_refused_with_the_install_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = MAKERS[name](), FORMATS[name]
    monkeypatch.setitem(sys.modules, found.module, None)
    assert found.install in refuse(data) == found.missing_reason


def test_install_command_of_the_extra_is_for_pip_and_make() -> None:
    assert HEIC.install == JPEG_XL.install
    assert 'pip install "headstart[heic]"' in HEIC.install
    assert "make heic" in HEIC.install
