"""Bytes of picture files of all kinds, written by Pillow, or by hand if Pillow cannot write them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from tests.pictures import draw_picture, encode

SIZE = (40, 30)


def draw(label: str = "cats", size: tuple[int, int] = SIZE) -> Image.Image:
    return draw_picture(label, 0, size)


def save(image_format: str, mode: str = "RGB", label: str = "cats", **options: object) -> bytes:
    return encode(draw(label).convert(mode), image_format, **options)


def save_frames(image_format: str, **options: object) -> bytes:
    frames = [draw(label) for label in ("dogs", "cats", "owls")]
    return encode(frames[0], image_format, save_all=True, append_images=frames[1:], duration=40, **options)


def save_stretched(size: tuple[int, int], image_format: str) -> bytes:
    return encode(draw("dogs", size), image_format)


def save_turned(orientation: int, image_format: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.new("RGB", SIZE, "white")
    picture.paste(draw("dogs", (20, 10)))
    return encode(picture, image_format, exif=exif)


def save_clear(image_format: str, mode: str, **options: object) -> bytes:
    picture = draw("dogs").convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(SIZE))
    return encode(picture.convert(mode), image_format, **options)


def save_palette(image_format: str, **options: object) -> bytes:
    return encode(draw("dogs").quantize(16), image_format, **options)


def save_profiled(image_format: str) -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Without its date, so that the bytes are always the same.
    profile = profile[:24] + bytes(12) + profile[36:]
    return save(image_format, icc_profile=profile)


def save_lab() -> bytes:
    array = np.asarray(draw().resize(SIZE)).copy()
    array[..., 0] = np.linspace(60, 220, SIZE[0])
    return encode(Image.frombytes("LAB", SIZE, array.tobytes()), "TIFF")


def draw_sixteen(channels: int) -> Any:
    return np.random.default_rng(16).integers(0, 2**16, (SIZE[1], SIZE[0], channels), dtype=np.uint16)


def save_sixteen(image_format: str, mode: str = "I;16") -> bytes:
    array = draw_sixteen(1)[..., 0].astype(">u2" if mode == "I;16B" else "<u2")
    return encode(Image.frombytes(mode, SIZE, array.tobytes()), image_format)


def write_png(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    """Write a PNG that Pillow cannot write, such as one whose header declares more pixels than it has.

    Args:
        width: width in the header, in pixels.
        height: height in the header, in pixels.
        depth: bits of a sample.
        colour_type: 0 for gray, 2 for RGB, 6 for RGBA.
        rows: scan lines, each with the byte of its filter first.
    """

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def write_sixteen(channels: int, colour_type: int) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in draw_sixteen(channels))
    return write_png(*SIZE, 16, colour_type, rows)


def write_pgm(sample: str, maximum: int) -> bytes:
    samples = (draw_sixteen(1) >> (16 - maximum.bit_length())).astype(sample)
    return b"P5 %d %d %d\n" % (*SIZE, maximum) + bytes(samples.tobytes())


def cut(make: Callable[[], bytes], share: float = 0.5) -> bytes:
    data = make()
    return data[: int(len(data) * share)]


def flip(make: Callable[[], bytes], find: bytes, offset: int) -> bytes:
    """Flip a bit of the byte at an offset from a marker."""
    data = bytearray(make())
    data[data.index(find) + offset] ^= 8
    return bytes(data)


def save_thirty_two(mode: str) -> bytes:
    return encode(Image.new(mode, SIZE, 70_000), "TIFF")


def write_box(brand: bytes) -> bytes:
    """Write the start of a file in the ISO base media format (MP4, HEIC, AVIF)."""
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + brand + b"mif1" + bytes(200)
