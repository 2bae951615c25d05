"""Pictures with 16-bit samples: their layout, their significant bits, and the scaling to 8 bits."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from base.places.open import read_file
from base.regular import RegularFile
from base.remote import RemoteError
from base.urls import Location, UrlPath
from extract.decoding.policy import SAMPLE_BITS, DecodePolicy
from extract.decoding.read import UndecodableImageError

Bytes = NDArray[np.uint8]

_FORMATS = ("PNG", "TIFF", "PPM")
"""Formats with 16-bit samples."""
_SIGNED = ("I;16S", "I;16BS")
_PACKED_TWELVE = "I;12"
_PNG_DEPTH = 24
"""Position of the bit depth in a PNG file (PNG, third edition, section 11.2.1)."""
_OTHER_BYTE = str.maketrans("BLN", "LBB" if sys.byteorder == "little" else "LBL")
"""Raw modes end with the byte order; with the other order, Pillow reads the lower bytes in place of the upper ones."""
_BITS, _PHOTOMETRIC, _PLANAR = 258, 262, 284
"""Tags of a TIFF (TIFF 6.0, section 8)."""

# Layouts that Pillow can read, but does not list: big-endian WhiteIsZero, and packed samples of 12 bits.
for _order, _photometric, _width in ((b"MM", 0, 16), (b"MM", 0, 12), (b"MM", 1, 12), (b"II", 0, 12)):
    _modes = ("I;16", _PACKED_TWELVE) if _width == 12 else ("I;16B", "I;16B")
    TiffImagePlugin.OPEN_INFO.setdefault((_order, _photometric, (1,), 1, (_width,), ()), _modes)


@dataclass(frozen=True)
class SampleLayout:
    """Layout of samples of more than 8 bits in an opened picture."""

    raw_mode: str
    """Name of the layout in Pillow, such as `RGB;16B`."""
    is_gray: bool
    declared_bits: int = 0
    """Bits of a decoded sample, if the header gives its range; 0 if the significant bits have to be found."""
    is_white_zero: bool = False
    offset: int = 0
    """Position of the samples in a PPM file, in bytes."""

    def choose_bits(self, policy: DecodePolicy) -> int:
        """Return the number of bits by which the samples are scaled."""
        return policy.sample_bits if policy.edition == 1 or not self.declared_bits else self.declared_bits


def find_layout(image: Image.Image) -> SampleLayout | None:
    """Return the layout of a picture that was opened but not loaded; None for samples of at most 8 bits.

    Samples of 32 bits also give None, because their range is unknown.
    """
    tile = getattr(image, "tile", None)
    if image.format not in _FORMATS or not tile:
        return None
    args = tile[0].args
    raw_mode = args if isinstance(args, str) else str(args[0])
    if image.format == "PPM":
        # Pillow scales gray samples to 16 bits by the maximum in the header.
        if image.mode == "I":
            return SampleLayout(raw_mode, is_gray=True, declared_bits=0 if raw_mode == "I;16B" else 16)
        return SampleLayout(raw_mode, is_gray=False, offset=tile[0].offset) if args == ("RGB", 65535) else None
    if ";16" not in raw_mode and raw_mode != _PACKED_TWELVE:
        return None
    declared_bits = 12 if raw_mode == _PACKED_TWELVE else 0
    is_white_zero = image.format == "TIFF" and _read_tag(image, _PHOTOMETRIC) == 0
    return SampleLayout(raw_mode, image.mode.startswith("I"), declared_bits, is_white_zero)


def has_sample_bits(path: Location) -> bool:
    """Return whether the header of a file declares 16-bit samples, but not their range.

    Raises:
        RemoteError: a URL cannot be reached, or refuses access.
    """
    try:
        with RegularFile(path, follow=True) if isinstance(path, Path) else _open_start(path) as file:
            start = file.read(_PNG_DEPTH + 1)
            if start.startswith(b"\x89PNG"):
                return start[_PNG_DEPTH:] == b"\x10"
            if not start.startswith((b"II", b"MM", b"P")):
                return False
            file.seek(0)
            with Image.open(file, formats=_FORMATS) as image:
                repair_planes(image)
                layout = find_layout(image)
                return layout is not None and not layout.declared_bits
    except RemoteError:
        raise
    except Exception:
        # Pillow raises many kinds of errors for damaged files; extraction reports them.
        return False


def _open_start(path: UrlPath) -> io.BytesIO:
    """Return the start of a PNG at a URL or in an archive, and the whole of any other file."""
    start = read_file(path, sys.maxsize, _PNG_DEPTH + 1)
    is_complete = start.startswith(b"\x89PNG") or not start.startswith((b"II", b"MM", b"P"))
    return io.BytesIO(start if is_complete else read_file(path, sys.maxsize))


def repair_planes(image: Any) -> None:
    """Correct the layout of an uncompressed TIFF with 16-bit channels in separate planes, before it is loaded.

    Pillow would read the channels as 8-bit ones.
    """
    if image.format != "TIFF" or _read_tag(image, _PLANAR) != 2:
        return
    bits, order = _read_tag(image, _BITS) or (), "L" if image.tag_v2.prefix == b"II" else "B"
    if set(bits) == {16} and len(bits) > 1 and image.tile[0].codec_name == "raw":
        _change_raw_mode(image, lambda band: f"{band};16{order}")


def count_significant_bits(data: bytes, image: Image.Image, layout: SampleLayout) -> int:
    """Return the smallest of `SAMPLE_BITS` that holds the largest sample; `image` is opened but not loaded.

    In colour, the upper bytes decide: 8 bits are enough only if all of them are 0. Alpha does not count.
    """
    if layout.is_gray:
        image.load()
        largest = int(np.asarray(image).max())
    else:
        upper = _load_half(data, image, layout, is_upper=True)
        largest = 256 * int(upper[..., : _count_colours(image, upper)].max()) + 255
    return next((bits for bits in SAMPLE_BITS if largest < 2**bits), SAMPLE_BITS[-1])


def check_gray(image: Image.Image, layout: SampleLayout, policy: DecodePolicy) -> None:
    """Raise UndecodableImageError if a loaded gray picture has a negative sample, or one above the policy's bits."""
    bits = layout.choose_bits(policy)
    if layout.raw_mode in _SIGNED and (lowest := int(np.asarray(image).min())) < 0:
        raise UndecodableImageError(f"a picture with signed 16-bit samples, the lowest {lowest:,}, of unknown range")
    if bits < 16 and (largest := int(np.asarray(image).max())) >= 2**bits:
        raise _build_range_error(bits, f"{largest:,}")


def scale_gray(image: Image.Image, layout: SampleLayout, policy: DecodePolicy) -> Bytes:
    """Scale the samples of a loaded gray picture, or of a part of one, to 8 bits."""
    bits, values = layout.choose_bits(policy), np.asarray(image).astype(np.uint16)
    if layout.is_white_zero and policy.edition > 1:
        values = 2**bits - 1 - values
    return (values >> (bits - 8)).astype(np.uint8)


def scale_colour(data: bytes, image: Image.Image, layout: SampleLayout, bits: int) -> Image.Image:
    """Load an opened colour picture and scale its samples from fewer than 16 significant bits to 8.

    Returns:
        A picture in the mode of `image`, with 8-bit samples. Alpha is scaled in the same way if it fits into the bits,
        else by its upper byte.
    """
    if "a" in layout.raw_mode:
        raise UndecodableImageError(f"a picture with premultiplied 16-bit alpha, of which {bits} bits are significant")
    upper = _load_half(data, image, layout, is_upper=True)
    limit, num_colours = 2 ** (bits - 8), _count_colours(image, upper)
    largest = int(upper[..., :num_colours].max())
    if largest >= limit:
        raise _build_range_error(bits, f"{256 * largest:,} or more")
    is_scaled = upper.shape[2] == num_colours or int(upper[..., num_colours:].max()) < limit
    scaled = upper if is_scaled else upper[..., :num_colours]
    lower = _load_half(data, image, layout, is_upper=False)[..., : scaled.shape[2]]
    scaled <<= 16 - bits
    scaled |= lower >> (bits - 8)
    return Image.frombytes("CMYK", image.size, upper.tobytes()) if image.mode == "CMYK" else Image.fromarray(upper)


def _load_half(data: bytes, image: Image.Image, layout: SampleLayout, *, is_upper: bool) -> Bytes:
    """Return the upper or the lower byte of each sample of a colour picture, (height, width, channels)."""
    width, height = image.size
    if image.format == "PPM":
        pairs = np.frombuffer(data, np.uint8, 6 * width * height, layout.offset).reshape(height, width, 3, 2)
        return pairs[..., 0 if is_upper else 1].copy()
    # Pillow cannot read the lower bytes of gray with alpha, but the four bytes of a pixel as four channels.
    is_gray_with_alpha = layout.raw_mode == "LA;16B"

    def change(raw_mode: str) -> str:
        # With `a`, Pillow divides the colours by alpha; with `A`, it returns the stored samples.
        raw_mode = raw_mode.replace("a", "A")
        return raw_mode if is_upper else raw_mode[:-1] + raw_mode[-1].translate(_OTHER_BYTE)

    with Image.open(io.BytesIO(data), formats=[str(image.format)]) as copy:
        repair_planes(copy)
        _change_raw_mode(copy, (lambda _: "RGBA") if is_gray_with_alpha else change)
        copy.load()
        samples = np.array(copy)
    return samples[..., 0 if is_upper else 1 :: 2].copy() if is_gray_with_alpha else samples


def _change_raw_mode(image: Any, change: Callable[[str], str]) -> None:
    """Change the name of the layout by which a picture will be loaded."""
    image.tile = [
        tile._replace(args=change(tile.args) if isinstance(tile.args, str) else (change(tile.args[0]), *tile.args[1:]))
        for tile in image.tile
    ]


def _count_colours(image: Image.Image, samples: Bytes) -> int:
    """Return the number of channels without alpha."""
    return int(samples.shape[2]) - (image.mode == "RGBA")


def _read_tag(image: Any, tag: int) -> Any:
    return image.tag_v2.get(tag)


def _build_range_error(bits: int, largest: str) -> UndecodableImageError:
    return UndecodableImageError(
        f"a picture with 16-bit samples up to {largest}, above the {bits} significant bits of the other pictures"
    )
