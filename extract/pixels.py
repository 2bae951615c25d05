"""From file bytes to what the backbone sees: the one definition, used in training, `predict` and export."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    import keras

Pixels = NDArray[np.uint8]

DECODE_POLICY = "pillow-rgb-1: EXIF orientation, first frame, alpha over white, 16 bit by its upper byte"
RESIZE = "bilinear"
SCALE = "[-1, 1]"
FACTOR, OFFSET = 1 / 127.5, -1.0
MAX_PIXELS = 89_000_000
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""Pillow opens a camera's MPO as JPEG; it registers no opener under that name and would raise KeyError."""
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")


class UndecodableImageError(Exception):
    """The bytes are no picture that can be used; the message is the reason, for a list of bad files."""


def decode_image(data: bytes) -> Pixels:
    """Decodes the bytes of a picture file by the one written policy (docs/inputs.md).

    Args:
        data: the whole file.

    Returns:
        (height, width, 3) uint8 RGB, upright.

    Raises:
        UndecodableImageError: empty, truncated, damaged, too large, or not a picture.
    """
    if not data:
        raise UndecodableImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UndecodableImageError(f"{width} x {height} pixels, more than the {MAX_PIXELS:,} that are allowed")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(_convert_to_rgb(image))
    except UnidentifiedImageError:
        raise UndecodableImageError(_describe_foreign_bytes(data)) from None
    except UndecodableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UndecodableImageError(f"more than the {MAX_PIXELS:,} pixels that are allowed: {error}") from None
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's decoders raise many kinds of errors on damaged files; all mean that this file is bad.
        raise UndecodableImageError(f"damaged: {error or type(error).__name__}") from error


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        upper_byte = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(upper_byte).convert("RGB")
    if image.mode in ("I", "F"):
        raise UndecodableImageError(f"32-bit samples (mode {image.mode}), whose range is not known")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, opaque).convert("RGB")
    # For a picture that is RGB, convert() would make a copy.
    return image if image.mode == "RGB" else image.convert("RGB")


def _describe_foreign_bytes(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<svg")):
        return "not a picture: the file holds a web page or XML"
    return f"not a picture in a known format ({', '.join(FORMATS)}), or cut off in its header"


def build_pixel_layers(image_size: int) -> list[keras.layers.Layer]:
    """Builds the layers that take raw RGB pixels, 0–255 and of any size, to what the backbone sees.

    Args:
        image_size: the side of the square that pictures are resized to, in pixels.

    Returns:
        `Resizing` and `Rescaling`; an exported model holds the very same ones.
    """
    import keras

    return [
        keras.layers.Resizing(image_size, image_size, interpolation=RESIZE, name="resize"),
        keras.layers.Rescaling(FACTOR, offset=OFFSET, name="scale"),
    ]


def prepare_pixels(pixels: Pixels, image_size: int) -> NDArray[np.float32]:
    """Does to one picture what the pixel layers do, to the bit, in a third of the time.

    Args:
        pixels: (height, width, 3) uint8.
        image_size: the side of the square, in pixels.

    Returns:
        (image_size, image_size, 3) float32 in [-1, 1]. May be called from several threads.
    """
    import tensorflow as tf

    # The operation behind `Resizing`, which would round what comes of integers; given floats, it would copy them first.
    resized = tf.raw_ops.ResizeBilinear(images=pixels[None], size=[image_size, image_size], half_pixel_centers=True)
    scaled: NDArray[np.float32] = resized.numpy()[0]
    scaled *= np.float32(FACTOR)
    scaled += np.float32(OFFSET)
    return scaled
