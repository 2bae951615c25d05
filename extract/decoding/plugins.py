"""Decoding of AVIF, HEIC and JPEG XL, whose decoders are imported when the first such picture is opened.

A picture is turned as its container demands. Its EXIF orientation only repeats this, and is ignored.
Samples of more than 8 bits are scaled by the range in the header. ICC profiles and HDR curves are not applied.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile

from extract.decoding.convert import read_orientation, turn_upright
from extract.decoding.jpeg_xl import decode_jpeg_xl, read_header
from extract.decoding.read import UndecodableImageError
from extract.images.formats import AVIF, HEIC, PluginFormat


@dataclass(frozen=True)
class OpenedPicture:
    """Picture of which only the header was read."""

    width: int
    height: int
    load: Callable[[], Image.Image | bytes]
    """Function that decodes it to an upright picture with 8-bit samples, or to a JPEG file with the same pixels."""


def open_with_plugin(data: bytes, picture_format: PluginFormat) -> OpenedPicture:
    """Open a picture; nothing is decoded before `load`.

    Raises:
        UndecodableImageError: the decoder is missing or cannot be imported, or the header of a JPEG XL file is damaged.
        Exception: Pillow and the decoders raise many kinds of errors for damaged files.
    """
    if not picture_format.is_installed:
        raise UndecodableImageError(picture_format.missing_reason)
    try:
        if picture_format is AVIF:
            return _open_avif(data)
        return _open_heic(data) if picture_format is HEIC else _open_jpeg_xl(data)
    except ImportError as error:
        # Such as a missing library of the system.
        raise UndecodableImageError(f"{picture_format.missing_reason} ({error})") from error


def _open_avif(data: bytes) -> OpenedPicture:
    # Image.open would replace the reason of an error.
    image = AvifImageFile(io.BytesIO(data))

    def load() -> Image.Image:
        image.load()
        # Pillow gives the rotation and the reflection of the container as an EXIF orientation.
        return turn_upright(image, read_orientation(image))

    return OpenedPicture(image.width, image.height, load)


def _open_heic(data: bytes) -> OpenedPicture:
    from pillow_heif import open_heif

    images = open_heif(data)
    if not len(images):
        raise UndecodableImageError("a HEIC file without a picture in a compression that libheif decodes")
    primary = images[images.primary_index]

    def load() -> Image.Image:
        image = primary.to_pillow()
        if image.mode != "I;16":
            return image
        # Gray samples of more than 8 bits are shifted to the left, to 16 bits.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))

    return OpenedPicture(*primary.size, load)


def _open_jpeg_xl(data: bytes) -> OpenedPicture:
    import pillow_jxl  # noqa: F401

    header = read_header(data)
    return OpenedPicture(header.width, header.height, lambda: decode_jpeg_xl(data, header))
