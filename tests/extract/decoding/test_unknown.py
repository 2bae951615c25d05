"""Reasons for refusing files that are not pictures, or not in a layout that can be decoded."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from extract.decoding.decode import FORMATS, decode_image
from extract.decoding.read import UndecodableImageError
from tests.inputs.makers import add_tag, save, write_tiff
from tests.pictures import encode

pytestmark = pytest.mark.unit

KINDS = {
    "PDF": b"%PDF-1.7\n%...",
    "zip": b"PK\x03\x04" + bytes(30),
    "compressed archive": b"\x1f\x8b\x08" + bytes(30),
    "tar": b"cats/1.jpg".ljust(257, b"\0") + b"ustar\x0000" + bytes(300),
    "JPEG 2000": b"\xff\x4f\xff\x51" + bytes(30),
    "video": b"\0\0\0\x20ftypisom" + bytes(30),
    "DICOM": bytes(128) + b"DICM" + bytes(30),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(30),
    "NumPy": b"\x93NUMPY\x01\0" + bytes(30),
    "JSON": b'{"error": "not found"}',
    "web page": b"<!DOCTYPE html><p>404</p>",
    "text file": "Katze, größer\n".encode(),
    "unknown format": random.Random(5).randbytes(4096),
}
"""Files of kinds that are not decoded, by a term of the reason."""
POINTERS = {
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 334643\n",
    "git annex get": b"/annex/objects/SHA256E-s334643--" + b"0" * 64 + b".jpg\n",
}
"""Files in place of pictures that Git has not fetched, by the command of the reason."""


def refuse(data: bytes) -> str:
    """Return the reason why a file is not decoded."""
    with pytest.raises(UndecodableImageError) as caught:
        decode_image(data)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_decode_file_of_another_kind_is_refused_with_its_kind_and_the_supported_formats(kind: str) -> None:
    reason = refuse(KINDS[kind])
    assert [found for found in KINDS if found in reason] == [kind]
    assert ", ".join(FORMATS) in reason


@pytest.mark.parametrize("command", POINTERS)
def test_decode_pointer_of_git_is_refused_with_the_command_that_fetches_it(command: str) -> None:
    reason = refuse(POINTERS[command])
    assert f"`{command}`" in reason
    assert FORMATS[0] not in reason


@pytest.mark.parametrize(
    "page", [b"\xef\xbb\xbf<!DOCTYPE html>", b"\n  <html><body>", b"<?xml version='1.0'?><Error/>", b"<svg/>"]
)
def test_decode_web_page_is_refused_as_web_page(page: bytes) -> None:
    assert "web page" in refuse(page)


@pytest.mark.parametrize("text", [b'\xef\xbb\xbf [{"a": 1}]', b"[1, 2]", b"{}", b'\n{\n  "a": 1\n}'])
def test_decode_json_is_refused_as_json(text: bytes) -> None:
    assert "JSON" in refuse(text)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP"])
def test_decode_file_truncated_in_its_header_is_refused_with_its_format(image_format: str) -> None:
    reason = refuse(save(image_format)[:6])
    assert image_format in reason
    assert "damaged header" in reason


def test_decode_jpeg_with_samples_of_12_bits_is_refused_with_its_bits() -> None:
    jpeg = save("JPEG", progressive=True)
    start = jpeg.index(b"\xff\xc2") + 4
    assert "12 bits" in refuse(jpeg[:start] + b"\x0c" + jpeg[start + 1 :])


UINT16 = np.zeros((5, 7, 5), np.uint16)


@pytest.mark.parametrize(
    ("data", "terms"),
    [
        (write_tiff(UINT16, 1, extra=(0, 0, 0, 0)), ["5 bands", "16 bits", "BlackIsZero", "uncompressed"]),
        (write_tiff(UINT16[..., :3], 1, extra=(0, 0)), ["3 bands", "16 bits", "BlackIsZero"]),
        (write_tiff(UINT16[..., :2], 1, order=">", extra=(2,)), ["2 bands", "16 bits"]),
        (write_tiff(np.zeros((5, 7, 9), np.uint8), 1), ["9 bands", "8 bits"]),
        (add_tag(save("TIFF"), 259, 3, 1, 34712), ["3 bands", "8 bits", "RGB", "JPEG 2000"]),
        (add_tag(save("TIFF"), 259, 3, 1, 999), ["3 bands", "8 bits", "compression 999"]),
        (add_tag(save("TIFF", compression="tiff_lzw"), 259, 3, 1, 50001), ["3 bands", "8 bits", "WebP"]),
        (add_tag(encode(Image.new("F", (7, 5)), "TIFF"), 258, 3, 1, 64), ["1 band", "64 floating-point bits"]),
    ],
)
def test_decode_tiff_of_an_unsupported_layout_is_refused_with_the_layout(data: bytes, terms: list[str]) -> None:
    reason = refuse(data)
    assert [term for term in terms if term not in reason] == []


def test_decode_tiff_with_many_different_bits_is_refused_with_a_short_reason() -> None:
    tiff = write_tiff(np.zeros((50, 70, 300), np.uint8), 1)
    values = np.random.default_rng(1).permutation(300).astype("<u4").tobytes()
    assert len(refuse(tiff.replace(np.full(300, 8, "<u4").tobytes(), values))) < 200


def test_decode_tiff_without_a_directory_is_refused_as_damaged() -> None:
    assert "damaged header" in refuse(b"II*\0\xff\xff\xff\xff")


def test_decode_sound_bmp_of_an_unsupported_kind_is_not_refused_as_damaged() -> None:
    bmp = bytearray(save("BMP"))
    bmp[30] = 6  # compression: bit fields with alpha
    assert "damaged" not in refuse(bytes(bmp))
