"""JPEG XL pictures, decoded with pillow-jxl-plugin.

The plugin decodes a file when it opens it, so size and kind are read from the header first.
Source of the header: ISO/IEC 18181-1:2024, annexes D and L; of the container: ISO/IEC 18181-2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from extract.decoding.read import UndecodableImageError

if TYPE_CHECKING:
    from pillow_jxl import ImageInfo

_CODESTREAM = b"\xff\x0a"
"""First bytes of the codestream, and of a file without a container."""
_MAX_HEADER_BYTES = 2**16
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Width and height by the code of a ratio, from 1."""
_ALPHA, _SPOT_COLOUR, _BLACK, _COLOUR_FILTER = 0, 2, 4, 5
"""Types of extra channels."""
_PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}
"""Pillow's modes for colours that are multiplied by alpha."""

_Choice = tuple[int, int]
"""Offset of a number, and the number of bits that are added to it."""
_SIDE: tuple[_Choice, ...] = ((1, 9), (1, 13), (1, 18), (1, 30))
_PREVIEW_SIDE: tuple[_Choice, ...] = ((1, 6), (65, 8), (321, 10), (1345, 12))


@dataclass(frozen=True)
class JpegXlHeader:
    """Size and kind of a picture, by its header."""

    width: int
    height: int
    is_animated: bool = False
    is_float: bool = False
    has_black: bool = False
    """Whether there is a channel for black ink, as in CMYK."""
    is_premultiplied: bool = False
    """Whether the colours are multiplied by alpha."""


def read_header(data: bytes) -> JpegXlHeader:
    """Read the header of a file with or without a container.

    Raises:
        UndecodableImageError: the header is damaged.
    """
    try:
        return _parse_header(_Bits(_join_codestream(data, _MAX_HEADER_BYTES)))
    except (IndexError, ValueError):
        raise UndecodableImageError("a JPEG XL file with a damaged header") from None


def decode_jpeg_xl(data: bytes, header: JpegXlHeader) -> Image.Image | bytes:
    """Decode a picture.

    Returns:
        The picture, upright, with 8-bit samples; or the bytes of the JPEG file from which the file was made losslessly.

    Raises:
        UndecodableImageError: the picture is of a kind that the plugin decodes wrongly.
    """
    if header.is_animated:
        raise UndecodableImageError("an animated JPEG XL picture, of which only the last frame could be decoded")
    if header.has_black:
        raise UndecodableImageError("a JPEG XL picture with CMYK colours")
    if header.is_float:
        raise UndecodableImageError("a JPEG XL picture with floating-point samples of unknown range")
    is_jpeg, info, decoded = _run_decoder(data)
    if is_jpeg:
        return bytes(decoded)
    if sorted((info.width, info.height)) != sorted((header.width, header.height)):
        raise UndecodableImageError("a JPEG XL file with a damaged header")
    size = (info.width, info.height)
    if info.mode == "I;16":
        samples = np.frombuffer(decoded, np.uint16).reshape(size[::-1])
        return Image.fromarray((samples >> 8).astype(np.uint8))
    if header.is_premultiplied and info.mode in _PREMULTIPLIED:
        return Image.frombytes(_PREMULTIPLIED[info.mode], size, decoded).convert(info.mode)
    return Image.frombytes(info.mode, size, decoded)


def _run_decoder(data: bytes) -> tuple[bool, ImageInfo, bytes]:
    """Return whether the result is a JPEG file, information about the picture, and the result."""
    from pillow_jxl import Decoder

    def decode(data: bytes) -> tuple[bool, ImageInfo, bytes]:
        # Pictures are decoded in several threads already.
        is_jpeg, info, decoded, *_ = Decoder(num_threads=0)(data)
        return is_jpeg, info, decoded

    try:
        return decode(data)
    except RuntimeError:
        # The JPEG file cannot be restored if a program has removed metadata from the container.
        with suppress(RuntimeError):
            return decode(_join_codestream(data))
        raise UndecodableImageError("a damaged JPEG XL file") from None


def _join_codestream(data: bytes, num_bytes: int | None = None) -> bytes:
    """Return the first bytes of the codestream, or all of it.

    Raises:
        ValueError: a box has an impossible size.
    """
    if data.startswith(_CODESTREAM):
        return data[:num_bytes]
    # A part of the codestream begins with its number.
    offsets = {b"jxlc": 0, b"jxlp": 4}
    parts = [content[offsets[name] :][:num_bytes] for name, content in _split_boxes(data) if name in offsets]
    found = b"".join(parts)[:num_bytes]
    if not found.startswith(_CODESTREAM):
        raise ValueError(found[:2])
    return found


def _split_boxes(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view, start = memoryview(data), 0
    while start + 8 <= len(data):
        num_bytes, content = int.from_bytes(view[start : start + 4]), start + 8
        if num_bytes == 1:
            num_bytes, content = int.from_bytes(view[start + 8 : start + 16]), start + 16
        end = start + num_bytes if num_bytes else len(data)
        if end < content:
            raise ValueError(num_bytes)
        yield bytes(view[start + 4 : start + 8]), view[content:end]
        start = end


class _Bits:
    """Bits of a header, the lowest bit of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._num_left = int.from_bytes(data, "little"), 8 * len(data)

    def read(self, num_bits: int = 1) -> int:
        self._num_left -= num_bits
        if self._num_left < 0:
            raise IndexError(num_bits)
        found = self._value & ((1 << num_bits) - 1)
        self._value >>= num_bits
        return found

    def choose(self, *choices: _Choice) -> int:
        """Read a number of the type U32: two bits select one of four codes."""
        offset, num_bits = choices[self.read(2)]
        return offset + self.read(num_bits)


def _parse_header(bits: _Bits) -> JpegXlHeader:
    bits.read(16)
    width, height = _read_size(bits, _SIDE, ((1, 5),))
    # Default metadata: samples of 8 bits, no further channel.
    if bits.read():
        return JpegXlHeader(width, height)
    is_animated = bool(bits.read()) and _read_extra_fields(bits)
    is_float = _read_depth(bits)
    bits.read()
    channels = [_read_channel(bits) for _ in range(bits.choose((0, 0), (1, 0), (2, 4), (1, 12)))]
    has_black = any(kind == _BLACK for kind, _ in channels)
    return JpegXlHeader(
        width, height, is_animated, is_float, has_black, any(is_associated for _, is_associated in channels)
    )


def _read_size(bits: _Bits, sides: Sequence[_Choice], eighths: Sequence[_Choice]) -> tuple[int, int]:
    """Read width and height; `eighths` are the codes of a side that is a multiple of 8."""
    is_multiple = bits.read()

    def read_side() -> int:
        if not is_multiple:
            return bits.choose(*sides)
        (offset, num_bits), *others = eighths
        return 8 * (bits.choose(*eighths) if others else offset + bits.read(num_bits))

    height, ratio = read_side(), bits.read(3)
    if not ratio:
        return read_side(), height
    numerator, denominator = _RATIOS[ratio - 1]
    return height * numerator // denominator, height


def _read_extra_fields(bits: _Bits) -> bool:
    """Read orientation, intrinsic size and preview; return whether the picture is an animation."""
    bits.read(3)
    if bits.read():
        _read_size(bits, _SIDE, ((1, 5),))
    if bits.read():
        _read_size(bits, _PREVIEW_SIDE, ((16, 0), (32, 0), (1, 5), (33, 9)))
    is_animated = bool(bits.read())
    if is_animated:
        bits.choose((100, 0), (1000, 0), (1, 10), (1, 30))
        bits.choose((1, 0), (1001, 0), (1, 8), (1, 10))
        bits.choose((0, 0), (0, 3), (0, 16), (0, 32))
        bits.read()
    return is_animated


def _read_depth(bits: _Bits) -> bool:
    """Read the bits of a sample; return whether samples are floating-point numbers."""
    is_float = bool(bits.read())
    if is_float:
        bits.choose((32, 0), (16, 0), (24, 0), (1, 6))
        bits.read(4)
    else:
        bits.choose((8, 0), (10, 0), (12, 0), (1, 6))
    return is_float


def _read_channel(bits: _Bits) -> tuple[int, bool]:
    """Read a channel besides the colours; return its type, and whether it is an alpha that multiplies the colours."""
    if bits.read():
        return _ALPHA, False
    kind = bits.choose((0, 0), (1, 0), (2, 4), (18, 6))
    _read_depth(bits)
    bits.choose((0, 0), (3, 0), (4, 0), (1, 3))
    bits.read(8 * bits.choose((0, 0), (0, 4), (16, 5), (48, 10)))
    is_associated = kind == _ALPHA and bool(bits.read())
    if kind == _SPOT_COLOUR:
        bits.read(64)
    if kind == _COLOUR_FILTER:
        bits.choose((1, 0), (0, 2), (3, 4), (19, 8))
    return kind, is_associated
