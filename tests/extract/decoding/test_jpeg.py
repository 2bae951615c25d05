"""JPEG files decoded by simplejpeg: the same pixels, reasons and limits as with Pillow alone."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from extract.decoding import jpeg
from extract.decoding.decode import decode_image
from extract.decoding.jpeg import find_equal_kinds
from extract.decoding.read import UndecodableImageError
from tests.inputs.kinds import KINDS
from tests.inputs.makers import draw, save_turned
from tests.pictures import encode
from tests.torture.mutations import mutate

pytestmark = pytest.mark.unit

SHAPES = [(1, 1), (1, 7), (8, 8), (9, 15), (16, 33), (31, 17), (33, 2)]
SUBSAMPLINGS = ["444", "422", "420", "440", "411"]


def draw_noise(shape: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(shape).integers(0, 256, (*shape, 3), dtype=np.uint8)


def change_frame(data: bytes, offset: int, value: int) -> bytes:
    """Change a byte of the frame header, at an offset from its marker."""
    place = data.index(b"\xff\xc0") + offset
    return data[:place] + bytes([value]) + data[place + 1 :]


def list_variants() -> Iterator[tuple[str, bytes]]:
    for shape in SHAPES:
        noise = draw_noise(shape)
        for name in SUBSAMPLINGS:
            yield f"{name} {shape}", simplejpeg.encode_jpeg(noise, colorsubsampling=name)
        picture = Image.fromarray(noise)
        yield f"gray {shape}", encode(picture.convert("L"), "JPEG")
        for number in range(3):
            yield f"progressive {number} {shape}", encode(picture, "JPEG", progressive=True, subsampling=number)
            yield f"restart {number} {shape}", encode(picture, "JPEG", restart_marker_blocks=1, subsampling=number)
        yield f"RGB {shape}", encode(picture, "JPEG", keep_rgb=True)
        yield f"CMYK {shape}", encode(picture.convert("CMYK"), "JPEG")
    plain = encode(draw(), "JPEG")
    yield "4:1:0", change_frame(plain, 11, 0x42)
    yield "other factors", change_frame(plain, 14, 0x21)
    yield "extended", change_frame(plain, 1, 0xC1)
    yield "lossless", change_frame(plain, 1, 0xC3)
    yield "arithmetic", change_frame(plain, 1, 0xC9)
    yield "12 bits", change_frame(plain, 4, 12)
    yield "fill bytes", plain[:2] + b"\xff\xff" + plain[2:]
    yield "other bytes", plain[:2] + b"ab" + plain[2:]
    yield "trailing bytes", plain + bytes(100)
    yield "no end", plain[:-2]
    yield "two pictures", 2 * plain
    for transform in range(3):
        adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
        yield f"Adobe {transform}", plain[:2] + adobe + plain[20:]
    scan = plain.index(b"\xff\xda")
    letters = bytearray(plain[:2] + plain[20:])
    for number, letter in enumerate(b"RGB"):
        letters[scan - 18 + 5 + 2 * number] = letter
        letters[letters.index(b"\xff\xc0") + 10 + 3 * number] = letter
    yield "components R, G, B", bytes(letters)


def list_mutations() -> Iterator[tuple[str, bytes]]:
    rng, seeds = random.Random(20), [data for _, data in list_variants()] + [save_turned(6)]
    for number in range(400):
        yield f"mutation {number}", mutate(rng, rng.choice(seeds))


def read_outcome(data: bytes) -> object:
    try:
        pixels = decode_image(data)
    except UndecodableImageError as error:
        return str(error)
    return pixels.shape, pixels.tobytes()


@pytest.fixture
def without_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    find_equal_kinds.cache_clear()
    yield
    find_equal_kinds.cache_clear()


@pytest.mark.parametrize("files", [list_variants, list_mutations, lambda: ((k.name, k.make()) for k in KINDS)])
def test_decode_without_simplejpeg_gives_the_same_pixels_and_reasons(
    files: object, request: pytest.FixtureRequest
) -> None:
    assert callable(files)
    made = dict(files())
    found = {name: read_outcome(data) for name, data in made.items()}
    request.getfixturevalue("without_simplejpeg")
    assert not find_equal_kinds()
    assert [name for name, data in made.items() if read_outcome(data) != found[name]] == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_turned_jpeg_gives_the_pixels_of_pillow(orientation: int, request: pytest.FixtureRequest) -> None:
    found = decode_image(save_turned(orientation))
    request.getfixturevalue("without_simplejpeg")
    np.testing.assert_array_equal(found, decode_image(save_turned(orientation)))


def test_find_equal_kinds_has_those_of_cameras_and_programs() -> None:
    kinds = find_equal_kinds()
    assert {kind.is_progressive for kind in kinds} == {False, True}
    assert {kind.sampling[0] for kind in kinds} >= {(1, 1), (2, 1), (2, 2)}


def test_find_equal_kinds_of_another_decoder_leaves_out_what_it_decodes_differently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = simplejpeg.decode_jpeg
    # libjpeg-turbo interpolates colours only if they are subsampled by two.
    monkeypatch.setattr("simplejpeg.decode_jpeg", lambda data, mode, buffer: original(data, mode, fastupsample=True))
    find_equal_kinds.cache_clear()
    kinds = find_equal_kinds()
    find_equal_kinds.cache_clear()
    assert {kind.sampling[0] for kind in kinds} == {(1, 1), (4, 1)}


def test_decode_with_an_unequal_decoder_does_not_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = decode_image(save_turned(1))
    monkeypatch.setattr(jpeg, "find_equal_kinds", lambda: frozenset())
    monkeypatch.setattr("simplejpeg.decode_jpeg", lambda data, mode, buffer: pytest.fail("used"))
    np.testing.assert_array_equal(decode_image(save_turned(1)), expected)


def test_decode_photograph_uses_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    used, original = list[bool](), jpeg.decode_jpeg

    def count(data: bytes, image: Image.Image, lend: Any) -> object:
        pixels = original(data, image, lend)
        used.append(pixels is not None)
        return pixels

    monkeypatch.setattr("extract.decoding.decode.decode_jpeg", count)
    for data in (encode(draw(), "JPEG"), encode(draw(), "JPEG", progressive=True), save_turned(6)):
        decode_image(data)
    assert used == [True] * 3
