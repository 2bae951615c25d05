"""Decode picture files into RGB pixels. Extraction, export and prediction share this code."""

from __future__ import annotations

import ctypes
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from extract.config import MAX_PIXELS
from extract.decoding.convert import Pixels, convert_to_rgb, read_orientation, turn_pixels_upright, turn_upright
from extract.decoding.jpeg import decode_jpeg
from extract.decoding.memory import MAX_PIXELS_IN_MEMORY, Budget, PixelMemory
from extract.decoding.metadata import drop_metadata
from extract.decoding.plugins import open_with_plugin
from extract.decoding.policy import DecodePolicy
from extract.decoding.read import UndecodableImageError
from extract.decoding.samples import count_significant_bits, find_layout, repair_planes, scale_colour
from extract.decoding.unknown import describe_damage, describe_unknown_file
from extract.images.formats import PluginFormat, recognize_format

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""Accepted formats. Pillow opens the MPO files of cameras as JPEG, and raises KeyError for the name MPO."""
DEFAULT_POLICY = DecodePolicy()
_TOO_LARGE = "a picture too large for the available memory"
_budget = Budget(MAX_PIXELS_IN_MEMORY)

Result = TypeVar("Result")

# malloc returns freed blocks of this size to the system at once; blocks of Pillow's default size, 16 MB, would stay
# reserved for each thread.
Image.core.set_block_size(2**26)  # type: ignore[attr-defined]


def _silence_libraries() -> None:
    """Stop libraries from writing to the terminal; unusable pictures are reported by UndecodableImageError."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    libraries = ctypes.CDLL(Image.core.__file__)  # type: ignore[attr-defined]
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        # The symbol is missing where Pillow was built without libtiff, or with a static one.
        if hasattr(libraries, name):
            getattr(libraries, name)(None)


_silence_libraries()


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS, policy: DecodePolicy = DEFAULT_POLICY) -> Pixels:
    """Decode the bytes of a picture file (docs/how-to/inputs.md).

    Args:
        data: the whole file.
        max_pixels: largest number of pixels that the header may declare; larger pictures are refused before decoding.
        policy: rules of decoding.

    Returns:
        (height, width, 3) uint8 RGB, with the EXIF orientation applied; a turned JPEG is a view with other strides.

    Raises:
        UndecodableImageError: the file is empty, truncated, damaged, too large, not a picture, or has 16-bit samples
            that do not fit into the significant bits of the policy.
    """
    with decode_within_budget(data, max_pixels, policy) as pixels:
        return pixels


@contextmanager
def decode_within_budget(
    data: bytes,
    max_pixels: int = MAX_PIXELS,
    policy: DecodePolicy = DEFAULT_POLICY,
    memory: PixelMemory | None = None,
) -> Iterator[Pixels]:
    """Decode a picture as `decode_image` does, after waiting until the pixels of all threads leave room for it.

    The pixels count towards the limit for all threads until the `with` block ends. With a memory, they may be
    overwritten by another picture after that.
    """

    def decode(data: bytes, image: Image.Image, held: ExitStack) -> Pixels:
        def lend(num_bytes: int) -> NDArray[np.uint8] | None:
            return held.enter_context(memory.lend(num_bytes)) if memory else None

        if policy.edition > 1:
            repair_planes(image)
        layout = find_layout(image)
        is_scaled = layout is not None and not layout.is_gray and policy.sample_bits < 16
        held.enter_context(_budget.reserve(image.width * image.height * (1 + is_scaled)))
        if (fast := decode_jpeg(data, image, lend)) is not None:
            return turn_pixels_upright(fast, read_orientation(image))
        image.load()
        orientation = read_orientation(image)
        if layout and is_scaled:
            upright = turn_upright(scale_colour(data, image, layout, policy.sample_bits), orientation)
        else:
            upright = turn_upright(image, orientation)
        if upright is not image:
            image.close()
        pixels = convert_to_rgb(upright, layout if layout and layout.is_gray else None, policy)
        upright.close()
        return pixels

    with ExitStack() as held:
        if found := recognize_format(data):
            decoded = _decode_with_plugin(data, found, max_pixels, policy, held)
            if not isinstance(decoded, bytes):
                yield decoded
                return
            data = decoded
        yield _open_and_apply(decode, data, max_pixels, held)


def find_sample_bits(data: bytes, max_pixels: int = MAX_PIXELS) -> int:
    """Return the significant bits of a picture's 16-bit samples: 8, 10, 12, 14 or 16.

    Returns:
        0 for a picture without such samples, and for one whose header declares their range.

    Raises:
        UndecodableImageError: as for `decode_image`.
    """

    def count(data: bytes, image: Image.Image, held: ExitStack) -> int:
        repair_planes(image)
        layout = find_layout(image)
        if layout is None or layout.declared_bits:
            return 0
        held.enter_context(_budget.reserve(image.width * image.height))
        return count_significant_bits(data, image, layout)

    if recognize_format(data):
        return 0
    with ExitStack() as held:
        return _open_and_apply(count, data, max_pixels, held)


def _decode_with_plugin(
    data: bytes, picture_format: PluginFormat, max_pixels: int, policy: DecodePolicy, held: ExitStack
) -> Pixels | bytes:
    """Decode a picture in a format of a plugin; its pixels count towards the limit until `held` is closed.

    Returns:
        The pixels, or the bytes of a JPEG file with the same pixels, which do not count.
    """
    with ExitStack() as reserved:
        try:
            picture = open_with_plugin(data, picture_format)
            _check_size(picture.width, picture.height, max_pixels)
            # These decoders take up to 10 bytes for a pixel, where Pillow takes 7.
            reserved.enter_context(_budget.reserve(3 * picture.width * picture.height // 2))
            decoded = picture.load()
            if isinstance(decoded, bytes):
                return decoded
            pixels = convert_to_rgb(decoded, None, policy)
        except UndecodableImageError:
            raise
        except MemoryError:
            raise UndecodableImageError(_TOO_LARGE) from None
        except Exception as error:
            raise UndecodableImageError(describe_damage(data, error, f"{picture_format.name} file")) from error
        held.enter_context(reserved.pop_all())
    return pixels


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise UndecodableImageError(f"a picture of {width} x {height} pixels, above the limit of {max_pixels:,}")


def _open_and_apply(
    function: Callable[[bytes, Image.Image, ExitStack], Result], data: bytes, max_pixels: int, held: ExitStack
) -> Result:
    """Open a picture and apply a function to it; if this fails, try again without the file's metadata."""
    if not data:
        raise UndecodableImageError("an empty file")
    # Pillow's own limit is global; above it, Pillow only warns, and raises an error only above twice the limit.
    Image.MAX_IMAGE_PIXELS = None
    # Pillow's warnings do not include the file; unusable pictures are reported by UndecodableImageError.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        image = held.enter_context(Image.open(io.BytesIO(data), formats=FORMATS))
        _check_size(*image.size, max_pixels)
        return function(data, image, held)
    except UndecodableImageError:
        raise
    except MemoryError:
        raise UndecodableImageError(_TOO_LARGE) from None
    except Exception as error:
        # Pillow's decoders raise many kinds of errors for damaged files.
        held.close()
        if reduced := drop_metadata(data):
            return _open_and_apply(function, reduced, max_pixels, held)
        if isinstance(error, UnidentifiedImageError):
            raise UndecodableImageError(describe_unknown_file(data, FORMATS)) from None
        raise UndecodableImageError(describe_damage(data, error)) from error
