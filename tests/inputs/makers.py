"""Bytes of picture files of all kinds, written by Pillow, or by hand if Pillow cannot write them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from tests.pictures import draw_picture, encode

SIZE = (40, 30)


def draw(label: str = "cats", size: tuple[int, int] = SIZE) -> Image.Image:
    return draw_picture(label, 0, size)


def save(image_format: str, mode: str = "RGB", label: str = "cats", **options: object) -> bytes:
    return encode(draw(label).convert(mode), image_format, **options)


def save_heic(mode: str = "RGB", label: str = "cats", **options: object) -> bytes:
    return encode_heic(draw(label).convert(mode), **options)


def encode_heic(picture: Image.Image, **options: object) -> bytes:
    """Return a picture as the bytes of a HEIC file."""
    from pillow_heif import register_heif_opener

    register_heif_opener()
    return encode(picture, "HEIF", **{"quality": 90} | options)


def save_jpeg_xl(mode: str = "RGB", label: str = "cats", **options: object) -> bytes:
    return encode_jpeg_xl(draw(label).convert(mode), **options)


def encode_jpeg_xl(picture: Image.Image, **options: object) -> bytes:
    """Return a picture as the bytes of a JPEG XL file, lossless unless `quality` is given."""
    import pillow_jxl  # noqa: F401

    return encode(picture, "JXL", **{"lossless": "quality" not in options, "effort": 1} | options)


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
    write = encode_heic if image_format == "HEIF" else partial(encode, image_format=image_format)
    return write(picture, exif=exif.tobytes())


def save_clear(image_format: str, mode: str, **options: object) -> bytes:
    picture = draw("dogs").convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(SIZE))
    writers = {"HEIF": encode_heic, "JXL": encode_jpeg_xl}
    write = writers.get(image_format, partial(encode, image_format=image_format))
    return write(picture.convert(mode), **options)


def save_hidden(image_format: str) -> bytes:
    """Save a picture whose alpha is 0 in every pixel."""
    picture = draw("dogs").convert("RGBA")
    picture.putalpha(0)
    return write_bmp(np.asarray(picture)) if image_format == "BMP" else encode(picture, image_format)


def save_noted() -> bytes:
    """Save a PNG with a text of 2 MiB, compressed."""
    png, text = save("PNG", label="dogs"), b"zTXtnote\0\0" + zlib.compress(bytes(2**21))
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return png[:33] + chunk + png[33:]


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


def write_rows(samples: NDArray[np.uint16]) -> bytes:
    """Return the scan lines of a PNG with 16-bit samples."""
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)


def write_sixteen(channels: int, colour_type: int) -> bytes:
    return write_png(*SIZE, 16, colour_type, write_rows(draw_sixteen(channels)))


def write_bmp(rgba: NDArray[np.uint8]) -> bytes:
    """Write a BMP with an alpha channel, as Photoshop does (header BITMAPV3INFOHEADER)."""
    height, width, _ = rgba.shape
    pixels = rgba[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 56, width, height, 1, 32, 3, len(pixels), 2835, 2835, 0, 0) + masks
    return b"BM" + struct.pack("<IHHI", 70 + len(pixels), 0, 0, 70) + header + pixels


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


def write_tiff(
    samples: NDArray[Any], photometric: int, *, order: str = "<", planar: bool = False, extra: tuple[int, ...] = ()
) -> bytes:
    """Write an uncompressed TIFF that Pillow cannot write.

    Args:
        samples: (height, width, bands) uint8 or uint16.
        photometric: 0 for WhiteIsZero, 1 for BlackIsZero, 2 for RGB, 5 for CMYK.
        order: byte order, `<` or `>`.
        planar: whether each band has a strip of its own.
        extra: values of the tag ExtraSamples: 0 unspecified, 1 premultiplied alpha, 2 alpha.
    """
    height, width, num_bands = samples.shape
    data = samples.astype(f"{order}{samples.dtype.str[1:]}")
    strips = [data[..., band].tobytes() for band in range(num_bands)] if planar else [data.tobytes()]
    offsets = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    bits = [8 * samples.itemsize] * num_bands
    tags = {256: [width], 257: [height], 258: bits, 259: [1], 262: [photometric], 273: offsets, 277: [num_bands]}
    tags |= {278: [height], 279: [len(strip) for strip in strips], 284: [2 if planar else 1]}
    tags |= {338: list(extra)} if extra else {}
    directory = offsets[-1] + len(strips[-1])
    position, entries, values = directory + 6 + 12 * len(tags), b"", b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        inline = packed if len(packed) == 4 else struct.pack(f"{order}I", position + len(values))
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + inline
        values += packed if len(packed) > 4 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", directory)
    return head + b"".join(strips) + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + values


def add_tag(tiff: bytes, tag: int, kind: int, count: int, value: int) -> bytes:
    """Add a tag to a little-endian TIFF, or replace it: the directory is written again at the end.

    Args:
        tiff: the file.
        tag: number of the tag.
        kind: number of its type, such as 4 for 32-bit integers.
        count: number of values.
        value: the value, or the position of the values.
    """
    start = struct.unpack("<I", tiff[4:8])[0] + 2
    end = start + 12 * struct.unpack("<H", tiff[start - 2 : start])[0]
    entries = {tiff[place : place + 2]: tiff[place : place + 12] for place in range(start, end, 12)}
    entries[struct.pack("<H", tag)] = struct.pack("<HHII", tag, kind, count, value)
    ordered = sorted(entries.values(), key=lambda entry: struct.unpack("<H", entry[:2]))
    directory = struct.pack("<H", len(ordered)) + b"".join(ordered) + bytes(4)
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + directory
