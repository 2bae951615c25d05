"""From a picture's file to RGB pixels: the one policy, used in extraction, in the export's check and in `predict`."""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from extract.config import MAX_PIXELS

Pixels = NDArray[np.uint8]

DECODE_POLICY = "pillow-rgb-1: EXIF orientation, first frame, alpha over white, 16 bit by its upper byte"
MAX_BYTES_PER_PIXEL = 8
"""Of a file: four samples of 16 bits, stored as they are."""
ALWAYS_ALLOWED_BYTES = 2**26
LARGE_PIXELS = 32_000_000
"""Of a picture that is to be decoded alone where the threads do not share the limit below."""
LARGE_FILE_BYTES = 2**24
"""From this size on, files of pictures are read and decoded one at a time."""
PIXELS_AT_A_TIME = 96_000_000
"""Decoded at a time by all threads together: 7 bytes each in Pillow and in the array that is made from it."""
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""Pillow opens a camera's MPO as JPEG; it registers no opener under that name and would raise KeyError."""
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_PIXELS_AT_ONCE = 2**20
_OTHER_KINDS = {
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip file",
    b"8BPS": "a Photoshop file",
    b"\x00\x00\x00\x0cJXL ": "a JPEG XL picture",
    b"\x00\x00\x00\x0cjP  ": "a JPEG 2000 picture",
}
_VIDEOS = (b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"0&\xb2u\x8ef\xcf\x11", b"FLV\x01")
_VIDEO_PARTS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_MEDIA_BRANDS = dict.fromkeys([b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"], "an HEIC")
_MEDIA_BRANDS |= dict.fromkeys([b"avif", b"avis"], "an AVIF")

# Above malloc's largest threshold, blocks go back to the system at once; Pillow's own of 16 MB stay with each thread.
Image.core.set_block_size(2**26)  # type: ignore[attr-defined]


class _PixelBudget:
    """Limits what several threads decode at a time; a picture beyond the limit is decoded alone."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used, self._changed = limit, 0, threading.Condition()

    @contextmanager
    def hold(self, num_pixels: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + num_pixels <= self._limit)
            self._used += num_pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= num_pixels
                self._changed.notify_all()


_budget = _PixelBudget(PIXELS_AT_A_TIME)
_one_large_file = threading.Lock()


class UndecodableImageError(Exception):
    """A file is no picture that can be used; the message is the reason, for a list of bad files."""


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """Reads a picture's file, once and whole: what is hashed is what is decoded.

    Args:
        path: the file.
        max_pixels: of the pictures that are allowed; a file that is larger than any of them is not read.

    Raises:
        UndecodableImageError: it cannot be read, is no regular file, is too large, or changed meanwhile.
    """
    max_bytes = max(MAX_BYTES_PER_PIXEL * max_pixels, ALWAYS_ALLOWED_BYTES)
    try:
        # Opening a pipe would wait for somebody to write to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise UndecodableImageError("not a regular file")
            if before.st_size > max_bytes:
                raise UndecodableImageError(f"{before.st_size:,} bytes, more than a picture of {max_pixels:,} pixels")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(before.st_size + 1)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UndecodableImageError(f"cannot be read: {error.strerror or error}") from error
    if len(data) != before.st_size or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise UndecodableImageError("changed while it was read; run again")
    return data


def hold_file(num_bytes: int) -> AbstractContextManager[object]:
    """Return what to hold while a file of this size is read and decoded: large ones take turns."""
    return _one_large_file if num_bytes > LARGE_FILE_BYTES else nullcontext()


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decodes the bytes of a picture file (docs/inputs.md).

    Args:
        data: the whole file.
        max_pixels: the most that its header may declare; nothing is decoded where it declares more.

    Returns:
        (height, width, 3) uint8 RGB, upright.

    Raises:
        UndecodableImageError: empty, truncated, damaged, too large, or not a picture.
    """
    with hold_pixels(data, max_pixels) as pixels:
        return pixels


@contextmanager
def hold_pixels(data: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Pixels]:
    """Decodes as `decode_image` does, in several threads within one limit, which includes the use of the pixels."""
    if not data:
        raise UndecodableImageError("the file is empty")
    # Pillow's own limit cannot be set for one call: it warns at ours and refuses at twice as much.
    Image.MAX_IMAGE_PIXELS = None
    # Its warnings name no file, and what keeps a picture from being used is an error.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    with ExitStack() as held:
        with _explain_damage(data):
            image = held.enter_context(Image.open(io.BytesIO(data), formats=FORMATS))
            width, height = image.size
            if width * height > max_pixels:
                raise UndecodableImageError(f"{width} x {height} pixels, more than the {max_pixels:,} that are allowed")
            held.enter_context(_budget.hold(width * height))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            pixels = _convert_to_rgb(image)
            image.close()
        yield pixels


@contextmanager
def _explain_damage(data: bytes) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError:
        raise UndecodableImageError(_describe_foreign_bytes(data)) from None
    except UndecodableImageError:
        raise
    except MemoryError:
        raise UndecodableImageError("needs more memory than there is") from None
    except Exception as error:
        # Pillow's decoders raise many kinds of errors on damaged files; all mean that this file is bad.
        raise UndecodableImageError(f"damaged: {error or type(error).__name__}") from error


def _convert_to_rgb(image: Image.Image) -> Pixels:
    """Converts strip by strip, so that a large picture is never there three times over."""
    # A PGM's samples of more than 8 bits are spread over 16, whatever its own largest is.
    if image.mode in ("I", "F") and (image.mode, image.format) != ("I", "PPM"):
        raise UndecodableImageError(f"32-bit samples (mode {image.mode}), whose range is not known")
    width, height = image.size
    num_rows = max(1, _PIXELS_AT_ONCE // width)
    if num_rows >= height:
        return np.asarray(_convert_strip(image))
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, num_rows):
        bottom = min(top + num_rows, height)
        pixels[top:bottom] = np.asarray(_convert_strip(image.crop((0, top, width, bottom))))
    return pixels


def _convert_strip(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        upper_byte = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(upper_byte).convert("RGB")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, opaque).convert("RGB")
    # For a picture that is RGB, convert() would make a copy.
    return image if image.mode == "RGB" else image.convert("RGB")


def _describe_foreign_bytes(data: bytes) -> str:
    start = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!", b"<html", b"<?xml", b"<head", b"<svg")):
        return "not a picture: the file holds a web page or XML"
    known = ", ".join(FORMATS)
    for signature, kind in _OTHER_KINDS.items():
        if data.startswith(signature):
            return f"not a picture in a known format ({known}), but {kind}"
    is_avi = data.startswith(b"RIFF") and data[8:12] == b"AVI "
    if data[4:8] in _VIDEO_PARTS or data.startswith(_VIDEOS) or is_avi:
        is_picture = data[4:8] == b"ftyp" and data[8:12] in _MEDIA_BRANDS
        kind = f"{_MEDIA_BRANDS[data[8:12]]} picture" if is_picture else "a video"
        return f"not a picture in a known format ({known}), but {kind}"
    return f"not a picture in a known format ({known}), or cut off in its header"
