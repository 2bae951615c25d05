"""Every kind of picture as a file that the tests make themselves, and what has to become of it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from extract.config import MAX_PIXELS
from tests.inputs.makers import (
    cut,
    flip,
    save,
    save_clear,
    save_frames,
    save_lab,
    save_palette,
    save_profiled,
    save_sixteen,
    save_stretched,
    save_thirty_two,
    save_turned,
    write_box,
    write_pgm,
    write_png,
    write_sixteen,
)

FORMATS = "JPEG (also progressive, also a camera's MPO), PNG, GIF, BMP, WebP, TIFF, PPM"
ORIENTATION = "EXIF orientation"
ANIMATION = "animation (GIF, WebP, APNG)"
COLOURS = "gray, 1 bit, palette, CMYK, YCbCr, LAB"
ALPHA = "alpha, transparent palette"
SIXTEEN = "16-bit gray, 16-bit colour"
STRETCHED = "one pixel, extreme aspect ratio"
THIRTY_TWO = "32-bit integer or float samples"
TOO_MANY = "more than `--max-pixels` (89 million) by its header"
DAMAGED = "empty, truncated, damaged"
FOREIGN = "a web page, PDF, HEIC, AVIF, video under a picture's name"
FLIPPED = "bits flipped"
"""The first cells of rows of docs/inputs.md."""


@dataclass(frozen=True)
class Kind:
    """A kind of picture, and the row of docs/inputs.md that says what becomes of it."""

    name: str
    file_name: str
    make: Callable[[], bytes]
    refused: str | None
    """A part of the reason; None where it is accepted."""
    row: str


def _accept(row: str, **files: Callable[[], bytes]) -> list[Kind]:
    return [Kind(name, _name(name), make, None, row) for name, make in files.items()]


def _refuse(row: str, reason: str, **files: Callable[[], bytes]) -> list[Kind]:
    return [Kind(name, _name(name), make, reason, row) for name, make in files.items()]


def _name(name: str) -> str:
    """gray_jpg is the file gray.jpg."""
    return ".".join(name.rsplit("_", 1))


_jpeg, _png = partial(save, "JPEG", quality=90), partial(save, "PNG")
_UNKNOWN = "not a picture in a known format"
_VIDEO = f"{_UNKNOWN} (JPEG, PNG, GIF, BMP, WEBP, TIFF, PPM), but a video"
_RANGE = "whose range is not known"
_PAGE = "not a picture: the file holds a web page or XML"

ACCEPTED: list[Kind] = [
    *_accept(
        FORMATS,
        plain_jpg=_jpeg,
        progressive_jpeg=partial(save, "JPEG", progressive=True, label="dogs"),
        camera_jpg=partial(save_frames, "MPO"),
        plain_png=_png,
        plain_gif=partial(save, "GIF"),
        plain_bmp=partial(save, "BMP", label="dogs"),
        lossy_webp=partial(save, "WEBP"),
        lossless_webp=partial(save, "WEBP", lossless=True),
        plain_tif=partial(save, "TIFF"),
        lzw_tiff=partial(save, "TIFF", compression="tiff_lzw"),
        deflate_tiff=partial(save, "TIFF", compression="tiff_deflate", label="dogs"),
        packbits_tiff=partial(save, "TIFF", compression="packbits"),
        jpeg_inside_tiff=partial(save, "TIFF", compression="jpeg"),
        plain_ppm=partial(save, "PPM"),
        jpeg_bytes_named_png=partial(save, "JPEG", quality=80),
        png_bytes_named_JPG=partial(save, "PNG", label="dogs"),
    ),
    *_accept(ORIENTATION, **{f"turned{number}_jpg": partial(save_turned, number) for number in range(1, 9)}),
    *_accept(
        ORIENTATION,
        turned_png=partial(save_turned, 5, "PNG"),
        turned_webp=partial(save_turned, 6, "WEBP"),
        turned_tiff=partial(save_turned, 7, "TIFF"),
    ),
    *_accept(
        ANIMATION,
        moving_gif=partial(save_frames, "GIF"),
        moving_webp=partial(save_frames, "WEBP", lossless=True),
        moving_png=partial(save_frames, "PNG"),
        pages_tiff=partial(save_frames, "TIFF"),
    ),
    *_accept(
        COLOURS,
        gray_jpg=partial(save, "JPEG", "L"),
        gray_png=partial(save, "PNG", "L", label="dogs"),
        gray_pgm=partial(write_pgm, "u1", 255),
        bits_png=partial(save, "PNG", "1"),
        bits_pbm=partial(save, "PPM", "1"),
        fax_tiff=partial(save, "TIFF", "1", compression="group4"),
        palette_png=partial(save_palette, "PNG"),
        palette_gif=partial(save_palette, "GIF"),
        palette_bmp=partial(save_palette, "BMP"),
        cmyk_jpg=partial(save, "JPEG", "CMYK"),
        cmyk_tiff=partial(save, "TIFF", "CMYK", label="dogs"),
        ycbcr_tiff=partial(save, "TIFF", "YCbCr"),
        lab_tiff=save_lab,
        profiled_jpg=partial(save_profiled, "JPEG"),
        profiled_png=partial(save_profiled, "PNG"),
    ),
    *_accept(
        ALPHA,
        alpha_png=partial(save_clear, "PNG", "RGBA"),
        alpha_gray_png=partial(save_clear, "PNG", "LA"),
        alpha_webp=partial(save_clear, "WEBP", "RGBA", lossless=True),
        alpha_tiff=partial(save_clear, "TIFF", "RGBA"),
        clear_palette_png=partial(save_palette, "PNG", transparency=bytes(range(0, 256, 16))),
        clear_palette_gif=partial(save_palette, "GIF", transparency=3),
        clear_colour_png=partial(save, "PNG", transparency=(200, 60, 40)),
    ),
    *_accept(
        SIXTEEN,
        sixteen_gray_png=partial(save_sixteen, "PNG"),
        sixteen_gray_tiff=partial(save_sixteen, "TIFF"),
        sixteen_gray_motorola_tiff=partial(save_sixteen, "TIFF", "I;16B"),
        sixteen_gray_pgm=partial(write_pgm, ">u2", 65535),
        sixteen_colour_png=partial(write_sixteen, 3, 2),
        sixteen_clear_png=partial(write_sixteen, 4, 6),
    ),
    *_accept(
        STRETCHED,
        one_pixel_png=partial(save_stretched, (1, 1), "PNG"),
        one_pixel_jpg=partial(save_stretched, (1, 1), "JPEG"),
        tall_png=partial(save_stretched, (1, 4000), "PNG"),
        wide_jpg=partial(save_stretched, (4000, 1), "JPEG"),
    ),
    *_accept(FLIPPED, flipped_jpg=partial(flip, _jpeg, b"\xff\xdb", 12)),
]

REFUSED: list[Kind] = [
    *_refuse(FLIPPED, "damaged: ", flipped_png=partial(flip, _png, b"IDAT", 40)),
    *_refuse(FLIPPED, "cut off in its header", flipped_head_png=partial(flip, _png, b"IHDR", 6)),
    *_refuse(THIRTY_TWO, f"32-bit samples (mode I), {_RANGE}", integer_tiff=partial(save_thirty_two, "I")),
    *_refuse(THIRTY_TWO, f"32-bit samples (mode F), {_RANGE}", float_tiff=partial(save_thirty_two, "F")),
    *_refuse(
        TOO_MANY,
        f"20000 x 20000 pixels, more than the {MAX_PIXELS:,} that are allowed",
        huge_png=partial(write_png, 20_000, 20_000, 8, 0, bytes(1000)),
        huge_gif=lambda: b"GIF89a" + struct.pack("<HH", 20_000, 20_000) + save("GIF")[10:],
    ),
    *_refuse(DAMAGED, "the file is empty", empty_jpg=bytes, empty_png=bytes),
    *_refuse(
        DAMAGED,
        "damaged: ",
        truncated_jpg=partial(cut, _jpeg),
        truncated_png=partial(cut, _png),
        truncated_gif=partial(cut, partial(save, "GIF")),
        truncated_bmp=partial(cut, partial(save, "BMP")),
        truncated_webp=partial(cut, partial(save, "WEBP")),
        truncated_tiff=partial(cut, partial(save, "TIFF")),
        truncated_ppm=partial(cut, partial(save, "PPM")),
    ),
    *_refuse(DAMAGED, "cut off in its header", signature_png=lambda: _png()[:12], signature_jpg=lambda: _jpeg()[:2]),
    *_refuse(
        FOREIGN,
        _PAGE,
        page_jpg=lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        page_with_mark_jpg=lambda: b"\xef\xbb\xbf<!DOCTYPE html><html></html>",
        drawing_png=lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    ),
    *_refuse(FOREIGN, "but a PDF", document_jpg=lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj"),
    *_refuse(FOREIGN, "but an HEIC picture", telephone_jpg=partial(write_box, b"heic")),
    *_refuse(FOREIGN, "but an AVIF picture", modern_jpg=partial(write_box, b"avif")),
    *_refuse(FOREIGN, "but a zip file", archive_png=lambda: b"PK\x03\x04" + bytes(60)),
    *_refuse(
        FOREIGN,
        _VIDEO,
        film_jpg=partial(write_box, b"isom"),
        film_matroska_jpg=lambda: b"\x1aE\xdf\xa3" + bytes(100),
        film_windows_jpg=lambda: b"RIFF\x00\x10\x00\x00AVI LIST" + bytes(100),
    ),
    *_refuse(FOREIGN, _UNKNOWN, text_jpg=lambda: b"cat, 1.3 kg\n" * 40, zeros_png=partial(bytes, 3000)),
]

KINDS: list[Kind] = ACCEPTED + REFUSED
