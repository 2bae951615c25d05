"""Removal of metadata that would make a sound picture undecodable."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Literal

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ORIENTATION_KEYWORDS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
"""Keywords of the texts in which Pillow looks for the EXIF orientation."""
_APP_BYTES = {(0xE0, b"JFIF\0"): 14, (0xEE, b"Adobe"): 12}
"""Smallest size of the application segments that give the colours of a JPEG, by marker and name (JFIF 1.02, T.872)."""
_TIFF_METADATA = (700, 33723, 34377, 34675)
"""XMP, IPTC, Photoshop and ICC profile."""
_MAX_TEXT_BYTES = 2**20
"""Largest text that Pillow reads."""


def drop_metadata(data: bytes) -> bytes | None:
    """Return a PNG, JPEG or TIFF file without metadata that decoding does not use, such as texts and colour profiles.

    Pillow refuses a whole picture for some damaged metadata, and for a text or profile of more than 1 MiB in a PNG.

    Returns:
        The other bytes; None if there is nothing to drop.
    """
    if data.startswith(_PNG_SIGNATURE):
        reduced = _PNG_SIGNATURE + b"".join(chunk for chunk in _split_chunks(data) if _is_needed(chunk))
    elif data.startswith(b"\xff\xd8\xff"):
        reduced = _reduce_jpeg(data)
    elif data.startswith((b"II*\0", b"MM\0*")):
        reduced = _reduce_tiff(data)
    else:
        return None
    return reduced if reduced != data else None


def _split_chunks(data: bytes) -> Iterator[memoryview]:
    """Yield the chunks of a PNG, each with its length, type and checksum; the last may be truncated."""
    view, start = memoryview(data), len(_PNG_SIGNATURE)
    while start < len(data):
        end = start + 12 + int.from_bytes(view[start : start + 4], "big")
        yield view[start:end]
        start = end


def _is_needed(chunk: memoryview) -> bool:
    """Return whether a chunk may change the pixels or the orientation."""
    kind, content = bytes(chunk[4:8]), chunk[8:-4]
    is_ancillary = kind.isalpha() and kind[:1].islower()
    # The chunks of an animation are not needed for its first frame.
    if not is_ancillary or kind == b"tRNS":
        return True
    if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        return False
    if kind in (b"tEXt", b"zTXt", b"iTXt"):
        return bytes(content[:32]).startswith(_ORIENTATION_KEYWORDS) and _is_short(kind, bytes(content))
    return kind == b"eXIf"


def _is_short(kind: bytes, content: bytes) -> bool:
    """Return whether Pillow accepts a text: neither it nor its uncompressed form is damaged or too long."""
    _, _, text = content.partition(b"\0")
    is_compressed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    if len(text) > _MAX_TEXT_BYTES or not is_compressed:
        return len(text) <= _MAX_TEXT_BYTES
    packed = text[1:] if kind == b"zTXt" else text[2:].split(b"\0", 2)[-1]
    decompressor = zlib.decompressobj()
    try:
        decompressor.decompress(packed, _MAX_TEXT_BYTES)
    except zlib.error:
        return False
    return not decompressor.unconsumed_tail


def _reduce_jpeg(data: bytes) -> bytes:
    """Drop the application segments that neither give the colours (JFIF, Adobe) nor the orientation (Exif)."""
    parts, start = [data[:2]], 2
    while data[start : start + 1] == b"\xff" and data[start + 1 : start + 2] != b"\xda" and start + 4 <= len(data):
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        kind, content = data[start + 1], data[start + 4 : end]
        # Segments of any other name are shorter than 2**16 bytes, so they are dropped.
        is_used = content.startswith(b"Exif\0\0") or len(content) >= _APP_BYTES.get((kind, content[:5]), 2**16)
        if not 0xE0 <= kind <= 0xEF or is_used:
            parts.append(data[start:end])
        start = end
    return b"".join([*parts, data[start:]])


def _reduce_tiff(data: bytes) -> bytes:
    """Shorten the metadata tags of the first directory to one byte; all offsets stay valid."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"

    def read(start: int, size: int) -> int:
        return int.from_bytes(data[start : start + size], order)

    changed, directory = bytearray(data), read(4, 4)
    for start in range(directory + 2, min(directory + 2 + 12 * read(directory, 2), len(data) - 12), 12):
        if read(start, 2) in _TIFF_METADATA:
            changed[start + 2 : start + 8] = (1).to_bytes(2, order) + (1).to_bytes(4, order)
    return bytes(changed)
