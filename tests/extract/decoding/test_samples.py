"""Pictures with 16-bit samples: significant bits, and scaling to 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from extract.decoding.decode import decode_image, find_sample_bits
from extract.decoding.policy import SAMPLE_BITS, DecodePolicy, find_policy
from extract.decoding.read import UndecodableImageError
from tests.inputs.makers import write_png, write_rows, write_tiff
from tests.pictures import encode

pytestmark = pytest.mark.unit

SIZE = (7, 5)
EIGHT = np.random.default_rng(3).integers(0, 256, (*SIZE[::-1], 4), dtype=np.uint8)
EIGHT[0, 0] = 255
"""Samples of 8 bits, the largest included."""
FIRST = DecodePolicy(edition=1)


def widen(samples: NDArray[np.uint8], bits: int) -> NDArray[np.uint16]:
    """Return samples of `bits` bits whose upper 8 bits are the given ones."""
    low = np.random.default_rng(4).integers(0, 2**16, samples.shape) & (2 ** (bits - 8) - 1)
    widened: NDArray[np.uint16] = (samples.astype(np.uint16) << (bits - 8) | low).astype(np.uint16)
    return widened


def write_png_samples(colour_type: int) -> Callable[[NDArray[np.uint16]], bytes]:
    return lambda samples: write_png(*SIZE, 16, colour_type, write_rows(samples))


def write_compressed(order: str) -> Callable[[NDArray[np.uint16]], bytes]:
    """Write gray samples with LZW, in either byte order."""

    def write(samples: NDArray[np.uint16]) -> bytes:
        mode = "I;16B" if order == ">" else "I;16"
        data = samples.astype(f"{order}u2").tobytes()
        return encode(Image.frombytes(mode, SIZE, data), "TIFF", compression="tiff_lzw")

    return write


def write_tiff_samples(photometric: int, **options: Any) -> Callable[[NDArray[np.uint16]], bytes]:
    return lambda samples: write_tiff(samples, photometric, **options)


def write_ppm(magic: str) -> Callable[[NDArray[np.uint16]], bytes]:
    return lambda samples: f"{magic} {SIZE[0]} {SIZE[1]} 65535\n".encode() + samples.astype(">u2").tobytes()


GRAY = {
    "png": write_png_samples(0),
    "tiff": write_tiff_samples(1),
    "big-endian tiff": write_tiff_samples(1, order=">"),
    "lzw tiff": write_compressed("<"),
    "big-endian lzw tiff": write_compressed(">"),
    "pgm": write_ppm("P5"),
}
COLOUR = {
    "png": write_png_samples(2),
    "tiff": write_tiff_samples(2),
    "big-endian tiff": write_tiff_samples(2, order=">"),
    "planar tiff": write_tiff_samples(2, planar=True),
    "big-endian planar tiff": write_tiff_samples(2, planar=True, order=">"),
    "ppm": write_ppm("P6"),
}


@pytest.mark.parametrize("bits", SAMPLE_BITS)
@pytest.mark.parametrize("name", GRAY)
def test_decode_gray_of_any_significant_bits_equals_the_picture_of_8_bits(name: str, bits: int) -> None:
    data, expected = GRAY[name](widen(EIGHT[..., :1], bits)), np.repeat(EIGHT[..., :1], 3, axis=2)
    assert find_sample_bits(data) == bits
    np.testing.assert_array_equal(decode_image(data, policy=DecodePolicy(bits)), expected)


@pytest.mark.parametrize("bits", SAMPLE_BITS)
@pytest.mark.parametrize("name", COLOUR)
def test_decode_colour_of_any_significant_bits_equals_the_picture_of_8_bits(name: str, bits: int) -> None:
    data = COLOUR[name](widen(EIGHT[..., :3], bits))
    decoded = decode_image(data, policy=DecodePolicy(bits))
    assert find_sample_bits(data) == bits
    # Pillow rounds a PPM in colour with all 16 bits.
    np.testing.assert_allclose(decoded, EIGHT[..., :3], atol=int(name == "ppm" and bits == 16))


@pytest.mark.parametrize(
    ("largest", "bits"), [(0, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4096, 14), (16384, 16), (65535, 16)]
)
@pytest.mark.parametrize(("name", "num_bands"), [("gray", 1), ("colour", 3)])
def test_find_sample_bits_is_the_smallest_number_that_holds_the_largest_sample(
    name: str, num_bands: int, largest: int, bits: int
) -> None:
    samples = np.zeros((*SIZE[::-1], num_bands), np.uint16)
    samples[2, 3, -1] = largest
    assert find_sample_bits((GRAY if name == "gray" else COLOUR)["tiff"](samples)) == bits


@pytest.mark.parametrize("writers", [GRAY, COLOUR], ids=["gray", "colour"])
def test_decode_samples_above_the_bits_of_the_policy_are_refused(
    writers: dict[str, Callable[[NDArray[np.uint16]], bytes]],
) -> None:
    samples = widen(EIGHT[..., : 1 if writers is GRAY else 3], 14)
    for name, write in writers.items():
        with pytest.raises(UndecodableImageError) as caught:
            decode_image(write(samples), policy=DecodePolicy(12))
        assert "12" in str(caught.value), name


@pytest.mark.parametrize("opaque", [4095, 65535])
@pytest.mark.parametrize(("colour_type", "num_colours"), [(4, 1), (6, 3)])
def test_decode_alpha_beside_12_bits_is_opaque_at_its_own_maximum_or_at_that_of_16_bits(
    opaque: int, colour_type: int, num_colours: int
) -> None:
    samples = widen(EIGHT[..., : num_colours + 1], 12)
    samples[..., -1] = opaque
    samples[0, 0, -1] = 0
    data = write_png_samples(colour_type)(samples)
    expected = np.broadcast_to(EIGHT[..., :num_colours], (*SIZE[::-1], 3)).copy()
    expected[0, 0] = 255
    assert find_sample_bits(data) == 12
    np.testing.assert_array_equal(decode_image(data, policy=DecodePolicy(12)), expected)


def test_decode_cmyk_of_12_bits_equals_cmyk_of_8_bits() -> None:
    eight = write_tiff(EIGHT, 5)
    twelve = write_tiff(widen(EIGHT, 12), 5)
    assert find_sample_bits(twelve) == 12
    np.testing.assert_array_equal(decode_image(twelve, policy=DecodePolicy(12)), decode_image(eight))


def test_decode_premultiplied_alpha_of_12_bits_is_refused() -> None:
    data = write_tiff(widen(EIGHT, 12), 2, extra=(1,))
    assert find_sample_bits(data) == 12
    with pytest.raises(UndecodableImageError):
        decode_image(data, policy=DecodePolicy(12))


@pytest.mark.parametrize(("order", "bits"), [("<", 16), (">", 16), ("<", 12)])
def test_decode_signed_samples_without_negative_ones_equal_unsigned_ones(order: str, bits: int) -> None:
    samples = widen(EIGHT[..., :1] // 2, bits)
    data = write_tiff(samples, 1, order=order)
    signed = add_sample_format(data, order)
    np.testing.assert_array_equal(
        decode_image(signed, policy=DecodePolicy(bits)), decode_image(data, policy=DecodePolicy(bits))
    )
    with pytest.raises(UndecodableImageError) as caught:
        decode_image(add_sample_format(write_tiff(samples - np.uint16(2**15), 1, order=order), order))
    assert "-" in str(caught.value)


def add_sample_format(data: bytes, order: str) -> bytes:
    """Replace the tag PlanarConfiguration by SampleFormat with the value 2, signed."""
    words = [np.array([284, 4], f"{order}u2").tobytes(), np.array([339, 4], f"{order}u2").tobytes()]
    start = data.rindex(words[0])
    values = words[1] + np.array([1, 2], f"{order}u4").tobytes()
    return data[:start] + values + data[start + 12 :]


# Samples whose header declares their range.


@pytest.mark.parametrize("bits", [12, 16])
def test_decode_pgm_with_a_smaller_maximum_uses_its_whole_range(bits: int) -> None:
    samples = np.array([[0, 2047, 4095]], ">u2")
    data = b"P5 3 1 4095\n" + samples.tobytes()
    assert find_sample_bits(data) == 0
    assert decode_image(data, policy=DecodePolicy(bits))[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize("order", "<>")
def test_decode_packed_12_bits_use_their_whole_range(order: str) -> None:
    samples = widen(EIGHT[:, :6, 0], 12)
    data, inverted = (
        pack_twelve_bits(values, photometric, order) for values, photometric in ((samples, 1), (4095 - samples, 0))
    )
    assert find_sample_bits(data) == 0
    np.testing.assert_array_equal(decode_image(data)[..., 0], EIGHT[:, :6, 0])
    np.testing.assert_array_equal(decode_image(inverted)[..., 0], EIGHT[:, :6, 0])
    np.testing.assert_array_equal(decode_image(data, policy=FIRST)[..., 0], EIGHT[:, :6, 0] >> 4)


def pack_twelve_bits(samples: NDArray[np.uint16], photometric: int, order: str) -> bytes:
    """Write a TIFF of 12 bits: as one of 8 bits that is half as wide again, with width and bits changed."""
    first, second = samples[:, ::2], samples[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8)
    height, width = samples.shape
    data = write_tiff(packed.reshape(height, width * 3 // 2, 1), photometric, order=order)
    for tag, old, new in ((256, width * 3 // 2, width), (258, 8, 12)):
        before, after = (
            np.array([tag, 4], f"{order}u2").tobytes() + np.array([1, value], f"{order}u4").tobytes()
            for value in (old, new)
        )
        assert data.count(before) == 1
        data = data.replace(before, after)
    return data


@pytest.mark.parametrize(("image_format", "mode"), [("JPEG", "RGB"), ("PNG", "RGB"), ("PNG", "P"), ("TIFF", "L")])
def test_find_sample_bits_of_8_bit_pictures_is_0(image_format: str, mode: str) -> None:
    assert find_sample_bits(encode(Image.new(mode, SIZE), image_format)) == 0


# WhiteIsZero, planes and alpha.


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 16), (np.uint16, 12)])
def test_decode_white_is_zero_equals_black_is_zero(order: str, dtype: type[np.integer[Any]], bits: int) -> None:
    samples = widen(EIGHT[..., :1], bits).astype(dtype)
    inverted, policy = (2**bits - 1 - samples).astype(dtype), DecodePolicy(bits)
    expected = decode_image(write_tiff(samples, 1, order=order), policy=policy)
    np.testing.assert_array_equal(decode_image(write_tiff(inverted, 0, order=order), policy=policy), expected)


def test_decode_by_the_first_edition_keeps_its_rules() -> None:
    gray, rgba = widen(EIGHT[..., :1], 16), EIGHT.copy()
    rgba[..., 3] = 0
    white_is_zero = decode_image(write_tiff(gray, 0), policy=FIRST)
    np.testing.assert_array_equal(white_is_zero, decode_image(write_tiff(gray, 1), policy=FIRST))
    assert (decode_image(encode(Image.fromarray(rgba)), policy=FIRST) == 255).all()


# Policies.


def test_find_policy_returns_the_policy_of_each_text() -> None:
    policies = [FIRST, *map(DecodePolicy, SAMPLE_BITS)]
    assert len({str(policy) for policy in policies}) == len(policies)
    assert [find_policy(str(policy)) for policy in policies] == policies
    assert find_policy("another") is None
    assert str(FIRST) == "pillow-rgb-1: EXIF orientation, first frame, alpha over white, 16 bit by its upper byte"
