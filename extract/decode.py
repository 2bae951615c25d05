"""Read and decode picture files into RGB pixels. Extraction, export and prediction share this policy."""

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
"""Largest accepted file size, in bytes per pixel: four uncompressed samples of 16 bits."""
ALWAYS_ALLOWED_BYTES = 2**26
"""File size up to which a file is accepted whatever `max_pixels` is, in bytes."""
LARGE_FILE_BYTES = 2**24
"""Size above which picture files are read and decoded one at a time."""
MAX_PIXELS_IN_MEMORY = 96_000_000
"""Limit on the decoded pixels of all threads together; a pixel takes 7 bytes, 4 in Pillow and 3 in the array."""
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""Accepted formats. Pillow opens the MPO files of cameras as JPEG, and raises KeyError for the name MPO."""
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_STRIP_PIXELS = 2**20
_OTHER_KINDS = (
    (rb"%PDF", "a PDF file"),
    (rb"PK\x03\x04", "a zip file"),
    (rb"8BPS", "a Photoshop file"),
    (rb"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (rb"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (rb".{4}ftyp(hei[cxms]|hev[cx]|m[is]f1)", "an HEIC picture"),
    (rb".{4}ftypavi[fs]", "an AVIF picture"),
    (rb".{4}(ftyp|moov|mdat|wide|free|skip)|RIFF.{4}AVI |\x1aE\xdf\xa3|\0\0\x01[\xb3\xba]|FLV\x01", "a video"),
    (rb"0&\xb2u\x8ef\xcf\x11", "a video"),
)

# malloc returns freed blocks of this size to the system at once; blocks of Pillow's default size, 16 MB, would stay
# reserved for each thread.
Image.core.set_block_size(2**26)  # type: ignore[attr-defined]


class _PixelBudget:
    """Limit on the pixels that all threads hold at a time; a picture above the limit is decoded alone."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used, self._changed = limit, 0, threading.Condition()

    @contextmanager
    def reserve(self, num_pixels: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + num_pixels <= self._limit)
            self._used += num_pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= num_pixels
                self._changed.notify_all()


_budget = _PixelBudget(MAX_PIXELS_IN_MEMORY)
_one_large_file = threading.Lock()


class UndecodableImageError(Exception):
    """File that cannot be used as a picture; the message is the reason, a noun phrase."""


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """Read a whole picture file, so that its content hash and its pixels come from the same bytes.

    Raises:
        UndecodableImageError: the file is unreadable, not a regular file, larger than any picture of `max_pixels`, or
            changed during the read.
    """
    max_bytes = max(MAX_BYTES_PER_PIXEL * max_pixels, ALWAYS_ALLOWED_BYTES)
    try:
        with RegularFile(path, follow=True) as file:
            before = file.identity
            if before.num_bytes > max_bytes:
                raise UndecodableImageError(f"a file of {before.num_bytes:,} bytes, above the limit of {max_bytes:,}")
            data = file.read(before.num_bytes + 1)
            after = file.identify()
    except OSError as error:
        raise UndecodableImageError(f"an unreadable file ({error.strerror or error})") from error
    if len(data) != before.num_bytes or after[:4] != before[:4]:
        raise UndecodableImageError("a file that changed while it was read")
    return data


def lock_large_file(num_bytes: int) -> AbstractContextManager[object]:
    """Return a context manager that lets one thread at a time read and decode a large file."""
    return _one_large_file if num_bytes > LARGE_FILE_BYTES else nullcontext()


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode the bytes of a picture file (docs/inputs.md).

    Args:
        data: the whole file.
        max_pixels: largest number of pixels that the header may declare; larger pictures are refused before decoding.

    Returns:
        (height, width, 3) uint8 RGB, with the EXIF orientation applied.

    Raises:
        UndecodableImageError: the file is empty, truncated, damaged, too large, or not a picture.
    """
    with decode_within_budget(data, max_pixels) as pixels:
        return pixels


@contextmanager
def decode_within_budget(data: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Pixels]:
    """Decode a picture as `decode_image` does, after waiting until the pixels of all threads leave room for it.

    The pixels count towards the limit for all threads until the `with` block ends.
    """
    if not data:
        raise UndecodableImageError("an empty file")
    # Pillow's own limit is global; above it, Pillow only warns, and raises an error only above twice the limit.
    Image.MAX_IMAGE_PIXELS = None
    # Pillow's warnings do not include the file; unusable pictures are reported by UndecodableImageError.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    with ExitStack() as held:
        try:
            image = held.enter_context(Image.open(io.BytesIO(data), formats=FORMATS))
            width, height = image.size
            if width * height > max_pixels:
                raise UndecodableImageError(
                    f"a picture of {width} x {height} pixels, above the limit of {max_pixels:,}"
                )
            held.enter_context(_budget.reserve(width * height))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            pixels = _convert_to_rgb(image)
            image.close()
        except UnidentifiedImageError:
            raise UndecodableImageError(_describe_foreign_bytes(data)) from None
        except UndecodableImageError:
            raise
        except MemoryError:
            raise UndecodableImageError("a picture too large for the available memory") from None
        except Exception as error:
            # Pillow's decoders raise many kinds of errors for damaged files.
            raise UndecodableImageError(f"a damaged file ({str(error) or type(error).__name__})") from error
        yield pixels


def _convert_to_rgb(image: Image.Image) -> Pixels:
    """Convert strip by strip, so that memory never holds three copies of a large picture."""
    # Pillow scales PGM samples of more than 8 bits to 16 bits, so their range is known.
    if image.mode in ("I", "F") and (image.mode, image.format) != ("I", "PPM"):
        raise UndecodableImageError(f"a picture with 32-bit samples of unknown range (mode {image.mode})")
    width, height = image.size
    num_rows = max(1, _STRIP_PIXELS // width)
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
    # convert() would copy a picture that is RGB already.
    return image if image.mode == "RGB" else image.convert("RGB")


def _describe_foreign_bytes(data: bytes) -> str:
    """Describe a file that Pillow does not identify, by its first bytes."""
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!|html|\?xml|head|svg)", data[:512], re.IGNORECASE):
        return "a web page or XML file"
    kinds = [kind for pattern, kind in _OTHER_KINDS if re.match(pattern, data, re.DOTALL)]
    found = kinds[0] if kinds else "an unknown format or a damaged header"
    return f"{found} (supported: {', '.join(FORMATS)})"
