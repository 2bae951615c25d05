"""Decode picture files into RGB pixels. Extraction, export and prediction share this policy."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from extract.config import MAX_PIXELS
from extract.decoding.read import UndecodableImageError
from extract.decoding.unknown import describe_unknown_file

Pixels = NDArray[np.uint8]

DECODE_POLICY = "pillow-rgb-1: EXIF orientation, first frame, alpha over white, 16 bit by its upper byte"
MAX_PIXELS_IN_MEMORY = 96_000_000
"""Limit on the decoded pixels of all threads together; a pixel takes 7 bytes, 4 in Pillow and 3 in the array."""
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""Accepted formats. Pillow opens the MPO files of cameras as JPEG, and raises KeyError for the name MPO."""
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_STRIP_PIXELS = 2**20

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
            raise UndecodableImageError(describe_unknown_file(data, FORMATS)) from None
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
