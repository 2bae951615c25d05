"""Conversion of decoded pictures to RGB pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extract.decoding.policy import DecodePolicy
from extract.decoding.read import UndecodableImageError
from extract.decoding.samples import SampleLayout, check_gray, scale_gray

Pixels = NDArray[np.uint8]

_STRIP_PIXELS = 2**20
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Change that turns a picture upright, by its EXIF orientation (EXIF 2.32, tag 0x0112)."""
_TURNS = {
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}
"""The same changes for arrays: whether rows become columns, then the steps along rows and columns."""
_ORIENTATION = 0x0112


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded picture; 1, upright, if there is none or it is damaged."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # Damaged metadata makes Pillow raise many kinds of errors; the pixels are sound.
        return 1
    return orientation if isinstance(orientation, int) else 1


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Apply an EXIF orientation."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def turn_pixels_upright(pixels: Pixels, orientation: int) -> Pixels:
    """Apply an EXIF orientation to decoded pixels, (height, width, 3), without copying them."""
    if orientation not in _TURNS:
        return pixels
    is_transposed, row_step, column_step = _TURNS[orientation]
    return (pixels.swapaxes(0, 1) if is_transposed else pixels)[::row_step, ::column_step]


def convert_to_rgb(image: Image.Image, layout: SampleLayout | None, policy: DecodePolicy) -> Pixels:
    """Convert a loaded picture to RGB, strip by strip, so that memory never holds three copies of a large one.

    Args:
        image: the picture.
        layout: layout of its samples, if it is gray with more than 8 bits.
        policy: rules of the conversion.

    Returns:
        (height, width, 3) uint8.

    Raises:
        UndecodableImageError: the range of the samples is unknown.
    """
    if layout:
        check_gray(image, layout, policy)
    elif image.mode in ("I", "F"):
        raise UndecodableImageError(f"a picture with 32-bit samples of unknown range (mode {image.mode})")
    has_alpha = image.has_transparency_data and not (policy.edition > 1 and _is_clear(image))

    def convert(strip: Image.Image) -> Pixels:
        if layout:
            strip = Image.fromarray(scale_gray(strip, layout, policy))
        elif has_alpha:
            opaque = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", opaque.size, (255, 255, 255, 255)), opaque)
        # convert() would copy a picture that is RGB already.
        return np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))

    width, height = image.size
    if width * height <= _STRIP_PIXELS:
        return convert(image)
    pixels, top = np.empty((height, width, 3), np.uint8), 0
    for strip in _split(image):
        pixels[top : top + strip.height] = convert(strip)
        top += strip.height
    return pixels


def _is_clear(image: Image.Image) -> bool:
    """Return whether alpha is 0 in every pixel, as written by programs that do not use alpha."""
    return not any(strip.convert("RGBA").getchannel("A").getextrema()[1] for strip in _split(image))


def _split(image: Image.Image) -> Iterator[Image.Image]:
    """Yield strips from top to bottom; a picture of less than a strip is not copied."""
    width, height = image.size
    num_rows = max(1, _STRIP_PIXELS // width)
    if num_rows >= height:
        yield image
        return
    for top in range(0, height, num_rows):
        yield image.crop((0, top, width, min(top + num_rows, height)))
