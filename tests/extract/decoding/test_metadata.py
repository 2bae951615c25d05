"""Metadata never refuses a sound picture, and does not change its pixels or the memory that it takes."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from extract.decoding.convert import Pixels
from extract.decoding.decode import decode_image
from extract.decoding.metadata import drop_metadata
from extract.decoding.read import UndecodableImageError
from tests.extract.decoding.processes import run_program
from tests.inputs.makers import add_tag, draw, save, save_turned
from tests.pictures import encode

pytestmark = pytest.mark.unit

LONG = zlib.compress(bytes(2**21))
"""Text of 2 MiB, compressed; Pillow reads at most 1 MiB."""
XMP = b'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
ORIENTED = Image.Exif()
ORIENTED[0x0112] = 6


def chunk(name: bytes, content: bytes, *, is_sound: bool = True) -> bytes:
    """Return a chunk of a PNG, with a wrong checksum unless it is sound."""
    checksum = zlib.crc32(name + content) ^ (not is_sound)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def segment(number: int, content: bytes) -> bytes:
    """Return the application segment of a JPEG with this number."""
    return bytes([0xFF, 0xE0 + number]) + struct.pack(">H", len(content) + 2) + content


def insert(data: bytes, position: int, *parts: bytes) -> bytes:
    return data[:position] + b"".join(parts) + data[position:]


def turn(pixels: Pixels) -> Pixels:
    """Return the pixels turned as by orientation 6."""
    return np.rot90(pixels, -1)


CHUNKS = {
    "long zTXt": chunk(b"zTXt", b"Comment\0\0" + LONG),
    "long iTXt": chunk(b"iTXt", b"workflow\0\1\0\0\0" + LONG),
    "long iCCP": chunk(b"iCCP", b"icc\0\0" + LONG),
    "long XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
    "long EXIF as text": chunk(b"zTXt", b"Raw profile type exif\0\0" + LONG),
    "many texts": b"".join(chunk(b"zTXt", b"n\0\0" + zlib.compress(bytes(2**20))) for _ in range(70)),
    "damaged text": chunk(b"tEXt", b"Comment\0cat", is_sound=False),
    "damaged EXIF": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "EXIF with a wrong checksum": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0", is_sound=False),
    "EXIF as text that is not hexadecimal": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 4\ncats\n"),
    "profile with an unknown compression": chunk(b"iCCP", b"icc\0\x09abc"),
    "empty profile": chunk(b"iCCP", b""),
    "short gamma": chunk(b"gAMA", b""),
    "animation without a first frame": chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fdAT", bytes(4)),
}


@pytest.mark.parametrize("is_last", [False, True], ids=["before the pixels", "after the pixels"])
@pytest.mark.parametrize("name", CHUNKS)
def test_decode_png_with_damaged_or_long_metadata_equals_the_png_without(name: str, is_last: bool) -> None:
    png = save("PNG")
    changed = insert(png, len(png) - 12 if is_last else 33, CHUNKS[name])
    np.testing.assert_array_equal(decode_image(changed), decode_image(png))


RAW_EXIF = f"\nexif\n{len(ORIENTED.tobytes()):8}\n{ORIENTED.tobytes().hex()}\n".encode()
ORIENTATIONS = {
    "EXIF": chunk(b"eXIf", ORIENTED.tobytes()[6:]),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "compressed XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
    "text": chunk(b"tEXt", b"Raw profile type exif\0" + RAW_EXIF),
    "compressed text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_EXIF)),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_decode_png_with_long_metadata_keeps_its_orientation(name: str) -> None:
    png = save("PNG")
    changed = insert(png, 33, ORIENTATIONS[name], CHUNKS["long zTXt"])
    np.testing.assert_array_equal(decode_image(changed), turn(decode_image(png)))


def test_decode_png_with_long_metadata_keeps_its_transparency() -> None:
    png = save("PNG", transparency=(200, 60, 40))
    np.testing.assert_array_equal(decode_image(insert(png, 33, CHUNKS["long iTXt"])), decode_image(png))


def test_decode_png_with_long_metadata_and_damaged_pixels_is_refused() -> None:
    png = insert(save("PNG"), 33, CHUNKS["long iTXt"])
    with pytest.raises(UndecodableImageError):
        decode_image(png[:-40])


SEGMENTS = {
    "short profile": [segment(2, b"ICC_PROFILE\0")],
    "short Adobe": [segment(14, b"Adobe")],
    "short JFIF": [segment(0, b"JFIF\0")],
    "damaged EXIF": [segment(1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")],
    "damaged Photoshop": [segment(13, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x10ab")],
    "damaged list of pictures": [segment(2, b"MPF\0II*\0\x08\0\0\0" + b"\xff" * 80)],
    "large profile": [segment(2, b"ICC_PROFILE\0" + bytes([part, 255]) + bytes(65_000)) for part in range(1, 256)],
    "many notes": [segment(number % 16, bytes(65_000)) for number in range(160)],
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_decode_jpeg_with_damaged_or_large_metadata_equals_the_jpeg_without(name: str) -> None:
    jpeg = save("JPEG", quality=90)
    np.testing.assert_array_equal(decode_image(insert(jpeg, 2, *SEGMENTS[name])), decode_image(jpeg))


def test_decode_jpeg_with_damaged_metadata_keeps_its_orientation() -> None:
    jpeg = save_turned(6)
    np.testing.assert_array_equal(decode_image(insert(jpeg, 2, *SEGMENTS["short profile"])), decode_image(jpeg))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("tag", [700, 33723, 34377, 34675, 34665, 34853, 40965, 330])
@pytest.mark.parametrize(
    ("kind", "count", "value"), [(4, 1, 10**9), (4, 1, 8), (7, 10**9, 8), (3, 1, 7), (13, 1, 0), (4, 1000, 20)]
)
def test_decode_tiff_with_damaged_metadata_equals_the_tiff_without(
    compression: str, tag: int, kind: int, count: int, value: int
) -> None:
    tiff = save("TIFF", compression=compression)
    np.testing.assert_array_equal(decode_image(add_tag(tiff, tag, kind, count, value)), decode_image(tiff))


@pytest.mark.parametrize("name", ["exif", "xmp", "icc_profile"])
def test_decode_webp_with_damaged_metadata_equals_the_webp_without(name: str) -> None:
    plain = decode_image(save("WEBP", lossless=True))
    data = encode(draw(), "WEBP", lossless=True, **{name: b"cats" * 10**6})
    np.testing.assert_array_equal(decode_image(data), plain)


def test_decode_gif_with_long_comments_equals_the_gif_without() -> None:
    gif = save("GIF")
    comment = b"\x21\xfe" + (b"\xff" + b"c" * 255) * 20_000 + b"\0"
    with Image.open(io.BytesIO(gif)) as image:
        start = 13 + 3 * len(image.getpalette() or []) // 3
    assert gif[start : start + 1] in (b",", b"!")
    np.testing.assert_array_equal(decode_image(insert(gif, start, comment)), decode_image(gif))


@pytest.mark.parametrize("data", [save("PNG"), save("JPEG"), save("TIFF"), save("GIF"), save("BMP"), b"cats", b""])
def test_drop_metadata_without_metadata_returns_none(data: bytes) -> None:
    assert drop_metadata(data) is None


def test_drop_metadata_of_its_own_result_returns_none() -> None:
    for data in (
        insert(save("PNG"), 33, *CHUNKS.values()),
        insert(save("JPEG"), 2, *(part for parts in SEGMENTS.values() for part in parts)),
        add_tag(save("TIFF"), 700, 4, 1, 8),
    ):
        reduced = drop_metadata(data)
        assert reduced is not None
        assert drop_metadata(reduced) is None


def test_decode_png_with_decompression_bombs_in_its_metadata_takes_little_memory(tmp_path: Path) -> None:
    packed = zlib.compressobj()
    bomb = b"".join(packed.compress(bytes(2**20)) for _ in range(80)) + packed.flush()
    bombs = [chunk(b"iCCP", b"icc\0\0" + bomb), chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb)]
    (tmp_path / "small.png").write_bytes(save("PNG"))
    (tmp_path / "bomb.png").write_bytes(insert(save("PNG"), 33, *bombs))
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom extract.decoding.decode import decode_image\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "decode_image(Path(sys.argv[1], 'small.png').read_bytes())\nbefore = peak()\n"
        "decode_image(Path(sys.argv[1], 'bomb.png').read_bytes())\nprint(peak() - before)"
    )
    (increase,) = run_program(program, tmp_path)
    assert int(increase) < 20_000, "kB; one of the bombs has 80,000"
