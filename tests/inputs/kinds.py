"""Kinds of picture files made for the tests, and whether each is accepted."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.inputs.makers import (
    add_tag,
    cut,
    draw_sixteen,
    flip,
    save,
    save_clear,
    save_frames,
    save_heic,
    save_hidden,
    save_jpeg_xl,
    save_lab,
    save_noted,
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
    write_tiff,
)


@dataclass(frozen=True)
class Kind:
    """Kind of picture file."""

    name: str
    make: Callable[[], bytes]
    reason: str | None = None
    """Key term of the reason why it is refused; None for an accepted kind."""

    @property
    def file_name(self) -> str:
        """Name of the file: `gray.jpg` for the kind `gray_jpg`."""
        return ".".join(self.name.rsplit("_", 1))


def _accept(**files: Callable[[], bytes]) -> list[Kind]:
    return [Kind(name, make) for name, make in files.items()]


def _refuse(reason: str, **files: Callable[[], bytes]) -> list[Kind]:
    return [Kind(name, make, reason) for name, make in files.items()]


_jpeg, _png = partial(save, "JPEG", quality=90), partial(save, "PNG")

ACCEPTED: list[Kind] = [
    # Formats, recognized by content and not by extension.
    *_accept(
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
        plain_avif=partial(save, "AVIF"),
        plain_heic=save_heic,
        heic_bytes_named_jpeg=partial(save_heic, label="dogs"),
        plain_jxl=save_jpeg_xl,
        lossy_jxl=partial(save_jpeg_xl, label="dogs", quality=90),
    ),
    # EXIF orientation.
    *_accept(**{f"turned{number}_jpg": partial(save_turned, number) for number in range(1, 9)}),
    *_accept(
        turned_png=partial(save_turned, 5, "PNG"),
        turned_webp=partial(save_turned, 6, "WEBP"),
        turned_tiff=partial(save_turned, 7, "TIFF"),
        turned_avif=partial(save_turned, 6, "AVIF"),
        turned_heic=partial(save_turned, 8, "HEIF"),
    ),
    # First frame of an animation.
    *_accept(
        moving_gif=partial(save_frames, "GIF"),
        moving_webp=partial(save_frames, "WEBP", lossless=True),
        moving_png=partial(save_frames, "PNG"),
        pages_tiff=partial(save_frames, "TIFF"),
    ),
    # Gray, 1 bit, palette, CMYK, YCbCr, LAB and colour profiles.
    *_accept(
        gray_jpg=partial(save, "JPEG", "L"),
        gray_png=partial(save, "PNG", "L", label="dogs"),
        gray_pgm=partial(write_pgm, "u1", 255),
        gray_heic=partial(save_heic, "L"),
        gray_jxl=partial(save_jpeg_xl, "L"),
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
    # Transparency.
    *_accept(
        alpha_png=partial(save_clear, "PNG", "RGBA"),
        alpha_gray_png=partial(save_clear, "PNG", "LA"),
        alpha_webp=partial(save_clear, "WEBP", "RGBA", lossless=True),
        alpha_tiff=partial(save_clear, "TIFF", "RGBA"),
        alpha_avif=partial(save_clear, "AVIF", "RGBA"),
        alpha_heic=partial(save_clear, "HEIF", "RGBA"),
        alpha_jxl=partial(save_clear, "JXL", "RGBA"),
        clear_palette_png=partial(save_palette, "PNG", transparency=bytes(range(0, 256, 16))),
        clear_palette_gif=partial(save_palette, "GIF", transparency=3),
        never_opaque_png=partial(save_hidden, "PNG"),
        never_opaque_bmp=partial(save_hidden, "BMP"),
        clear_colour_png=partial(save, "PNG", transparency=(200, 60, 40)),
    ),
    # 16-bit samples.
    *_accept(
        sixteen_gray_png=partial(save_sixteen, "PNG"),
        sixteen_gray_tiff=partial(save_sixteen, "TIFF"),
        sixteen_gray_motorola_tiff=partial(save_sixteen, "TIFF", "I;16B"),
        sixteen_gray_pgm=partial(write_pgm, ">u2", 65535),
        sixteen_colour_png=partial(write_sixteen, 3, 2),
        sixteen_clear_png=partial(write_sixteen, 4, 6),
        sixteen_white_is_zero_tiff=lambda: write_tiff(draw_sixteen(1), 0),
        sixteen_planar_tiff=lambda: write_tiff(draw_sixteen(3), 2, order=">", planar=True),
    ),
    # Metadata that Pillow refuses.
    *_accept(noted_png=save_noted, noted_tiff=lambda: add_tag(save("TIFF"), 700, 4, 1, 8)),
    # One pixel and extreme aspect ratios.
    *_accept(
        one_pixel_png=partial(save_stretched, (1, 1), "PNG"),
        one_pixel_jpg=partial(save_stretched, (1, 1), "JPEG"),
        tall_png=partial(save_stretched, (1, 4000), "PNG"),
        wide_jpg=partial(save_stretched, (4000, 1), "JPEG"),
    ),
    # A flipped bit that JPEG does not detect.
    *_accept(flipped_jpg=partial(flip, _jpeg, b"\xff\xdb", 12)),
]

REFUSED: list[Kind] = [
    *_refuse("damaged file", flipped_png=partial(flip, _png, b"IDAT", 40)),
    *_refuse("damaged header", flipped_head_png=partial(flip, _png, b"IHDR", 6)),
    *_refuse("mode I", integer_tiff=partial(save_thirty_two, "I")),
    *_refuse("mode F", float_tiff=partial(save_thirty_two, "F")),
    *_refuse(
        "89,000,000",
        huge_png=partial(write_png, 20_000, 20_000, 8, 0, bytes(1000)),
        huge_gif=lambda: b"GIF89a" + struct.pack("<HH", 20_000, 20_000) + save("GIF")[10:],
    ),
    *_refuse("empty", empty_jpg=bytes, empty_png=bytes),
    *_refuse(
        "damaged file",
        truncated_jpg=partial(cut, _jpeg),
        truncated_png=partial(cut, _png),
        truncated_gif=partial(cut, partial(save, "GIF")),
        truncated_bmp=partial(cut, partial(save, "BMP")),
        truncated_webp=partial(cut, partial(save, "WEBP")),
        truncated_tiff=partial(cut, partial(save, "TIFF")),
        truncated_ppm=partial(cut, partial(save, "PPM")),
    ),
    *_refuse("damaged AVIF", truncated_avif=partial(cut, partial(save, "AVIF"))),
    *_refuse("damaged HEIC", truncated_heic=partial(cut, save_heic)),
    *_refuse(
        "damaged JPEG XL",
        truncated_jxl=partial(cut, save_jpeg_xl),
    ),
    *_refuse("damaged header", signature_png=lambda: _png()[:12], signature_jpg=lambda: _jpeg()[:2]),
    *_refuse(
        "web page",
        page_jpg=lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        page_with_mark_jpg=lambda: b"\xef\xbb\xbf<!DOCTYPE html><html></html>",
        drawing_png=lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    ),
    *_refuse("PDF", document_jpg=lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj"),
    *_refuse("HEIC", telephone_jpg=partial(write_box, b"heic")),
    *_refuse("AVIF", modern_jpg=partial(write_box, b"avif")),
    *_refuse("zip", archive_png=lambda: b"PK\x03\x04" + bytes(60)),
    *_refuse(
        "video",
        film_jpg=partial(write_box, b"isom"),
        film_matroska_jpg=lambda: b"\x1aE\xdf\xa3" + bytes(100),
        film_windows_jpg=lambda: b"RIFF\x00\x10\x00\x00AVI LIST" + bytes(100),
    ),
    *_refuse("5 bands of 16 bits", bands_tif=lambda: write_tiff(draw_sixteen(5), 1, extra=(0, 0, 0, 0))),
    *_refuse("git lfs pull", pointer_jpg=lambda: b"version https://git-lfs.github.com/spec/v1\nsize 9\n"),
    *_refuse("git annex get", pointer_png=lambda: b"/annex/objects/SHA256E-s9--00.png\n"),
    *_refuse("JSON", answer_jpg=lambda: b'{"message": "Not Found"}'),
    *_refuse("compressed archive", archive_jpg=lambda: b"\x1f\x8b\x08" + bytes(60)),
    *_refuse("text file", text_jpg=lambda: b"cat, 1.3 kg\n" * 40),
    *_refuse("unknown format", zeros_png=partial(bytes, 3000)),
]

KINDS: list[Kind] = ACCEPTED + REFUSED
