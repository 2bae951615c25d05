"""From a picture's file to RGB pixels: the one policy, used in extraction, in the export's check and in `predict`."""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from base.regular import RegularFile
from extract.config import MAX_PIXELS

Pixels = NDArray[np.uint8]

DECODE_POLICY = "pillow-rgb-1: EXIF orientation, first frame, alpha over white, 16 bit by its upper byte"
MAX_BYTES_PER_PIXEL = 8
"""Largest size of a file: four samples of 16 bits, stored as they are."""
ALWAYS_ALLOWED_BYTES = 2**26
LARGE_PIXELS = 32_000_000
"""Size of a picture to be decoded alone where threads do not share the limit of `hold_pixels`."""
LARGE_FILE_BYTES = 2**24
"""Size from which on files of pictures are read and decoded one at a time."""
PIXELS_AT_A_TIME = 96_000_000
"""Pixels decoded at a time by all threads together: 7 bytes each in Pillow and in the array that is made from it."""
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""Pillow opens a camera's MPO as JPEG; it registers no opener under that name and would raise KeyError."""
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_PIXELS_AT_ONCE = 2**20
_OTHER_KINDS = (
    (rb"%PDF", "a PDF"),
    (rb"PK\x03\x04", "a zip file"),
    (rb"8BPS", "a Photoshop file"),
    (rb"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (rb"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (rb".{4}ftyp(hei[cxms]|hev[cx]|m[is]f1)", "an HEIC picture"),
    (rb".{4}ftypavi[fs]", "an AVIF picture"),
    (rb".{4}(ftyp|moov|mdat|wide|free|skip)|RIFF.{4}AVI |\x1aE\xdf\xa3|\0\0\x01[\xb3\xba]|FLV\x01", "a video"),
    (rb"0&\xb2u\x8ef\xcf\x11", "a video"),
)

# Above malloc's largest threshold, blocks go back to the system at once; Pillow's own of 16 MB stay with each thread.
Image.core.set_block_size(2**26)  # type: ignore[attr-defined]


class _PixelBudget:
    """Limit on what several threads decode at a time; a picture beyond the limit is decoded alone."""

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
    """A file is no usable picture; the message is the reason, for a list of bad files."""


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """Read a picture's file, once and whole: the bytes that are hashed are those that are decoded.

    Raises:
        UndecodableImageError: it cannot be read, is no regular file, is larger than any picture of `max_pixels`, or
            changed meanwhile.
    """
    max_bytes = max(MAX_BYTES_PER_PIXEL * max_pixels, ALWAYS_ALLOWED_BYTES)
    try:
        with RegularFile(path, follow=True) as file:
            before = file.identity
            if before.num_bytes > max_bytes:
                raise UndecodableImageError(f"{before.num_bytes:,} bytes, more than a picture of {max_pixels:,} pixels")
            data = file.read(before.num_bytes + 1)
            after = file.identify()
    except OSError as error:
        raise UndecodableImageError(f"cannot be read: {error.strerror or error}") from error
    if len(data) != before.num_bytes or after[:4] != before[:4]:
        raise UndecodableImageError("changed while it was read; run again")
    return data


def hold_file(num_bytes: int) -> AbstractContextManager[object]:
    """Return the lock to hold while a file of this size is read and decoded: large ones take turns."""
    return _one_large_file if num_bytes > LARGE_FILE_BYTES else nullcontext()


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode the bytes of a picture file (docs/inputs.md).

    Args:
        data: the whole file.
        max_pixels: largest number of pixels that its header may declare; nothing is decoded where it declares more.

    Returns:
        (height, width, 3) uint8 RGB, upright.

    Raises:
        UndecodableImageError: empty, truncated, damaged, too large, or not a picture.
    """
    with hold_pixels(data, max_pixels) as pixels:
        return pixels


@contextmanager
def hold_pixels(data: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Pixels]:
    """Decode as `decode_image` does, in several threads within one limit, which includes the use of the pixels."""
    if not data:
        raise UndecodableImageError("the file is empty")
    # Pillow's own limit cannot be set for one call: it warns at ours and refuses at twice as much.
    Image.MAX_IMAGE_PIXELS = None
    # Its warnings name no file, and what keeps a picture from being used is an error.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    with ExitStack() as held:
        try:
            image = held.enter_context(Image.open(io.BytesIO(data), formats=FORMATS))
            width, height = image.size
            if width * height > max_pixels:
                raise UndecodableImageError(f"{width} x {height} pixels, more than the {max_pixels:,} that are allowed")
            held.enter_context(_budget.hold(width * height))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            pixels = _convert_to_rgb(image)
            image.close()
        except UnidentifiedImageError:
            raise UndecodableImageError(_describe_foreign_bytes(data)) from None
        except UndecodableImageError:
            raise
        except MemoryError:
            raise UndecodableImageError("needs more memory than there is") from None
        except Exception as error:
            # Pillow's decoders raise many kinds of errors on damaged files; all mean that this file is bad.
            raise UndecodableImageError(f"damaged: {error or type(error).__name__}") from error
        yield pixels


def _convert_to_rgb(image: Image.Image) -> Pixels:
    """Convert strip by strip, so that a large picture is never in memory three times over."""
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
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!|html|\?xml|head|svg)", data[:512], re.IGNORECASE):
        return "not a picture: the file holds a web page or XML"
    kinds = [kind for pattern, kind in _OTHER_KINDS if re.match(pattern, data, re.DOTALL)]
    got = f"but {kinds[0]}" if kinds else "or cut off in its header"
    return f"not a picture in a known format ({', '.join(FORMATS)}), {got}"
