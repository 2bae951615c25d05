"""From file bytes to what the backbone sees: the one definition, used in training, `predict` and export."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    import keras

Pixels = NDArray[np.uint8]

DECODE_POLICY = "pillow-rgb-1: EXIF orientation, first frame, alpha over white, 16 bit by its upper byte"
RESIZE = "bilinear"
SCALE = "[-1, 1]"
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
            upright = ImageOps.exif_transpose(image)
            return np.asarray(_convert_to_rgb(upright))
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
    return image.convert("RGB")


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
        keras.layers.Rescaling(1 / 127.5, offset=-1, name="scale"),
    ]


def compile_pixel_layers(image_size: int) -> Callable[[Pixels], Any]:
    """Compiles the pixel layers for single pictures.

    Args:
        image_size: the side of the square, in pixels.

    Returns:
        A function from (height, width, 3) uint8 to an (image_size, image_size, 3) float32 tensor in
        [-1, 1]; safe to call from several threads.
    """
    import tensorflow as tf

    layers = build_pixel_layers(image_size)

    def prepare(pixels: Any) -> Any:
        # Keras's Resizing rounds integer inputs back to integers; the exported model resizes floats.
        values = tf.cast(pixels, tf.float32)
        for layer in layers:
            values = layer(values)
        return values

    compiled: Callable[[Pixels], Any] = tf.function(prepare, input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)])
    return compiled
