"""Decoding of JPEG files with simplejpeg (libjpeg-turbo), where its pixels are those of Pillow.

Pillow opens every file, so the accepted files, their size and their orientation do not depend on simplejpeg. It also
decodes every file for which simplejpeg reports an error or a warning.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL import features as pillow_features

from extract.decoding.convert import Pixels

_SUBSAMPLINGS = {
    "Gray": ((1, 1),),
    "444": ((1, 1), (1, 1), (1, 1)),
    "422": ((2, 1), (1, 1), (1, 1)),
    "420": ((2, 2), (1, 1), (1, 1)),
    "440": ((1, 2), (1, 1), (1, 1)),
    "411": ((4, 1), (1, 1), (1, 1)),
}
"""Horizontal and vertical sampling factors of the components, by simplejpeg's name."""
_PILLOW_SUBSAMPLINGS = ("444", "422", "420")
"""Names of those that Pillow can write, at the numbers that Pillow uses."""
_SAMPLE_SHAPE = (37, 83, 3)
"""Shape of the samples; neither side is a multiple of a block."""

# Markers, second byte (ITU-T T.81, table B.1). Other frames are lossless, hierarchical or arithmetic.
_FRAMES = {0xC0: False, 0xC1: False, 0xC2: True}
"""Frames with Huffman codes, and whether each is progressive."""
_SKIPPED = frozenset((0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)))
"""Tables, restart interval, comment and application segments."""
_SCAN = b"\xff\xda"
_END = b"\xff\xd9"


class JpegKind(NamedTuple):
    """Properties of a JPEG by which different builds of libjpeg may decode differently."""

    is_progressive: bool
    sampling: tuple[tuple[int, int], ...]
    """Horizontal and vertical sampling factor of each component."""


def decode_jpeg(
    data: bytes, image: Image.Image, lend: Callable[[int], NDArray[np.uint8] | None] = lambda _: None
) -> Pixels | None:
    """Decode a JPEG in about two thirds of Pillow's time, and a large one in a third.

    Args:
        data: the whole file.
        image: the same file, opened by Pillow but not loaded.
        lend: function that returns an array of at least a number of bytes for the pixels, or None for a new one.

    Returns:
        (height, width, 3) uint8 RGB, not turned upright: the bytes that Pillow would return. None if Pillow has to
        decode the file.
    """
    if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB"):
        return None
    found = _read_frame(data)
    if found is None or found[0] != image.size or found[1] not in find_equal_kinds():
        return None
    return _decode(data, lend(3 * image.width * image.height))


@cache
def find_equal_kinds() -> frozenset[JpegKind]:
    """Return the kinds of JPEG that simplejpeg and Pillow decode to the same bytes; none without simplejpeg.

    Versions of libjpeg differ, for example in the upsampling of 4:4:0 (libjpeg-turbo 2.1) and in the smoothing of
    incomplete progressive files. Therefore samples of each kind are decoded with both once in a process, in 6 ms.
    """
    try:
        import simplejpeg
    except ImportError:
        return frozenset()
    if not pillow_features.check_feature("libjpeg_turbo"):
        return frozenset()
    noise = np.random.default_rng(0).integers(0, 256, _SAMPLE_SHAPE, dtype=np.uint8)
    gray, samples = noise[..., :1].copy(), dict[JpegKind, list[bytes]]()
    for name, sampling in _SUBSAMPLINGS.items():
        colours = {"colorspace": "Gray"} if name == "Gray" else {"colorsubsampling": name}
        encoded = simplejpeg.encode_jpeg(gray if name == "Gray" else noise, **colours)
        samples[JpegKind(is_progressive=False, sampling=sampling)] = [encoded]
    for number, name in enumerate(_PILLOW_SUBSAMPLINGS):
        samples[JpegKind(is_progressive=True, sampling=_SUBSAMPLINGS[name])] = _encode_progressive(noise, number)
    samples[JpegKind(is_progressive=True, sampling=_SUBSAMPLINGS["Gray"])] = _encode_progressive(gray[..., 0], 0)
    return frozenset(kind for kind, encoded in samples.items() if all(map(_is_equal, encoded)))


def _encode_progressive(pixels: Pixels, subsampling: int) -> list[bytes]:
    """Return a progressive JPEG, and the same without its last scan, in place of which decoders smooth the blocks."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", progressive=True, subsampling=subsampling)
    whole = buffer.getvalue()
    return [whole, whole[: whole.rindex(_SCAN)] + _END]


def _is_equal(data: bytes) -> bool:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        expected = np.asarray(image.convert("RGB"))
    found = _decode(data)
    return found is not None and np.array_equal(found, expected)


def _decode(data: bytes, buffer: NDArray[np.uint8] | None = None) -> Pixels | None:
    import simplejpeg

    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", buffer=buffer)
    except (ValueError, RuntimeError):
        # Warnings of libjpeg are errors here. Pillow ignores some of them, and not all decoders agree on the pixels.
        return None
    return pixels


def _read_frame(data: bytes) -> tuple[tuple[int, int], JpegKind] | None:
    """Return the size (width, height) and the kind of a JPEG from its frame header.

    Returns:
        None for other kinds of frames, and for bytes between segments, which decoders skip in different ways.
    """
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF:
        marker, end = data[start + 1], start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker in _FRAMES:
            height, width = (int.from_bytes(data[place : place + 2], "big") for place in (start + 5, start + 7))
            factors = data[start + 11 : end : 3]
            return (width, height), JpegKind(_FRAMES[marker], tuple((pair >> 4, pair & 15) for pair in factors))
        if marker not in _SKIPPED:
            return None
        start = end
    return None
